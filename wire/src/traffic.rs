//! Byte counters of this process's data plane: whole frames, over all of its connections.

use std::sync::atomic::{AtomicU64, Ordering};

/// A byte counter, for people.
#[derive(Debug)]
pub struct Bytes(AtomicU64);

impl Bytes {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The current count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes of the received frames.
pub static RECEIVED: Bytes = Bytes(AtomicU64::new(0));
/// Bytes of the sent frames.
pub static SENT: Bytes = Bytes(AtomicU64::new(0));
