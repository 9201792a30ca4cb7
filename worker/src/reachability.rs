//! Checks that the data plane can be reached: a worker that can't reach it, for instance behind a firewall, must not
//! enter a view and block the others. Attempts are separated by growing pauses, in which the compute thread receives
//! commands: a restarted coordinator has another port.

use std::time::{Duration, Instant};

use protocol::messages::Failure;

use crate::failure::fail;

/// The first pause after an attempt; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Maximum number of attempts, over about five minutes.
const ATTEMPTS: u32 = 10;

/// Attempts in progress.
pub(crate) struct ReachabilityCheck {
    failures: u32,
    next_at: Instant,
}

impl ReachabilityCheck {
    /// Starts a check whose first attempt is due now.
    pub(crate) fn begin() -> Self {
        Self { failures: 0, next_at: Instant::now() }
    }

    /// Time until the next attempt.
    pub(crate) fn pause(&self) -> Duration {
        self.next_at.saturating_duration_since(Instant::now())
    }

    /// Records an attempt; returns whether the data plane is reachable.
    ///
    /// # Errors
    /// When this was the last attempt.
    pub(crate) fn settle(&mut self, attempt: Result<(), String>) -> Result<bool, Failure> {
        let Err(what) = attempt else { return Ok(true) };
        self.failures += 1;
        if self.failures == ATTEMPTS {
            let way_out = "that port must be open to this machine, as the control port is";
            return Err(fail(4, format!("{what}; {way_out} ({ATTEMPTS} attempts)")));
        }
        let pause = (PAUSE * 2u32.pow(self.failures - 1)).min(PAUSE_MAX);
        tracing::warn!("{what}; trying again in {} s", pause.as_secs());
        self.next_at = Instant::now() + pause;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_ten_times_with_pauses_that_grow_to_a_minute() {
        let mut proof = ReachabilityCheck::begin();
        assert_eq!(proof.pause(), Duration::ZERO);
        let mut pauses = Vec::new();
        let failure = loop {
            match proof.settle(Err("no answer".to_owned())) {
                Ok(proven) => assert!(!proven),
                Err(failure) => break failure,
            }
            pauses.push(proof.pause().as_secs_f64().round() as u64);
        };
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(failure.code == 4 && failure.message.contains("must be open"), "{}", failure.message);
        assert!(ReachabilityCheck::begin().settle(Ok(())).expect("proven"));
    }
}
