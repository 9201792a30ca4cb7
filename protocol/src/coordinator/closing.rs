//! After the last step: every member's last check, the last checkpoint, the exports, the end.

use super::machine::{Coordinator, State};
use super::phase_state::{Closing, Export};
use super::{Output, verdict};
use crate::Millis;
use crate::ids::MemberId;
use crate::messages::{EndReason, ToWorker};

/// How long the last checkpoint is retried after a stop request.
const STOP_PATIENCE_MS: u64 = 10_000;
/// First pause before another attempt; it doubles up to [`RETRY_MS_MAX`].
const RETRY_MS: u64 = 1_000;
/// Retry at least this often: space may be freed on a full disk.
const RETRY_MS_MAX: u64 = 10_000;

/// The exports are tried this often: the last checkpoint exists, so resuming the run can write them.
const EXPORT_ATTEMPTS_MAX: u32 = 3;

impl Coordinator {
    pub(super) fn start_closing(&mut self, now: Millis) {
        // Members that only loaded the last state have already reported its digest.
        let members = self.view.iter().flat_map(|view| &view.members).map(|info| info.member);
        let checks = members.filter(|id| self.roster.get(*id).is_some()).map(|id| (id, None)).collect();
        let applied_until = now.saturating_add(self.plan.load_timeout_ms);
        let export = Export::NotAsked;
        let (failing_since, retry_at) = (None, None);
        let closing = Closing {
            checks,
            applied_until,
            attempts: 0,
            failing_since,
            retry_at,
            giving_up: None,
            export,
            exports_failed: 0,
        };
        self.state = State::Closing(closing);
        self.advance_closing(now);
    }

    pub(super) fn on_applied(&mut self, now: Millis, id: MemberId, step: u64, state_check: u64) {
        let position = self.position.step;
        if self.roster.get(id).is_some_and(|member| member.recovers == Some(step)) {
            return self.on_recovered(now, id, step);
        }
        let State::Closing(closing) = &mut self.state else {
            if !matches!(self.state, State::Ending(_)) {
                self.reject(now, id, &format!("it said Applied of step {step} before the last step"));
            }
            return;
        };
        if step != position {
            return self.reject(
                now,
                id,
                &format!("it said Applied of step {step}, the run is at {position}"),
            );
        }
        closing.checks.insert(id, Some(state_check));
        self.advance_closing(now);
    }

    /// Does what is possible now: checks, checkpoint, exports, end.
    pub(super) fn advance_closing(&mut self, now: Millis) {
        let State::Closing(closing) = &self.state else { return };
        if closing.waits_for_checks() {
            return;
        }
        let step = self.position.step;
        let ranks = self.roster.ranks();
        let checks: Vec<(String, u64)> = ranks
            .iter()
            .filter_map(|member| {
                closing.checks.get(&member.id).copied().flatten().map(|check| (member.name.clone(), check))
            })
            .collect();
        if let Err(disagreement) = verdict::compare_states(&format!("after step {step}"), &checks) {
            return self.on_disagreement(now, &disagreement);
        }
        if !self.may_be_outvoted(now) {
            self.proven_step = step;
        }
        if self.uploads.durable_step() != Some(step) {
            return self.ask_for_last_version(now);
        }
        if self.stop.is_some() {
            return self.end_interrupted("its version is written");
        }
        self.advance_export(now);
    }

    fn ask_for_last_version(&mut self, now: Millis) {
        let State::Closing(closing) = &mut self.state else { return };
        if self.uploads.is_busy() || closing.retry_at.is_some() {
            return;
        }
        let step = self.position.step;
        let Some((from, connection)) = self.holder() else {
            // Steps since the last checkpoint are computed again.
            return self.gather(now);
        };
        self.expect_version(now, step, from);
        self.send(connection, ToWorker::WriteVersion { step });
    }

    /// A member that holds the last state.
    fn holder(&self) -> Option<(MemberId, u64)> {
        let step = self.position.step;
        self.roster.uploader(|member| member.can_show(step))
    }

    /// Whether another member could upload the last state.
    pub(super) fn has_other_holder(&self, id: MemberId) -> bool {
        self.roster.iter().any(|member| member.id != id && member.can_show(self.position.step))
    }

    /// The last checkpoint could not be written. The disk may have room later.
    pub(super) fn on_last_version_failed(&mut self, now: Millis, from: MemberId, reason: &str) {
        let patience_ms = if self.stop.is_some() { STOP_PATIENCE_MS } else { self.plan.last_version_ms };
        let State::Closing(closing) = &mut self.state else { return };
        let failing_ms = now.saturating_sub(*closing.failing_since.get_or_insert(now));
        if failing_ms < patience_ms {
            return self.try_again_later(now);
        }
        // It may have failed because its member is lost, which is reported in a moment: then another one tries.
        closing.giving_up = Some((from, reason.to_owned()));
        closing.retry_at = Some(now.saturating_add(RETRY_MS));
    }

    /// The permitted time is over.
    fn give_up_last_version(&mut self, now: Millis, reason: &str) {
        let (step, State::Closing(closing)) = (self.position.step, &self.state) else { return };
        let tried_ms = closing.failing_since.map_or(0, |since| now.saturating_sub(since));
        let tried = format!("tried for {} s", tried_ms / 1_000);
        self.fail(4, &format!("state {step} could not be written as a version ({tried}): {reason}"));
    }

