//! Identical replicas (invariant 3), the bits of a quiet run (invariant 4), and the guarantees of a Ready.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{MemberId, Phase, StepKey};
use protocol::messages::Ready;

use super::{CheckResult, Oracle};
use crate::toy::State;

impl Oracle {
    /// A commit requires that every member of the view has sent Ready for exactly this key, and all with equal
    /// values.
    pub(super) fn check_ready(&mut self, key: StepKey) -> CheckResult {
        let none = BTreeMap::new();
        let ready = self.ready.get(&key).unwrap_or(&none);
        let Some(members) = self.members.get(&key.view.0) else {
            return Err(format!(
                "one history: step {} was committed in a view that isn't journalled",
                key.step
            ));
        };
        if let Some(member) = members.iter().find(|member| !ready.contains_key(member)) {
            return Err(format!(
                "one history: step {} ({:?}) was committed before member {:#x} was ready",
                key.step, key.phase, member.0
            ));
        }
        let mut said = members.iter().filter_map(|member| ready.get(member));
        let first = said.next();
        if said.any(|other| Some(other) != first) {
            return Err(format!(
                "identical replicas: step {} ({:?}) was committed although its members' states or gradients differ",
                key.step, key.phase
            ));
        }
        // The checks cover the state before a training step, and the evaluated state.
        let agreed = if key.phase == Phase::Train { key.step - 1 } else { key.step };
        self.agreed = self.agreed.max(agreed);
        self.proven = self.proven.max(agreed.saturating_sub(1));
        Ok(())
    }

    /// A slice reached a member.
    pub(crate) fn on_slice(&mut self, member: MemberId, key: StepKey, slice: u32) {
        self.heard.entry((member, key)).or_default().insert(slice);
    }

    /// A complete step reached a member that has not begun it.
    pub(crate) fn on_early(&mut self, member: MemberId, key: StepKey) {
        self.early.insert((member, key));
    }

    /// Whether that happened, on a connection that the member still has.
    pub(crate) fn came_early(&self, member: MemberId, key: StepKey) -> bool {
        self.early.contains(&(member, key))
    }

    /// A member itself sent Ready.
    ///
    /// # Errors
    /// When not every slice of this very view has reached it: results of another view are void.
    pub(crate) fn on_ready(&mut self, member: MemberId, ready: &Ready, slices: usize) -> CheckResult {
        self.ready.entry(ready.key).or_default().insert(member, (ready.state_check, ready.hash));
        let heard = self.heard.get(&(member, ready.key)).map_or(0, BTreeSet::len);
        if ready.key.phase == Phase::Train && heard < slices && !self.compares_bits_alone {
            let (step, member) = (ready.key.step, member.0);
            return Err(format!(
                "one view: member {member:#x} is ready for step {step} with {heard} of {slices} slices of its view"
            ));
        }
        self.heard.retain(|(other, key), _| *other != member || *key >= ready.key);
        self.early.retain(|(other, key)| *other != member || *key > ready.key);
        Ok(())
    }

    /// A member has applied a commit.
    ///
    /// # Errors
    /// When its state differs from the others', or from the quiet run's.
    pub(crate) fn on_applied(&mut self, member: MemberId, state: &State) -> CheckResult {
        let (step, check) = (state.step, state.check());
        if state.tainted {
            return Ok(());
        }
        if *self.checks.entry(step).or_insert(check) != check {
            return Err(format!("identical replicas: member {:#x} has another state {step}", member.0));
        }
        match self.reference.as_ref().and_then(|reference| reference.checks.get(&step)) {
            Some(expected) if *expected != check => {
                Err(format!("bit-exact: state {step} of member {:#x} is not the quiet run's", member.0))
            }
            _ => Ok(()),
        }
    }
}
