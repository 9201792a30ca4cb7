//! The member's side of the tree: gradients of microbatches come in, in order; partials of maximal nodes remain.

use std::ops::Range;

use crate::reduce::add_into;
use crate::tree::Node;

/// The sum of one node at one member.
#[derive(Debug, Default)]
pub struct Partial {
    /// Which node; meaningful once a microbatch was added.
    pub node: Node,
    /// The flat gradient sum.
    pub values: Vec<f32>,
    /// Loss sum, weight, metric sums.
    pub sums: Vec<f64>,
    /// A bit for each parameter that has a gradient, little-endian within a byte.
    pub presence: Vec<u8>,
}

/// Adds up a member's microbatches of a step.
///
/// A gradient is written or added straight from the model's tensors ([`Accumulator::region`]): the leaf of an odd
/// microbatch is never stored, it is added to its finished left sibling, which gives the same bits as left + right.
/// A parameter without a gradient is -0.0 in a stored leaf and left alone in an added one: x + (-0.0) is x, bit for
/// bit. Buffers are reused from step to step: log2(G) + 1 of them for an aligned range, at most twice that for any.
#[derive(Debug)]
pub struct Accumulator {
    layout: Vec<Range<usize>>,
    elements: usize,
    count: u32,
    finished: Vec<Partial>,
    pool: Vec<Partial>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    microbatch: u32,
    /// Whether it is added to the last finished partial rather than stored.
    added: bool,
    leaf: Partial,
}

impl Accumulator {
    /// For flat gradients in which each parameter has the range that `layout` says, without gaps.
    #[must_use]
    pub fn new(layout: Vec<Range<usize>>) -> Self {
        let elements = layout.last().map_or(0, |range| range.end);
        Self { layout, elements, count: 0, finished: Vec::new(), pool: Vec::new(), open: None }
    }

    /// Elements of the flat gradient.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Begins a step of `count` microbatches: what is left of the one before is forgotten.
    pub fn begin_step(&mut self, count: u32) {
        self.count = count;
        self.pool.append(&mut self.finished);
        self.pool.extend(self.open.take().map(|open| open.leaf));
    }

    /// Begins a microbatch. They come in ascending order.
    ///
    /// # Panics
    /// If another one is open or this one is out of order: errors of the program.
    pub fn begin(&mut self, microbatch: u32) {
        assert!(self.open.is_none() && microbatch < self.count);
        let last = self.finished.last();
        assert!(last.is_none_or(|partial| partial.node.range(self.count).end <= microbatch), "out of order");
        let added = last.is_some_and(|partial| partial.node.pairs_with(Node::leaf(microbatch)));
        let mut leaf = if added { Partial::default() } else { self.pool.pop().unwrap_or_default() };
        if !added {
            leaf.values.resize(self.elements, 0.0);
        }
        leaf.presence.clear();
        leaf.presence.resize(self.layout.len().div_ceil(8), 0);
        self.open = Some(Open { microbatch, added, leaf });
    }

    /// Takes in the gradient of one parameter of the open microbatch.
    ///
    /// # Panics
    /// If no microbatch is open, or the length is not the parameter's: errors of the program.
    pub fn region(&mut self, parameter: usize, gradient: &[f32]) {
        let range = self.layout[parameter].clone();
        let Some(open) = self.open.as_mut() else { panic!("no microbatch is open") };
        open.leaf.presence[parameter / 8] |= 1 << (parameter % 8);
        if let (true, Some(left)) = (open.added, self.finished.last_mut()) {
            add_into(&mut left.values[range], gradient);
        } else {
            open.leaf.values[range].copy_from_slice(gradient);
        }
    }

    /// Ends the open microbatch with its sums.
    ///
    /// # Panics
    /// If none is open: an error of the program.
    pub fn end(&mut self, sums: &[f64]) {
        let Some(Open { microbatch, added, mut leaf }) = self.open.take() else {
            panic!("no microbatch is open")
        };
        leaf.sums.clear();
        leaf.sums.extend_from_slice(sums);
        leaf.node = Node::leaf(microbatch);
        if let (true, Some(left)) = (added, self.finished.last_mut()) {
            add_facts(left, &leaf);
            left.node = left.node.parent();
        } else {
            self.fill_absent(&mut leaf);
            self.finished.push(leaf);
        }
        self.merge();
    }

