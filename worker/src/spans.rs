//! Spans of a step's work at this member, for OpenTelemetry.

use std::time::{Duration, SystemTime};

use protocol::ids::{Phase, StepKey};
use protocol::messages::Timings;
use telemetry::traces::{Part, StepId};

use crate::member::Member;

impl Member {
    /// Exports the spans of a reduced step from its measured timings.
    pub(crate) fn trace_reduced(&self, key: StepKey) {
        let Timings { data_us, compute_us, exchange_us, samples, .. } = self.timings;
        let (computing, exchanging) = (micros(data_us) + micros(compute_us), micros(exchange_us));
        let now = SystemTime::now();
        let computed = now.checked_sub(exchanging).unwrap_or(now);
        let numbers =
            vec![("bonfire.samples", i64::from(samples)), ("bonfire.data_wait_us", i64::from(data_us))];
        self.trace(key, Part { name: "compute", end: computed, took: computing, numbers });
        self.trace(key, Part { name: "exchange", end: now, took: exchanging, numbers: Vec::new() });
    }

    /// Exports the span of an applied commit.
    pub(crate) fn trace_applied(&self, key: StepKey) {
        let took = micros(self.apply_us);
        self.trace(key, Part { name: "commit", end: SystemTime::now(), took, numbers: Vec::new() });
    }

    fn trace(&self, key: StepKey, mut part: Part) {
        let Some(spans) = self.metrics.spans.get() else { return };
        let (term, is_evaluation) = ((key.view.0 >> 32) as u32, key.phase == Phase::Evaluate);
        let id = StepId { run: self.welcome.run.0, term, step: key.step, is_evaluation };
        part.numbers.push(("bonfire.step", key.step as i64));
        spans.part(&id, self.transfer.member.0, part);
    }
}

fn micros(micros: u32) -> Duration {
    Duration::from_micros(u64::from(micros))
}
