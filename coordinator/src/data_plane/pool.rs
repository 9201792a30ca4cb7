//! Buffers that go round between readers, the reducer and writers.

use std::sync::{Mutex, PoisonError};

/// Buffers of slices at rest.
#[derive(Default)]
pub(super) struct Pool {
    buffers: Mutex<Vec<Vec<f32>>>,
}

impl Pool {
    pub(super) fn take(&self, length: usize) -> Vec<f32> {
        let mut buffer =
            self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(length, 0.0);
        buffer
    }

    pub(super) fn give(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).extend(buffers);
    }
}
