//! The open connections, and which of them makes room for a new one.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::HangUp;

/// Evicted connections whose tasks haven't ended yet; they end at their next poll.
pub(crate) const LEAVING_MAX: usize = 8;

/// All connections of a port.
pub(crate) struct ConnectionPool {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: usize,
    turns: u64,
    /// Idle connections, whose next request isn't complete yet; the one idle for longest comes first.
    silent: BTreeMap<u64, HangUp>,
}

impl ConnectionPool {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection: returns its slot, and a future that resolves when it must close. `None`: every slot
    /// belongs to a connection that is being answered, which takes a bounded time.
    pub(crate) fn enter(pool: &Arc<Self>) -> Option<(ConnectionSlot, impl Future + Send + use<>)> {
        let mut inner = pool.inner();
        if inner.open >= pool.most {
            if inner.open >= pool.most + LEAVING_MAX {
                return None;
            }
            let (_, longest_silent) = inner.silent.pop_first()?;
            // It may be gone already.
            let _ = longest_silent.send(());
        }
        inner.open += 1;
        let (hang_up, evicted) = oneshot::channel();
        let place = SlotState::Silent(inner.enter(hang_up));
        let evicted = async move {
            if evicted.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        Some((ConnectionSlot { pool: Arc::clone(pool), place: Mutex::new(place) }, evicted))
    }
}

impl Inner {
    fn enter(&mut self, hang_up: HangUp) -> u64 {
        self.turns += 1;
        self.silent.insert(self.turns, hang_up);
        self.turns
    }
}

enum SlotState {
    /// Idle since this turn.
    Silent(u64),
    Answered(HangUp),
    /// It was asked to close.
    Gone,
}

/// A connection's slot in the pool.
pub(crate) struct ConnectionSlot {
    pool: Arc<ConnectionPool>,
    place: Mutex<SlotState>,
}

impl ConnectionSlot {
    fn place(&self) -> MutexGuard<'_, SlotState> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is complete: the connection can't be evicted until it is answered.
    pub(crate) fn on_request(&self) {
        let mut place = self.place();
        if let SlotState::Silent(turn) = *place {
            let hang_up = self.pool.inner().silent.remove(&turn);
            *place = hang_up.map_or(SlotState::Gone, SlotState::Answered);
        }
    }

    /// The response has been sent: the connection waits for its next request.
    pub(crate) fn on_idle(&self) {
        let mut place = self.place();
        *place = match std::mem::replace(&mut *place, SlotState::Gone) {
            SlotState::Answered(hang_up) => SlotState::Silent(self.pool.inner().enter(hang_up)),
            other => other,
        };
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let place = std::mem::replace(&mut *self.place(), SlotState::Gone);
        let mut inner = self.pool.inner();
        inner.open -= 1;
        if let SlotState::Silent(turn) = place {
            inner.silent.remove(&turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_hung_up(future: impl Future) -> bool {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn whoever_is_silent_for_longest_makes_room_and_whoever_is_answered_stays() {
        let pool = Arc::new(ConnectionPool::new(3));
        let enter = || ConnectionPool::enter(&pool);
        let (first, first_hung_up) = enter().expect("room");
        let (second, second_hung_up) = enter().expect("room");
        let (third, third_hung_up) = enter().expect("room");
        first.on_request();
        second.on_request();
        second.on_idle();
        let (fourth, _) = enter().expect("the third makes room");
        assert!(is_hung_up(third_hung_up));
        assert!(!is_hung_up(first_hung_up));
        third.on_request();
        drop(third);
        fourth.on_request();
        drop(fourth);
        let (fifth, _) = enter().expect("the fourth is gone");
        fifth.on_request();
        let (sixth, _) = enter().expect("the second makes room");
        assert!(is_hung_up(second_hung_up));
        sixth.on_request();
        drop(second);
        assert!(enter().is_none(), "all are being answered");
    }
}
