//! The share of the members' step time that is spent waiting for samples.

use protocol::messages::Timings;

/// Time constant of the displayed share: a step's weight falls to about a third after this many steps.
const STEPS: f64 = 100.0;

/// Sums of data wait and of total step time, over the members that took part.
#[derive(Default)]
pub(crate) struct DataWait {
    /// Seconds of data wait and of all step time, as decaying sums.
    lately: [f64; 2],
}

impl DataWait {
    /// Adds a committed step; returns the seconds that its members waited for data, and all seconds that they spent on
    /// it.
    pub(crate) fn committed<'a>(&mut self, timings: impl Iterator<Item = &'a Timings>) -> [f64; 2] {
        let mut step = [0.0; 2];
        for Timings { data_us, compute_us, exchange_us, apply_us, snapshot_us, samples } in timings {
            // A member without samples only waits for the others.
            if *samples > 0 {
                let all = [*data_us, *compute_us, *exchange_us, *apply_us, *snapshot_us]
                    .map(|part| f64::from(part) / 1e6);
                step = [step[0] + all[0], step[1] + all.iter().sum::<f64>()];
            }
        }
        for (sum, new) in self.lately.iter_mut().zip(step) {
            *sum = *sum * (1.0 - 1.0 / STEPS) + new;
        }
        step
    }

    /// The share of recent step time that was spent waiting for data, 0 to 1; `None` before the first step.
    pub(crate) fn share(&self) -> Option<f64> {
        let [waited, all] = self.lately;
        (all > 0.0).then(|| waited / all)
    }
}

/// For display: `data wait 0.3 %`; empty if unknown.
pub(crate) fn shown(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("  data wait {:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_all_members_that_computed() {
        let timings = |data_us, samples| Timings {
            data_us,
            compute_us: 600,
            exchange_us: 200,
            apply_us: 100,
            samples,
            ..Timings::default()
        };
        let mut wait = DataWait::default();
        assert_eq!((wait.share(), shown(wait.share())), (None, String::new()));
        let idle = timings(0, 0);
        let [waited, all] = wait.committed([timings(100, 4), timings(300, 4), idle].iter());
        assert!((waited - 0.0004).abs() < 1e-12 && (all - 0.0022).abs() < 1e-12);
        assert_eq!(shown(wait.share()), "  data wait 18.2 %");
        for _ in 0..2_000 {
            wait.committed([timings(0, 4)].iter());
        }
        assert_eq!(shown(wait.share()), "  data wait 0.0 %", "what is long past is forgotten");
    }
}
