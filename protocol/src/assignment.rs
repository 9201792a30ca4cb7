//! The assignment of microbatches to members: contiguous ranges in rank order, in proportion to the members' shares;
//! in a retried step, each member's own ranges and a part of the lost members'.

use std::ops::Range;

use crate::ids::{MemberId, StepKey};
use crate::messages::View;

/// The microbatches of the member with this rank, in a step of `microbatches`.
///
/// Cumulative shares are rounded down, so the ranges of all ranks partition `[0, microbatches)` exactly. Shares that
/// are all zero count as equal.
///
/// # Panics
/// If there is no such rank: a programming error.
#[must_use]
pub fn range(shares: &[u32], microbatches: u32, rank: usize) -> Range<u32> {
    assert!(rank < shares.len(), "rank {rank} of {} members", shares.len());
    let equal = shares.iter().all(|share| *share == 0);
    let weight = |share: u32| if equal { 1 } else { u64::from(share) };
    let total: u64 = shares.iter().map(|share| weight(*share)).sum();
    let before: u64 = shares[..rank].iter().map(|share| weight(*share)).sum();
    // At most 2^32 members' shares of 2^32 times 2^32 microbatches: 128 bits are enough.
    let place = |sum: u64| (u128::from(sum) * u128::from(microbatches) / u128::from(total)) as u32;
    place(before)..place(before + weight(shares[rank]))
}

/// The ranges of all ranks.
#[must_use]
pub fn ranges(shares: &[u32], microbatches: u32) -> Vec<Range<u32>> {
    (0..shares.len()).map(|rank| range(shares, microbatches, rank)).collect()
}

/// The microbatches of every member of a view in one of its steps, which has `microbatches` in total: for each
/// member, in rank order, ascending ranges that don't touch.
#[must_use]
pub fn of_view(view: &View, key: StepKey, microbatches: u32) -> Vec<(MemberId, Vec<Range<u32>>)> {
    let members = view.members.iter().map(|info| info.member);
    if !view.dealt.is_empty() && (key.step, key.phase) == (view.step, view.phase) {
        return members.zip(view.dealt.iter().cloned()).collect();
    }
    let shares: Vec<u32> = view.members.iter().map(|info| info.share).collect();
    let own = |range: Range<u32>| if range.is_empty() { Vec::new() } else { vec![range] };
    members.zip(ranges(&shares, microbatches).into_iter().map(own)).collect()
}

/// Reassigns a step: each member keeps its `held` ranges, and the remaining microbatches go to all in proportion to
/// their shares. The results are ascending ranges that don't touch.
///
/// # Panics
/// If `held` and `shares` differ in length: a programming error.
#[must_use]
pub fn deal_again(held: &[Vec<Range<u32>>], shares: &[u32], microbatches: u32) -> Vec<Vec<Range<u32>>> {
    assert_eq!(held.len(), shares.len());
    let is_held = |microbatch: &u32| held.iter().flatten().any(|range| range.contains(microbatch));
    let lost: Vec<u32> = (0..microbatches).filter(|microbatch| !is_held(microbatch)).collect();
    let parts = ranges(shares, lost.len() as u32);
    let deal = |(own, part): (&Vec<Range<u32>>, Range<u32>)| {
        let more = lost[part.start as usize..part.end as usize].iter().map(|lost| *lost..lost + 1);
        joined(own.iter().cloned().chain(more).collect())
    };
    held.iter().zip(parts).map(deal).collect()
}

/// Sorts the ranges and merges those that touch.
fn joined(mut ranges: Vec<Range<u32>>) -> Vec<Range<u32>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u32>> = Vec::new();
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match joined.last_mut().filter(|last| last.end >= range.start) {
            Some(last) => last.end = last.end.max(range.end),
            None => joined.push(range),
        }
    }
    joined
}

/// The largest share that [`shares_from_speed`] assigns: fine enough for a member that is a thousandth as fast as
/// another, and far from any overflow.
pub const SHARE_MAX: u32 = 1_000;

/// Shares in proportion to measured speeds (samples per second); the fastest member gets [`SHARE_MAX`].
///
/// A member of unknown speed (not finite, or not above 0) counts as fast as the mean of the known ones; if none is
/// known, all shares are equal. Every share is at least 1: a member that computes nothing can't be measured.
#[must_use]
pub fn shares_from_speed(samples_per_second: &[f64]) -> Vec<u32> {
    let is_known = |speed: &f64| speed.is_finite() && *speed > 0.0;
    let fastest = samples_per_second.iter().copied().filter(is_known).fold(0.0, f64::max);
    let known = samples_per_second.iter().filter(|speed| is_known(speed));
    // Relative to the fastest: a sum of absolute speeds could overflow.
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
        fn a_step_dealt_again_is_whole_and_nobody_loses_what_it_has(
            shares in prop::collection::vec(0..9u32, 1..7),
            lost in prop::collection::vec(any::<bool>(), 7),
            microbatches in 0..70u32,
        ) {
            let before = ranges(&shares, microbatches);
            let survivors: Vec<usize> = (0..shares.len()).filter(|rank| !lost[*rank]).collect();
            prop_assume!(!survivors.is_empty());
            let held: Vec<_> = survivors.iter().map(|rank| vec![before[*rank].clone()]).collect();
            let theirs: Vec<u32> = survivors.iter().map(|rank| shares[*rank]).collect();
            let dealt = deal_again(&held, &theirs, microbatches);
            let mut all: Vec<u32> = dealt.iter().flatten().cloned().flatten().collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..microbatches));
            for (held, dealt) in held.iter().zip(&dealt) {
                prop_assert!(held.iter().cloned().flatten().all(|m| dealt.iter().any(|range| range.contains(&m))));
                prop_assert!(dealt.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
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
