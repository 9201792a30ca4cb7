//! Tracks which local slots are occupied, from the workers' control messages.

use std::collections::{BTreeMap, BTreeSet};

use protocol::messages::{Failure, FromWorker};

/// Occupied slots and their workers' streams.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: BTreeSet<u32>,
    /// The slot of each open stream's worker, and whether to refill it when the stream ends.
    streams: BTreeMap<u64, (u32, bool)>,
}

impl Slots {
    /// Updates the slots from a message.
    pub(crate) fn hear(&mut self, connection: u64, message: &FromWorker) {
        match message {
            FromWorker::Join(join) => {
                if let Some(slot) = join.slot {
                    self.taken.insert(slot);
                    self.streams.insert(connection, (slot, true));
                }
            }
            // A worker that leaves is not replaced; with a wrong configuration or wrong data, another one would fare no
            // better.
            FromWorker::Leaving { .. } | FromWorker::Failed(Failure { code: 2 | 3, .. }) => {
                if let Some((_, fills)) = self.streams.get_mut(&connection) {
                    *fills = false;
                }
            }
            _ => {}
        }
    }

    /// A stream ended. Returns its slot if it must be refilled: the process isn't our child, has not reconnected, and
    /// was not meant to leave.
    pub(crate) fn close(&mut self, connection: u64, is_child: impl Fn(u32) -> bool) -> Option<u32> {
        let (slot, fills) = self.streams.remove(&connection)?;
        // A worker may reconnect before the end of its first stream is noticed.
        let is_back = self.streams.values().any(|(other, _)| *other == slot);
        if is_back || is_child(slot) {
            return None;
        }
        self.taken.remove(&slot);
        fills.then_some(slot)
    }

    pub(crate) fn is_taken(&self, slot: u32) -> bool {
        self.taken.contains(&slot)
    }

    /// The slot's process exited; returns whether a worker had joined in it.
    pub(crate) fn vacate(&mut self, slot: u32) -> bool {
        self.taken.remove(&slot)
    }
}

#[cfg(test)]
mod tests {
    use protocol::messages::Join;

    use super::*;

    fn join(slot: u32) -> FromWorker {
        FromWorker::Join(Join {
            protocol_version: protocol::PROTOCOL_VERSION,
            tasks: Vec::new(),
            fingerprint: [0; 32],
            build: String::new(),
            name: format!("worker-{slot}"),
            device: "cpu".to_owned(),
            slot: Some(slot),
            pid: 1,
            instance: 7,
            run: None,
            holds: None,
        })
    }

    #[test]
    fn a_slot_whose_worker_is_nobodys_child_is_to_be_filled_when_its_stream_ends() {
        let mut slots = Slots::default();
        slots.hear(1, &join(0));
        assert!(slots.is_taken(0));
        assert_eq!(slots.close(1, |_| false), Some(0));
        assert!(!slots.is_taken(0));
    }

    #[test]
    fn a_child_keeps_its_slot_until_its_process_ends() {
        let mut slots = Slots::default();
        slots.hear(1, &join(0));
        assert_eq!(slots.close(1, |_| true), None);
        assert!(slots.vacate(0), "it had joined");
        assert!(!slots.vacate(0));
    }

    #[test]
    fn a_worker_that_is_back_by_another_stream_keeps_its_slot() {
        let mut slots = Slots::default();
        slots.hear(1, &join(0));
        slots.hear(2, &join(0));
        assert_eq!(slots.close(1, |_| false), None);
        assert!(slots.is_taken(0));
        assert_eq!(slots.close(2, |_| false), Some(0));
    }

    #[test]
    fn a_worker_that_left_is_not_wanted_back() {
        let mut slots = Slots::default();
        slots.hear(1, &join(0));
        slots.hear(1, &FromWorker::Leaving { reason: "SIGTERM".to_owned() });
        assert_eq!(slots.close(1, |_| false), None);
        assert!(!slots.is_taken(0));
    }
}
