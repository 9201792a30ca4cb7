//! The arithmetic of a reduction, the same for coordinator and member: plain IEEE f32 adds, no fused multiply-add,
//! and f64 sums in a fixed order of lanes.
//!
//! Loops run over rows of `LANES` elements, so the compiler vectorises them for any CPU; the bits don't depend on it.
//! Memory is traversed once: sum, division and squares work on a tile of a few cache lines, the hash on a block that
//! is in the second-level cache.

use std::ops::Range;

/// Elements of a block: the unit of summation, norm and hash.
pub const BLOCK: usize = 65_536;

/// Elements of a slice, the unit of transfer and reduction. 16 blocks are 4 MiB: large enough to make the cost of a
/// frame negligible, small enough that sending, summing and receiving overlap.
pub const SLICE: usize = 16 * BLOCK;

/// Lanes of the f64 sums: element i of a block is added to lane i mod 8, and the lanes are added in order.
pub(crate) const LANES: usize = 8;

/// Elements of a tile: what is added before turning to the next buffer. Tiles of a few cache lines make the CPU's
/// prefetchers see as many streams as there are buffers; with tiles of a page or more they restart at each tile
/// (measured on a Zen 5 over seven partials of 4 MiB: 1.2 ms, and 2.6 ms with tiles of two pages).
pub(crate) const TILE: usize = 128;

const _: () = assert!(BLOCK.is_multiple_of(TILE) && TILE.is_multiple_of(LANES));

/// Number of slices of a gradient.
#[must_use]
pub fn slices(elements: usize) -> u32 {
    elements.div_ceil(SLICE) as u32
}

/// Where a slice lies in a flat gradient of `elements`; the last one may be shorter.
#[must_use]
pub fn slice_range(slice: u32, elements: usize) -> Range<usize> {
    let start = (slice as usize).saturating_mul(SLICE).min(elements);
    start..(start + SLICE).min(elements)
}

/// left += right, elementwise.
///
/// # Panics
/// If the lengths differ: a programming error.
pub fn add_into(left: &mut [f32], right: &[f32]) {
    assert_eq!(left.len(), right.len());
    for (l, r) in left.iter_mut().zip(right) {
        *l += r;
    }
}

/// to = left + right, elementwise.
///
/// # Panics
/// If the lengths differ: a programming error.
pub(crate) fn add_to(left: &[f32], right: &[f32], to: &mut [f32]) {
    assert!(left.len() == to.len() && right.len() == to.len());
    for ((to, l), r) in to.iter_mut().zip(left).zip(right) {
        *to = l + r;
    }
}

/// xxh3-64 of a block's bytes.
#[must_use]
pub fn block_hash(block: &[f32]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytemuck::cast_slice(block))
}

/// Sum of squares of a block, in f64 (the square of an f32 is exact there), in a fixed order of lanes.
#[must_use]
pub fn sum_of_squares(block: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        for (lane, value) in lanes.iter_mut().zip(row) {
            add_square(lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        add_square(lane, *value);
    }
    add_lanes(lanes)
}

fn add_square(lane: &mut f64, value: f32) {
    let value = f64::from(value);
    *lane += value * value;
}

fn add_lanes(lanes: [f64; LANES]) -> f64 {
    lanes.into_iter().fold(0.0, |sum, lane| sum + lane)
}

/// Hashes and sums of squares of reduced blocks, in block order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BlockFacts {
    /// xxh3-64 of each block.
    pub hashes: Vec<u64>,
    /// Sum of squares of each block.
    pub squares: Vec<f64>,
}

impl BlockFacts {
    /// Removes all entries, keeping the memory.
    pub fn clear(&mut self) {
        self.hashes.clear();
        self.squares.clear();
    }

    /// Appends the facts of a block whose squares are summed by lane.
    ///
    /// The bits of a NaN depend on the CPU and the compiler, so all NaNs of a non-finite block are normalised: a
    /// skipped step has one hash, wherever it is replayed.
    pub(crate) fn push(&mut self, block: &mut [f32], lanes: [f64; LANES]) {
        let mut squares = add_lanes(lanes);
        if !squares.is_finite() {
            block.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = f32::NAN);
            squares = one_nan(squares);
        }
        self.hashes.push(block_hash(block));
        self.squares.push(squares);
    }

    /// Appends the facts of the following blocks.
    pub fn append(&mut self, mut later: Self) {
        self.hashes.append(&mut later.hashes);
        self.squares.append(&mut later.squares);
    }

    /// The squared norm: the sum over blocks, in block order.
    #[must_use]
    pub fn squared_norm(&self) -> f64 {
        one_nan(self.squares.iter().fold(0.0, |sum, square| sum + square))
    }
}

