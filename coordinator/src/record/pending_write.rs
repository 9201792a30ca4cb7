//! When a file that is kept up to date is written again: soon after something new, and not too often.

use std::time::{Duration, Instant};

/// run.json is written whole, and synced: a run that loses and finds members all the time must not wait for it.
const EVERY: Duration = Duration::from_secs(1);

/// Whether something new waits to be written.
#[derive(Debug, Default)]
pub(crate) struct PendingWrite {
    is_new: bool,
    written: Option<Instant>,
}

impl PendingWrite {
    /// There is something new.
    pub(crate) fn mark(&mut self) {
        self.is_new = true;
    }

    /// It was written.
    pub(crate) fn written(&mut self, now: Instant) {
        *self = Self { is_new: false, written: Some(now) };
    }

    /// It should be written now.
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
