//! Lost, evicted and deviating members, and rewinds of the history.

use super::journal_queue::AfterAppend;
use super::machine::{CommittedState, Coordinator, State};
use super::phase_state::UncommittedWork;
use super::roster::Member;
use super::verdict::Disagreement;
use super::{Output, RunEvent};
use crate::Millis;
use crate::ids::MemberId;
use crate::journal::Record;
use crate::messages::ToWorker;

/// A member whose data connection breaks this often in a row is evicted.
const EDGE_FAILURES_MAX: u32 = 2;
/// How long the control stream of a member whose data connection broke may take to break too.
const EDGE_GRACE_MS: u64 = 200;
/// After this many disagreements in a row on a reduced gradient, another try won't help.
const DISAGREEMENTS_MAX: u32 = 2;
/// Retries in a row without a commit in between: of a step that all members computed and none is ready for, of a
/// state that too few members reach, of a last checkpoint that its member doesn't upload.
pub(super) const STUCK_MAX: u32 = 2;

impl Coordinator {
    /// Removes a member, reports it and returns its name.
    pub(super) fn forget(&mut self, id: MemberId, reason: &str) -> Option<String> {
        let member = self.roster.remove(id)?;
        self.penalties.keep(self.clock, member.instance, member.penalty);
        self.emit(RunEvent::Left { member: id, step: self.position.step, reason: reason.to_owned() });
        if self.uploads.in_flight().is_some_and(|upload| upload.from == id) {
            self.uploads.abandon();
            self.uploads.owe();
            self.forget_handover_attempt();
        }
        if self.shown.is_some_and(|shown| shown.from == id) {
            self.forget_handover_attempt();
        }
        Some(member.name)
    }

    /// A member is gone; the others continue if they are enough.
    pub(super) fn lose(&mut self, now: Millis, id: MemberId, reason: &str) {
        let was_in_view = self.is_in_view(id);
        let Some(name) = self.forget(id, reason) else { return };
        self.first_version_failed.retain(|(by, _)| *by != id);
        match &self.state {
            State::Initialising(state) if state.by == id => self.gather(now),
            State::Stepping(_) if was_in_view => self.retry(now, &format!("{name} is gone: {reason}")),
            State::Closing(_) => self.on_lost_at_end(now, id),
            _ => self.advance(now),
        }
    }

    /// Evicts a member. It may rejoin, with its state or without it.
    pub(super) fn evict(&mut self, now: Millis, id: MemberId, reason: &str, forget: bool) {
        self.expect_back(now, id);
        self.tell_evicted(id, reason, forget);
        self.lose(now, id, reason);
    }

    fn tell_evicted(&mut self, id: MemberId, reason: &str, forget: bool) {
        let Some(connection) = self.roster.get(id).map(|member| member.connection) else { return };
        self.send(connection, ToWorker::Evicted { reason: reason.to_owned(), forget });
        self.put(Output::Close { connection });
    }

    pub(super) fn on_data_plane_lost(&mut self, now: Millis, id: MemberId, reason: &str) {
        if !self.is_in_view(id) {
            return; // A connection that is no longer needed.
        }
        let Some(member) = self.roster.get_mut(id) else { return };
        member.edge_failures += 1;
        member.edge_is_broken = true;
        let (name, failures) = (member.name.clone(), member.edge_failures);
        let is_too_often = member.penalty.breaks(now);
        if is_too_often || failures >= EDGE_FAILURES_MAX {
            let pause_ms = member.penalty.bar(now);
            let how =
                if is_too_often { "too often".to_owned() } else { format!("{failures} times in a row") };
            let what =
                format!("its data connection broke {how}: {reason}; it may not enter for {pause_ms} ms");
            return self.evict(now, id, &what, false);
        }
        // A dead process closes both its streams: wait a moment to tell whether that is the cause.
        let reason = format!("{name}'s data connection broke: {reason}");
        self.broken_edges.get_or_insert((now.saturating_add(EDGE_GRACE_MS), reason));
    }

