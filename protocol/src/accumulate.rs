//! The member's side of the tree: adds up gradients of microbatches and keeps the partials of maximal nodes.

use std::ops::Range;

use crate::ids::Phase;
use crate::reduce::{TILE, add_into, add_to};
use crate::tree::Node;

/// One member's sum for one node.
#[derive(Debug, Default)]
pub struct Partial {
    /// The node; meaningful once a microbatch was added.
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
/// A gradient is written or added straight from the model's tensors ([`Accumulator::region`]). A microbatch that
/// completes nodes of the tree is never stored: it is added to the lowest of them, which gives the same bits as
/// `left + right` at each. A parameter without a gradient is -0.0 in a stored leaf and skipped in an added one: x + (-0.0)
/// is x, bit for bit. Buffers are reused from step to step: log2(G) of them (at least one) for an aligned range, one
/// more for each further node of the range.
///
/// Without a layout it adds up sums alone, as an evaluation needs.
#[derive(Debug)]
pub struct Accumulator {
    layout: Vec<Range<usize>>,
    elements: usize,
    /// The current step, as long as its partials are valid for a retry in another view.
    step: Option<(u64, Phase)>,
    count: u32,
    finished: Vec<Partial>,
    /// Partials whose buffers are free.
    pool: Vec<Partial>,
    /// The leaf of a microbatch that is added instead of stored: sums and presence, no buffer.
    facts: Partial,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// The largest node that the microbatch completes.
    node: Node,
    /// How many finished partials it is added to, newest first; 0 if it is stored.
    folds: usize,
    /// How many finished partials precede it.
    at: usize,
    leaf: Partial,
}

impl Accumulator {
    /// Creates an accumulator for flat gradients in which `layout` gives each parameter's range.
    ///
    /// # Panics
    /// If the ranges are not contiguous from 0: a programming error.
    #[must_use]
    pub fn new(layout: Vec<Range<usize>>) -> Self {
        let elements = layout.iter().fold(0, |end, range| {
            assert!(range.start == end && range.end >= end, "{range:?} doesn't follow {end}");
            range.end
        });
        let (finished, pool, facts) = (Vec::new(), Vec::new(), Partial::default());
        Self { layout, elements, step: None, count: 0, finished, pool, facts, open: None }
    }

    /// Elements of the flat gradient.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Begins a step of `count` microbatches and discards the previous one.
    pub fn begin_step(&mut self, count: u32) {
        self.count = count;
        self.pool.append(&mut self.finished);
        match self.open.take() {
            Some(open) if open.folds == 0 => self.pool.push(open.leaf),
            Some(open) => self.facts = open.leaf,
            None => {}
        }
    }

    /// Begins a step of which this member computes `own`, or resumes the current one for a retry in another view if
    /// it holds nothing outside `own`. Returns whether it resumes.
    pub fn begin_or_resume(&mut self, step: (u64, Phase), count: u32, own: &[Range<u32>]) -> bool {
        let is_own = |microbatch| own.iter().any(|range| range.contains(&microbatch));
        let resumes = self.step.replace(step) == Some(step)
            && self.open.is_none()
            && (0..count).all(|microbatch| is_own(microbatch) || !self.holds(microbatch));
        if !resumes {
            self.begin_step(count);
        }
        resumes
    }

    /// Invalidates the partials: the next step begins anew.
    pub fn forget(&mut self) {
        self.step = None;
    }

    /// Whether this microbatch of the step was added up.
    #[must_use]
    pub fn holds(&self, microbatch: u32) -> bool {
        self.finished.iter().any(|partial| partial.node.range(self.count).contains(&microbatch))
    }

