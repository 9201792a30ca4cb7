//! How far readers may run ahead of the reducer.

use protocol::ids::StepKey;
use protocol::reducer::WINDOW;

use crate::sync::{Condvar, Mutex, PoisonError};

/// What the readers may take in.
#[derive(Default)]
pub(super) struct Gate {
    open: Mutex<Option<(StepKey, u32)>>,
    moved: Condvar,
}

impl Gate {
    /// Slices of this step below `lowest_open` are reduced.
    pub(super) fn set(&self, key: StepKey, lowest_open: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open != Some((key, lowest_open)) {
            *open = Some((key, lowest_open));
            self.moved.notify_all();
        }
    }

    /// Waits until a slice is admitted. What belongs to the past is, to be dropped; so are the first of a step that the
    /// reducer hasn't begun. The wait ends with the step at the latest, whose deadline the machine keeps.
    pub(super) fn wait(&self, key: StepKey, slice: u32) {
        let admits = |open: &Option<(StepKey, u32)>| {
            let lowest_open = match open {
                Some((now, _)) if key < *now => return true,
                Some((now, lowest_open)) if key == *now => *lowest_open,
                _ => 0,
            };
            slice < lowest_open.saturating_add(WINDOW)
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // As `wait_while`, which the model checker's Condvar hasn't.
        while !admits(&open) {
            open = self.moved.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use protocol::ids::{Phase, ViewId};

    use super::*;

    fn key(view: u64, step: u64) -> StepKey {
        StepKey { view: ViewId(view), step, phase: Phase::Train }
    }

    /// Short for what must not come, and long for what must.
    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    /// A slice that comes to the gate; told when it is through.
    fn come(gate: &Arc<Gate>, key: StepKey, slice: u32) -> Receiver<()> {
        let (own, (passed, is_through)) = (gate.clone(), channel());
        std::thread::spawn(move || {
            own.wait(key, slice);
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
        assert!(passes(&gate, key(1, 1), WINDOW - 1), "a step that isn't begun");
        assert!(waits(&gate, key(1, 1), WINDOW, |gate| gate.set(key(1, 1), 1)), "beyond its window");
        assert!(waits(&gate, key(1, 1), WINDOW + 1, |gate| gate.set(key(1, 1), 2)));
        assert!(waits(&gate, key(1, 1), 99, |gate| gate.set(key(1, 2), 0)), "the next step frees it");
        assert!(waits(&gate, key(1, 2), 99, |gate| gate.set(key(2, 0), u32::MAX)), "and so does a view");
        assert!(passes(&gate, key(1, 2), 99), "what is older is dropped by the reducer");
    }
}
