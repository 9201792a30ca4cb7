//! Connections that have not yet authenticated. Each occupies a thread until it has, so their number is bounded.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};

/// Maximum number of such connections. A member authenticates within milliseconds, so the oldest of so many is idle.
pub(super) const GREETED_MAX: usize = 64;

/// Connections in the handshake, oldest first.
pub(super) struct PendingHandshakes {
    most: usize,
    waiting: Mutex<VecDeque<(u64, TcpStream)>>,
}

impl PendingHandshakes {
    /// For a port with this many connections, of which three in four are reserved for members.
    pub(super) fn of(connections_max: usize) -> Self {
        Self { most: (connections_max / 4).clamp(1, GREETED_MAX), waiting: Mutex::default() }
    }

    /// Adds a connection. If there are too many, the oldest is shut down, which ends its thread: a new member never
    /// waits for unauthenticated clients.
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

    /// The connection has authenticated, or is gone.
    pub(super) fn leave(&self, number: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(own, _)| *own != number);
    }
}