    /// Begins a microbatch. Ascending order needs the least memory; a retry with additional microbatches inserts them
    /// in between.
    ///
    /// # Panics
    /// If another microbatch is open or this one was already added: programming errors.
    pub fn begin(&mut self, microbatch: u32) {
        assert!(self.open.is_none() && microbatch < self.count);
        assert!(!self.holds(microbatch), "a second gradient of microbatch {microbatch}");
        let at = self.finished.partition_point(|partial| partial.node.range(self.count).start < microbatch);
        let (mut node, mut folds) = (Node::leaf(microbatch).lift(self.count), 0);
        for left in self.finished[..at].iter().rev() {
            if !left.node.pairs_with(node) {
                break;
            }
            node = left.node.parent().lift(self.count);
            folds += 1;
        }
        let mut leaf =
            if folds == 0 { self.pool.pop().unwrap_or_default() } else { std::mem::take(&mut self.facts) };
        if folds == 0 {
            leaf.values.resize(self.elements, 0.0);
        }
        leaf.sums.clear();
        leaf.presence.clear();
        leaf.presence.resize(self.layout.len().div_ceil(8), 0);
        self.open = Some(Open { node, folds, at, leaf });
    }

    /// Adds the gradient of one parameter of the open microbatch, at most once.
    ///
    /// # Panics
    /// If no microbatch is open, the parameter was already added, or the length is wrong: programming errors.
    pub fn region(&mut self, parameter: usize, gradient: &[f32]) {
        let range = self.layout[parameter].clone();
        let Some(open) = self.open.as_mut() else { panic!("no microbatch is open") };
        assert!(!has(&open.leaf.presence, parameter), "a second gradient of parameter {parameter}");
        open.leaf.presence[parameter / 8] |= 1 << (parameter % 8);
        if open.folds == 0 {
            open.leaf.values[range].copy_from_slice(gradient);
        } else {
            add_on(&mut self.finished[open.at - open.folds..open.at], range, gradient);
        }
    }

    /// Ends the open microbatch with its sums.
    ///
    /// # Panics
    /// If none is open: a programming error.
    pub fn end(&mut self, sums: &[f64]) {
        let Some(Open { node, folds, at, mut leaf }) = self.open.take() else {
            panic!("no microbatch is open")
        };
        leaf.sums.extend_from_slice(sums);
        if folds == 0 {
            leaf.node = node;
            for range in absent(&self.layout, &leaf.presence) {
                leaf.values[range].fill(-0.0);
            }
            self.finished.insert(at, leaf);
            return self.settle(at);
        }
        let first = at - folds;
        if let [inner @ .., newest] = &mut self.finished[first..at] {
            for range in absent(&self.layout, &leaf.presence) {
                add_on(inner, range.clone(), &newest.values[range]);
            }
        }
        add_facts(&mut self.finished[at - 1], &leaf);
        self.facts = leaf;
        for inner in (first + 1..at).rev() {
            let right = self.finished.remove(inner);
            add_facts(&mut self.finished[inner - 1], &right);
            self.pool.push(right);
        }
        self.finished[first].node = node;
        self.settle(first);
    }

    /// Joins the finished partial at `at` with earlier siblings: only a microbatch that was added out of order has
    /// any.
    fn settle(&mut self, mut at: usize) {
        let pairs = |left: &Partial, right: Option<&Partial>| {
            right.is_some_and(|right| left.node.pairs_with(right.node))
        };
        loop {
            if at > 0 && pairs(&self.finished[at - 1], self.finished.get(at)) {
                at -= 1;
            } else if !pairs(&self.finished[at], self.finished.get(at + 1)) {
                return;
            }
            let right = self.finished.remove(at + 1);
            let left = &mut self.finished[at];
            add_into(&mut left.values, &right.values);
            add_facts(left, &right);
            left.node = left.node.parent().lift(self.count);
            self.pool.push(right);
        }
    }

    /// The partials of the maximal nodes of all microbatches so far, in order.
    #[must_use]
    pub fn partials(&self) -> &[Partial] {
        &self.finished
    }

