//! Joiners enter between two steps: the run holds still, a member uploads the committed state, they load it.

use super::gathering::PUT_OFF_MS;
use super::machine::{Coordinator, State};
use crate::Millis;
use crate::messages::{EndReason, ToWorker};

use super::Output;
use super::roster::Member;

impl Coordinator {
    /// Workers that are ready and lack the committed state.
    pub(super) fn joiners(&self, now: Millis) -> impl Iterator<Item = &Member> {
        let step = self.position.step;
        self.roster.iter().filter(move |member| {
            member.is_available()
                && member.ordered.is_none()
                && member.holds != Some(step)
                && member.not_before <= now
                && !self.is_in_view(member.id)
        })
    }

    /// The run stands still after the commit of a step, as that commit has told the members.
    pub(super) fn hold(&mut self, now: Millis) {
        self.held_since.get_or_insert(now);
        let leavers = self.roster.iter().filter(|member| member.leaving.is_some()).count();
        let rest = self.roster.available().filter(|member| member.holds == Some(self.position.step)).count();
        // Whoever leaves too few behind leaves a version behind too.
        let keeps_best = self.is_best(self.position.step) && !self.uploads.has_asked(self.position.step);
        let needs_version = leavers > 0 && rest < self.needed() || keeps_best;
        if needs_version || self.joiners(now).next().is_some() {
            return self.hand_over(now);
        }
        self.finish_hold(now);
    }

    /// The committed state becomes a version for those that lack it.
    pub(super) fn hand_over(&mut self, now: Millis) {
        self.held_since.get_or_insert(now);
        let until = now.saturating_add(self.plan.transfer_timeout_ms);
        self.state = State::Handover { until, step: self.position.step, attempts: 0 };
        self.advance_handover(now);
    }

    pub(super) fn advance_handover(&mut self, now: Millis) {
        let State::Handover { step, attempts, .. } = &mut self.state else { return };
        let step = *step;
        if self.uploads.durable_step() == Some(step) {
            return self.finish_hold(now);
        }
        if self.uploads.is_busy() {
            return;
        }
        if *attempts > 0 {
            return self.give_up_handover(now, "the state could not be uploaded");
        }
        *attempts += 1;
        let donors = self.roster.ranks();
        let mut donors = donors.iter().filter(|member| member.can_show(step));
        let Some((from, connection)) = donors.next().map(|donor| (donor.id, donor.connection)) else {
            return self.gather(now);
        };
        self.expect_version(now, step, from);
        self.send(connection, ToWorker::WriteVersion { step });
    }

    /// A donor was lost: another one tries.
    pub(super) fn forget_handover_attempt(&mut self) {
        if let State::Handover { attempts, .. } = &mut self.state {
            *attempts = 0;
        }
    }

    pub(super) fn give_up_handover(&mut self, now: Millis, reason: &str) {
        let ids: Vec<_> = self.joiners(now).map(|member| member.id).collect();
        let names: Vec<String> = ids.iter().map(|id| self.roster.name(*id)).collect();
        if !names.is_empty() {
            self.warn(format!("{} can't enter yet: {reason}", names.join(", ")));
        }
        for id in ids {
            if let Some(member) = self.roster.get_mut(id) {
                member.not_before = now.saturating_add(PUT_OFF_MS);
            }
        }
        self.finish_hold(now);
    }

    /// Leavers go, joiners load, and the run goes on.
    fn finish_hold(&mut self, now: Millis) {
        self.dismiss_leavers();
        let step = self.position.step;
        self.load_from(now, step);
    }

    /// How long the run held still, for people.
    pub(super) fn end_hold(&mut self, now: Millis) {
        if let Some(since) = self.held_since.take() {
            let (step, held_ms) = (self.position.step, now.saturating_sub(since));
            self.note(super::Note::Held { step, held_ms });
        }
    }

    pub(super) fn dismiss_leavers(&mut self) {
        let leaving: Vec<(crate::ids::MemberId, u64, String)> = self
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
