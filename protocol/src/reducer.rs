//! The reducer: collects the members' partials of a step, completes the tree slice by slice, and returns the mean.
//!
//! Pure: owned buffers come in and go out, so a driver can keep a pool. Sums are formed in the tree's order, whatever
//! the order of arrival. A slice is reduced as soon as all its partials have arrived; by then every member's sums
//! have arrived too, since each member sends them first, so the global weight is known before anything is divided.
//!
//! Memory is bounded if members send slice by slice (all their nodes of slice 0, then of slice 1...) and the driver
//! reads from each connection only the [`WINDOW`] from [`Reducer::lowest_open`]: at most that many slices of each
//! node are held. This can't deadlock, since the partial that the lowest open slice lacks is the next frame of some
//! connection.
//!
//! A single member needs no reducer: its accumulator's whole sum goes through [`crate::reduce::divide`].

use std::ops::Range;
use std::sync::Arc;

use crate::ids::{MemberId, Phase, StepKey};
use crate::reduce::{BlockFacts, one_nan, slice_range, slices};
use crate::tree::{Node, maximal_nodes};
use crate::tree_mean::TreeMean;

/// Number of slices, from the lowest open one, whose partials are accepted: two in progress and two behind them hide
/// the members' unequal pace; at 4 MiB each that is 16 MiB per node.
pub const WINDOW: u32 = 4;

/// A slice of the mean gradient.
#[derive(Clone, PartialEq, Debug)]
pub struct ReducedSlice {
    /// Step, view and phase.
    pub key: StepKey,
    /// Index of the slice.
    pub slice: u32,
    /// The mean gradient of the slice.
    pub values: Vec<f32>,
    /// Hash and sum of squares of each of its blocks.
    pub facts: BlockFacts,
}

/// The sums of the whole step.
#[derive(Clone, PartialEq, Debug)]
pub struct ReducedSums {
    /// Step, view and phase.
    pub key: StepKey,
    /// Loss sum, weight, metric sums.
    pub sums: Vec<f64>,
    /// Presence of each parameter's gradient.
    pub presence: Vec<u8>,
}

/// Part of a member's partial.
#[derive(Clone, PartialEq, Debug)]
pub enum PartialFrame {
    /// Sums and presence of a node; precedes its slices.
    Sums {
        /// Step, view and phase.
        key: StepKey,
        /// The node of the partial.
        node: Node,
        /// Loss sum, weight, metric sums.
        sums: Vec<f64>,
        /// Presence of each parameter's gradient.
        presence: Vec<u8>,
    },
    /// A slice of a node's gradient sum.
    Slice {
        /// Step, view and phase.
        key: StepKey,
        /// The node of the partial.
        node: Node,
        /// Index of the slice.
        slice: u32,
        /// The summed gradient.
        values: Vec<f32>,
    },
}

impl PartialFrame {
    /// Step, view and phase.
    #[must_use]
    pub fn key(&self) -> StepKey {
        match self {
            Self::Sums { key, .. } | Self::Slice { key, .. } => *key,
        }
    }
}

/// Part of a reduced step; all members share it.
#[derive(Clone, PartialEq, Debug)]
pub enum ReducedFrame {
    /// The step's sums.
    Sums(Arc<ReducedSums>),
    /// A slice of the mean.
    Slice(Arc<ReducedSlice>),
}

impl ReducedFrame {
    /// Step, view and phase.
    #[must_use]
    pub fn key(&self) -> StepKey {
        match self {
            Self::Sums(sums) => sums.key,
            Self::Slice(slice) => slice.key,
        }
    }
}

/// Why a frame is rejected: the sender is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReduceError {
    /// The node doesn't result from this member's microbatches.
    #[error("a partial of node {node:?}, which is not among the member's nodes {expected:?}")]
    UnexpectedNode {
        /// The received node.
        node: Node,
        /// The member's nodes.
        expected: Vec<Node>,
    },
    /// The partial was already received.
    #[error("a second partial of node {0:?}")]
    Twice(Node),
    /// A slice of the wrong length.
    #[error("slice {slice} has {found} elements, not {expected}")]
    Length {
        /// Index of the slice.
        slice: u32,
        /// Its length.
        found: usize,
        /// The expected length.
        expected: usize,
    },
    /// Sums or a presence bitmap whose length differs from the others'.
    #[error("{found} sums and bytes of presence, where others sent {expected}")]
    Sums {
        /// The received number.
        found: usize,
        /// The number from other members.
        expected: usize,
    },
    /// A gradient that arrived before its sums.
    #[error("slice {0} came before the sums of its node")]
    Order(u32),
}

