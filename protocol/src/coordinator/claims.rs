//! Compares the states that joining members claim to hold with the journal and with each other. A replica that
//! deviated while it had no peers is detected when others join.

use std::collections::BTreeMap;

use super::machine::{Coordinator, State};
use super::verdict::{Disagreement, blame};
use crate::Millis;
use crate::ids::MemberId;

/// A member's claim about a state.
struct Claim {
    by: MemberId,
    check: u64,
}

/// All claims about one state.
struct StateClaims {
    step: u64,
    claims: Vec<Claim>,
    /// The journal's check, and how many members it represents.
    journalled: Option<(u64, usize)>,
}

impl StateClaims {
    fn is_unanimous(&self) -> bool {
        let mut checks = self.claims.iter().map(|claim| claim.check);
        let first = self.journalled.map(|(check, _)| check).or_else(|| checks.next());
        checks.all(|check| Some(check) == first)
    }

    /// The check of a strict majority. A claim equal to the journal's check is already counted in the journal's vote.
    fn majority(&self) -> Option<u64> {
        let mut votes: BTreeMap<u64, usize> = self.journalled.into_iter().collect();
        let others = self.claims.iter().filter(|claim| Some(claim.check) != self.journalled.map(|(c, _)| c));
        others.for_each(|claim| *votes.entry(claim.check).or_default() += 1);
        let all: usize = votes.values().sum();
        votes.into_iter().find(|(_, count)| count * 2 > all).map(|(check, _)| check)
    }

    fn except(&self, check: Option<u64>) -> Vec<MemberId> {
        let others = self.claims.iter().filter(|claim| check.is_some_and(|check| claim.check != check));
        others.map(|claim| claim.by).collect()
    }
}

impl Coordinator {
    /// Compares the claims made at Join with the journal's record of the same states; with `among_members`, also with
    /// each other, where no step in flight would reveal a difference. Returns whether a difference was found and
    /// handled.
    pub(super) fn compare_claims(&mut self, now: Millis, among_members: bool) -> bool {
        if self.is_writing() || matches!(self.state, State::Ending(_) | State::Finished(_)) {
            return false; // The next commit compares them.
        }
        let differs = self
            .hearings()
            .into_iter()
            .find(|hearing| !hearing.is_unanimous() && (among_members || hearing.journalled.is_some()));
        let Some(hearing) = differs else { return false };
        self.judge(now, &hearing);
        true
    }

    /// Repeats the comparison after a commit, which may confirm or refute a claimed state. Usually there is nothing
    /// to do.
    pub(super) fn compare_new_claims(&mut self, now: Millis, committed: u64) -> bool {
        let Some(last) = self.claimed_until else { return false };
        if committed > last && !self.is_writing() {
            self.claimed_until = None;
        }
        self.compare_claims(now, matches!(self.state, State::Closing(_)))
    }

    /// Whether a record that decides what is history is being appended.
    fn is_writing(&self) -> bool {
        self.adopting.is_some()
            || matches!(self.state, State::Initialising(_) | State::Opening | State::Committing(_))
    }

    /// In step order, earliest first.
    fn hearings(&self) -> Vec<StateClaims> {
        let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
        for member in self.roster.iter() {
            let Some(held) = member.claim.as_ref().filter(|held| held.state_check != 0) else { continue };
            if self.is_history(held) {
                claims.entry(held.step).or_default().push(Claim { by: member.id, check: held.state_check });
            }
        }
        if claims.is_empty() {
            return Vec::new();
        }
        if let State::Closing(closing) = &self.state {
            // Newer checks replace the claims of Join.
            let last = claims.entry(self.position.step).or_default();
            closing.checks().for_each(|(by, check)| {
                last.retain(|claim| claim.by != by);
                last.push(Claim { by, check });
            });
        }
        let hearing =
            |(step, claims)| StateClaims { step, claims, journalled: self.history.state_check(step) };
        claims.into_iter().map(hearing).collect()
    }

    /// States of one step differ: evicts those outside a strict majority and replays everything to which a wrong
    /// state may have contributed.
    fn judge(&mut self, now: Millis, hearing: &StateClaims) {
        let step = hearing.step;
        let agreed = hearing.majority();
        let journalled = hearing.journalled.map(|(check, _)| check);
        let message = self.describe_hearing(hearing, agreed);
        // With the commit of this step all members agreed on the state before it; an upload of that state is unproven.
        let refuge = self.refuge_step();
        let proven = self.proven_step.min(step.saturating_sub(2));
        // Older checkpoints may have been deleted from the disk.
        let to_step = self.uploads.newest_until(proven).filter(|to_step| Some(*to_step) == refuge);
        let deviants = hearing.except(agreed);
        if let Some(to_step) = to_step {
            self.warn(message.clone());
            self.disagreements = 0;
            self.rewind(to_step, true, &message);
            self.roster.iter_mut().for_each(|member| member.holds = None);
            self.put_out_deviants(now, deviants, &message);
            return self.gather(now);
        }
        if journalled.is_none() || agreed.is_some() && agreed != journalled {
            let (in_state, deviants) = (true, Vec::new());
            return self.fail_disagreement(&Disagreement { in_state, deviants, message });
        }
        // The run continues as it is: deviating members fetch its state, or restart without one.
        self.warn(format!("{message}; no version before that is left to go back to"));
        self.put_out_deviants(now, hearing.except(journalled), &message);
        self.advance(now);
    }

    fn describe_hearing(&self, hearing: &StateClaims, agreed: Option<u64>) -> String {
        let mut said: Vec<String> = hearing
            .journalled
            .iter()
            .map(|(check, witnesses)| format!("the journal {check:016x} of {witnesses}"))
            .collect();
        let claims = hearing.claims.iter();
        said.extend(claims.map(|claim| format!("{} {:016x}", self.roster.name(claim.by), claim.check)));
        let deviants: Vec<String> =
            hearing.except(agreed).into_iter().map(|id| self.roster.name(id)).collect();
        let who = match agreed {
            Some(_) if deviants.is_empty() => {
                "whoever computed alone deviates from the strict majority".to_owned()
            }
            _ => blame(&deviants, hearing.claims.len() + hearing.journalled.map_or(0, |(_, count)| count)),
        };
        let step = hearing.step;
        format!("what members hold of state {step} differs: {who} ({})", said.join(", "))
    }

    /// Whether members that are currently gone could outvote those of the view if they returned with another state:
    /// then agreement within the view alone proves no state.
    pub(super) fn may_be_outvoted(&self, now: Millis) -> bool {
        let here = self.view.as_ref().map_or(0, |view| view.members.len());
        let (unheard, until) = self.unheard;
        let unheard = if now < until { unheard } else { 0 };
        unheard.max(self.disconnected.holders(now)) >= here.max(1)
    }

    /// The first view of a term has opened: members of the last view that are not in it may still rejoin.
    pub(super) fn note_unheard(&mut self, now: Millis, here: usize) {
        if self.orphans > 0 {
            let until = now.saturating_add(self.plan.join_timeout_ms);
            self.unheard = (self.orphans.saturating_sub(here), until);
        }
        self.orphans = 0;
    }
}
