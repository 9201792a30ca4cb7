//! Checkpoints: one upload at a time, in the background of the training.

use super::journal_queue::AfterAppend;
use super::loss::STUCK_MAX;
use super::machine::{Coordinator, State};
use super::uploads::Upload;
use super::{Output, RunEvent};
use crate::Millis;
use crate::ids::MemberId;
use crate::journal::Record;
use crate::messages::UploadKind;

/// After this many failed attempts at the initial checkpoint, the run doesn't begin.
const FIRST_VERSION_ATTEMPTS_MAX: usize = 3;

impl Coordinator {
    /// A member can't load a checkpoint, and no member holds its state. Returns whether there is an earlier one to
    /// use.
    pub(super) fn pass_version_over(&mut self, step: u64, why: &str) -> bool {
        let is_alone = self.roster.iter().all(|member| member.holds != Some(step));
        let is_passed_over = self.has_begun && is_alone && self.uploads.pass_over(step);
        if is_passed_over {
            self.warn(format!("version {step} can't be used: {why}; the version before is"));
            for member in self.roster.iter_mut().filter(|member| member.ordered == Some(step)) {
                member.ordered = None;
            }
        }
        is_passed_over
    }

    /// Has the members' state written where the driver has room, as at a stop.
    pub(super) fn on_versions_lost(&mut self, now: Millis, reason: String) {
        if matches!(self.state, State::Ending(_)) {
            return;
        }
        self.uploads.lose_all();
        self.on_stop(now, reason);
        // The run was already stopping, or at its end.
        self.advance_closing(now);
    }

    pub(super) fn expect_version(&mut self, now: Millis, step: u64, from: MemberId) {
        let until = now.saturating_add(self.plan.transfer_timeout_ms);
        let uploads = &mut self.uploads;
        uploads.in_flight = Some(Upload { step, from, until });
        uploads.asked_step = Some(step);
        uploads.asked_at = now;
        uploads.owed = false;
        // The driver accepts only the newest request for this step.
        uploads.void.remove(&step);
        uploads.awaited.insert(step);
        let digest = self.expected_version(step);
        self.put(Output::ExpectVersion { step, from, digest });
    }

    /// The state digest that a checkpoint of this step must have, as a replay produces the same bits.
    pub(super) fn expected_version(&self, step: u64) -> Option<[u8; 32]> {
        self.history.expected_version(step, self.roster.shared_fingerprint())
    }

    /// The upload differs from the journal's checkpoint of this step.
    pub(super) fn on_version_deviates(&mut self, now: Millis, step: u64) {
        if matches!(self.state, State::Ending(_)) {
            return;
        }
        let is_awaited = self.uploads.take_written(step);
        if !is_awaited || step > self.position.step {
            // It belongs to a history that was rewound in the meantime.
            self.warn(format!(
                "version {step} was uploaded with another state digest than the journalled one"
            ));
            return self.advance(now);
        }
        self.fail_other_version(step);
    }

    fn fail_other_version(&mut self, step: u64) {
        let what = format!("version {step} was written again and its state digest is not the journalled one");
        self.fail(4, &format!("{what}: the replay went another way"));
    }

    pub(super) fn on_version_written(&mut self, now: Millis, step: u64, digest: [u8; 32]) {
        if matches!(self.state, State::Ending(_)) {
            return; // It is complete, but the journal closes: the next term doesn't count on it.
        }
        if !self.uploads.take_written(step) {
            self.warn(format!("version {step} was written by a member whose state may have been wrong"));
            return self.advance(now);
        }
        if step > self.position.step {
            // It belongs to a history that was rewound in the meantime.
            self.warn(format!("version {step} was written, but step {step} is not committed"));
            return self.advance(now);
        }
        if self.expected_version(step).is_some_and(|expected| expected != digest) {
            return self.fail_other_version(step);
        }
        self.uploads.recording = Some(step);
        self.append(Record::Version { step, digest }, true, AfterAppend::Version { step, digest });
        if let State::Closing(_) = self.state {
            self.advance_closing(now);
        }
    }

