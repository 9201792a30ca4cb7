//! A member's reduced steps: the one it expects, one that arrived before it was begun here, and the one that is
//! prepared for its commit.

use crate::ids::StepKey;

/// Tracks a member's reduced steps. `B` is a reduced step, or its buffer; a returned `B` goes back to where the next
/// step is received.
#[derive(Debug)]
pub struct MemberStep<B> {
    /// The step whose local part is complete; `None` before the first.
    begun: Option<StepKey>,
    /// The step whose reduction is expected.
    expected: Option<StepKey>,
    early: Option<(StepKey, B)>,
    prepared: Option<(StepKey, B)>,
}

/// What happens to a reduced step.
#[derive(PartialEq, Eq, Debug)]
pub enum Arrival<B> {
    /// It is the expected one.
    Prepared,
    /// It is kept until this member begins the step.
    Early,
    /// It belongs to a view that was left in the meantime.
    Older(B),
}

impl<B> Default for MemberStep<B> {
    fn default() -> Self {
        Self { begun: None, expected: None, early: None, prepared: None }
    }
}

impl<B> MemberStep<B> {
    /// Returns the prepared step, as another view retries it or another state was loaded and its buffer is needed.
    #[must_use]
    pub fn abandon(&mut self) -> Option<B> {
        self.prepared.take().map(|(_, reduced)| reduced)
    }

    /// Begins a step and stops expecting the one before. Returns the prepared step.
    #[must_use]
    pub fn begin(&mut self) -> Option<B> {
        self.expected = None;
        self.abandon()
    }

    /// This member's part of the step is done. Returns an early step that now belongs to an older view.
    #[must_use]
    pub fn expect(&mut self, key: StepKey) -> Option<B> {
        (self.begun, self.expected) = (Some(key), Some(key));
        self.early.take_if(|(early, _)| *early < key).map(|(_, reduced)| reduced)
    }

    /// Takes the expected step from the early ones. Returns false if it has not arrived yet.
    #[must_use]
    pub fn prepare_early(&mut self) -> bool {
        let expected = self.expected;
        let Some(early) = self.early.take_if(|(early, _)| expected == Some(*early)) else { return false };
        (self.expected, self.prepared) = (None, Some(early));
        true
    }

    /// Whether a reduced step arrives before this member has begun it: others don't wait for a member without
    /// microbatches.
    #[must_use]
    pub fn is_early(&self, key: StepKey) -> bool {
        self.expected != Some(key) && self.begun < Some(key)
    }

    /// A reduced step has arrived.
    #[must_use]
    pub fn take_in(&mut self, key: StepKey, reduced: B) -> Arrival<B> {
        if self.is_early(key) {
            self.early = Some((key, reduced));
            Arrival::Early
        } else if self.expected == Some(key) {
            (self.expected, self.prepared) = (None, Some((key, reduced)));
            Arrival::Prepared
        } else {
            Arrival::Older(reduced)
        }
    }

    /// The step that waits for its commit; `None` before Ready and after the commit.
    #[must_use]
    pub fn prepared(&self) -> Option<(StepKey, &B)> {
        self.prepared.as_ref().map(|(key, reduced)| (*key, reduced))
    }

    /// Returns the prepared step for its commit, of whichever view: the machine has compared its hash with the
    /// commit's, and a retry in another view produces the same step.
    #[must_use]
    pub fn apply(&mut self, commit: StepKey) -> Option<B> {
        let its = (commit.step, commit.phase);
        self.prepared.take().filter(|(key, _)| (key.step, key.phase) == its).map(|(_, reduced)| reduced)
    }

    /// Whether a reduction is expected.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.expected.is_some()
    }

    /// The view is left; the prepared step may still be committed.
    pub fn leave_view(&mut self) {
        self.expected = None;
    }

    /// The member rejoins: an early step belongs to its former membership.
    pub fn join_again(&mut self) {
        (self.expected, self.early) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Phase, ViewId};

    fn key(view: u64, step: u64) -> StepKey {
        StepKey { view: ViewId(view), step, phase: Phase::Train }
    }

    /// A member that has completed its part of this step.
    fn waiting(key: StepKey) -> MemberStep<&'static str> {
        let mut step = MemberStep::default();
        assert_eq!((step.begin(), step.expect(key)), (None, None));
        step
    }

    #[test]
    fn the_expected_step_is_prepared_and_applied() {
        let mut step = waiting(key(1, 1));
        assert!(step.is_waiting() && !step.prepare_early());
        assert_eq!(step.take_in(key(1, 1), "first"), Arrival::Prepared);
        assert_eq!((step.is_waiting(), step.prepared()), (false, Some((key(1, 1), &"first"))));
        assert_eq!(step.apply(key(2, 1)), Some("first"), "the same step, committed in another view");
        assert_eq!(step.apply(key(2, 1)), None);
    }

    #[test]
    fn what_comes_early_is_kept_until_the_member_is_there() {
        let mut step = waiting(key(1, 1));
        assert_eq!(step.take_in(key(1, 1), "first"), Arrival::Prepared);
        assert!(step.is_early(key(1, 2)) && !step.is_early(key(1, 1)));
        assert_eq!(step.take_in(key(1, 2), "second"), Arrival::Early);
        assert_eq!(step.prepared(), Some((key(1, 1), &"first")), "the step before is still to be applied");
        assert_eq!(step.apply(key(1, 1)), Some("first"));
        assert_eq!((step.begin(), step.expect(key(1, 2)), step.prepare_early()), (None, None, true));
        assert_eq!(step.prepared(), Some((key(1, 2), &"second")));
    }

    #[test]
    fn what_is_of_an_older_view_is_given_back() {
        let mut step = waiting(key(1, 1));
        assert_eq!(step.take_in(key(1, 2), "early"), Arrival::Early);
        assert_eq!(step.begin(), None);
        assert_eq!(step.expect(key(2, 1)), Some("early"));
        assert_eq!(step.take_in(key(1, 1), "late"), Arrival::Older("late"));
        assert_eq!(step.take_in(key(2, 1), "again"), Arrival::Prepared);
        assert_eq!(step.begin(), Some("again"), "a third view tries the step");
        assert_eq!(step.apply(key(2, 1)), None);
    }

    #[test]
    fn whoever_leaves_waits_for_nothing() {
        let mut step = waiting(key(1, 1));
        step.leave_view();
        assert!(!step.is_waiting());
        assert_eq!(step.take_in(key(1, 1), "late"), Arrival::Older("late"));
        assert_eq!(step.take_in(key(1, 2), "early"), Arrival::Early);
        step.join_again();
        assert_eq!((step.expect(key(1, 2)), step.prepare_early()), (None, false));
    }
}
