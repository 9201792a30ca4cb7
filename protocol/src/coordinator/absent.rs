//! Workers that were lost and may live: they try again by themselves, and are to hear of the run's end.

use std::collections::BTreeMap;

use crate::Millis;

/// A worker that lives tries again every two seconds; one of which nothing was heard for so long has most likely ended.
const EXPECTED_MS: u64 = 60_000;
/// So many are remembered: a run that loses workers without end keeps its memory.
const KEPT_MAX: usize = 4_096;

/// By instance.
#[derive(Debug, Default)]
pub(super) struct Absent {
    lost: BTreeMap<u64, Lost>,
}

#[derive(Debug)]
struct Lost {
    at: Millis,
    slot: Option<u32>,
}

impl Absent {
    pub(super) fn lost(&mut self, now: Millis, instance: u64, slot: Option<u32>) {
        self.lost.retain(|_, lost| now < lost.at.saturating_add(EXPECTED_MS));
        if self.lost.len() < KEPT_MAX {
            self.lost.insert(instance, Lost { at: now, slot });
        }
    }

    /// The same process is back, or another in its slot.
    pub(super) fn returned(&mut self, instance: u64, slot: Option<u32>) {
        self.lost.retain(|own, lost| *own != instance && (slot.is_none() || lost.slot != slot));
    }

    pub(super) fn is_expected(&self, now: Millis) -> bool {
        self.lost.values().any(|lost| now < lost.at.saturating_add(EXPECTED_MS))
    }
}
