//! How an incarnation may end, and how long it may stall: checks progress, and every excuse for a lack of it.

use protocol::coordinator::{OnNan, Outcome};
use protocol::history::History;
use protocol::messages::EndReason;

use crate::checkers::CheckResult;
use crate::incarnation::{Chaos, ConnectionKind, Incarnation};
use crate::transport::{CONNECT_MS, PROOF_PAUSE_MS_MAX, UNPROVEN};
use crate::world::{LifeEnd, World};

/// A worker gives up a silent coordinator after twelve heartbeats, of which a lease has four.
const SILENT_LEASES: u64 = 3;
/// The longest pause before a worker reconnects to its coordinator, or the coordinator retries its journal.
const RETRY_MS: u64 = 12_000;
/// A person ends a run without workers this long after a start would time out.
const NIGHT_MS: u64 = 30_000;
/// The state transfer to a worker is retried this long after a failure.
const PUT_OFF_MS: u64 = 30_000;

impl World<'_> {
    /// Once all faults are over, something must be committed within this time: the longest chain of deadlines that
    /// may have to pass one after another.
    ///
    /// The end of a partition may leave a worker in an attempt to connect; its old stream dies of silence; a new
    /// coordinator waits for the members of the last view; a worker that joined meanwhile pauses before it tries the
    /// data plane again; failed state transfers are postponed; and the first step of the view has its own deadline.
    pub(crate) fn patience_ms(&self) -> u64 {
        let plan = &self.scenario.plan;
        let reach_ms = plan.lease_ms + SILENT_LEASES * plan.lease_ms + CONNECT_MS + RETRY_MS;
        let prove_ms = CONNECT_MS + PROOF_PAUSE_MS_MAX;
        reach_ms + prove_ms + plan.rejoin_ms + PUT_OFF_MS + plan.load_timeout_ms + self.step_ms()
    }

    /// Duration of the longest step without faults.
    fn step_ms(&self) -> u64 {
        let (geometry, speeds) = (&self.scenario.plan.geometry, self.scenario.speeds);
        let microbatches = geometry.batch.div_ceil(geometry.microbatch.max(1));
        let evaluation =
            geometry.evaluation_samples.div_ceil(u64::from(geometry.evaluation_microbatch.max(1)));
        let slowness = self.workers.iter().map(|node| node.slowness).max().unwrap_or(1);
        let delay_ms = self.workers.iter().flat_map(|node| node.delays_ms).max().unwrap_or(0);
        let compute_ms = u64::from(microbatches).max(evaluation) * speeds.compute_ms * slowness;
        compute_ms + 4 * (speeds.network_ms + delay_ms) + speeds.journal_ms + speeds.upload_ms
    }

    /// Checks that the run does not hang, silently or with reports.
    pub(crate) fn check_progress(&mut self) -> CheckResult {
        let now = self.queue.now();
        let since = self.last_progress.max(self.disturbed_until);
        // The run would wait for ever and no worker joins: a person ends it.
        let night_ms = self.scenario.plan.join_timeout_ms + NIGHT_MS;
        if self.coordinator.is_some() && self.is_short_of_workers() && now > since + night_ms {
            self.note(|| "nobody comes".to_owned());
            self.fired.push(Chaos::Stop);
            return self.inject(Chaos::Stop);
        }
        let is_quiet = self.is_healed && self.coordinator.is_some() && now > since;
        if !is_quiet {
            return Ok(());
        }
        self.stood_still_ms = self.stood_still_ms.max(now - since);
        let patience_ms = self.patience_ms();
        if now - since > patience_ms {
            return Err(format!(
                "progress: nothing was committed for {patience_ms} ms, and nothing is wrong any more; {}",
                self.who_waits()
            ));
        }
        Ok(())
    }

    fn is_short_of_workers(&self) -> bool {
        let living = self.workers.iter().filter(|node| node.is_alive).count();
        living < self.scenario.plan.min_workers.max(1) as usize
    }

    pub(crate) fn who_waits(&self) -> String {
        let mut lines = Vec::new();
        if let Some(node) = &self.coordinator {
            lines.push(format!("the coordinator waits for {}", node.machine.waits_for()));
        }
        for (index, node) in self.workers.iter().enumerate().filter(|(_, node)| node.is_alive) {
            let what =
                node.machine.as_ref().map_or("its start".to_owned(), protocol::worker::Worker::waits_for);
            lines.push(format!("worker {index} waits for {what}"));
        }
        lines.join(", ")
    }

    /// Checks that the end has a cause.
    pub(crate) fn check_end(&self, life: &Incarnation, end: &LifeEnd) -> CheckResult {
        let LifeEnd::Finished(outcome) = end else { return Ok(()) };
        if outcome.reason != EndReason::Completed && !self.is_excused(life, outcome) {
            return Err(format!("a life without harm ended with \"{}\"", outcome.message));
        }
        let is_code_right = match outcome.reason {
            EndReason::Completed => outcome.code == 0,
            EndReason::Interrupted => outcome.code == 130,
            EndReason::Failed => matches!(outcome.code, 2..=4),
        };
        if !is_code_right {
            return Err(format!("exit code {} of a run that {:?}", outcome.code, outcome.reason));
        }
        if outcome.reason != EndReason::Completed {
            return match outcome.message.contains("--resume") {
                true => Ok(()),
                false => Err(format!("a message without a way back: \"{}\"", outcome.message)),
            };
        }
        let last_is_damaged =
            self.disk.versions.last_key_value().is_some_and(|(_, version)| version.is_damaged);
        if !last_is_damaged {
            self.oracle.on_completed(self.scenario, self.newest_version(), self.newest_is_tainted())?;
        }
        if self.scenario.plan.export && !self.is_exported {
            return Err("exports: the run is complete and has none".to_owned());
        }
        self.check_claimed_exactness()?;
        self.check_exits()
    }

    /// Checks the claim of bit-exactness of a run whose members differ in numerics.
    fn check_claimed_exactness(&self) -> CheckResult {
        let records =
            protocol::journal::decode(&self.disk.journal).map_err(|error| error.to_string())?.records;
        let history = History::replay(&records).map_err(|error| error.to_string())?;
        match history.is_exact() != self.was_mixed {
            true => Ok(()),
            false => Err(format!(
                "mixed: exactness is {}, and members {} of different numerics",
                if history.is_exact() { "claimed" } else { "not claimed" },
                if self.was_mixed { "were" } else { "were not" },
            )),
        }
    }

    fn newest_is_tainted(&self) -> bool {
        let newest = self.newest_version().and_then(|(step, _)| self.disk.versions.get(&step));
        newest.and_then(|version| version.state.as_ref()).is_some_and(|state| state.tainted)
    }

    /// Whether an incomplete run names a reason that still holds when it ends.
    fn is_excused(&self, life: &Incarnation, outcome: &Outcome) -> bool {
        let says = |words: &[&str]| words.iter().any(|words| outcome.message.contains(words));
        let now = self.queue.now();
        let was_stopped = self.fired.contains(&Chaos::Stop) && says(&["SIGINT"]);
        let may_be_nan = self.toy.nan_sample.is_some() || self.oracle.is_tainted;
        let stops_at_nan = self.on_nan == OnNan::Stop && may_be_nan && says(&["not finite"]);
        // The last checkpoint is retried for a while, but not for ever.
        let was_full = self.fired.iter().any(|chaos| matches!(chaos, Chaos::DiskFull(_)));
        let was_refused = self.fired.iter().any(|chaos| matches!(chaos, Chaos::UploadsFail(_)));
        let is_unwritten =
            was_full && says(&["no space left"]) || was_refused && says(&["connection refused"]);
        // So is the journal, before any work is done.
        let journal = |chaos: &Chaos| matches!(chaos, Chaos::JournalFails(_) | Chaos::JournalHangs(_));
        let is_unjournalled = self.fired.iter().any(journal) && says(&["for the journal, wh"]);
        // Exports are retried for a while, too; and no member has the state of an unloadable checkpoint.
        let was_unexported = self.fired.iter().any(|chaos| matches!(chaos, Chaos::ExportsFail(_)));
        let is_unexported = was_unexported && says(&["the export failed: no space left for exports"]);
        let is_damaged = self.fired.contains(&Chaos::DamageVersion) && says(&["another digest than the one"]);
        // Too few workers: none were restarted, or they were prevented from joining until just now.
        let join_ms = self.scenario.plan.join_timeout_ms;
        let is_alone = life.missing > 0
            || !life.is_supervised && self.fired.iter().any(|chaos| !chaos.victims().is_empty())
            || !self.is_healed
            || now <= self.disturbed_until + join_ms + CONNECT_MS + PROOF_PAUSE_MS_MAX;
        let is_short = is_alone && says(&["to join", "workers to be ready", "to come back"]);
        let is_changed = life.other_data && says(&["the replay of step"]);
        // If two members differ, no one knows who is right; and a state derived from a flip can't be reproduced.
        let differ = ["differ", "the replay of step", "another digest", "is not the journalled one"];
        let was_flipped = self.oracle.is_tainted && says(&differ);
        // Before any work is done, a worker that can't be started is for a person to investigate.
        let was_hurt = self.fired.iter().any(|chaos| {
            matches!(chaos, Chaos::LaunchFails(_) | Chaos::KillWorker(_) | Chaos::KillAll { .. })
        });
        let is_unstarted = was_hurt && says(&["a local worker failed"]);
        // So is one that can't reach the data plane.
        let is_cut = |chaos: &Chaos| matches!(chaos, Chaos::Partition { which, .. } if *which != ConnectionKind::Control);
        let is_unproven = self.fired.iter().any(is_cut) && says(&[UNPROVEN]);
        let is_person_needed = is_unstarted || is_unproven || self.is_hung(life, &outcome.message);
        was_stopped
            || stops_at_nan
            || is_unwritten
            || is_unjournalled
            || is_unexported
            || is_damaged
            || is_short
            || is_changed
            || was_flipped
            || is_person_needed
    }

    /// Whether a device hangs, with too few other members, or none with the state.
    fn is_hung(&self, life: &Incarnation, message: &str) -> bool {
        let victims: Vec<usize> = self.fired.iter().flat_map(Chaos::victims).collect();
        let hung = self.fired.iter().filter_map(|chaos| match chaos {
            Chaos::HangWorker(worker, _) => Some(*worker),
            _ => None,
        });
        let sound = (0..life.workers).filter(|worker| !victims.contains(worker)).count();
        let is_struck = sound < self.scenario.plan.min_workers.max(1) as usize;
        let says = |words: &str| message.contains(words);
        let waited_ms = self.scenario.plan.transfer_timeout_ms;
        hung.into_iter().any(|worker| {
            let is_first = is_struck && (says("to make and upload the first state") || says("to load state"));
            is_first || says(&format!("waited {waited_ms} ms for worker-{worker} to upload it"))
        })
    }

    /// Checks that surviving workers end without error, as a coordinator ordered, or because of a fault: a
    /// coordinator of an earlier term may have given up.
    fn check_exits(&self) -> CheckResult {
        for (index, node) in self.workers.iter().enumerate() {
            let Some((code, message)) = node.exit.as_ref().filter(|(code, _)| *code != 0) else { continue };
            let was_told = node.told_to_end.as_ref() == Some(&(*code, message.clone()));
            // Evicted before the end.
            let is_alone = *code == 4 && message.contains("no coordinator was reached");
            let has_left = *code == 130 && self.fired.contains(&Chaos::Leave(index));
            let is_cut = |chaos: &Chaos| {
                matches!(chaos, Chaos::Partition { worker, which, .. }
                    if *worker == index && *which != ConnectionKind::Control)
            };
            let is_unproven = *code == 4 && message.contains(UNPROVEN) && self.fired.iter().any(is_cut);
            if !was_told && !is_alone && !has_left && !is_unproven {
                return Err(format!("worker {index} of a completed run exited with {code}: {message}"));
            }
        }
        Ok(())
    }
}
