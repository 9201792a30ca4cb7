//! Displayed throughput: steps and samples a second over the last few seconds.

use std::collections::VecDeque;

/// Long enough to be steady, short enough to show a change.
const WINDOW_MS: u64 = 5_000;

/// A sliding window of commits.
#[derive(Default)]
pub(crate) struct ThroughputWindow {
    /// (time in ms, samples of the step)
    commits: VecDeque<(u64, u32)>,
}

impl ThroughputWindow {
    /// A step of `samples` was committed at `now`.
    pub(crate) fn committed(&mut self, now_ms: u64, samples: u32) {
        self.commits.push_back((now_ms, samples));
        while self.commits.len() > 2
            && self.commits.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) > WINDOW_MS)
        {
            self.commits.pop_front();
        }
    }

    /// Samples a second over the window; 0 before the second commit.
    pub(crate) fn samples_per_second(&self) -> f64 {
        let (Some((first, _)), Some((last, _))) = (self.commits.front(), self.commits.back()) else {
            return 0.0;
        };
        // The first commit opens the window: its samples were computed before it.
        let samples: u64 = self.commits.iter().skip(1).map(|(_, samples)| u64::from(*samples)).sum();
        if last > first { samples as f64 * 1000.0 / (last - first) as f64 } else { 0.0 }
    }

    /// Steps a second over the window; 0 before the second commit.
    pub(crate) fn steps_per_second(&self) -> f64 {
        let (Some((first, _)), Some((last, _))) = (self.commits.front(), self.commits.back()) else {
            return 0.0;
        };
        if last > first { (self.commits.len() - 1) as f64 * 1000.0 / (last - first) as f64 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_window() {
        let mut rates = ThroughputWindow::default();
        assert_eq!(rates.samples_per_second(), 0.0);
        rates.committed(0, 64);
        assert_eq!(rates.samples_per_second(), 0.0);
        for step in 1..=100 {
            rates.committed(step * 100, 64);
        }
        assert!((rates.samples_per_second() - 640.0).abs() < 1e-9);
        assert!((rates.steps_per_second() - 10.0).abs() < 1e-9);
    }
}
