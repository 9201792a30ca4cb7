//! The journal as the machine sees it: one append in flight, in order, retried until it succeeds.

use std::collections::VecDeque;

use super::Output;
use crate::Millis;
use crate::journal::Record;

/// First pause after a failed append; it doubles up to [`RETRY_MS_MAX`].
const RETRY_MS: u64 = 500;
/// Retry at least this often: space may be freed on a full disk.
const RETRY_MS_MAX: u64 = 10_000;
/// A healthy disk takes less time for a record; slower appends are reported.
const OVERDUE_MS: u64 = 5_000;

/// The machine's next action once a record is with the operating system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AfterAppend {
    /// Advance; no output depends on the record.
    Nothing,
    OpenView,
    /// Adopt a commit that the journal had lost.
    Adopt,
    /// Commit the decided step.
    Commit,
    /// Count the checkpoint as durable.
    Version {
        step: u64,
        digest: [u8; 32],
    },
    /// Finish the run.
    End,
}

#[derive(Debug)]
struct QueuedRecord {
    record: Record,
    durable: bool,
    after: AfterAppend,
    /// The decision was abandoned while in flight: a failed append is not retried.
    abandoned: bool,
}

/// The records to be appended.
#[derive(Debug, Default)]
pub(super) struct JournalQueue {
    queue: VecDeque<QueuedRecord>,
    in_flight: bool,
    /// When the append in flight began.
    since: Millis,
    retry_at: Option<Millis>,
    failures: u32,
}

impl JournalQueue {
    /// Queues a record; returns the output that starts its append, if none is in flight.
    pub(super) fn push(
        &mut self,
        now: Millis,
        record: Record,
        durable: bool,
        after: AfterAppend,
    ) -> Option<Output> {
        self.queue.push_back(QueuedRecord { record, durable, after, abandoned: false });
        if self.retry_at.is_some() { None } else { self.start(now) }
    }

    /// The head is written: returns the next action and the next append.
    pub(super) fn written(&mut self, now: Millis) -> (Option<AfterAppend>, Option<Output>) {
        if !self.in_flight {
            return (None, None);
        }
        self.in_flight = false;
        self.failures = 0;
        let after = self.queue.pop_front().map(|entry| entry.after);
        (after, self.start(now))
    }

    /// The head could not be written. Returns how often in a row, or `None` if nothing was in flight.
    pub(super) fn failed(&mut self, now: Millis) -> Option<u32> {
        if !self.in_flight {
            return None;
        }
        self.in_flight = false;
        self.failures = self.failures.saturating_add(1);
        if self.queue.front().is_some_and(|head| head.abandoned) {
            self.queue.pop_front();
        }
        let pause_ms = (RETRY_MS << (self.failures - 1).min(10)).min(RETRY_MS_MAX);
        self.retry_at = Some(now.saturating_add(pause_ms));
        Some(self.failures)
    }

    /// Retries the head when its pause is over.
    pub(super) fn tick(&mut self, now: Millis) -> Option<Output> {
        if self.retry_at.is_none_or(|at| now < at) {
            return None;
        }
        self.retry_at = None;
        self.start(now)
    }

    /// Drops all records that aren't in flight: the run ends. The one in flight may or may not become history.
    pub(super) fn clear(&mut self) {
        self.queue.truncate(usize::from(self.in_flight));
        if let Some(head) = self.queue.front_mut() {
            head.after = AfterAppend::Nothing;
            head.abandoned = true;
        }
        self.retry_at = None;
        self.failures = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn retry_at(&self) -> Option<Millis> {
        self.retry_at
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// When the append in flight becomes overdue.
    pub(super) fn overdue_at(&self) -> Option<Millis> {
        self.in_flight.then(|| self.since.saturating_add(OVERDUE_MS))
    }

    /// Whether the append in flight is overdue: the disk neither takes the record nor refuses it.
    pub(super) fn is_overdue(&self, now: Millis) -> bool {
        self.overdue_at().is_some_and(|at| now >= at)
    }

    fn start(&mut self, now: Millis) -> Option<Output> {
        if self.in_flight {
            return None;
        }
        let head = self.queue.front()?;
        (self.in_flight, self.since) = (true, now);
        Some(Output::Append { record: head.record.clone(), durable: head.durable })
    }
}
