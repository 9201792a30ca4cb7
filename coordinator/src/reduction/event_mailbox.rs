//! What the data plane tells the driver. The reducer takes inputs from the driver through a bounded queue, in which the
//! driver may have to wait for room; were the way back a queue too, both full ones could wait for each other. So the way
//! back is a mailbox that never blocks: it holds at most one word of each kind for each member, whatever happens while
//! the driver is busy, since the newer takes the older one's place.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::ids::{MemberId, StepKey};
use tokio::sync::Notify;

/// How a member's data connection was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ConnectionLoss {
    /// It broke, or brought something damaged: it may be tried again.
    Broken(String),
    /// It brought what nobody who follows the protocol sends.
    Violation(String),
}

/// All that waits for the driver.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct PendingEvents {
    /// The newest step that a member's part of is at the reducer.
    pub(crate) computed: BTreeMap<MemberId, StepKey>,
    /// Members that the data plane has lost.
    pub(crate) lost: BTreeMap<MemberId, ConnectionLoss>,
}

/// Shared by the reducer's thread, readers and the driver.
#[derive(Default)]
pub(crate) struct EventMailbox {
    pending: Mutex<PendingEvents>,
    arrived: Notify,
}

impl EventMailbox {
    /// A member's part of a step is at the reducer.
    pub(super) fn computed(&self, member: MemberId, key: StepKey) {
        self.lock().computed.insert(member, key);
        self.arrived.notify_one();
    }

    /// A member is lost. That it broke the protocol isn't forgotten over a connection that breaks then.
    pub(super) fn lost(&self, member: MemberId, loss: ConnectionLoss) {
        let mut pending = self.lock();
        if !matches!(pending.lost.get(&member), Some(ConnectionLoss::Violation(_))) {
            pending.lost.insert(member, loss);
        }
        drop(pending);
        self.arrived.notify_one();
    }

    /// Wakes the driver for what it finds elsewhere.
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Returns when there is something to take.
    pub(crate) async fn wait(&self) {
        self.arrived.notified().await;
    }

    /// All that was told since the last time.
    pub(crate) fn take(&self) -> PendingEvents {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, PendingEvents> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::{Phase, ViewId};

    use super::*;

    #[test]
    fn a_driver_that_takes_nothing_for_long_finds_a_word_for_each_member() {
        let mailbox = EventMailbox::default();
        let key = |step| StepKey { view: ViewId(1), step, phase: Phase::Train };
        // It would block here, were it a queue of any length.
        for step in 1..=100_000 {
            mailbox.computed(MemberId(step % 2), key(step));
            mailbox.lost(MemberId(step % 2), ConnectionLoss::Broken(step.to_string()));
        }
        mailbox.lost(MemberId(1), ConnectionLoss::Violation("a lie".to_owned()));
        mailbox.lost(MemberId(1), ConnectionLoss::Broken("closed".to_owned()));
        let pending = mailbox.take();
        assert_eq!(
            pending.computed,
            BTreeMap::from([(MemberId(0), key(100_000)), (MemberId(1), key(99_999))])
        );
        assert_eq!(pending.lost[&MemberId(0)], ConnectionLoss::Broken("100000".to_owned()));
        assert_eq!(pending.lost[&MemberId(1)], ConnectionLoss::Violation("a lie".to_owned()));
        assert_eq!(mailbox.take(), PendingEvents::default());
    }
}