/// The partials of one step at the reducer.
#[derive(Debug)]
pub struct Reducer {
    key: StepKey,
    elements: usize,
    /// In the order of their microbatches.
    parts: Vec<Part>,
    /// How many parts have no sums yet.
    sums_missing: usize,
    weight: f64,
    tree: TreeMean,
    slices: Vec<Slice>,
    /// All slices below this index are reduced.
    lowest_open: u32,
    /// A buffer for the next mean.
    spare: Vec<f32>,
}

/// A node's part of a step, without its gradient.
#[derive(Debug)]
struct Part {
    member: MemberId,
    node: Node,
    /// Sums and presence, once they have arrived.
    facts: Option<(Vec<f64>, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Slice {
    /// The partials by part, empty until they arrive. No entries before the first arrival and after the reduction.
    partials: Vec<Vec<f32>>,
    arrived: usize,
}

impl Reducer {
    /// Creates a reducer for a step of `count` microbatches, assigned to the members by `dealt`
    /// ([`crate::assignment::of_view`]), and gradients of `elements` (0 in evaluation, which has sums only).
    ///
    /// # Panics
    /// If the ranges don't partition the microbatches exactly: a programming error.
    #[must_use]
    pub fn new(key: StepKey, count: u32, dealt: &[(MemberId, Vec<Range<u32>>)], elements: usize) -> Self {
        let part = |member, node| Part { member, node, facts: None };
        let of = |(member, ranges): &(MemberId, Vec<Range<u32>>)| {
            let member = *member;
            let nodes: Vec<Node> =
                ranges.iter().flat_map(|range| maximal_nodes(range.clone(), count)).collect();
            nodes.into_iter().map(move |node| part(member, node))
        };
        let mut parts: Vec<Part> = dealt.iter().flat_map(of).collect();
        parts.sort_by_key(|part| part.node.range(count).start);
        let nodes: Vec<Node> = parts.iter().map(|part| part.node).collect();
        let tree = TreeMean::new(&nodes, count);
        let elements = if key.phase == Phase::Evaluate { 0 } else { elements };
        let slices = (0..slices(elements)).map(|_| Slice::default()).collect();
        let (sums_missing, weight) = (parts.len(), 0.0);
        Self { key, elements, parts, sums_missing, weight, tree, slices, lowest_open: 0, spare: Vec::new() }
    }

    /// Adds a buffer for the first mean, such as the one that the previous step returned: a step then takes as many
    /// buffers as it returns, and a pool keeps its size however many steps it serves.
    #[must_use]
    pub fn with_spare(mut self, spare: Vec<f32>) -> Self {
        self.spare = spare;
        self
    }

    /// Step, view and phase.
    #[must_use]
    pub fn key(&self) -> StepKey {
        self.key
    }

    /// The most slice buffers that a driver needs for such a step: a window of partials of every node, and the means,
    /// which are kept for slow members. A pool never reuses buffers beyond that.
    #[must_use]
    pub fn buffers_max(&self) -> usize {
        self.parts.len() * WINDOW.min(self.slices()) as usize + self.slices.len() + 1
    }

    /// Number of slices in this step.
    #[must_use]
    pub fn slices(&self) -> u32 {
        self.slices.len() as u32
    }

    /// All slices below this index are reduced. A driver that bounds its memory reads [`WINDOW`] slices from here.
    #[must_use]
    pub fn lowest_open(&self) -> u32 {
        self.lowest_open
    }

    /// Members whose partial is missing from the lowest open slice. Once all sums have arrived, only these delay the
    /// step, as members that wait for others are held back at a later slice.
    #[must_use]
    pub fn behind(&self) -> Vec<MemberId> {
        let open = self.slices.get(self.lowest_open as usize);
        let is_there =
            |slice: &Slice, part: usize| slice.partials.get(part).is_some_and(|held| !held.is_empty());
        let mut members: Vec<MemberId> = open.map_or_else(Vec::new, |slice| {
            let missing = (0..self.parts.len()).filter(|part| !is_there(slice, *part));
            missing.map(|part| self.parts[part].member).collect()
        });
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Ends the step, complete or not, and returns its buffers.
    pub fn into_buffers(self) -> impl Iterator<Item = Vec<f32>> {
        let held = self.slices.into_iter().flat_map(|slice| slice.partials).chain([self.spare]);
        held.filter(|buffer| buffer.capacity() > 0)
    }

    /// Inserts a frame of this step and returns what it completes. For `spent` and errors see [`Reducer::insert`] and
    /// [`Reducer::insert_sums`].
    ///
    /// # Errors
    /// When this member must not send such a frame.
    pub fn insert_frame(
        &mut self,
        member: MemberId,
        frame: PartialFrame,
        spent: &mut Vec<Vec<f32>>,
    ) -> Result<Option<ReducedFrame>, ReduceError> {
        match frame {
            PartialFrame::Sums { node, sums, presence, .. } => self
                .insert_sums(member, node, sums, presence)
                .map(|whole| whole.map(|sums| ReducedFrame::Sums(Arc::new(sums)))),
            PartialFrame::Slice { node, slice, values, .. } => self
                .insert(member, node, slice, values, spent)
                .map(|whole| whole.map(|slice| ReducedFrame::Slice(Arc::new(slice)))),
        }
    }

    /// Inserts the sums of a node; returns the step's sums once they are complete.
    ///
    /// # Errors
    /// When the member has no such node, sent it already, or its sums have the wrong length.
    pub fn insert_sums(
        &mut self,
        member: MemberId,
        node: Node,
        sums: Vec<f64>,
        presence: Vec<u8>,
    ) -> Result<Option<ReducedSums>, ReduceError> {
        let part = self.part(member, node)?;
        if self.parts[part].facts.is_some() {
            return Err(ReduceError::Twice(node));
        }
        if let Some((others, bitmap)) = self.parts.iter().find_map(|part| part.facts.as_ref())
            && (others.len(), bitmap.len()) != (sums.len(), presence.len())
        {
            let (found, expected) = (sums.len() + presence.len(), others.len() + bitmap.len());
            return Err(ReduceError::Sums { found, expected });
        }
        self.parts[part].facts = Some((sums, presence));
        self.sums_missing -= 1;
        if self.sums_missing > 0 {
            return Ok(None);
        }
        let (sums, presence) = self.add_facts();
        self.weight = sums.get(1).copied().unwrap_or(0.0);
        Ok(Some(ReducedSums { key: self.key, sums, presence }))
    }

    /// Inserts a slice of a node's partial; returns the reduced slice once its partials are complete. Released
    /// buffers go into `spent`: as many as came in, less one for each mean that went out.
    ///
    /// # Errors
    /// When the member has no such node, sent it already, or the slice has the wrong length. The buffer is then
    /// dropped.
    pub fn insert(
        &mut self,
        member: MemberId,
        node: Node,
        slice: u32,
        values: Vec<f32>,
        spent: &mut Vec<Vec<f32>>,
    ) -> Result<Option<ReducedSlice>, ReduceError> {
        let part = self.part(member, node)?;
        let expected = slice_range(slice, self.elements).len();
        let place = self.slices.get_mut(slice as usize).filter(|_| values.len() == expected);
        let place = place.ok_or(ReduceError::Length { slice, found: values.len(), expected })?;
        if self.parts[part].facts.is_none() {
            return Err(ReduceError::Order(slice));
        }
        if place.arrived == self.parts.len() || place.partials.get(part).is_some_and(|held| !held.is_empty())
        {
            return Err(ReduceError::Twice(node));
        }
        place.partials.resize_with(self.parts.len(), Vec::new);
        place.partials[part] = values;
        place.arrived += 1;
        // The last partial of a slice arrives only after all sums.
        if place.arrived < self.parts.len() {
            return Ok(None);
        }
        let partials = std::mem::take(&mut place.partials);
        let mut mean = std::mem::take(&mut self.spare);
        mean.resize(expected, 0.0);
        let mut facts = BlockFacts::default();
        self.tree.mean_into(&partials, self.weight, &mut mean, &mut facts);
        // One of the partials becomes the next mean: buffers neither run out nor accumulate.
        let mut partials = partials.into_iter();
        self.spare = partials.next().unwrap_or_default();
        spent.extend(partials);
        while self
            .slices
            .get(self.lowest_open as usize)
            .is_some_and(|slice| slice.arrived == self.parts.len())
        {
            self.lowest_open += 1;
        }
        Ok(Some(ReducedSlice { key: self.key, slice, values: mean, facts }))
    }

    /// Adds up the sums of all parts in the tree's order, and ORs their presence.
    fn add_facts(&self) -> (Vec<f64>, Vec<u8>) {
        let mut open: Vec<(Vec<f64>, Vec<u8>)> = Vec::new();
        for (part, folds) in self.parts.iter().zip(self.tree.folds()) {
            let mut newest = part.facts.clone().unwrap_or_default();
            for _ in 0..*folds {
                let Some(mut left) = open.pop() else { break };
                left.0.iter_mut().zip(&newest.0).for_each(|(l, r)| *l += r);
                left.1.iter_mut().zip(&newest.1).for_each(|(l, r)| *l |= r);
                newest = left;
            }
            open.push(newest);
        }
        let (mut sums, presence) = open.pop().unwrap_or_default();
        sums.iter_mut().for_each(|sum| *sum = one_nan(*sum));
        (sums, presence)
    }

    /// The index of this member's part.
    fn part(&self, member: MemberId, node: Node) -> Result<usize, ReduceError> {
        let found = self.parts.iter().position(|part| part.member == member && part.node == node);
        found.ok_or_else(|| {
            let own = self.parts.iter().filter(|part| part.member == member);
            ReduceError::UnexpectedNode { node, expected: own.map(|part| part.node).collect() }
        })
    }
}
