//! Connections that haven't proven yet that they belong to the run. Each has a thread until it has, so they are bounded.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};

/// So many at once. A member proves itself within milliseconds: whoever is the oldest of so many says nothing.
pub(super) const GREETED_MAX: usize = 64;

/// Those that are being greeted, oldest first.
pub(super) struct PendingHandshakes {
    most: usize,
    waiting: Mutex<VecDeque<(u64, TcpStream)>>,
}

impl PendingHandshakes {
    /// For a port with so many connections, of which three in four are its members'.
    pub(super) fn of(connections_max: usize) -> Self {
        Self { most: (connections_max / 4).clamp(1, GREETED_MAX), waiting: Mutex::default() }
    }

    /// A connection came in. Where there are too many, the oldest is hung up on, which ends its thread: a newcomer that
    /// belongs to the run never waits for those that don't.
    pub(super) fn enter(&self, number: u64, stream: &TcpStream) -> std::io::Result<()> {
        let stream = stream.try_clone()?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back((number, stream));
        while waiting.len() > self.most {
            if let Some((_, oldest)) = waiting.pop_front() {
                // It may be gone already.
                let _ = oldest.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// It has proven itself, or has gone.
    pub(super) fn leave(&self, number: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(own, _)| *own != number);
    }
}