    /// The step's complete sum, if one member has computed all of it. It is reduced in place, since a retry computes
    /// it anew.
    #[must_use]
    pub fn whole_mut(&mut self) -> Option<&mut Partial> {
        let root = Node::root(self.count);
        self.finished.first_mut().filter(|partial| partial.node == root)
    }
}

/// Whether a bitmap contains this parameter.
fn has(presence: &[u8], parameter: usize) -> bool {
    presence[parameter / 8] & (1 << (parameter % 8)) != 0
}

/// The ranges of parameters without a gradient.
fn absent<'a>(layout: &'a [Range<usize>], presence: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    let missing = layout.iter().enumerate().filter(|(parameter, _)| !has(presence, *parameter));
    missing.map(|(_, range)| range.clone())
}

/// Adds the newest sum and then each of `open`, from the last to the first, into the first: of `[a, b, c]`, a becomes
/// a + (b + (c + newest)). Each buffer is read once and only the first is written.
fn add_on(open: &mut [Partial], range: Range<usize>, newest: &[f32]) {
    let Some((first, inner)) = open.split_first_mut() else { return };
    let into = &mut first.values[range.clone()];
    let Some((last, between)) = inner.split_last() else { return add_into(into, newest) };
    assert_eq!(into.len(), newest.len());
    let mut sum = [0f32; TILE];
    for ((into, newest), start) in into.chunks_mut(TILE).zip(newest.chunks(TILE)).zip(range.step_by(TILE)) {
        let sum = &mut sum[..into.len()];
        let tile = start..start + sum.len();
        add_to(&last.values[tile.clone()], newest, sum);
        for left in between.iter().rev() {
            add_into(sum, &left.values[tile.clone()]);
        }
        add_into(into, sum);
    }
}

