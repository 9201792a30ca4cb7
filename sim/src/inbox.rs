//! A member's received slices: the buffer of one step circulates, as in the real member.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::ids::StepKey;
use protocol::reduce::{BLOCK, BlockFacts, block_hash};
use protocol::reducer::{ReducedFrame, ReducedSlice, ReducedSums};
use protocol::step_assembly::{Admission, StepAssembly};

/// A reduced step at a member.
#[derive(Clone)]
pub(crate) struct Reduced {
    pub(crate) key: StepKey,
    pub(crate) sums: Vec<f64>,
    pub(crate) facts: BlockFacts,
    pub(crate) gradient: Vec<f32>,
    pub(crate) presence: Vec<u8>,
}

/// The buffer: frames of the step being received.
#[derive(Default)]
struct Frames {
    sums: Option<Arc<ReducedSums>>,
    slices: BTreeMap<u32, Arc<ReducedSlice>>,
}

impl Frames {
    fn into_reduced(self) -> Option<Reduced> {
        let ReducedSums { key, sums, presence } = Arc::unwrap_or_clone(self.sums?);
        let (mut gradient, mut facts) = (Vec::new(), BlockFacts::default());
        for slice in self.slices.values() {
            gradient.extend_from_slice(&slice.values);
            facts.squares.extend_from_slice(&slice.facts.squares);
            facts.hashes.extend(slice.values.chunks(BLOCK).map(block_hash));
        }
        Some(Reduced { key, sums, facts, gradient, presence })
    }
}

/// A data connection's reader. While the member has its buffer, frames of the next step wait in the socket.
pub(crate) struct Inbox {
    assembly: StepAssembly<Frames>,
    /// A buffer was returned and isn't needed yet.
    has_spare: bool,
    waiting: VecDeque<ReducedFrame>,
}

impl Inbox {
    pub(crate) fn new(elements: usize) -> Self {
        Self { assembly: StepAssembly::new(elements), has_spare: true, waiting: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, frame: ReducedFrame) {
        self.waiting.push_back(frame);
    }

    /// The member returns the buffer of a step.
    pub(crate) fn give_back(&mut self) {
        self.has_spare = true;
    }

    /// Reads on; returns a step once it is complete.
    pub(crate) fn poll(&mut self) -> Option<Reduced> {
        loop {
            match self.assembly.admit(self.waiting.front()?.key()) {
                // Until the step before is applied.
                Admission::Waits if !std::mem::take(&mut self.has_spare) => return None,
                Admission::Waits => self.assembly.give(Frames::default()),
                Admission::Older => drop(self.waiting.pop_front()),
                Admission::Opens => *self.assembly.buffer()? = Frames::default(),
                Admission::Continues => {
                    self.take_in()?;
                    if let Some(whole) = self.assembly.take_whole() {
                        return whole.into_reduced();
                    }
                }
            }
        }
    }

    /// Inserts the first queued frame into the step being received.
    fn take_in(&mut self) -> Option<()> {
        match self.waiting.pop_front()? {
            ReducedFrame::Sums(sums) => {
                self.assembly.take_sums();
                self.assembly.buffer()?.sums = Some(sums);
            }
            ReducedFrame::Slice(slice) => {
                self.assembly.take_slice(slice.slice)?;
                self.assembly.buffer()?.slices.insert(slice.slice, slice);
            }
        }
        Some(())
    }
}
