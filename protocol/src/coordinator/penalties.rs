//! What a worker has cost the others so far. It outlives the member: whoever comes back at once is still the same process
//! on the same network.

use std::collections::BTreeMap;

use crate::Millis;

/// A worker whose state couldn't be brought to it is tried again after this, then after twice as long, and so on.
const PUT_OFF_MS: u64 = 30_000;
/// Up to 16 minutes.
const PUT_OFF_DOUBLINGS_MAX: u32 = 5;
/// So long without a break makes up for one.
const QUIET_MS: u64 = 30_000;
/// Data connections that break so often, in steps in a row or not, put their member out.
const BREAKS_MAX: u32 = 4;
/// Whoever was put out for that enters again after this, the next time after twice as long, and so on.
const BAR_MS: u64 = 5_000;
/// Up to 10 minutes and 40 seconds.
const BAR_DOUBLINGS_MAX: u32 = 7;
/// After so long without trouble all is forgotten.
const FORGOTTEN_MS: u64 = 1_800_000;
/// So many workers that are gone are remembered.
const KEPT_MAX: usize = 4_096;

/// Of one worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Penalty {
    /// A transfer of the state to it failed: not again before.
    pub(super) not_before: Millis,
    /// How often that has happened since it was last in a view.
    put_offs: u32,
    /// Breaks of its data connection that are not made up for.
    breaks: u32,
    broke_at: Millis,
    /// It enters no view before, as long as the run goes on without it.
    barred_until: Millis,
    bars: u32,
}

impl Penalty {
    /// The state couldn't be brought to it: each time twice as long as before goes by until the next attempt.
    pub(super) fn put_off(&mut self, now: Millis) {
        let pause_ms = PUT_OFF_MS << self.put_offs.min(PUT_OFF_DOUBLINGS_MAX);
        self.put_offs = self.put_offs.saturating_add(1);
        self.not_before = now.saturating_add(pause_ms);
    }

    /// It works in a view, with the committed state.
    pub(super) fn is_back(&mut self) {
        self.put_offs = 0;
    }

    /// Its data connection broke; whether once too often.
    pub(super) fn breaks(&mut self, now: Millis) -> bool {
        if self.is_over(now) {
            *self = Self::default();
        }
        let made_up = u32::try_from(now.saturating_sub(self.broke_at) / QUIET_MS).unwrap_or(u32::MAX);
        self.breaks = self.breaks.saturating_sub(made_up).saturating_add(1);
        self.broke_at = now;
        self.breaks >= BREAKS_MAX
    }

    /// It is put out for its data connection: for how long, in milliseconds.
    pub(super) fn bar(&mut self, now: Millis) -> u64 {
        let pause_ms = BAR_MS << self.bars.min(BAR_DOUBLINGS_MAX);
        self.bars = self.bars.saturating_add(1);
        self.barred_until = now.saturating_add(pause_ms);
        // Half of them are still held against it.
        self.breaks = BREAKS_MAX / 2;
        pause_ms
    }

    /// When it may enter again, if not yet.
    pub(super) fn barred_until(&self, now: Millis) -> Option<Millis> {
        Some(self.barred_until).filter(|until| now < *until)
    }

    fn is_over(&self, now: Millis) -> bool {
        let last = self.broke_at.max(self.not_before).max(self.barred_until);
        last == 0 || now >= last.saturating_add(FORGOTTEN_MS)
    }
}

/// Of workers that are gone, by instance.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    kept: BTreeMap<u64, Penalty>,
}

impl Penalties {
    /// Remembers a worker that goes.
    pub(super) fn keep(&mut self, now: Millis, instance: u64, penalty: Penalty) {
        if penalty.is_over(now) {
            return;
        }
        if self.kept.len() >= KEPT_MAX {
            self.kept.retain(|_, penalty| !penalty.is_over(now));
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.insert(instance, penalty);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// What is known of a worker that comes.
    pub(super) fn of(&mut self, now: Millis, instance: u64) -> Penalty {
        self.kept.remove(&instance).filter(|penalty| !penalty.is_over(now)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_count_unless_quiet_time_makes_up_for_them() {
        let mut penalty = Penalty::default();
        let at = |seconds: u64| 1_000_000 + seconds * 1_000;
        assert!((0..3).all(|second| !penalty.breaks(at(second))));
        assert!(penalty.breaks(at(3)), "the fourth");
        let mut penalty = Penalty::default();
        assert!((0..100).all(|minute| !penalty.breaks(at(60 * minute))), "one a minute is no reason");
    }

    #[test]
    fn bars_double_up_to_a_bound_and_are_forgotten() {
        let mut penalty = Penalty::default();
        let pauses: Vec<u64> = (0..9).map(|_| penalty.bar(1_000)).collect();
        assert_eq!(pauses[..3], [5_000, 10_000, 20_000]);
        assert_eq!(pauses[7..], [640_000, 640_000]);
        assert_eq!(penalty.barred_until(1_000), Some(641_000));
        assert_eq!(penalty.barred_until(641_000), None);
        let mut stays = penalty;
        stays.breaks(641_000 + FORGOTTEN_MS);
        assert_eq!(stays.bar(641_000 + FORGOTTEN_MS), 5_000, "of one that has stayed, too");
        let mut penalties = Penalties::default();
        penalties.keep(1_000, 7, penalty);
        assert_eq!(penalties.of(641_000 + FORGOTTEN_MS - 1, 7), penalty);
        penalties.keep(1_000, 7, penalty);
        assert_eq!(penalties.of(641_000 + FORGOTTEN_MS, 7), Penalty::default());
    }

    #[test]
    fn those_that_are_remembered_are_bounded() {
        let mut penalties = Penalties::default();
        for instance in 0..5_000 {
            let mut penalty = Penalty::default();
            penalty.put_off(1_000);
            penalties.keep(1_000, instance, penalty);
            penalties.keep(1_000, instance + 10_000, Penalty::default());
        }
        assert_eq!(penalties.kept.len(), KEPT_MAX);
    }
}
