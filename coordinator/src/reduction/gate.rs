//! Bounds how far readers may run ahead of the reducer, and rejects frames of steps that have not begun.

use protocol::ids::{Phase, StepKey};
use protocol::reducer::WINDOW;

use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Decides which frames readers may accept.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    /// The reducer's step, and its lowest unreduced slice.
    open: Option<(StepKey, u32)>,
    /// The step that the driver has begun.
    expected: Option<StepKey>,
}

/// A frame of a step that hasn't begun. Members learn of a step's beginning after [`Gate::expect`], so the sender
/// violates the protocol. The frame must not reach the reducer, which would abandon the current step for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EarlyFrame {
    key: StepKey,
    expected: Option<StepKey>,
}

impl std::fmt::Display for EarlyFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |key: StepKey| match key.phase {
            Phase::Train => format!("step {} of view {:#x}", key.step, key.view.0),
            Phase::Evaluate => format!("the evaluation of state {} of view {:#x}", key.step, key.view.0),
        };
        let expected = self
            .expected
            .map_or_else(|| "nothing has begun".to_owned(), |expected| format!("{} is due", name(expected)));
        write!(f, "it sent a part of {}, where {expected}", name(self.key))
    }
}

impl Gate {
    /// This step begins; the driver calls this before any member can learn of it.
    pub(super) fn expect(&self, expected: StepKey) {
        self.lock().expected = Some(expected);
    }

    /// Slices of this step below `lowest_open` are reduced.
    pub(super) fn set(&self, key: StepKey, lowest_open: u32) {
        let mut state = self.lock();
        if state.open != Some((key, lowest_open)) {
            state.open = Some((key, lowest_open));
            self.moved.notify_all();
        }
    }

    /// Whether a member that follows the protocol can send frames of this step.
    pub(super) fn check(&self, key: StepKey) -> Result<(), EarlyFrame> {
        let expected = self.lock().expected;
        if expected.is_none_or(|expected| key > expected) {
            Err(EarlyFrame { key, expected })
        } else {
            Ok(())
        }
    }

    /// Waits until a slice is admitted. Old slices are admitted, to be dropped; so are the first of a step that has
    /// begun and that the reducer hasn't seen yet. The wait ends with the step at the latest, whose deadline the
    /// machine enforces.
    pub(super) fn wait(&self, key: StepKey, slice: u32) -> Result<(), EarlyFrame> {
        self.check(key)?;
        let admits = |state: &State| {
            let lowest_open = match state.open {
                Some((now, _)) if key < now => return true,
                Some((now, lowest_open)) if key == now => lowest_open,
                _ => 0,
            };
            slice < lowest_open.saturating_add(WINDOW)
        };
        let mut state = self.lock();
        // Like `wait_while`, which the model checker's Condvar lacks.
        while !admits(&state) {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use protocol::ids::ViewId;

    use super::*;

    fn key(view: u64, step: u64) -> StepKey {
        StepKey { view: ViewId(view), step, phase: Phase::Train }
    }

    /// Short for events that must not occur, long for those that must.
    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    /// Sends a slice to the gate; the receiver reports when it is through.
    fn come(gate: &Arc<Gate>, key: StepKey, slice: u32) -> Receiver<()> {
        let (own, (passed, is_through)) = (gate.clone(), channel());
        std::thread::spawn(move || {
            own.wait(key, slice).expect("of a step that has begun");
            let _ = passed.send(());
        });
        is_through
    }

    /// Whether a slice passes the gate.
    fn passes(gate: &Arc<Gate>, key: StepKey, slice: u32) -> bool {
        come(gate, key, slice).recv_timeout(LONG).is_ok()
    }

    /// Whether a slice passes the gate after `change` and not before.
    fn waits(gate: &Arc<Gate>, key: StepKey, slice: u32, change: impl FnOnce(&Gate)) -> bool {
        let is_through = come(gate, key, slice);
        let is_early = is_through.recv_timeout(SHORT).is_ok();
        change(gate);
        !is_early && is_through.recv_timeout(LONG).is_ok()
    }

    #[test]
    fn readers_wait_for_the_window() {
        let gate = Arc::new(Gate::default());
        gate.expect(key(2, 9));
        assert!(passes(&gate, key(1, 1), WINDOW - 1), "a step that isn't begun");
        assert!(waits(&gate, key(1, 1), WINDOW, |gate| gate.set(key(1, 1), 1)), "beyond its window");
        assert!(waits(&gate, key(1, 1), WINDOW + 1, |gate| gate.set(key(1, 1), 2)));
        assert!(waits(&gate, key(1, 1), 99, |gate| gate.set(key(1, 2), 0)), "the next step frees it");
        assert!(waits(&gate, key(1, 2), 99, |gate| gate.set(key(2, 0), u32::MAX)), "and so does a view");
        assert!(passes(&gate, key(1, 2), 99), "what is older is dropped by the reducer");
    }

    /// Regression test: the early frame used to replace the current step, and the run hung until that step's
    /// deadline.
    #[test]
    fn what_has_not_begun_is_refused_at_once() {
        let gate = Gate::default();
        let refused = |key, slice| gate.wait(key, slice).expect_err("it has not begun").to_string();
        assert!(refused(key(1, 1), 0).contains("nothing has begun"));
        gate.expect(key(1, 3));
        gate.set(key(1, 3), 0);
        assert_eq!(gate.wait(key(1, 3), WINDOW - 1), Ok(()));
        assert_eq!(gate.check(key(1, 2)), Ok(()), "the past is dropped later");
        for slice in [0, WINDOW - 1, WINDOW, u32::MAX] {
            let said = refused(key(1, 4), slice);
            assert!(
                said.contains("step 4 of view 0x1") && said.contains("step 3 of view 0x1 is due"),
                "{said}"
            );
        }
        assert!(gate.check(StepKey { phase: Phase::Evaluate, ..key(1, 3) }).is_err());
        assert!(gate.check(key(2, 0)).is_err(), "a view that nobody has opened");
    }
}
