//! Assembles a reduced step from its frames, in whatever order they arrive.

use std::ops::Range;

use crate::ids::{Phase, StepKey};
use crate::reduce::{slice_range, slices};

/// Assembles one reduced step at a time. `B` is the receive buffer: a complete step hands it out, and the next step's
/// frames wait until it is given back.
#[derive(Debug)]
pub struct StepAssembly<B> {
    /// Length of a training step's gradient.
    elements: usize,
    /// The newest step with a received frame.
    key: Option<StepKey>,
    buffer: Option<B>,
    /// Whether the step of `key` is being received.
    is_open: bool,
    /// For each slice of the step, whether it is missing.
    missing: Vec<bool>,
    sums_missing: bool,
}

/// How to handle a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Drop: it belongs to an older step.
    Older,
    /// Wait for a buffer.
    Waits,
    /// Accept as the first of its step: the buffer's contents are discarded.
    Opens,
    /// Accept as part of the current step.
    Continues,
}

impl<B> StepAssembly<B> {
    /// Creates an assembly for gradients of this length, without a buffer.
    #[must_use]
    pub fn new(elements: usize) -> Self {
        Self { elements, key: None, buffer: None, is_open: false, missing: Vec::new(), sums_missing: true }
    }

    /// Provides a buffer for the next step.
    pub fn give(&mut self, buffer: B) {
        self.buffer = Some(buffer);
    }

    /// Decides on a frame of this step.
    pub fn admit(&mut self, key: StepKey) -> Admission {
        if self.key.is_some_and(|newest| key < newest || (key == newest && !self.is_open)) {
            return Admission::Older;
        }
        if self.buffer.is_none() {
            return Admission::Waits;
        }
        if self.key.replace(key) == Some(key) {
            return Admission::Continues;
        }
        self.missing.clear();
        self.missing.resize(slices(self.elements_of(key)) as usize, true);
        (self.is_open, self.sums_missing) = (true, true);
        Admission::Opens
    }

    /// The length of this step's gradient: an evaluation has none.
    #[must_use]
    pub fn elements_of(&self, key: StepKey) -> usize {
        if key.phase == Phase::Train { self.elements } else { 0 }
    }

    /// Number of slices in the step.
    #[must_use]
    pub fn slices(&self) -> usize {
        self.missing.len()
    }

    /// The buffer of the step being received.
    pub fn buffer(&mut self) -> Option<&mut B> {
        self.buffer.as_mut()
    }

    /// Marks a slice as received; returns its elements, if there is such a slice.
    pub fn take_slice(&mut self, slice: u32) -> Option<Range<usize>> {
        *self.missing.get_mut(slice as usize)? = false;
        Some(slice_range(slice, self.elements))
    }

    /// Marks the step's sums as received.
    pub fn take_sums(&mut self) {
        self.sums_missing = false;
    }

    /// Returns the step if it is complete.
    pub fn take_whole(&mut self) -> Option<B> {
        let is_whole = self.is_open && !self.sums_missing && !self.missing.contains(&true);
        self.is_open &= !is_whole;
        self.buffer.take_if(|_| is_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ViewId;
    use crate::reduce::SLICE;

    fn key(step: u64) -> StepKey {
        StepKey { view: ViewId(1), step, phase: Phase::Train }
    }

    #[test]
    fn frames_in_any_order_make_a_step_and_the_next_waits_for_the_buffer() {
        let mut assembly = StepAssembly::new(SLICE + 2);
        assert_eq!(assembly.admit(key(1)), Admission::Waits);
        assembly.give("buffer");
        assert_eq!(assembly.admit(key(1)), Admission::Opens);
        assert_eq!(assembly.take_slice(1), Some(SLICE..SLICE + 2));
        assert_eq!(assembly.admit(key(1)), Admission::Continues);
        assembly.take_sums();
        assert_eq!((assembly.take_whole(), assembly.take_slice(2)), (None, None));
        assert_eq!(assembly.take_slice(0), Some(0..SLICE));
        assert_eq!(assembly.take_whole(), Some("buffer"));
        assert_eq!(assembly.admit(key(1)), Admission::Older, "it is whole already");
        assert_eq!(assembly.admit(key(2)), Admission::Waits);
        assembly.give("buffer");
        assert_eq!(assembly.take_whole(), None);
        assert_eq!(assembly.admit(key(2)), Admission::Opens);
    }

    #[test]
    fn a_newer_step_takes_the_buffer_of_one_that_never_became_whole() {
        let mut assembly = StepAssembly::new(2);
        assembly.give("buffer");
        assert_eq!(assembly.admit(key(1)), Admission::Opens);
        assert_eq!(assembly.take_slice(0), Some(0..2));
        assert_eq!(assembly.admit(key(2)), Admission::Opens);
        assembly.take_sums();
        assert_eq!(assembly.take_whole(), None, "the slice was the older step's");
        assert_eq!(assembly.admit(key(1)), Admission::Older);
    }

    #[test]
    fn an_evaluation_has_sums_alone() {
        let mut assembly = StepAssembly::new(2);
        assembly.give("buffer");
        assert_eq!(assembly.admit(StepKey { phase: Phase::Evaluate, ..key(1) }), Admission::Opens);
        assert_eq!((assembly.slices(), assembly.take_whole()), (0, None));
        assembly.take_sums();
        assert_eq!(assembly.take_whole(), Some("buffer"));
    }
}
