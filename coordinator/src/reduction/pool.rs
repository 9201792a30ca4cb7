//! Buffers that circulate between readers, the reducer and writers.

use crate::sync::{Mutex, MutexGuard, PoisonError};

/// A pool of free slice buffers. It keeps as many as the step in flight can use and frees the rest, so that neither a
/// counting error nor a formerly larger view retains memory for good.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    buffers: Vec<Vec<f32>>,
    count_max: usize,
}

impl Pool {
    /// A buffer of this length with unspecified contents.
    pub(super) fn take(&self, length: usize) -> Vec<f32> {
        let mut buffer = self.lock().buffers.pop().unwrap_or_default();
        buffer.resize(length, 0.0);
        buffer
    }

    pub(super) fn give(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        let mut state = self.lock();
        let room = state.count_max.saturating_sub(state.buffers.len());
        state.buffers.extend(buffers.into_iter().filter(|buffer| buffer.capacity() > 0).take(room));
    }

    /// Limits the number of free buffers from now on.
    pub(super) fn bound(&self, count_max: usize) {
        let mut state = self.lock();
        state.count_max = count_max;
        state.buffers.truncate(count_max);
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn resting(&self) -> usize {
        self.lock().buffers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_step_can_use_is_freed() {
        let pool = Pool::default();
        pool.bound(3);
        pool.give((0..5).map(|_| vec![1.0; 8]));
        assert_eq!(pool.resting(), 3);
        assert_eq!(pool.take(4).len(), 4);
        assert_eq!(pool.take(8).len(), 8);
        assert_eq!(pool.resting(), 1);
        pool.give([vec![1.0; 8], Vec::new()]);
        assert_eq!(pool.resting(), 2, "a buffer that holds nothing is none");
        pool.bound(1);
        assert_eq!(pool.resting(), 1);
    }
}
