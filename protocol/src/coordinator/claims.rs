//! What members that come say of the states that they hold, against what the journal and the others say: a replica that went
//! wrong while nobody was there to compare it with is found out when somebody is.

use std::collections::BTreeMap;

use super::machine::{Coordinator, State};
use super::verdict::{Disagreement, blame};
use crate::Millis;
use crate::ids::MemberId;

/// What a member says of a state.
struct Claim {
    by: MemberId,
    check: u64,
}

/// What is said of one state, and by whom.
struct StateClaims {
    step: u64,
    claims: Vec<Claim>,
    /// The journal's check, and how many members stand for it.
    journalled: Option<(u64, usize)>,
}

impl StateClaims {
    fn is_unanimous(&self) -> bool {
        let mut checks = self.claims.iter().map(|claim| claim.check);
        let first = self.journalled.map(|(check, _)| check).or_else(|| checks.next());
        checks.all(|check| Some(check) == first)
    }

    /// What a strict majority says. Whoever says what the journal has is among those that it stands for.
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
    /// Compares what members said at Join with what the journal has of the same states; `among_members`, also with each
    /// other, where no step is under way that would tell. Whether a difference was found and dealt with.
    pub(super) fn compare_claims(&mut self, now: Millis, among_members: bool) -> bool {
        if self.is_writing() || matches!(self.state, State::Ending(_) | State::Finished(_)) {
            return false; // They are compared with the next commit.
        }
        let differs = self
            .hearings()
            .into_iter()
            .find(|hearing| !hearing.is_unanimous() && (among_members || hearing.journalled.is_some()));
        let Some(hearing) = differs else { return false };
        self.judge(now, &hearing);
        true
    }

    /// The same after a commit, which may be witness to a state that somebody has claimed. Most find nothing to do.
    pub(super) fn compare_new_claims(&mut self, now: Millis, committed: u64) -> bool {
        let Some(last) = self.claimed_until else { return false };
        if committed > last && !self.is_writing() {
            self.claimed_until = None;
        }
        self.compare_claims(now, matches!(self.state, State::Closing(_)))
    }

    /// Whether a record is under way that decides what is history.
    fn is_writing(&self) -> bool {
        self.adopting.is_some()
            || matches!(self.state, State::Initialising(_) | State::Opening | State::Committing(_))
    }

    /// By step, the earliest first.
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
            // Nobody claims what it has said since.
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

    /// States of one step differ: whoever is against a strict majority is put out, and what a wrong state may have had a part
    /// in comes again.
    fn judge(&mut self, now: Millis, hearing: &StateClaims) {
        let step = hearing.step;
        let agreed = hearing.majority();
        let journalled = hearing.journalled.map(|(check, _)| check);
        let message = self.describe_hearing(hearing, agreed);
        // With the commit of this step all had said the same of the state before; what was made of that one is not proven.
        let refuge = self.refuge_step();
        let proven = self.proven_step.min(step.saturating_sub(2));
        // Older versions may be gone from the disk.
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
        // The run goes on as it is: those that differ from it take its state, or none.
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

    /// Whether those that are gone for now could outvote the members of the view, should they come back with another state:
    /// then nothing that the view alone has said proves a state.
    pub(super) fn may_be_outvoted(&self, now: Millis) -> bool {
        let here = self.view.as_ref().map_or(0, |view| view.members.len());
        let (unheard, until) = self.unheard;
        let unheard = if now < until { unheard } else { 0 };
        unheard.max(self.disconnected.holders(now)) >= here.max(1)
    }

    /// The first view of a term has opened: members of the last one that are not in it may still come.
    pub(super) fn note_unheard(&mut self, now: Millis, here: usize) {
        if self.orphans > 0 {
            let until = now.saturating_add(self.plan.join_timeout_ms);
            self.unheard = (self.orphans.saturating_sub(here), until);
        }
        self.orphans = 0;
    }
}
