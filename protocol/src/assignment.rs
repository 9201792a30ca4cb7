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
    }

    #[test]
    fn shares_are_proportions() {
        assert_eq!(ranges(&[1, 1], 8), [0..4, 4..8]);
        assert_eq!(ranges(&[3, 1], 8), [0..6, 6..8]);
        assert_eq!(ranges(&[0, 0, 0], 7), [0..2, 2..4, 4..7]);
        assert_eq!(ranges(&[1, 1, 1], 2), [0..0, 0..1, 1..2]);
    }
}
