//! Workers that were lost and may live: they try again by themselves, may bring back what nobody else holds, and are to hear
//! of the run's end.

use std::collections::BTreeMap;

use super::roster::Member;
use crate::Millis;

/// A worker that lives tries again every two seconds; one of which nothing was heard for so long has most likely ended.
const EXPECTED_MS: u64 = 60_000;
/// So many are remembered: a run that loses workers without end keeps its memory.
const KEPT_MAX: usize = 4_096;

/// By instance.
#[derive(Debug, Default)]
pub(super) struct Disconnected {
    lost: BTreeMap<u64, DisconnectedMember>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct DisconnectedMember {
    pub(super) at: Millis,
    pub(super) name: String,
    slot: Option<u32>,
    /// The committed state in its memory.
    held: Option<u64>,
}

impl Disconnected {
    pub(super) fn lost(&mut self, now: Millis, member: &Member) {
        self.lost.retain(|_, lost| now < lost.at.saturating_add(EXPECTED_MS));
        if self.lost.len() < KEPT_MAX {
            let (name, slot, held) = (member.name.clone(), member.slot, member.holds);
            self.lost.insert(member.instance, DisconnectedMember { at: now, name, slot, held });
        }
    }

    /// The same process is back, or another in its slot.
    pub(super) fn returned(&mut self, instance: u64, slot: Option<u32>) {
        self.lost.retain(|own, lost| *own != instance && (slot.is_none() || lost.slot != slot));
    }

    pub(super) fn len(&self) -> usize {
        self.lost.len()
    }

    /// The last that was lost of those that hold this state, or may be prepared for it.
    pub(super) fn last_holder(&self, step: u64) -> Option<&DisconnectedMember> {
        let holds = |lost: &&DisconnectedMember| {
            lost.held.is_some_and(|held| held == step || held.saturating_add(1) == step)
        };
        self.lost.values().filter(holds).max_by_key(|lost| lost.at)
    }

    /// How many that held a committed state may still come back with it.
    pub(super) fn holders(&self, now: Millis) -> usize {
        let is_one =
            |lost: &&DisconnectedMember| lost.held.is_some() && now < lost.at.saturating_add(EXPECTED_MS);
        self.lost.values().filter(is_one).count()
    }

    pub(super) fn is_expected(&self, now: Millis) -> bool {
        self.lost.values().any(|lost| now < lost.at.saturating_add(EXPECTED_MS))
    }
}