    /// Quarantined workers whose time is over may enter.
    pub(super) fn check_bars(&mut self, now: Millis) {
        if self.bars_until.take_if(|until| now >= *until).is_none() {
            return;
        }
        for member in self.roster.iter_mut().filter(|member| member.is_barred) {
            let until = member.penalty.barred_until(now);
            member.is_barred = until.is_some();
            self.bars_until = self.bars_until.into_iter().chain(until).min();
        }
    }

    /// A run that is paused takes every worker it has.
    pub(super) fn lift_bars(&mut self) {
        if self.bars_until.take().is_some() {
            self.roster.iter_mut().for_each(|member| member.is_barred = false);
        }
    }

    pub(super) fn check_edges(&mut self, now: Millis) {
        if let Some((_, reason)) = self.broken_edges.take_if(|(at, _)| now >= *at)
            && !self.is_view_whole()
        {
            self.retry(now, &reason);
        }
    }

    /// The step takes far longer than it should.
    pub(super) fn on_step_expired(&mut self, now: Millis) {
        let State::Stepping(step) = &self.state else { return };
        let waited_ms = step.until.saturating_sub(step.started);
        let what = self.describe_step(step);
        let members = self.roster.iter();
        let behind = members.filter(|member| self.is_in_view(member.id) && !step.has_computed(member.id));
        let has_time = |member: &&Member| member.is_newcomer() && now < step.newcomers_until;
        let (in_time, late): (Vec<&Member>, Vec<&Member>) = behind.partition(has_time);
        let is_in_time = late.is_empty() && !in_time.is_empty();
        let late: Vec<MemberId> = late.iter().map(|member| member.id).collect();
        if is_in_time {
            let State::Stepping(step) = &mut self.state else { return };
            step.until = step.newcomers_until;
            return;
        }
        if !late.is_empty() {
            let reason = format!("it has not computed its part of the step within {waited_ms} ms");
            return late.into_iter().for_each(|id| self.evict(now, id, &reason, false));
        }
        let withheld = self.withheld();
        if !withheld.is_empty() {
            let reason = format!(
                "it has said its sums and not sent its gradient within {waited_ms} ms, which holds up all others"
            );
            return withheld.into_iter().for_each(|id| self.evict(now, id, &reason, false));
        }
        let cut_off = self.cut_off();
        if !cut_off.is_empty() {
            let reason = format!(
                "it was not ready within {waited_ms} ms as others were: what is reduced doesn't reach it"
            );
            return cut_off.into_iter().for_each(|id| self.evict(now, id, &reason, false));
        }
        self.stuck += 1;
        if self.stuck > STUCK_MAX {
            return self.fail(4, &format!("waited {waited_ms} ms for {what} and gave up"));
        }
        self.retry(now, &format!("waited {waited_ms} ms for {what}"));
    }

    /// Members whose gradient is missing although all sums have arrived, so that no member is ready.
    fn withheld(&self) -> Vec<MemberId> {
        let State::Stepping(step) = &self.state else { return Vec::new() };
        let ids = || self.roster.iter().map(|member| member.id).filter(|id| self.is_in_view(*id));
        if ids().any(|id| step.is_ready(id)) {
            return Vec::new();
        }
        ids().filter(|id| step.behind.contains(id)).collect()
    }

    /// Members that are not ready although all have computed and others are ready: their data connection accepts data
    /// and delivers none.
    fn cut_off(&self) -> Vec<MemberId> {
        let State::Stepping(step) = &self.state else { return Vec::new() };
        let members = self.roster.iter().map(|member| member.id).filter(|id| self.is_in_view(*id));
        let (ready, behind): (Vec<MemberId>, Vec<MemberId>) = members.partition(|id| step.is_ready(*id));
        if ready.is_empty() { Vec::new() } else { behind }
    }

