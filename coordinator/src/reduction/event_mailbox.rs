//! Events from the data plane to the driver. The reducer takes inputs from the driver through a bounded queue, on
//! which the driver may block; if events came back through a queue too, both full queues could deadlock. So they come
//! back through a mailbox that never blocks: it holds at most one event of each kind for each member, however long
//! the driver is busy, since a newer event replaces the older one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::ids::{MemberId, StepKey};
use tokio::sync::Notify;

/// How a member's data connection was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ConnectionLoss {
    /// It broke, or delivered damaged data: it may be retried.
    Broken(String),
    /// The member violated the protocol.
    Violation(String),
}

/// Events that the driver has not taken yet.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct PendingEvents {
    /// The newest step for which the reducer has the member's part.
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
    /// Records that the reducer has a member's part of a step.
    pub(super) fn computed(&self, member: MemberId, key: StepKey) {
        self.lock().computed.insert(member, key);
        self.arrived.notify_one();
    }

    /// Records a lost member. A broken connection doesn't replace an earlier protocol violation.
    pub(super) fn lost(&self, member: MemberId, loss: ConnectionLoss) {
        let mut pending = self.lock();
        if !matches!(pending.lost.get(&member), Some(ConnectionLoss::Violation(_))) {
            pending.lost.insert(member, loss);
        }
        drop(pending);
        self.arrived.notify_one();
    }

    /// Wakes the driver for state outside the mailbox.
    pub(super) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Returns when there are events to take.
    pub(crate) async fn wait(&self) {
        self.arrived.notified().await;
    }

    /// Takes all events since the last call.
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
        // A queue of any length would block here.
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
