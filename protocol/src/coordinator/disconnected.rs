//! Lost workers that may still be alive: they retry by themselves, may hold a state that no other member has, and
//! must learn of the run's end.

use std::collections::BTreeMap;

use super::roster::Member;
use crate::Millis;

/// A live worker retries every two seconds; one that has been silent for this long has most likely ended.
const EXPECTED_MS: u64 = 60_000;
/// Maximum number of remembered workers: a run that keeps losing workers must not grow without bound.
const KEPT_MAX: usize = 4_096;

/// Lost workers by instance.
#[derive(Debug, Default)]
pub(super) struct Disconnected {
    lost: BTreeMap<u64, DisconnectedMember>,
}

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

    /// The same process has rejoined, or another in its slot.
    pub(super) fn returned(&mut self, instance: u64, slot: Option<u32>) {
        self.lost.retain(|own, lost| *own != instance && (slot.is_none() || lost.slot != slot));
    }

    pub(super) fn len(&self) -> usize {
        self.lost.len()
    }

    /// The last lost member that holds this state, or may be prepared for it.
    pub(super) fn last_holder(&self, step: u64) -> Option<&DisconnectedMember> {
        let holds = |lost: &&DisconnectedMember| {
            lost.held.is_some_and(|held| held == step || held.saturating_add(1) == step)
        };
        self.lost.values().filter(holds).max_by_key(|lost| lost.at)
    }

    /// How many lost members may still return with a committed state.
    pub(super) fn holders(&self, now: Millis) -> usize {
        let is_one =
            |lost: &&DisconnectedMember| lost.held.is_some() && now < lost.at.saturating_add(EXPECTED_MS);
        self.lost.values().filter(is_one).count()
    }

    pub(super) fn is_expected(&self, now: Millis) -> bool {
        self.lost.values().any(|lost| now < lost.at.saturating_add(EXPECTED_MS))
    }
}