    /// The partials of the maximal nodes of all microbatches so far, in order.
    #[must_use]
    pub fn partials(&self) -> &[Partial] {
        &self.finished
    }

    /// The step's whole sum, where one member has computed all of it: it is reduced in place, since a retry computes
    /// it anew.
    #[must_use]
    pub fn whole_mut(&mut self) -> Option<&mut Partial> {
        let root = Node::root(self.count);
        self.finished.first_mut().filter(|partial| partial.node == root)
    }

    fn fill_absent(&self, leaf: &mut Partial) {
        for (parameter, range) in self.layout.iter().enumerate() {
            if leaf.presence[parameter / 8] & (1 << (parameter % 8)) == 0 {
                leaf.values[range.clone()].fill(-0.0);
            }
        }
    }

    fn merge(&mut self) {
        loop {
            if let Some(last) = self.finished.last_mut() {
                last.node = last.node.lift(self.count);
            }
            let [.., left, right] = self.finished.as_mut_slice() else { return };
            if !left.node.pairs_with(right.node) {
                return;
            }
            add_into(&mut left.values, &right.values);
            add_facts(left, right);
            left.node = left.node.parent();
            self.pool.extend(self.finished.pop());
        }
    }
}

/// Adds right's sums and presence to left's.
pub(crate) fn add_facts(left: &mut Partial, right: &Partial) {
    for (l, r) in left.sums.iter_mut().zip(&right.sums) {
        *l += r;
    }
    for (l, r) in left.presence.iter_mut().zip(&right.presence) {
        *l |= r;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::maximal_nodes;

    fn push(accumulator: &mut Accumulator, microbatch: u32, gradients: [Option<&[f32]>; 2]) {
        accumulator.begin(microbatch);
        for (parameter, gradient) in gradients.into_iter().enumerate() {
            if let Some(gradient) = gradient {
                accumulator.region(parameter, gradient);
            }
        }
        accumulator.end(&[1.0, 2.0]);
    }

    #[test]
    fn absent_gradients_and_negative_zeros_keep_their_bits() {
        let mut accumulator = Accumulator::new(vec![0..1, 1..2]);
        for steps in 0..2 {
            accumulator.begin_step(3);
            push(&mut accumulator, 0, [Some(&[-0.0]), None]);
            push(&mut accumulator, 1, [Some(&[-0.0]), None]);
            push(&mut accumulator, 2, [None, Some(&[-0.0])]);
            let [whole] = accumulator.partials() else { panic!("one node, in step {steps}") };
            assert_eq!(whole.node, Node::root(3));
            let bits: Vec<u32> = whole.values.iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, [(-0.0f32).to_bits(); 2], "no +0.0 was added anywhere");
            assert_eq!(whole.presence, [0b11]);
            assert_eq!(whole.sums, [3.0, 6.0]);
        }
    }

    #[test]
    fn a_range_leaves_its_maximal_nodes_and_few_buffers() {
        let mut accumulator = Accumulator::new(vec![0..1, 1..2]);
        for (range, count) in [(3..11u32, 16u32), (0..16, 16), (5..7, 7), (0..0, 4)] {
            accumulator.begin_step(count);
            for microbatch in range.clone() {
                let value = [microbatch as f32];
                push(&mut accumulator, microbatch, [Some(&value), Some(&value)]);
            }
            let nodes: Vec<Node> = accumulator.partials().iter().map(|p| p.node).collect();
            assert_eq!(nodes, maximal_nodes(range.clone(), count));
            let total: f32 = accumulator.partials().iter().map(|p| p.values[0]).sum();
            assert_eq!(total, range.map(|m| m as f32).sum::<f32>());
            let buffers = accumulator.finished.len() + accumulator.pool.len();
            assert!(buffers <= 10, "{buffers} buffers");
        }
        accumulator.begin_step(16);
        assert!(accumulator.pool.len() <= 6);
    }
}