    fn try_again_later(&mut self, now: Millis) {
        let State::Closing(closing) = &mut self.state else { return };
        let pause_ms = (RETRY_MS << closing.attempts.min(10)).min(RETRY_MS_MAX);
        closing.attempts = closing.attempts.saturating_add(1);
        closing.retry_at = Some(now.saturating_add(pause_ms));
    }

    fn advance_export(&mut self, now: Millis) {
        let until = now.saturating_add(self.plan.transfer_timeout_ms);
        let step = self.position.step;
        let State::Closing(closing) = &mut self.state else { return };
        match closing.export {
            Export::InFlight { .. } => {}
            Export::NotAsked if closing.retry_at.is_some() => {}
            Export::NotAsked if self.plan.export => {
                let Some((from, connection)) = self.holder() else {
                    return self.gather(now);
                };
                let State::Closing(closing) = &mut self.state else { return };
                closing.export = Export::InFlight { from, until };
                self.put(Output::ExpectExport { step, from });
                self.send(connection, ToWorker::Export { step });
            }
            Export::NotAsked | Export::Done => {
                let message =
                    self.describe_early_end().unwrap_or_else(|| format!("all {step} steps are done"));
                self.end(EndReason::Completed, 0, message);
            }
        }
    }

    pub(super) fn on_exported(&mut self, now: Millis) {
        let State::Closing(closing) = &mut self.state else { return };
        if let Export::InFlight { .. } = closing.export {
            closing.export = Export::Done;
            self.advance_closing(now);
        }
    }

    /// Whether this member's requested export is outstanding.
    pub(super) fn is_exporting(&self, id: MemberId) -> bool {
        matches!(&self.state, State::Closing(closing)
            if matches!(closing.export, Export::InFlight { from, .. } if from == id))
    }

    pub(super) fn on_export_failed(&mut self, now: Millis, reason: &str) {
        let State::Closing(closing) = &mut self.state else { return };
        let Export::InFlight { from, .. } = closing.export else { return };
        self.roster.note_failed_upload(from);
        closing.export = Export::NotAsked;
        closing.exports_failed += 1;
        if closing.exports_failed < EXPORT_ATTEMPTS_MAX {
            self.warn(format!("the export failed: {reason}; it is tried again"));
            return self.try_again_later(now);
        }
        let done = "all steps are done and the last version is written";
        self.fail(4, &format!("{done}, but the export failed: {reason}"));
    }

    /// After the last commit, a lost member costs at most its unfinished upload.
    pub(super) fn on_lost_at_end(&mut self, now: Millis, id: MemberId) {
        let State::Closing(closing) = &mut self.state else { return };
        closing.checks.remove(&id);
        if let Export::InFlight { from, .. } = closing.export
            && from == id
        {
            closing.export = Export::NotAsked;
        }
        if !self.uploads.is_busy() && self.uploads.durable_step() != Some(self.position.step) {
            self.try_again_later(now);
        }
        self.advance_closing(now);
    }

    pub(super) fn on_closing_tick(&mut self, now: Millis) {
        let State::Closing(closing) = &mut self.state else { return };
        if closing.waits_for_checks() && now >= closing.applied_until {
            return self.put_out_late(now);
        }
        if let Export::InFlight { from, until } = closing.export
            && now >= until
        {
            let reason =
                format!("waited {} ms for {}", self.plan.transfer_timeout_ms, self.roster.name(from));
            return self.on_export_failed(now, &reason);
        }
        if closing.retry_at.is_some_and(|at| now >= at) {
            closing.retry_at = None;
            match closing.giving_up.take() {
                Some((from, reason)) if self.roster.get(from).is_some() => {
                    self.give_up_last_version(now, &reason);
                }
                _ => self.advance_closing(now),
            }
        }
    }

    /// Members that don't apply the last step are evicted, as in any other step.
    fn put_out_late(&mut self, now: Millis) {
        let State::Closing(closing) = &self.state else { return };
        let late: Vec<MemberId> =
            closing.checks.iter().filter(|(_, check)| check.is_none()).map(|(id, _)| *id).collect();
        let waited_ms = self.plan.load_timeout_ms;
        for id in late {
            self.evict(now, id, &format!("it has not applied the last step within {waited_ms} ms"), false);
        }
    }

    pub(super) fn describe_closing(&self, closing: &Closing) -> String {
        let step = self.position.step;
        let late: Vec<String> = closing
            .checks
            .iter()
            .filter(|(_, check)| check.is_none())
            .map(|(member, _)| self.roster.name(*member))
            .collect();
        if !late.is_empty() {
            return format!("{} to apply step {step}, the last", late.join(", "));
        }
        if let Export::InFlight { from, .. } = closing.export {
            return format!("{} to upload the exports", self.roster.name(from));
        }
        match self.uploads.in_flight() {
            Some(upload) => format!("{} to upload version {}", self.roster.name(upload.from), upload.step),
            None if closing.exports_failed > 0 => "another attempt at the exports".to_owned(),
            None if closing.retry_at.is_some() => format!("another attempt at version {step}"),
            None => format!("version {step}"),
        }
    }
}
