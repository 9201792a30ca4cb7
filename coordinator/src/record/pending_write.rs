//! Debounces writes of a file: soon after a change, but not too often.

use std::time::{Duration, Instant};

/// run.json is written whole and synced: a run with frequent membership changes must not wait for it each time.
const EVERY: Duration = Duration::from_secs(1);

/// Tracks unwritten changes and the time of the last write.
#[derive(Debug, Default)]
pub(crate) struct PendingWrite {
    is_new: bool,
    written: Option<Instant>,
}

impl PendingWrite {
    /// Marks the file as out of date.
    pub(crate) fn mark(&mut self) {
        self.is_new = true;
    }

    /// Records a write.
    pub(crate) fn written(&mut self, now: Instant) {
        *self = Self { is_new: false, written: Some(now) };
    }

    /// Whether a write is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.is_new && self.written.is_none_or(|written| now.duration_since(written) >= EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_written_once_and_not_too_soon_after_the_last_time() {
        let begun = Instant::now();
        let mut due = PendingWrite::default();
        assert!(!due.is_due(begun), "nothing is new");
        due.mark();
        assert!(due.is_due(begun), "the first is written at once");
        due.written(begun);
        assert!(!due.is_due(begun + 2 * EVERY), "nothing is new");
        due.mark();
        assert!(!due.is_due(begun + EVERY / 2));
        assert!(due.is_due(begun + EVERY));
    }
}
