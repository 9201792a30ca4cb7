//! Events of paused processes.

use std::collections::VecDeque;

use crate::network::SimEvent;

/// Queued events of a process while it is paused.
#[derive(Default)]
pub(crate) struct PausedEvents {
    pub(crate) is_paused: bool,
    /// Events with the time by the process's own clock.
    pub(crate) waiting: VecDeque<(u64, SimEvent)>,
}
