//! The arithmetic of a reduction, the same for coordinator and member: plain IEEE f32 adds, no fused multiply-add,
//! and f64 sums in a fixed order of lanes.

use std::ops::Range;

/// Elements of a block: the unit of summation, norm and hash.
pub const BLOCK: usize = 65_536;

/// Elements of a slice: what is sent and reduced as one. 16 blocks are 4 MiB: large enough that a frame's cost is
/// nothing, small enough that sending, summing and receiving overlap.
pub const SLICE: usize = 16 * BLOCK;

/// Lanes of the f64 sums: element i of a block is added to lane i mod 8, and the lanes are added in order.
const LANES: usize = 8;

/// Number of slices of a gradient.
#[must_use]
pub fn slices(elements: usize) -> u32 {
    elements.div_ceil(SLICE) as u32
}

/// The elements of a slice.
#[must_use]
pub fn slice_range(slice: u32, elements: usize) -> Range<usize> {
    let start = (slice as usize).saturating_mul(SLICE).min(elements);
    start..(start + SLICE).min(elements)
}

/// left += right, element by element.
///
/// # Panics
/// If the lengths differ: an error of the program.
pub fn add_into(left: &mut [f32], right: &[f32]) {
    assert_eq!(left.len(), right.len());
    for (l, r) in left.iter_mut().zip(right) {
        *l += r;
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
            let value = f64::from(*value);
            *lane += value * value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        let value = f64::from(*value);
        *lane += value * value;
    }
    lanes.into_iter().fold(0.0, |sum, lane| sum + lane)
}

/// What is known of reduced blocks: their hashes and sums of squares, in block order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct BlockFacts {
    /// xxh3-64 of each block.
    pub hashes: Vec<u64>,
    /// Sum of squares of each block.
    pub squares: Vec<f64>,
}

impl BlockFacts {
    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.hashes.clear();
        self.squares.clear();
    }

    /// The squared norm: the sum over blocks, in block order.
    #[must_use]
    pub fn squared_norm(&self) -> f64 {
        self.squares.iter().fold(0.0, |sum, square| sum + square)
    }
}

/// The mean of a summed gradient: each element is divided by `weight` (x / W, never x * (1 / W)), block by block, and
/// the facts of each block are appended. A weight of 0 leaves the sum as it is: such a step is skipped.
pub fn divide(values: &mut [f32], weight: f64, facts: &mut BlockFacts) {
    for block in values.chunks_mut(BLOCK) {
        if weight != 0.0 {
            let weight = weight as f32;
            for value in block.iter_mut() {
                *value /= weight;
            }
        }
        facts.hashes.push(block_hash(block));
        facts.squares.push(sum_of_squares(block));
    }
}

/// As [`divide`], from a sum that a retry may still need into another buffer.
///
/// # Panics
/// If the lengths differ: an error of the program.
pub fn divide_from(sum: &[f32], mean: &mut [f32], weight: f64, facts: &mut BlockFacts) {
    assert_eq!(sum.len(), mean.len());
    for (from, to) in sum.chunks(BLOCK).zip(mean.chunks_mut(BLOCK)) {
        to.copy_from_slice(from);
        divide(to, weight, facts);
    }
}

/// Whether loss and gradient are finite. A sum of squares of f32 can't overflow an f64, so it is finite exactly when
/// all its elements are.
#[must_use]
pub fn is_finite(sums: &[f64], squared_norm: f64) -> bool {
    squared_norm.is_finite() && sums.iter().all(|sum| sum.is_finite())
}

/// The hash of Ready: over block hashes in order, presence, and the bits of the scalars.
#[must_use]
pub fn step_hash(block_hashes: &[u64], presence: &[u8], sums: &[f64], squared_norm: f64) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for hash in block_hashes {
        hasher.update(&hash.to_le_bytes());
    }
    hasher.update(presence);
    for sum in sums {
        hasher.update(&sum.to_bits().to_le_bytes());
    }
    hasher.update(&squared_norm.to_bits().to_le_bytes());
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn slices_are_whole_blocks() {
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