fn add_facts(left: &mut Partial, right: &Partial) {
    for (l, r) in left.sums.iter_mut().zip(&right.sums) {
        *l += r;
    }
    for (l, r) in left.presence.iter_mut().zip(&right.presence) {
        *l |= r;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
    fn a_range_leaves_its_maximal_nodes() {
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
        }
    }

    /// Addresses of all buffers that the accumulator holds.
    fn buffers(accumulator: &Accumulator) -> BTreeSet<*const f32> {
        let held = accumulator.finished.iter().chain(&accumulator.pool);
        let open = accumulator.open.iter().filter(|open| open.folds == 0).map(|open| &open.leaf);
        held.chain(open).map(|partial| partial.values.as_ptr()).collect()
    }

    #[test]
    fn an_aligned_range_needs_log2_buffers_and_the_next_step_the_same() {
        for (range, count, expected) in [
            (0..1u32, 1u32, 1),
            (0..2, 2, 1),
            (0..4, 4, 2),
            (0..5, 5, 2),
            (0..8, 8, 3),
            (4..8, 8, 2),
            (0..64, 64, 6),
            (0..33, 33, 5),
            (3..11, 16, 4), // Nodes 3, 4..8, 8..10 and 10.
        ] {
            let mut accumulator = Accumulator::new(vec![0..1, 1..2]);
            let mut steps = (0..3).map(|_| {
                accumulator.begin_step(count);
                for microbatch in range.clone() {
                    push(&mut accumulator, microbatch, [Some(&[1.0]), None]);
                }
                buffers(&accumulator)
            });
            let first = steps.next().unwrap_or_default();
            assert_eq!(first.len(), expected, "{range:?} of {count}");
            assert!(steps.all(|buffers| buffers == first));
        }
    }

    #[test]
    fn any_order_of_microbatches_comes_to_the_same_bits() {
        // Values whose sums round differently in every other order.
        let value = |microbatch: u32| {
            [(1.0 + microbatch as f32).powi(9) * if microbatch.is_multiple_of(3) { -1.1 } else { 0.7 }]
        };
        for count in [1u32, 5, 8, 11] {
            let mut expected = Accumulator::new(vec![0..1, 1..2]);
            expected.begin_step(count);
            let add = |accumulator: &mut Accumulator, microbatch: u32| {
                let second = value(microbatch);
                let second = microbatch.is_multiple_of(2).then_some(&second[..]);
                push(accumulator, microbatch, [Some(&value(microbatch)), second]);
            };
            (0..count).for_each(|microbatch| add(&mut expected, microbatch));
            for step in 1..count.max(2) {
                let mut accumulator = Accumulator::new(vec![0..1, 1..2]);
                accumulator.begin_step(count);
                // From the middle to the end, then the rest in descending order.
                let order = (step..count).chain((0..step.min(count)).rev());
                order.for_each(|microbatch| add(&mut accumulator, microbatch));
                let (found, expected) = (accumulator.partials(), expected.partials());
                assert_eq!(found.len(), 1);
                let bits = |partial: &Partial| partial.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found[0]), bits(&expected[0]), "{count} from {step}");
                assert_eq!((&found[0].sums, &found[0].presence), (&expected[0].sums, &expected[0].presence));
                assert!((0..count).all(|microbatch| accumulator.holds(microbatch)));
            }
        }
    }

    #[test]
    fn a_step_goes_on_in_another_view_with_what_is_held_of_it() {
        let mut accumulator = Accumulator::new(Vec::new());
        let add = |accumulator: &mut Accumulator, microbatch: u32| {
            accumulator.begin(microbatch);
            accumulator.end(&[1.0]);
        };
        let (step, evaluation) = ((3, Phase::Train), (3, Phase::Evaluate));
        let (first_half, all_but_first) = (std::slice::from_ref(&(0..2)), std::slice::from_ref(&(1..4)));
        assert!(!accumulator.begin_or_resume(step, 4, first_half));
        add(&mut accumulator, 0);
        add(&mut accumulator, 1);
        assert!(accumulator.begin_or_resume(step, 4, &[0..2, 3..4]), "one more is dealt to it");
        assert!(accumulator.holds(1) && !accumulator.holds(3));
        assert!(!accumulator.begin_or_resume(step, 4, all_but_first), "somebody else has the first now");
        assert!(!accumulator.holds(1));
        add(&mut accumulator, 1);
        assert!(!accumulator.begin_or_resume(evaluation, 4, all_but_first), "another step");
        accumulator.forget();
        assert!(!accumulator.begin_or_resume(evaluation, 4, all_but_first));
    }

    #[test]
    fn a_step_given_up_in_a_microbatch_leaves_nothing_behind() {
        let mut accumulator = Accumulator::new(vec![0..1, 1..2]);
        for given_up in 0..4 {
            accumulator.begin_step(4);
            for microbatch in 0..given_up {
                push(&mut accumulator, microbatch, [Some(&[1.0]), None]);
            }
            accumulator.begin(given_up);
            accumulator.region(1, &[7.0]);
            accumulator.begin_step(4);
            for microbatch in 0..4 {
                push(&mut accumulator, microbatch, [Some(&[1.0]), None]);
            }
            let Some(whole) = accumulator.whole_mut() else { panic!("one node") };
            assert_eq!((&whole.values[..], &whole.presence[..]), (&[4.0, 0.0][..], &[1u8][..]));
            assert!(buffers(&accumulator).len() <= 3);
        }
    }

    #[test]
    #[should_panic(expected = "second gradient of parameter 1")]
    fn a_gradient_that_comes_twice_is_an_error_of_the_program() {
        let mut accumulator = Accumulator::new(vec![0..1, 1..2]);
        accumulator.begin_step(1);
        accumulator.begin(0);
        accumulator.region(1, &[1.0]);
        accumulator.region(1, &[1.0]);
    }

    #[test]
    fn sums_alone_need_no_layout() {
        let mut accumulator = Accumulator::new(Vec::new());
        accumulator.begin_step(3);
        (0..3).for_each(|microbatch| {
            accumulator.begin(microbatch);
            accumulator.end(&[f64::from(microbatch)]);
        });
        assert_eq!(accumulator.whole_mut().map(|whole| whole.sums.clone()), Some(vec![3.0]));
    }
}
