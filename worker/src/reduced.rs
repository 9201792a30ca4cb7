//! A reduced step at this member.

use protocol::ids::{Phase, StepKey};
use protocol::messages::Sums;
use protocol::reduce::{BLOCK, BlockFacts};

/// A reduced step, complete or being received.
#[derive(Debug)]
pub(crate) struct Reduced {
    pub(crate) key: StepKey,
    /// The mean gradient, flat (empty in evaluation).
    pub(crate) gradient: Vec<f32>,
    /// Hashes and sums of squares of the gradient's blocks.
    pub(crate) facts: BlockFacts,
    /// The reduced scalars.
    pub(crate) sums: Sums,
    /// Which parameters have a gradient.
    pub(crate) presence: Vec<u8>,
    /// Whether the mean is in the place of this member's own sum instead of `gradient`.
    pub(crate) is_in_place: bool,
}

impl Reduced {
    /// An empty buffer; the gradient's memory is allocated by the first step that needs it.
    pub(crate) fn empty() -> Self {
        let key = StepKey { view: protocol::ids::ViewId(0), step: 0, phase: Phase::Train };
        let (gradient, facts) = (Vec::new(), BlockFacts::default());
        Self { key, gradient, facts, sums: Vec::new(), presence: Vec::new(), is_in_place: false }
    }

    /// Discards the previous step, keeping the memory.
    pub(crate) fn begin(&mut self, key: StepKey) {
        self.key = key;
        self.facts.clear();
        self.sums.clear();
        self.presence.clear();
        self.is_in_place = false;
    }

    /// Prepares for the frames of a step with a gradient of `elements`.
    pub(crate) fn receive(&mut self, key: StepKey, elements: usize) {
        self.begin(key);
        // An evaluation has none: the memory is kept for the next training step.
        if elements > 0 {
            self.gradient.resize(elements, 0.0);
        }
        let blocks = elements.div_ceil(BLOCK);
        self.facts.hashes.resize(blocks, 0);
        self.facts.squares.resize(blocks, 0.0);
    }
}
