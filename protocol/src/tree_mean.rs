//! The end of a reduction: the tree over partials, the division and the facts of the blocks, in one pass over memory.

use std::ops::Range;

use crate::reduce::{BLOCK, BlockFacts, LANES, TILE, add_into, add_to, divide_tile, divisor};
use crate::tree::{Node, folds};

/// Completes the tree over the partials of its nodes, and divides: [`TreeMean::mean_into`].
#[derive(Debug)]
pub struct TreeMean {
    folds: Vec<u8>,
    /// One tile for each sum that can be open at a time.
    sums: Vec<f32>,
}

impl TreeMean {
    /// Creates the tree for partials of these nodes, in the order of their microbatches.
    ///
    /// # Panics
    /// If they aren't the whole tree of `count` microbatches: a programming error.
    #[must_use]
    pub fn new(nodes: &[Node], count: u32) -> Self {
        let folds = folds(nodes, count);
        let (mut open, mut open_max) = (0, 0);
        for times in &folds {
            open += 1;
            open_max = open_max.max(open);
            open -= usize::from(*times);
        }
        Self { folds, sums: vec![0.0; open_max * TILE] }
    }

    /// How to combine the partials' sums: see [`folds`].
    pub(crate) fn folds(&self) -> &[u8] {
        &self.folds
    }

    /// The mean of the same elements of all partials: their sum in the tree's order, divided by `weight` as in
    /// [`divide`](crate::reduce::divide), in one pass. The partials are unchanged. Facts of each block are appended.
    ///
    /// # Panics
    /// If a partial is missing or its length differs from the mean's: programming errors.
    pub fn mean_into(
        &mut self,
        partials: &[impl AsRef<[f32]>],
        weight: f64,
        mean: &mut [f32],
        facts: &mut BlockFacts,
    ) {
        assert_eq!(partials.len(), self.folds.len());
        assert!(partials.iter().all(|partial| partial.as_ref().len() == mean.len()));
        let weight = divisor(weight);
        for (number, block) in mean.chunks_mut(BLOCK).enumerate() {
            let mut lanes = [0f64; LANES];
            for (i, tile) in block.chunks_mut(TILE).enumerate() {
                let start = number * BLOCK + i * TILE;
                let sum = self.sum_tile(partials, start..start + tile.len());
                divide_tile(sum, tile, weight, &mut lanes);
            }
            facts.push(block, lanes);
        }
    }

    /// The sum of one tile. An open sum is either an unmodified partial, or lies in its tile of `sums`.
    fn sum_tile<'a>(&'a mut self, partials: &'a [impl AsRef<[f32]>], range: Range<usize>) -> &'a [f32] {
        let partial = |i: usize| &partials[i].as_ref()[range.clone()];
        if partials.len() == 1 {
            return partial(0);
        }
        let length = range.len();
        // The partial behind each open sum to which nothing was added yet; a tree of 2^32 leaves is 33 high.
        let mut open = [None; 34];
        let mut depth = 0;
        for (i, times) in self.folds.iter().enumerate() {
            open[depth] = Some(i);
            depth += 1;
            for _ in 0..*times {
                depth -= 1;
                let (left, right) = self.sums.split_at_mut(depth * TILE);
                let left = &mut left[(depth - 1) * TILE..][..length];
                let right = match open[depth] {
                    Some(i) => partial(i),
                    None => &right[..length],
                };
                match open[depth - 1].take() {
                    Some(i) => add_to(partial(i), right, left),
                    None => add_into(left, right),
                }
            }
        }
        &self.sums[..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::mix;
    use crate::tree::maximal_nodes;

    fn values(length: usize, stream: u64) -> Vec<f32> {
        let value = |i: u64| (mix(i ^ stream << 32) as u32 as f32 / 2e9 - 1.0) * 2f32.powi((i % 9) as i32);
        (0..length as u64).map(value).collect()
    }

    #[test]
    fn a_tree_of_partials_is_added_pair_by_pair_and_leaves_them_alone() {
        let nodes: Vec<Node> =
            [0..2, 2..5, 5..7].into_iter().flat_map(|range| maximal_nodes(range, 7)).collect();
        let partials: Vec<Vec<f32>> = (0..5).map(|i| values(BLOCK + TILE + 13, i)).collect();
        let before = partials.clone();
        let mut mean = vec![0.0; BLOCK + TILE + 13];
        let mut facts = BlockFacts::default();
        TreeMean::new(&nodes, 7).mean_into(&partials, 7.0, &mut mean, &mut facts);
        assert_eq!(partials, before);
        for (i, mean) in mean.iter().enumerate() {
            let [ab, cd, e, f, g] = std::array::from_fn(|n| partials[n][i]);
            assert_eq!(mean.to_bits(), (((ab + cd) + ((e + f) + g)) / 7.0).to_bits());
        }
        let other_order = |i: usize| (0..5).fold(0.0, |sum, n| sum + partials[n][i]) / 7.0;
        assert!((0..mean.len()).any(|i| mean[i] != other_order(i)), "the data tell orders apart");
    }
}
