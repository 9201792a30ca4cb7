//! Joiners enter between two steps: the run is held, a member sends the committed state, joiners fetch it.

use super::machine::{Coordinator, State};
use super::phase_state::StateTransfer;
use crate::Millis;
use crate::ids::MemberId;
use crate::messages::{EndReason, ToWorker};

use super::Output;
use super::roster::Member;

/// Members are held during a state transfer: after a failure another member gets one try.
const ATTEMPTS_MAX: usize = 2;

impl Coordinator {
    /// Workers that are ready and lack the committed state.
    pub(super) fn joiners(&self, now: Millis) -> impl Iterator<Item = &Member> {
        let step = self.position.step;
        self.roster.iter().filter(move |member| {
            member.is_available()
                && member.ordered.is_none()
                && member.holds != Some(step)
                && member.penalty.not_before <= now
                && !self.is_in_view(member.id)
        })
    }

    /// The run is held after the commit of a step, as that commit announced to the members.
    pub(super) fn hold(&mut self, now: Millis) {
        self.begin_hold(now);
        let keeps_best = self.is_best(self.position.step) && !self.uploads.has_asked(self.position.step);
        let needs_version = self.leaves_too_few() || keeps_best;
        if needs_version || self.joiners(now).next().is_some() {
            return self.begin_handover(now, needs_version);
        }
        self.finish_hold(now);
    }

    /// A leaving member that takes the committed state away from too few remaining holders leaves a checkpoint
    /// behind.
    pub(super) fn leaves_too_few(&self) -> bool {
        let step = self.position.step;
        let rest = self.roster.iter().filter(|member| member.can_enter(step)).count();
        let mut leavers = self.roster.iter().filter(|member| member.leaving.is_some());
        rest < self.needed() && leavers.any(|member| member.can_show(step))
    }

    /// Transfers the committed state to the members that lack it.
    pub(super) fn hand_over(&mut self, now: Millis) {
        self.begin_handover(now, false);
    }

    fn begin_handover(&mut self, now: Millis, as_version: bool) {
        self.begin_hold(now);
        let until = now.saturating_add(self.plan.transfer_timeout_ms);
        self.state = State::Handover { until, step: self.position.step, attempts: 0, as_version };
        self.advance_handover(now);
    }

    pub(super) fn advance_handover(&mut self, now: Millis) {
        let State::Handover { step, as_version, .. } = self.state else { return };
        let is_shown = !as_version && self.shown_digest(step).is_some();
        if is_shown || self.uploads.durable_step() == Some(step) {
            return self.finish_hold(now);
        }
        let is_under_way = if as_version { self.uploads.is_busy() } else { self.shown.is_some() };
        if is_under_way {
            return;
        }
        let donors = self.roster.iter().filter(|member| member.can_show(step)).count();
        let State::Handover { attempts, .. } = &mut self.state else { return };
        if *attempts >= ATTEMPTS_MAX || *attempts > 0 && donors == 1 && !as_version {
            return self.give_up_handover(now, "the state could not be uploaded");
        }
        *attempts += 1;
        let Some((from, connection)) = self.roster.uploader(|member| member.can_show(step)) else {
            return self.gather(now);
        };
        if as_version {
            self.expect_version(now, step, from);
            return self.send(connection, ToWorker::WriteVersion { step });
        }
        self.shown = Some(StateTransfer { step, from, digest: None });
        self.put(Output::ExpectState { step, from });
        self.send(connection, ToWorker::SendState { step });
    }

    pub(super) fn on_state_shown(&mut self, now: Millis, step: u64, digest: [u8; 32]) {
        if let Some(shown) = self.shown.as_mut().filter(|shown| shown.step == step) {
            shown.digest = Some(digest);
            self.advance(now);
        }
    }

    pub(super) fn on_state_not_shown(&mut self, now: Millis, step: u64, reason: &str) {
        if let Some(shown) = self.shown.take_if(|shown| shown.step == step && shown.digest.is_none()) {
            self.roster.note_failed_upload(shown.from);
            self.warn(format!("state {step} could not be shown: {reason}"));
            self.advance(now);
        }
    }

    /// Whether this member's transfer of the state of this step is outstanding.
    pub(super) fn is_showing(&self, step: u64, from: MemberId) -> bool {
        self.shown.is_some_and(|shown| (shown.step, shown.from, shown.digest) == (step, from, None))
    }

    /// The digest of the state of this step, if it can be fetched.
    pub(super) fn shown_digest(&self, step: u64) -> Option<[u8; 32]> {
        self.shown.as_ref().filter(|shown| shown.step == step)?.digest
    }

    pub(super) fn describe_handover(&self, step: u64) -> String {
        match (&self.shown, self.uploads.in_flight()) {
            (Some(StateTransfer { from, digest: None, .. }), _) => {
                format!("{} to show state {step} to others", self.roster.name(*from))
            }
            (_, Some(upload)) => format!("{} to upload state {}", self.roster.name(upload.from), upload.step),
            _ => format!("state {step} to become a version"),
        }
    }

    /// The sender was lost: another member tries.
    pub(super) fn forget_handover_attempt(&mut self) {
        self.shown.take_if(|shown| shown.digest.is_none());
        if let State::Handover { attempts, .. } = &mut self.state {
            *attempts = 0;
        }
    }

    pub(super) fn give_up_handover(&mut self, now: Millis, reason: &str) {
        if let Some(shown) = self.shown.take_if(|shown| shown.digest.is_none()) {
            self.roster.note_failed_upload(shown.from);
        }
        let ids: Vec<MemberId> = self.joiners(now).map(|member| member.id).collect();
        let names: Vec<String> = ids.iter().map(|id| self.roster.name(*id)).collect();
        if !names.is_empty() {
            self.warn(format!("{} can't enter yet: {reason}", names.join(", ")));
        }
        for id in ids {
            if let Some(member) = self.roster.get_mut(id) {
                member.penalty.put_off(now);
            }
        }
        self.finish_hold(now);
    }

    /// Leavers go, joiners load, and the run continues.
    fn finish_hold(&mut self, now: Millis) {
        self.dismiss_leavers();
        let step = self.position.step;
        self.load_from(now, step);
    }

    /// Marks the run as held, if it had begun.
    pub(super) fn begin_hold(&mut self, now: Millis) {
        if self.has_begun {
            self.held_since.get_or_insert(now);
        }
    }

    /// Ends the hold and reports its duration.
    pub(super) fn end_hold(&mut self, now: Millis) {
        if let Some(since) = self.held_since.take() {
            let (step, held_ms) = (self.position.step, now.saturating_sub(since));
            self.emit(super::RunEvent::Held { step, held_ms });
        }
    }

    pub(super) fn dismiss_leavers(&mut self) {
        let leaving: Vec<(MemberId, u64, String)> = self
            .roster
            .iter()
            .filter_map(|member| {
                member.leaving.as_ref().map(|why| (member.id, member.connection, why.clone()))
            })
            .collect();
        for (id, connection, why) in leaving {
            let message = "it has left the run, which goes on without it".to_owned();
            self.send(connection, ToWorker::End { reason: EndReason::Interrupted, message });
            self.put(Output::Close { connection });
            self.forget(id, &format!("it leaves: {why}"));
        }
    }
}