/// The value, with every NaN normalised to one.
pub(crate) fn one_nan(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

/// The mean of a summed gradient: each element is divided by `weight` (x / W, never x * (1 / W)), block by block, and
/// the facts of each block are appended. A weight of 0 leaves the sum as it is: such a step is skipped.
pub fn divide(values: &mut [f32], weight: f64, facts: &mut BlockFacts) {
    let weight = divisor(weight);
    for block in values.chunks_mut(BLOCK) {
        let mut lanes = [0f64; LANES];
        let (rows, rest) = block.as_chunks_mut::<LANES>();
        for row in rows {
            for (lane, value) in lanes.iter_mut().zip(row) {
                *value /= weight;
                add_square(lane, *value);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *value /= weight;
            add_square(lane, *value);
        }
        facts.push(block, lanes);
    }
}

/// Like [`divide`], but from a sum that a retry may still need into another buffer.
///
/// # Panics
/// If the lengths differ: a programming error.
pub fn divide_from(sum: &[f32], mean: &mut [f32], weight: f64, facts: &mut BlockFacts) {
    assert_eq!(sum.len(), mean.len());
    let weight = divisor(weight);
    for (from, to) in sum.chunks(BLOCK).zip(mean.chunks_mut(BLOCK)) {
        let mut lanes = [0f64; LANES];
        divide_tile(from, to, weight, &mut lanes);
        facts.push(to, lanes);
    }
}

/// W as the f32 that each element is divided by; x / 1 is x, bit for bit.
pub(crate) fn divisor(weight: f64) -> f32 {
    if weight == 0.0 { 1.0 } else { weight as f32 }
}

/// Divides a tile that begins at a multiple of [`LANES`] of its block and adds up its squares.
pub(crate) fn divide_tile(from: &[f32], to: &mut [f32], weight: f32, lanes: &mut [f64; LANES]) {
    // A copy on the stack: behind a reference the lanes would be stored and loaded row by row.
    let mut sums = *lanes;
    let (from_rows, from_rest) = from.as_chunks::<LANES>();
    let (to_rows, to_rest) = to.as_chunks_mut::<LANES>();
    for (from, to) in from_rows.iter().zip(to_rows) {
        for ((lane, from), to) in sums.iter_mut().zip(from).zip(to) {
            *to = from / weight;
            add_square(lane, *to);
        }
    }
    for ((lane, from), to) in sums.iter_mut().zip(from_rest).zip(to_rest) {
        *to = from / weight;
        add_square(lane, *to);
    }
    *lanes = sums;
}

/// Whether loss and gradient are finite. A sum of squares of f32 can't overflow an f64, so it is finite exactly when
/// all its elements are.
#[must_use]
pub fn is_finite(sums: &[f64], squared_norm: f64) -> bool {
    squared_norm.is_finite() && sums.iter().all(|sum| sum.is_finite())
}

/// The hash of Ready: xxh3-64 over block hashes in order, presence, and the bits of the scalars (all NaNs count as
/// the same).
#[must_use]
pub fn step_hash(block_hashes: &[u64], presence: &[u8], sums: &[f64], squared_norm: f64) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for hash in block_hashes {
        hasher.update(&hash.to_le_bytes());
    }
    hasher.update(presence);
    for scalar in sums.iter().chain([&squared_norm]) {
        hasher.update(&one_nan(*scalar).to_bits().to_le_bytes());
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::mix;
    use crate::tree::Node;
    use crate::tree_mean::TreeMean;

    #[test]
    fn a_mean_is_divided_and_not_multiplied_by_a_reciprocal() {
        let (x, w) = (5.0f32, 49.0f64);
        assert_ne!((x / 49.0).to_bits(), (x * (1.0 / 49.0f32)).to_bits(), "the case tells them apart");
        let mut values = [x];
        divide(&mut values, w, &mut BlockFacts::default());
        assert_eq!(values[0].to_bits(), (x / 49.0).to_bits());
    }

    #[test]
    fn no_samples_leave_the_sum() {
        let mut values = [0.0f32, -0.0];
        let mut facts = BlockFacts::default();
        divide(&mut values, 0.0, &mut facts);
        assert_eq!(values.map(f32::to_bits), [0.0f32, -0.0].map(f32::to_bits));
        assert_eq!(facts.squared_norm(), 0.0);
    }

    #[test]
    fn facts_are_by_block_and_finiteness_follows() {
        let mut values = vec![1.0f32; BLOCK + 3];
        let mut mean = vec![9.0f32; BLOCK + 3];
        let mut facts = BlockFacts::default();
        divide_from(&values, &mut mean, 2.0, &mut facts);
        assert_eq!(facts.squares, [BLOCK as f64 / 4.0, 0.75]);
        let mut again = BlockFacts::default();
        divide(&mut values, 2.0, &mut again);
        assert_eq!((&values, &facts), (&mean, &again));
        values[5] = f32::MAX;
        assert!(is_finite(&[1.0], sum_of_squares(&values)));
        values[5] = f32::INFINITY;
        assert!(!is_finite(&[1.0], sum_of_squares(&values)));
        assert!(!is_finite(&[f64::NAN], 1.0));
    }

    /// A literal implementation of the specification: one lane sum after the other, element by element.
    fn squares_by_the_page(block: &[f32]) -> f64 {
        let lane =
            |l: usize| block.iter().skip(l).step_by(8).fold(0.0, |s, v| s + f64::from(*v) * f64::from(*v));
        (0..8).map(lane).fold(0.0, |sum, lane| sum + lane)
    }

    fn values(length: usize, stream: u64) -> Vec<f32> {
        let value = |i: u64| (mix(i ^ stream << 32) as u32 as f32 / 2e9 - 1.0) * 2f32.powi((i % 9) as i32);
        (0..length as u64).map(value).collect()
    }

    #[test]
    fn all_ways_to_divide_give_the_bits_of_the_page() {
        for length in [0, 1, 7, 8, TILE - 1, 7 * TILE + 9, BLOCK, BLOCK + 3, 2 * BLOCK + TILE + 5] {
            let sum = values(length, 1);
            let page: Vec<f32> = sum.iter().map(|value| value / 3.0).collect();
            let (mut in_place, mut copied, mut treed) = (sum.clone(), vec![9.0; length], vec![9.0; length]);
            let mut facts = [const { BlockFacts { hashes: Vec::new(), squares: Vec::new() } }; 3];
            divide(&mut in_place, 3.0, &mut facts[0]);
            divide_from(&sum, &mut copied, 3.0, &mut facts[1]);
            TreeMean::new(&[Node::leaf(0)], 1).mean_into(&[&sum], 3.0, &mut treed, &mut facts[2]);
            for (mean, facts) in [in_place, copied, treed].iter().zip(&facts) {
                assert_eq!(mean, &page);
                let squares: Vec<f64> = page.chunks(BLOCK).map(squares_by_the_page).collect();
                assert_eq!((&facts.squares, facts.hashes.len()), (&squares, squares.len()));
                assert_eq!(facts.hashes, page.chunks(BLOCK).map(block_hash).collect::<Vec<_>>());
                assert_eq!(squares, page.chunks(BLOCK).map(sum_of_squares).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn all_nans_have_one_hash() {
        let (quiet, other) = (f32::NAN, f32::from_bits(0xffc0_1234));
        assert!(other.is_nan());
        let facts = [quiet, other].map(|nan| {
            let (mut values, mut facts) = ([1.0, nan, f32::INFINITY], BlockFacts::default());
            divide(&mut values, 2.0, &mut facts);
            (values.map(f32::to_bits), facts.hashes.clone(), facts.squared_norm().to_bits())
        });
        assert_eq!(facts[0], facts[1]);
        let hash = |sum| step_hash(&[1], &[1], &[sum], 1.0);
        assert_eq!(hash(f64::NAN), hash(-f64::NAN));
    }

    #[test]
    fn slices_are_whole_blocks() {
        assert!(SLICE.is_multiple_of(BLOCK));
        assert_eq!((slices(0), slices(1), slices(SLICE), slices(SLICE + 1)), (0, 1, 1, 2));
        assert_eq!(slice_range(1, SLICE + 5), SLICE..SLICE + 5);
    }

    #[test]
    fn every_part_of_a_step_is_in_its_hash() {
        let whole = step_hash(&[1, 2], &[1], &[1.0, 2.0], 3.0);
        for other in [
            step_hash(&[2, 1], &[1], &[1.0, 2.0], 3.0),
            step_hash(&[1, 2], &[0], &[1.0, 2.0], 3.0),
            step_hash(&[1, 2], &[1], &[1.0, -2.0], 3.0),
            step_hash(&[1, 2], &[1], &[1.0, 2.0], -0.0),
        ] {
            assert_ne!(whole, other);
        }
    }
}
