//! The summation tree: its shape follows from the count of microbatches alone, so the sum's bits don't depend on who
//! computed what.
//!
//! A node of level l and index j stands for the microbatches `[j * 2^l, (j + 1) * 2^l)`, cut at the count. Its sum is
//! left + right; where the right child has no microbatch, the node *is* its left child, and is named by the higher
//! level ([`Node::lift`]).

use std::ops::Range;

/// A node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Node {
    /// 0 for a microbatch.
    pub level: u8,
    /// Its number on its level.
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

    /// Its microbatches, cut at `count`.
    #[must_use]
    pub fn range(self, count: u32) -> Range<u32> {
        let cut = |at: u64| u32::try_from(at.min(u64::from(count))).unwrap_or(count);
        let at = |index: u64| cut(index.saturating_mul(1 << self.level.min(32)));
        at(u64::from(self.index))..at(u64::from(self.index) + 1)
    }

    /// The node above.
    #[must_use]
    pub fn parent(self) -> Self {
        Self { level: self.level + 1, index: self.index / 2 }
    }

    /// Its highest name: a left child whose sibling lies beyond `count` is its parent.
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

/// The fewest nodes that make up `range` of `count` microbatches, in order: one for an aligned range, at most
/// 2 log2(count) for any.
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
    }
}
