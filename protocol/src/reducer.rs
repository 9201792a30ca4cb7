//! The reducer: takes the members' partials of a step, finishes the tree slice by slice, and gives out the mean.
//!
//! Pure: buffers come in owned and go out owned, so a driver can keep a pool. Sums happen in the tree's order whatever
//! the order of arrival. A slice is reduced as soon as all its partials are there; by then every member's sums are
//! there too, since each member sends them first, so the global weight is known before anything is divided.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ids::{MemberId, Phase, StepKey};
use crate::reduce::{BlockFacts, add_into, divide, slice_range, slices};
use crate::tree::{Node, maximal_nodes};

/// A slice of the mean gradient.
#[derive(Clone, PartialEq, Debug)]
pub struct ReducedSlice {
    /// Of which step.
    pub key: StepKey,
    /// Its number.
    pub slice: u32,
    /// The mean.
    pub values: Vec<f32>,
    /// Hash and sum of squares of each of its blocks.
    pub facts: BlockFacts,
}

/// The sums of the whole step.
#[derive(Clone, PartialEq, Debug)]
pub struct ReducedSums {
    /// Of which step.
    pub key: StepKey,
    /// Loss sum, weight, metric sums.
    pub sums: Vec<f64>,
    /// Presence of each parameter's gradient.
    pub presence: Vec<u8>,
}

/// Why something can't be taken in: the sender is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReduceError {
    /// The node isn't one that this member's microbatches leave.
    #[error("a partial of node {node:?}, which is not among the member's nodes {expected:?}")]
    UnexpectedNode {
        /// What was sent.
        node: Node,
        /// What it computes.
        expected: Vec<Node>,
    },
    /// It was sent already.
    #[error("a second partial of node {0:?}")]
    Twice(Node),
    /// A slice of another length.
    #[error("slice {slice} has {found} elements, not {expected}")]
    Length {
        /// The slice.
        slice: u32,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// Sums of another length than the others'.
    #[error("{found} sums, where others sent {expected}")]
    Sums {
        /// Their number.
        found: usize,
        /// The others'.
        expected: usize,
    },
    /// A gradient before its sums.
    #[error("slice {0} came before the sums of its node")]
    Order(u32),
}

/// The partials of one step at the reducer.
#[derive(Debug)]
pub struct Reducer {
    key: StepKey,
    count: u32,
    elements: usize,
    nodes: BTreeMap<MemberId, Vec<Node>>,
    /// First microbatch of a node -> its sums and presence.
    facts: BTreeMap<u32, (Node, Vec<f64>, Vec<u8>)>,
    weight: Option<f64>,
    slices: BTreeMap<u32, BTreeMap<u32, (Node, Vec<f32>)>>,
    node_count: usize,
}

impl Reducer {
    /// For a step of `count` microbatches, of which each member computes a range, and gradients of `elements`
    /// (0 in evaluation, which has sums only).
    #[must_use]
    pub fn new(key: StepKey, count: u32, ranges: &[(MemberId, Range<u32>)], elements: usize) -> Self {
        let nodes: BTreeMap<MemberId, Vec<Node>> =
            ranges.iter().map(|(member, range)| (*member, maximal_nodes(range.clone(), count))).collect();
        let node_count = nodes.values().map(Vec::len).sum();
        let elements = if key.phase == Phase::Evaluate { 0 } else { elements };
        Self {
            key,
            count,
            elements,
            nodes,
            facts: BTreeMap::new(),
            weight: None,
            slices: BTreeMap::new(),
            node_count,
        }
    }

    /// Of which step.
    #[must_use]
    pub fn key(&self) -> StepKey {
        self.key
    }

    /// Slices that this step has.
    #[must_use]
    pub fn slices(&self) -> u32 {
        slices(self.elements)
    }

