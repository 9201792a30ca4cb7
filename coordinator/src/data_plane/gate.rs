//! How far readers may run ahead of the reducer.

use std::sync::{Condvar, Mutex, PoisonError};

use protocol::ids::StepKey;
use protocol::reducer::WINDOW;

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
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.moved.wait_while(open, |open| !admits(open)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use protocol::ids::{Phase, ViewId};

    use super::*;

    fn key(view: u64, step: u64) -> StepKey {
        StepKey { view: ViewId(view), step, phase: Phase::Train }
    }

    /// Whether a slice passes the gate at once, or only after `change`.
    fn passes(gate: &Arc<Gate>, key: StepKey, slice: u32, change: impl FnOnce(&Gate)) -> bool {
        let (own, (passed, is_through)) = (gate.clone(), std::sync::mpsc::channel());
        let waiter = std::thread::spawn(move || {
            own.wait(key, slice);
            let _ = passed.send(());
        });
        let at_once = is_through.recv_timeout(Duration::from_millis(50)).is_ok();
        change(gate);
        waiter.join().expect("the waiter ends");
        at_once
    }

    #[test]
    fn readers_wait_for_the_window() {
        let gate = Arc::new(Gate::default());
        assert!(passes(&gate, key(1, 1), WINDOW - 1, |_| {}), "a step that isn't begun");
        assert!(!passes(&gate, key(1, 1), WINDOW, |gate| gate.set(key(1, 1), 1)), "beyond its window");
        assert!(!passes(&gate, key(1, 1), WINDOW + 1, |gate| gate.set(key(1, 1), 2)));
        assert!(!passes(&gate, key(1, 1), 99, |gate| gate.set(key(1, 2), 0)), "the next step frees it");
        assert!(!passes(&gate, key(1, 2), 99, |gate| gate.set(key(2, 0), u32::MAX)), "and so does a view");
        assert!(passes(&gate, key(1, 2), 99, |_| {}), "what is older is dropped by the reducer");
    }
}
