//! The summation tree: its shape depends only on the number of microbatches, so the sum's bits don't depend on their
//! assignment.
//!
//! A node of level l and index j covers the microbatches `[j * 2^l, (j + 1) * 2^l)`, cut at the count. Its sum is
//! left + right; if the right child has no microbatch, the node *is* its left child, and is named by the higher level
//! ([`Node::lift`]).

use std::ops::Range;

/// A node of the summation tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Node {
    /// 0 for a microbatch.
    pub level: u8,
    /// Index on its level.
    pub index: u32,
}

impl Node {
    /// The node of one microbatch.
    #[must_use]
    pub fn leaf(microbatch: u32) -> Self {
        Self { level: 0, index: microbatch }
    }

    /// The node of all `count` microbatches.
    #[must_use]
    pub fn root(count: u32) -> Self {
        Self { level: count.max(1).next_power_of_two().trailing_zeros() as u8, index: 0 }
    }

    /// The node's microbatches, cut at `count`.
    #[must_use]
    pub fn range(self, count: u32) -> Range<u32> {
        let cut = |at: u64| u32::try_from(at.min(u64::from(count))).unwrap_or(count);
        let at = |index: u64| cut(index.saturating_mul(1 << self.level.min(32)));
        at(u64::from(self.index))..at(u64::from(self.index) + 1)
    }

    /// The parent node.
    #[must_use]
    pub fn parent(self) -> Self {
        Self { level: self.level + 1, index: self.index / 2 }
    }

    /// The node's highest name: a left child whose sibling lies beyond `count` is its parent.
    #[must_use]
    pub fn lift(mut self, count: u32) -> Self {
        while self != Self::root(count) && self.index.is_multiple_of(2) {
            let sibling = Self { level: self.level, index: self.index + 1 };
            if !sibling.range(count).is_empty() {
                break;
            }
            self = self.parent();
        }
        self
    }

    /// Whether `right` is the right sibling of this left child.
    #[must_use]
    pub fn pairs_with(self, right: Self) -> bool {
        self.level == right.level && self.index.is_multiple_of(2) && right.index == self.index + 1
    }
}

/// The fewest nodes that cover `range` of `count` microbatches, in order: one for an aligned range, at most 2
/// log2(count) for any.
#[must_use]
pub fn maximal_nodes(range: Range<u32>, count: u32) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for microbatch in range {
        let mut node = Node::leaf(microbatch).lift(count);
        while let Some(left) = nodes.last().filter(|left| left.pairs_with(node)) {
            node = left.parent().lift(count);
            nodes.pop();
        }
        nodes.push(node);
    }
    nodes
}

/// How to combine the sums of `nodes`, in the order of their microbatches: after node i, replace the two newest sums
/// by left + right this many times.
///
/// # Panics
/// If the nodes aren't the whole tree of `count` microbatches: a programming error.
#[must_use]
pub fn folds(nodes: &[Node], count: u32) -> Vec<u8> {
    let mut open: Vec<Node> = Vec::new();
    let mut folds = Vec::with_capacity(nodes.len());
    for node in nodes {
        let (mut node, mut times) = (node.lift(count), 0);
        while open.last().is_some_and(|left| left.pairs_with(node)) {
            open.pop();
            node = node.parent().lift(count);
            times += 1;
        }
        open.push(node);
        folds.push(times);
    }
    assert!(open.is_empty() || open == [Node::root(count)], "{nodes:?} are not one tree of {count}");
    folds
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_cut_nodes_are_the_highest() {
        assert_eq!(maximal_nodes(0..8, 8), [Node::root(8)]);
        assert_eq!(maximal_nodes(0..5, 5), [Node { level: 3, index: 0 }]);
        assert_eq!(maximal_nodes(4..5, 5), [Node { level: 2, index: 1 }]);
        assert_eq!(maximal_nodes(0..4, 5), [Node { level: 2, index: 0 }]);
        assert_eq!(maximal_nodes(1..4, 8), [Node { level: 0, index: 1 }, Node { level: 1, index: 1 }]);
        assert_eq!(maximal_nodes(0..1, 1), [Node::root(1)]);
        assert_eq!(maximal_nodes(3..3, 8), []);
    }

    #[test]
    fn folds_by_hand() {
        let nodes = |cuts: &[u32], count| -> Vec<Node> {
            cuts.windows(2).flat_map(|cut| maximal_nodes(cut[0]..cut[1], count)).collect()
        };
        assert_eq!(folds(&nodes(&[0, 1, 2, 3, 4], 4), 4), [0, 1, 0, 2]);
        assert_eq!(folds(&nodes(&[0, 2, 5, 7], 7), 7), [0, 1, 0, 1, 2], "of 0..2, 2..4, 4, 5, 6");
        assert_eq!(folds(&nodes(&[0, 8], 8), 8), [0]);
        assert_eq!(folds(&[], 0), []);
    }

    #[test]
    #[should_panic(expected = "not one tree")]
    fn a_gap_is_no_tree() {
        let _ = folds(&[Node::leaf(0), Node::leaf(2)], 3);
    }

    proptest! {
        #[test]
        fn nodes_cover_their_range_and_are_few(count in 1u32..200, a in 0u32..200, b in 0u32..200) {
            let (start, end) = (a.min(b).min(count), a.max(b).min(count));
            let nodes = maximal_nodes(start..end, count);
            let mut next = start;
            for node in &nodes {
                let range = node.range(count);
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty());
                next = range.end;
            }
            prop_assert_eq!(next, end);
            let log = 32 - count.leading_zeros() as usize;
            prop_assert!(nodes.len() <= (2 * log).max(1));
        }

        #[test]
        fn the_nodes_of_any_cut_fold_into_one(count in 1u32..200, mut cuts in prop::collection::vec(0u32..200, 0..9)) {
            cuts.extend([0, count]);
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(count));
            cuts.sort_unstable();
            let nodes: Vec<Node> =
                cuts.windows(2).flat_map(|cut| maximal_nodes(cut[0]..cut[1], count)).collect();
            let folded: u32 = folds(&nodes, count).into_iter().map(u32::from).sum();
            prop_assert_eq!(folded as usize, nodes.len() - 1);
        }
    }
}
