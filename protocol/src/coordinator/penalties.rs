//! The cost of unreliable workers to the others. A penalty outlives the membership: a worker that rejoins at once is
//! still the same process on the same network.

use std::collections::BTreeMap;

use crate::Millis;

/// Pause after a failed state transfer to a worker; it doubles with each further failure.
const PUT_OFF_MS: u64 = 30_000;
/// Caps the pause at 16 minutes.
const PUT_OFF_DOUBLINGS_MAX: u32 = 5;
/// This long without a break cancels one break.
const QUIET_MS: u64 = 30_000;
/// A member whose data connection breaks this often, in consecutive steps or not, is evicted.
const BREAKS_MAX: u32 = 4;
/// Quarantine after such an eviction; it doubles with each further one.
const BAR_MS: u64 = 5_000;
/// Caps the quarantine at 10 minutes and 40 seconds.
const BAR_DOUBLINGS_MAX: u32 = 7;
/// After this long without trouble, a penalty expires.
const FORGOTTEN_MS: u64 = 1_800_000;
/// Maximum number of penalties kept for workers that are gone.
const KEPT_MAX: usize = 4_096;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Penalty {
    /// A state transfer to the worker failed: no retry before this time.
    pub(super) not_before: Millis,
    /// Failed transfers since it was last in a view.
    put_offs: u32,
    /// Breaks of its data connection that are not yet cancelled.
    breaks: u32,
    broke_at: Millis,
    /// The worker enters no view before this time, as long as the run continues without it.
    barred_until: Millis,
    bars: u32,
}

impl Penalty {
    /// A state transfer to the worker failed: each time the pause before the next attempt doubles.
    pub(super) fn put_off(&mut self, now: Millis) {
        let pause_ms = PUT_OFF_MS << self.put_offs.min(PUT_OFF_DOUBLINGS_MAX);
        self.put_offs = self.put_offs.saturating_add(1);
        self.not_before = now.saturating_add(pause_ms);
    }

    /// The worker is in a view, with the committed state.
    pub(super) fn is_back(&mut self) {
        self.put_offs = 0;
    }

    /// Records a break of the data connection; returns whether that was one too many.
    pub(super) fn breaks(&mut self, now: Millis) -> bool {
        if self.is_over(now) {
            *self = Self::default();
        }
        let made_up = u32::try_from(now.saturating_sub(self.broke_at) / QUIET_MS).unwrap_or(u32::MAX);
        self.breaks = self.breaks.saturating_sub(made_up).saturating_add(1);
        self.broke_at = now;
        self.breaks >= BREAKS_MAX
    }

    /// Quarantines the worker for its data connection; returns the duration in milliseconds.
    pub(super) fn bar(&mut self, now: Millis) -> u64 {
        let pause_ms = BAR_MS << self.bars.min(BAR_DOUBLINGS_MAX);
        self.bars = self.bars.saturating_add(1);
        self.barred_until = now.saturating_add(pause_ms);
        // Half of the breaks still count.
        self.breaks = BREAKS_MAX / 2;
        pause_ms
    }

    /// The end of the quarantine, if it is not over.
    pub(super) fn barred_until(&self, now: Millis) -> Option<Millis> {
        Some(self.barred_until).filter(|until| now < *until)
    }

    fn is_over(&self, now: Millis) -> bool {
        let last = self.broke_at.max(self.not_before).max(self.barred_until);
        last == 0 || now >= last.saturating_add(FORGOTTEN_MS)
    }
}

/// Penalties of workers that are gone, by instance.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    kept: BTreeMap<u64, Penalty>,
}

impl Penalties {
    /// Remembers the penalty of a worker that leaves.
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

    /// Takes the penalty of a joining worker.
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
