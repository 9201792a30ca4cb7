//! Limits for how long a peer may stall a transfer that it has begun.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Bytes that earn one second of budget: a peer that sustains this rate, slow as it is, never runs out.
const BYTES_PER_SECOND: u64 = 16 << 10;

/// A time bucket: waiting drains it, bytes refill it. So neither silence nor an occasional byte can go on for ever.
pub(crate) struct TimeBudget {
    most: Duration,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl TimeBudget {
    pub(crate) fn new(most: Duration) -> Self {
        Self { most, left: most, waiting: None }
    }

    /// Credits bytes that were transferred.
    pub(crate) fn earn(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64);
        self.left = self.left.saturating_add(earned).min(self.most);
    }

    /// Polled while no bytes move: ready once the budget is spent.
    pub(crate) fn poll_spent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let begin = || (Instant::now(), Box::pin(tokio::time::sleep(left)));
        self.waiting.get_or_insert_with(begin).1.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_earn_time_and_no_more_than_there_was_at_first() {
        let mut patience = TimeBudget::new(Duration::from_secs(30));
        patience.left = Duration::from_secs(1);
        patience.earn(32 << 10);
        assert_eq!(patience.left, Duration::from_secs(3));
        patience.earn(100 << 20);
        assert_eq!(patience.left, Duration::from_secs(30));
    }
}
