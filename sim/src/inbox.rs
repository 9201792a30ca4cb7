//! What a member has of the reduced slices that come to it: one step's buffer that goes round, as at the real member.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::ids::{Phase, StepKey};
use protocol::reduce::{BlockFacts, block_hash, is_finite, slices, step_hash};
use protocol::reducer::{ReducedFrame, ReducedSlice, ReducedSums};

/// A reduced step at a member.
#[derive(Clone)]
pub(crate) struct Reduced {
    pub(crate) key: StepKey,
    pub(crate) sums: Vec<f64>,
    pub(crate) squared_norm: f64,
    pub(crate) finite: bool,
    pub(crate) hash: u64,
    pub(crate) gradient: Vec<f32>,
    pub(crate) presence: [bool; 3],
}

/// The step that is being received.
struct Collected {
    key: StepKey,
    elements: usize,
    sums: Option<Arc<ReducedSums>>,
    slices: BTreeMap<u32, Arc<ReducedSlice>>,
}

impl Collected {
    fn new(key: StepKey, elements: usize) -> Self {
        let elements = if key.phase == Phase::Train { elements } else { 0 };
        Self { key, elements, sums: None, slices: BTreeMap::new() }
    }

    /// Takes in a frame; the whole when it is complete.
    fn insert(&mut self, frame: ReducedFrame) -> Option<Reduced> {
        match frame {
            ReducedFrame::Sums(sums) if sums.key == self.key => self.sums = Some(sums),
            ReducedFrame::Slice(slice) if slice.key == self.key => {
                self.slices.insert(slice.slice, slice);
            }
            _ => return None, // Of an older step.
        }
        if self.slices.len() < slices(self.elements) as usize {
            return None;
        }
        let ReducedSums { key, sums, presence } = Arc::unwrap_or_clone(self.sums.take()?);
        let (mut gradient, mut facts) = (Vec::with_capacity(self.elements), BlockFacts::default());
        for slice in self.slices.values() {
            gradient.extend_from_slice(&slice.values);
            facts.squares.extend_from_slice(&slice.facts.squares);
            facts.hashes.extend(slice.values.chunks(protocol::reduce::BLOCK).map(block_hash));
        }
        let squared_norm = facts.squared_norm();
        let hash = step_hash(&facts.hashes, &presence, &sums, squared_norm);
        let bits = presence.first().copied().unwrap_or(0);
        Some(Reduced {
            key,
            finite: is_finite(&sums, squared_norm),
            squared_norm,
            hash,
            gradient,
            presence: [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0],
            sums,
        })
    }
}

/// A data connection's reader. While its buffer is with the member, frames of the next step wait in the socket.
pub(crate) struct Inbox {
    elements: usize,
    current: Option<Collected>,
    is_free: bool,
    waiting: VecDeque<ReducedFrame>,
}

impl Inbox {
    pub(crate) fn new(elements: usize) -> Self {
        Self { elements, current: None, is_free: true, waiting: VecDeque::new() }
    }

    /// A frame has come.
    pub(crate) fn push(&mut self, frame: ReducedFrame) {
        self.waiting.push_back(frame);
    }

    /// The member gives the buffer of a step back.
    pub(crate) fn give_back(&mut self) {
        self.is_free = true;
    }

    /// Reads on; a step when it is whole.
    pub(crate) fn poll(&mut self) -> Option<Reduced> {
        while let Some(frame) = self.waiting.front() {
            let key = frame.key();
            let is_newer = self.current.as_ref().is_none_or(|current| current.key < key);
            if self.current.is_none() && !std::mem::take(&mut self.is_free) {
                return None; // Until the step before is applied.
            }
            if is_newer {
                self.current = Some(Collected::new(key, self.elements));
            }
            let frame = self.waiting.pop_front()?;
            if let Some(reduced) = self.current.as_mut().and_then(|current| current.insert(frame)) {
                self.current = None;
                return Some(reduced);
            }
        }
        None
    }
}