    pub(super) fn on_version_journalled(&mut self, now: Millis, step: u64, digest: [u8; 32]) {
        if self.uploads.recording == Some(step) {
            self.uploads.recording = None;
        }
        if self.uploads.lost.take_if(|lost| *lost == step).is_some() {
            return self.advance(now); // The next term will find it missing.
        }
        if step > self.position.step {
            return self.advance(now); // It became void while being recorded: the rewind follows it in the journal.
        }
        self.uploads.add_durable(step, digest);
        self.history.note_version(step, digest);
        self.emit(RunEvent::Version { step, digest });
        match self.state {
            State::Initialising(_) => self.on_initialised(now),
            State::Closing(_) => self.advance_closing(now),
            _ => self.advance(now),
        }
    }

    pub(super) fn on_version_failed(&mut self, now: Millis, step: u64, reason: &str) {
        if let State::Initialising(state) = &self.state {
            let (by, has_loaded) = (state.by, state.has_loaded());
            self.roster.note_failed_upload(by);
            // Another member may create the first state now. This one reports Loaded for its own, or has done so.
            if let Some(member) = self.roster.get_mut(by).filter(|_| has_loaded) {
                member.ordered = None;
            }
            self.first_version_failed.push((by, reason.to_owned()));
            if self.first_version_failed.len() < FIRST_VERSION_ATTEMPTS_MAX {
                self.warn(format!("the first version could not be written: {reason}; it is tried again"));
                return self.gather(now);
            }
            let mut reasons: Vec<&str> =
                self.first_version_failed.iter().map(|(_, why)| why.as_str()).collect();
            reasons.dedup();
            return self
                .fail(4, &format!("the first version could not be written: {}", reasons.join("; then ")));
        }
        let Some(upload) = self.uploads.in_flight.take_if(|upload| upload.step == step) else { return };
        self.roster.note_failed_upload(upload.from);
        // In the middle of a run the next checkpoint that is due serves as the retry.
        self.warn(format!("version {step} could not be written: {reason}"));
        match self.state {
            State::Closing(_) => self.on_last_version_failed(now, upload.from, reason),
            _ => self.advance(now),
        }
    }

    /// A member reports a failed upload, which may have ended before it began.
    pub(super) fn on_not_uploaded(&mut self, now: Millis, upload: (MemberId, UploadKind, u64), reason: &str) {
        let (id, kind, step) = upload;
        let reason = format!("{}: {reason}", self.roster.name(id));
        let is_awaited = match kind {
            UploadKind::Version => self.uploads.is_from(step, id),
            UploadKind::State => self.is_showing(step, id),
            UploadKind::Export => self.is_exporting(id),
        };
        match kind {
            _ if !is_awaited => {} // The driver has reported it, or another upload is expected.
            UploadKind::Version => self.on_version_failed(now, step, &reason),
            UploadKind::State => self.on_state_not_shown(now, step, &reason),
            UploadKind::Export => self.on_export_failed(now, &reason),
        }
    }

    pub(super) fn check_upload(&mut self, now: Millis) {
        let Some(upload) = self.uploads.in_flight.filter(|upload| now >= upload.until) else { return };
        let from = self.roster.name(upload.from);
        let waited_ms = self.plan.transfer_timeout_ms;
        // At the end no step is computed, so a hanging device shows up only here.
        if matches!(self.state, State::Closing(_))
            && self.stuck < STUCK_MAX
            && self.has_other_holder(upload.from)
        {
            self.stuck += 1;
            let reason = format!("it has not uploaded version {} within {waited_ms} ms", upload.step);
            return self.evict(now, upload.from, &reason, false);
        }
        let reason = format!("waited {waited_ms} ms for {from} to upload it");
        self.on_version_failed(now, upload.step, &reason);
    }
}
