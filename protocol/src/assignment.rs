//! Who computes which microbatches: contiguous ranges in rank order, in proportion to the members' shares.

use std::ops::Range;

/// The microbatches of the member of this rank, of a step that has `microbatches` of them.
///
/// Cumulative shares are rounded down, so the ranges of all ranks cut `[0, microbatches)` exactly. Shares that are all
/// zero count as equal.
///
/// # Panics
/// If there is no such rank: an error of the program.
#[must_use]
pub fn range(shares: &[u32], microbatches: u32, rank: usize) -> Range<u32> {
    assert!(rank < shares.len(), "rank {rank} of {} members", shares.len());
    let equal = shares.iter().all(|share| *share == 0);
    let weight = |share: u32| if equal { 1 } else { u64::from(share) };
    let total: u64 = shares.iter().map(|share| weight(*share)).sum();
    let before: u64 = shares[..rank].iter().map(|share| weight(*share)).sum();
    // At most 2^32 members' shares of 2^32 times 2^32 microbatches: 128 bits hold any of it.
    let place = |sum: u64| (u128::from(sum) * u128::from(microbatches) / u128::from(total)) as u32;
    place(before)..place(before + weight(shares[rank]))
}

/// The ranges of all ranks.
#[must_use]
pub fn ranges(shares: &[u32], microbatches: u32) -> Vec<Range<u32>> {
    (0..shares.len()).map(|rank| range(shares, microbatches, rank)).collect()
}

/// The largest share that [`shares_from_speed`] deals: fine enough for a member that is a thousandth as fast as
/// another, and far from any overflow.
pub const SHARE_MAX: u32 = 1_000;

/// Shares in proportion to measured speeds (samples a second), the fastest member's being [`SHARE_MAX`].
///
/// A member whose speed isn't known yet (not finite, or not above 0) counts as fast as the known ones' mean; where none
/// is known all shares are equal. Everybody has a share of 1 at least: who computes nothing can't be measured.
#[must_use]
pub fn shares_from_speed(samples_per_second: &[f64]) -> Vec<u32> {
    let is_known = |speed: &f64| speed.is_finite() && *speed > 0.0;
    let fastest = samples_per_second.iter().copied().filter(is_known).fold(0.0, f64::max);
    let known = samples_per_second.iter().filter(|speed| is_known(speed));
    // Relative to the fastest first: a sum of speeds could overflow.
    let (sum, count) = known.fold((0.0, 0.0), |(sum, count), speed| (sum + speed / fastest, count + 1.0));
    let mean = if count > 0.0 { sum / count } else { 1.0 };
    let share = |speed: &f64| {
        let relative = if is_known(speed) { speed / fastest } else { mean };
        ((relative * f64::from(SHARE_MAX)).round() as u32).clamp(1, SHARE_MAX)
    };
    samples_per_second.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_cut_the_step_exactly(shares in prop::collection::vec(any::<u32>(), 1..40), microbatches: u32) {
            let mut next = 0;
            for range in ranges(&shares, microbatches) {
                prop_assert_eq!(range.start, next);
                prop_assert!(range.end >= range.start);
                next = range.end;
            }
            prop_assert_eq!(next, microbatches);
        }

        #[test]
        fn any_speeds_make_shares(speeds in prop::collection::vec(any::<f64>(), 0..20)) {
            let shares = shares_from_speed(&speeds);
            prop_assert_eq!(shares.len(), speeds.len());
            prop_assert!(shares.iter().all(|share| (1..=SHARE_MAX).contains(share)));
        }
    }

    #[test]
    fn speeds_become_proportions() {
        assert_eq!(shares_from_speed(&[50.0, 100.0]), [500, 1_000]);
        assert_eq!(
            shares_from_speed(&[f64::MAX, f64::MAX, 0.0]),
            [1_000; 3],
            "the new one is taken for a mean one"
        );
        assert_eq!(shares_from_speed(&[1e-9, 1e9]), [1, 1_000]);
        assert_eq!(shares_from_speed(&[f64::NAN, -1.0]), [1_000; 2]);
    }

    #[test]
    fn shares_are_proportions() {
        assert_eq!(ranges(&[1, 1], 8), [0..4, 4..8]);
        assert_eq!(ranges(&[3, 1], 8), [0..6, 6..8]);
        assert_eq!(ranges(&[0, 0, 0], 7), [0..2, 2..4, 4..7]);
        assert_eq!(ranges(&[1, 1, 1], 2), [0..0, 0..1, 1..2]);
    }
}