    /// Takes in the sums of a node; gives out the step's when they are complete.
    ///
    /// # Errors
    /// When the member has no such node, sent it already, or its sums are of another length.
    pub fn insert_sums(
        &mut self,
        member: MemberId,
        node: Node,
        sums: Vec<f64>,
        presence: Vec<u8>,
    ) -> Result<Option<ReducedSums>, ReduceError> {
        self.check(member, node)?;
        if let Some((_, others, _)) = self.facts.values().next()
            && others.len() != sums.len()
        {
            return Err(ReduceError::Sums { found: sums.len(), expected: others.len() });
        }
        if self.facts.insert(node.range(self.count).start, (node, sums, presence)).is_some() {
            return Err(ReduceError::Twice(node));
        }
        if self.facts.len() < self.node_count {
            return Ok(None);
        }
        let parts =
            self.facts.values().map(|(node, sums, presence)| (*node, (sums.clone(), presence.clone())));
        let whole = finish(parts, self.count, |left, right| {
            for (l, r) in left.0.iter_mut().zip(&right.0) {
                *l += r;
            }
            for (l, r) in left.1.iter_mut().zip(&right.1) {
                *l |= r;
            }
        });
        let (sums, presence) = whole.unwrap_or_default();
        self.weight = Some(sums.get(1).copied().unwrap_or(0.0));
        Ok(Some(ReducedSums { key: self.key, sums, presence }))
    }

    /// Takes in a slice of a node's partial; gives out the reduced slice when its partials are complete. Buffers that
    /// are free again are put into `spent`.
    ///
    /// # Errors
    /// When the member has no such node, sent it already, or the slice has another length.
    pub fn insert(
        &mut self,
        member: MemberId,
        node: Node,
        slice: u32,
        values: Vec<f32>,
        spent: &mut Vec<Vec<f32>>,
    ) -> Result<Option<ReducedSlice>, ReduceError> {
        self.check(member, node)?;
        let expected = slice_range(slice, self.elements).len();
        if values.len() != expected || expected == 0 {
            return Err(ReduceError::Length { slice, found: values.len(), expected });
        }
        let start = node.range(self.count).start;
        if !self.facts.contains_key(&start) {
            return Err(ReduceError::Order(slice));
        }
        let parts = self.slices.entry(slice).or_default();
        if parts.insert(start, (node, values)).is_some() {
            return Err(ReduceError::Twice(node));
        }
        // All partials of a slice are there only after all sums.
        let (true, Some(weight)) = (parts.len() == self.node_count, self.weight) else { return Ok(None) };
        let parts = self.slices.remove(&slice).unwrap_or_default();
        let whole = finish(parts.into_values(), self.count, |left, right| {
            add_into(left, &right);
            spent.push(right);
        });
        let mut values = whole.unwrap_or_default();
        let mut facts = BlockFacts::default();
        divide(&mut values, weight, &mut facts);
        Ok(Some(ReducedSlice { key: self.key, slice, values, facts }))
    }

    fn check(&self, member: MemberId, node: Node) -> Result<(), ReduceError> {
        let expected = self.nodes.get(&member).map_or(&[][..], Vec::as_slice);
        if expected.contains(&node) {
            return Ok(());
        }
        Err(ReduceError::UnexpectedNode { node, expected: expected.to_vec() })
    }
}

/// Finishes the tree over parts in the order of their microbatches: left is combined with right, in place in left.
fn finish<T>(
    parts: impl IntoIterator<Item = (Node, T)>,
    count: u32,
    mut combine: impl FnMut(&mut T, T),
) -> Option<T> {
    let mut stack: Vec<(Node, T)> = Vec::new();
    for (node, part) in parts {
        let (mut node, mut part) = (node.lift(count), part);
        while let Some((left_node, mut left)) = stack.pop_if(|(left, _)| left.pairs_with(node)) {
            combine(&mut left, part);
            (node, part) = (left_node.parent().lift(count), left);
        }
        stack.push((node, part));
    }
    assert!(stack.len() <= 1, "the parts of a step are one tree");
    stack.pop().map(|(_, whole)| whole)
}