    /// Handles a difference between members that must be equal.
    pub(super) fn on_disagreement(&mut self, now: Millis, disagreement: &Disagreement) {
        let message = disagreement.message.clone();
        if !disagreement.in_state {
            self.disagreements += 1;
            if self.disagreements < DISAGREEMENTS_MAX {
                self.warn(format!("{message}; the step is tried again"));
                return self.retry(now, &message);
            }
        }
        let deviants: Vec<MemberId> = self
            .roster
            .iter()
            .filter(|member| disagreement.deviants.contains(&member.name))
            .map(|member| member.id)
            .collect();
        // States can differ only since the last one whose check all members agreed on.
        let proven = self.uploads.newest_until(self.proven_step);
        let Some(to_step) = proven else { return self.fail_disagreement(disagreement) };
        if deviants.is_empty() {
            // No one knows who is right, but all were equal then; a recurring deviation is for a person to find.
            let step = self.position.step;
            if !disagreement.in_state || self.doubted.is_some_and(|doubted| step <= doubted) {
                return self.fail_disagreement(disagreement);
            }
            self.doubted = Some(step);
        }
        self.warn(message.clone());
        self.disagreements = 0;
        if !disagreement.in_state {
            return deviants.into_iter().for_each(|id| self.evict(now, id, &message, true));
        }
        self.rewind(to_step, true, &message);
        for member in self.roster.iter_mut() {
            member.holds = None;
        }
        self.put_out_deviants(now, deviants, &message);
        self.gather(now);
    }

    /// Evicts deviating replicas; they may rejoin without their states.
    pub(super) fn put_out_deviants(&mut self, now: Millis, deviants: Vec<MemberId>, message: &str) {
        for id in deviants {
            self.expect_back(now, id);
            self.tell_evicted(id, message, true);
            self.forget(id, message);
        }
    }

    /// A replay produced another gradient than the committed one. A replica may have gone wrong just now, which its
    /// state check would reveal in the next step: history is rewound once more.
    pub(super) fn on_other_replay(&mut self, now: Millis, step: u64, message: &str) {
        let to_step = self.uploads.newest_until(self.proven_step);
        let (Some(to_step), false) = (to_step, self.doubted.is_some_and(|doubted| step <= doubted)) else {
            return self.fail(4, message);
        };
        self.doubted = Some(step);
        self.warn(format!("{message}; once more from state {to_step}"));
        self.rewind(to_step, false, message);
        self.roster.iter_mut().for_each(|member| member.holds = None);
        self.gather(now);
    }

    /// No one can tell who is right: everything in doubt is void, and a person has to investigate.
    pub(super) fn fail_disagreement(&mut self, disagreement: &Disagreement) {
        let mut message = disagreement.message.clone();
        let proven = self.proven_step;
        let voids = disagreement.in_state && self.position.step > proven;
        if voids {
            message = format!("{message}; what was committed after state {proven} is void");
            self.uploads.void_beyond(proven);
        }
        let reason = disagreement.message.clone();
        self.fail_after(4, &message, voids.then_some(Record::Rewind { to_step: proven, void: true, reason }));
    }

    /// Rewinds history to a state; later commits are replayed, or are void.
    pub(super) fn rewind(&mut self, to_step: u64, void: bool, reason: &str) {
        let from_step = self.position.step;
        self.history.rewind(to_step, void);
        if void {
            self.uploads.void_beyond(to_step);
        }
        self.position = CommittedState {
            step: to_step,
            applied: self.history.applied(to_step),
            evaluated: self.history.is_evaluated(to_step),
        };
        self.proven_step = self.proven_step.min(to_step);
        self.uploads.rewind(to_step);
        self.shown = None;
        self.kept = UncommittedWork::default();
        self.view = None;
        // No step begins until the states are restored.
        self.begin_hold(self.clock);
        self.start_gathering(self.clock);
        let reason = reason.to_owned();
        self.emit(RunEvent::Rewound { from_step, to_step, reason: reason.clone() });
        self.append(Record::Rewind { to_step, void, reason }, true, AfterAppend::Nothing);
    }
}
