//! Bytes of this process's data plane: of whole frames, over all of its connections.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count of bytes, for people to look at.
#[derive(Debug)]
pub struct Bytes(AtomicU64);

impl Bytes {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes of the frames that came.
pub static RECEIVED: Bytes = Bytes(AtomicU64::new(0));
/// Bytes of the frames that went out.
pub static SENT: Bytes = Bytes(AtomicU64::new(0));
