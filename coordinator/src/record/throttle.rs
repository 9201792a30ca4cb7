//! Rate limit for log lines that outsiders can cause at will, so that they can't fill the log.

use std::time::{Duration, Instant};

/// Burst size in lines: enough for a misconfigured cluster to show all that is wrong.
const BURST: u32 = 20;
/// Interval of further lines after a burst: twelve hundred an hour.
const EVERY: Duration = Duration::from_secs(3);

/// A token bucket of lines.
pub(super) struct Throttle {
    left: u32,
    refilled: Instant,
    left_out: u64,
}

impl Throttle {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, refilled: now, left_out: 0 }
    }

    /// `Some` if a line may be shown, with the number of lines dropped before it.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let fresh = now.saturating_duration_since(self.refilled).as_millis() / EVERY.as_millis();
        let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(fresh).min(BURST);
        self.refilled = if self.left == BURST { now } else { self.refilled + EVERY * fresh };
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_burst_and_then_a_line_now_and_then() {
        let began = Instant::now();
        let mut throttle = Throttle::new(began);
        let shown = |throttle: &mut Throttle, at: Duration| throttle.take(began + at);
        let first = (0..1_000).filter(|_| shown(&mut throttle, Duration::ZERO) == Some(0)).count();
        assert_eq!(first, BURST as usize);
        assert_eq!(shown(&mut throttle, EVERY), Some(980), "those that were left out are counted");
        assert_eq!(shown(&mut throttle, EVERY), None);
        assert_eq!(shown(&mut throttle, EVERY * 2), Some(1));
        let later = (0..1_000).filter(|_| shown(&mut throttle, EVERY * 10_000).is_some()).count();
        assert_eq!(later, BURST as usize);
    }
}
