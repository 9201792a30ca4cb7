//! Takeover by a new coordinator: its members' states, and commits that the journal lost.

use super::journal_queue::AfterAppend;
use super::machine::{CommittedState, Coordinator};
use super::roster::Member;
use crate::Millis;
use crate::ids::MemberId;
use crate::journal::Record;
use crate::messages::{Commit, Held, Next, ToWorker};

impl Coordinator {
    /// Whether members of the last view may still rejoin.
    pub(super) fn waits_for_orphans(&self, now: Millis) -> bool {
        let back = self.roster.available().filter(|member| member.claim.is_some() || member.holds.is_some());
        self.orphans > 0 && now < self.rejoin_until && back.count() < self.orphans
    }

    /// Examines the state that a member claimed at Join: it counts if a commit of this history made it.
    pub(super) fn look_at_claim(&mut self, id: MemberId) {
        let Some(member) = self.roster.get(id) else { return };
        let claimed = member.claim.as_ref().map(|held| held.step);
        let holds = member.claim.as_ref().filter(|held| self.is_history(held)).map(|held| held.step);
        self.claimed_until = self.claimed_until.max(claimed);
        if let Some(member) = self.roster.get_mut(id) {
            member.holds = holds;
        }
    }

    /// Whether a commit of this history made the state.
    pub(super) fn is_history(&self, held: &Held) -> bool {
        let commit = held.commit.as_ref().filter(|commit| commit.key.step == held.step);
        commit.is_some_and(|commit| self.history.has(commit))
    }

    /// Appends a commit that the journal lost with its host and that a member has applied and brought back. Returns
    /// whether there is one.
    pub(super) fn adopt_lost_tail(&mut self) -> bool {
        let beyond =
            |member: &Member| member.claim.as_ref().is_some_and(|held| held.step > self.position.step);
        let members = self.roster.available().filter(|member| beyond(member));
        let commits = members.filter_map(|member| member.claim.as_ref()?.commit.as_deref());
        // One after the other, as far as members have them.
        let lost = commits
            .filter(|commit| self.history.can_adopt(commit))
            .min_by_key(|commit| commit.key.step)
            .cloned();
        let Some(commit) = lost else { return false };
        self.adopting = Some(commit.clone());
        self.append(Record::Adopted(commit), true, AfterAppend::Adopt);
        true
    }

    /// The adopted commit is history again.
    pub(super) fn on_adopted(&mut self, now: Millis) {
        let Some(commit) = self.adopting.take() else { return };
        let step = commit.key.step;
        self.warn(format!("the journal had lost the commit of step {step}; a member brought it back"));
        self.history.note_commit(&commit);
        self.position = CommittedState { step, applied: commit.applied, evaluated: false };
        let ids: Vec<MemberId> = self.roster.iter().filter(|m| m.holds.is_none()).map(|m| m.id).collect();
        for id in ids {
            self.look_at_claim(id);
        }
        self.advance(now);
    }

    /// Members that were prepared for the last commit and missed it apply it now. Returns whether there are any.
    pub(super) fn recover_prepared(&mut self, step: u64) -> bool {
        let Some(record) = self.history.last_commit(step).cloned() else { return false };
        let is_prepared = |member: &Member| {
            member.is_available()
                && member.ordered.is_none()
                && member.holds.is_some_and(|holds| holds + 1 == step)
                && member.claim.as_ref().is_some_and(|held| held.prepared == Some((step, record.hash)))
        };
        let mut connections = Vec::new();
        for member in self.roster.iter_mut().filter(|member| is_prepared(member)) {
            (member.ordered, member.recovers) = (Some(step), Some(step));
            member.claim = None;
            connections.push(member.connection);
        }
        let commit = Commit {
            key: record.key,
            verdict: record.verdict,
            hash: record.hash,
            applied: record.applied,
            scalars: record.scalars,
            // The lost coordinator's plan for what follows is obsolete.
            next: Next { hold: true, ..Next::default() },
        };
        for connection in &connections {
            self.send(*connection, ToWorker::Recover(commit.clone()));
        }
        !connections.is_empty()
    }

    /// A member has applied a recovered commit.
    pub(super) fn on_recovered(&mut self, now: Millis, id: MemberId, step: u64) {
        let is_history = self.history.last_commit(step).is_some();
        if let Some(member) = self.roster.get_mut(id) {
            member.recovers = None;
            // A late member may already be ordered to load another state, or history may have been rewound.
            if member.ordered.is_none_or(|ordered| ordered == step) {
                member.ordered = None;
                member.holds = Some(step).filter(|_| is_history);
            }
        }
        self.advance(now);
    }
}
