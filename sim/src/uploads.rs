//! The disk work of the coordinator's driver: the journal, checkpoints, and state transfers.

use std::collections::BTreeSet;

use protocol::coordinator::Event;
use protocol::ids::MemberId;
use protocol::journal::{Record, ViewRecord};
use protocol::messages::UploadKind;
use protocol::worker;

use crate::bug::Bug;
use crate::checkers::{CheckResult, Claim, RecoveryPoint};
use crate::disk::StoredVersion;
use crate::network::SimEvent;
use crate::toy::State;
use crate::world::World;

impl World<'_> {
    pub(crate) fn choose_version(&self, history: &mut protocol::history::History) -> Option<u64> {
        let verified = self.disk.whole_versions();
        let named: Vec<(u64, [u8; 32])> = self
            .disk
            .versions
            .iter()
            .rev()
            .filter_map(|(step, version)| version.manifest.map(|digest| (*step, digest)))
            .collect();
        let versions = if self.bug == Some(Bug::SkipsVersionChecks) { named } else { verified };
        let mut versions = versions.into_iter();
        let chosen = versions.find(|(step, digest)| history.resume_from(*step, *digest).is_ok());
        for (step, digest) in versions {
            let _ = history.fall_back_to(step, digest); // It may be void.
        }
        chosen.map(|(step, _)| step)
    }

    pub(crate) fn on_appended(&mut self) -> CheckResult {
        let now = self.queue.now();
        if now < self.disk.journal_hangs_until {
            self.queue.put_at(self.disk.journal_hangs_until, SimEvent::Appended);
            if self.bug == Some(Bug::CommitsBeforeItIsWritten) {
                return self.handle_coordinator(Event::Journalled);
            }
            return Ok(());
        }
        let Some((record, durable)) = self.coordinator.as_mut().and_then(|node| node.appending.take()) else {
            return Ok(());
        };
        if now < self.disk.journal_fails_until {
            return self.handle_coordinator(Event::JournalFailed { reason: "no space left".to_owned() });
        }
        self.disk.append(&record, durable);
        self.watch_journalled(&record)?;
        self.handle_coordinator(Event::Journalled)
    }

    pub(crate) fn on_exported(&mut self) -> CheckResult {
        let fails = self.queue.now() < self.exports_fail_until;
        self.is_exported |= !fails;
        if fails && self.bug != Some(Bug::ForgetsFailedExports) {
            let reason = "no space left for exports".to_owned();
            return self.handle_coordinator(Event::ExportFailed { reason });
        }
        self.handle_coordinator(Event::Exported)
    }

    pub(crate) fn watch_journalled(&mut self, record: &Record) -> CheckResult {
        if matches!(record, Record::Commit(_) | Record::Adopted(_) | Record::Version { .. }) {
            self.last_progress = self.queue.now();
        }
        if let Record::View(view) = record {
            self.check_numerics(view)?;
        }
        self.oracle.on_journalled(self.scenario, self.on_nan, record)
    }

    /// Checks that the members of a view have the same numerics, unless the run is mixed, and that the journal
    /// records which.
    fn check_numerics(&mut self, record: &ViewRecord) -> CheckResult {
        let of = |member: MemberId| self.workers.iter().find(|node| node.member == Some(member));
        let members = record.view.members.iter();
        let known: Option<BTreeSet<[u8; 32]>> =
            members.map(|info| Some(of(info.member)?.fingerprint)).collect();
        let Some(kinds) = known else { return Ok(()) }; // A worker has another member id by now.
        let step = record.view.step;
        if kinds.len() > 1 && !self.scenario.plan.mixed {
            return Err(format!("mixed: a view for step {step} has members of two numerics"));
        }
        if record.fingerprint.is_none() != (kinds.len() > 1) {
            return Err(format!("mixed: the journal has the wrong numerics for the view of step {step}"));
        }
        self.was_mixed |= kinds.len() > 1;
        Ok(())
    }

    /// The states from which a rewound run could continue: intact checkpoints, and members' states.
    pub(crate) fn best_to_go_on_from(&self) -> RecoveryPoint {
        let Some(node) = &self.coordinator else { return RecoveryPoint::default() };
        let now = self.queue.now();
        // A worker that isn't ready for so long may never be. After a leap of its clock, the coordinator knows only
        // how late its next deadline was, so it may count up to a lease of earlier time as part of the leap.
        let ready_ms = self.scenario.plan.load_timeout_ms.saturating_sub(self.scenario.plan.lease_ms);
        let hangs = |worker| node.unready.get(&worker).is_some_and(|since| now >= since + ready_ms);
        let here = node.here.values().filter(|worker| !hangs(**worker));
        let here = here.map(|worker| &self.workers[*worker]);
        let members = here
            .filter(|worker| worker.is_alive && worker.is_connected())
            .filter_map(|worker| Some(Claim { commit: worker.made_by?, prepared: worker.prepared_before }));
        RecoveryPoint { versions: self.disk.whole_versions(), members: members.collect() }
    }

    /// Whether uploads currently fail to begin.
    pub(crate) fn uploads_fail(&self) -> bool {
        self.queue.now() < self.uploads_fail_until
    }

    /// A worker learns that its upload has failed.
    pub(crate) fn not_uploaded(&mut self, worker: usize, kind: UploadKind, step: u64, reason: &str) {
        let after_ms = self.random.between(1, self.scenario.speeds.network_ms.max(1));
        let event = worker::Event::NotUploaded { kind, step, reason: reason.to_owned() };
        self.queue.put(after_ms, SimEvent::Worker(worker, event));
    }

    pub(crate) fn on_uploaded(&mut self, from: (usize, MemberId), step: u64, state: State) -> CheckResult {
        let (worker, member) = from;
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        if node.uploads.1.take_if(|expected| *expected == (step, member)).is_none() {
            return Ok(()); // It was not requested, or another one has been since.
        }
        let number = node.uploads.0;
        if !self.workers[worker].is_alive {
            let reason = "connection reset".to_owned();
            return self.handle_coordinator(Event::VersionFailed { step, reason });
        }
        if node.journalled.is_some_and(|expected| expected != state.digest()) {
            return self.handle_coordinator(Event::VersionDeviates { step });
        }
        let stored = self.disk.versions.get(&step);
        let is_whole = stored.is_some_and(|version| {
            version.manifest == Some(state.digest()) && version.state.as_ref() == Some(&state)
        });
        if !is_whole {
            // Until the manifest is written, a crash leaves a partial checkpoint.
            self.disk.versions.insert(step, StoredVersion { state: None, manifest: None, is_damaged: false });
        }
        let took_ms = self.random.between(0, self.scenario.speeds.upload_ms);
        self.queue.put(took_ms, SimEvent::Written(worker, number, step, state));
        Ok(())
    }

    pub(crate) fn on_written(
        &mut self,
        (from, number): (usize, u64),
        step: u64,
        state: State,
    ) -> CheckResult {
        if self.coordinator.as_ref().is_none_or(|node| node.uploads.0 != number) {
            return Ok(()); // Abandoned for another one.
        }
        if self.queue.now() < self.disk.full_until {
            let reason = "no space left".to_owned();
            self.not_uploaded(from, UploadKind::Version, step, &reason);
            return self.handle_coordinator(Event::VersionFailed { step, reason });
        }
        self.oracle.on_version(step, &state)?;
        let digest = state.digest();
        let stored = StoredVersion { state: Some(state), manifest: Some(digest), is_damaged: false };
        self.disk.versions.insert(step, stored);
        self.handle_coordinator(Event::VersionWritten { step, digest })
    }

    pub(crate) fn on_download(&mut self, worker: usize, step: u64) -> CheckResult {
        let Some(version) = self.disk.versions.get(&step) else { return Ok(()) };
        let (Some(state), Some(manifest)) = (version.state.clone(), version.manifest) else {
            return Err(format!("versions: version {step} is loaded and has no manifest"));
        };
        // Damage is detected when it is loaded.
        if !version.is_damaged || self.bug == Some(Bug::SkipsVersionChecks) {
            self.oracle.on_version(step, &state)?;
        }
        self.oracle.on_version_used(step)?;
        let skips = self.bug == Some(Bug::SkipsVersionChecks);
        let digest = if skips { manifest } else { state.digest() };
        let took_ms = self.random.between(1, self.scenario.speeds.upload_ms.max(1));
        self.finish_load(worker, state, digest, took_ms);
        Ok(())
    }

    pub(crate) fn on_shown(&mut self, worker: usize, step: u64, state: State) -> CheckResult {
        let member = self.workers[worker].member;
        let is_expected = |shows: (u64, MemberId)| shows.0 == step && Some(shows.1) == member;
        let now = self.queue.now();
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        if node.shows.take_if(|shows| is_expected(*shows)).is_none() {
            return Ok(()); // It is no longer expected.
        }
        let reason = match () {
            () if !self.workers[worker].is_alive => "connection reset",
            () if now < self.disk.full_until => "no space left",
            () => {
                let digest = state.digest();
                node.shown = Some(state);
                return self.handle_coordinator(Event::StateShown { step, digest });
            }
        };
        self.not_uploaded(worker, UploadKind::State, step, reason);
        self.handle_coordinator(Event::StateNotShown { step, reason: reason.to_owned() })
    }

    pub(crate) fn on_take(&mut self, worker: usize, step: u64) -> CheckResult {
        let shown = self.coordinator.as_ref().and_then(|node| node.shown.clone());
        match shown.filter(|shown| shown.step == step) {
            Some(state) => {
                self.oracle.on_version(step, &state)?;
                let digest = state.digest();
                let took_ms = self.random.between(1, self.scenario.speeds.upload_ms.max(1));
                self.finish_load(worker, state, digest, took_ms);
            }
            // Its view has opened without this worker, which rejoins.
            None => {
                let reason = "there is no such state any more".to_owned();
                let event = protocol::worker::Event::Disconnected { reason };
                self.queue.put(0, SimEvent::Worker(worker, event));
            }
        }
        Ok(())
    }
}
