//! OpenTelemetry spans: one for each step.

use std::time::{Instant, SystemTime};

use protocol::coordinator::Committed;
use protocol::ids::{Phase, RunId};
use telemetry::traces::{Part, Spans, StepId};

use crate::run::prepare::StartError;

/// The span exporter, and the start of the step in flight.
pub(crate) struct StepSpans {
    spans: Spans,
    run: RunId,
    since: Instant,
}

impl StepSpans {
    /// Starts exporting to the collector at `telemetry.otlp`, if set.
    pub(crate) fn start(endpoint: &str, run: RunId, name: &str) -> Result<Option<Self>, StartError> {
        if endpoint.is_empty() {
            return Ok(None);
        }
        let about = [("bonfire.run", name.to_owned())];
        let spans = Spans::start(endpoint, "bonfire-coordinator", &about).map_err(StartError::config)?;
        Ok(Some(Self { spans, run, since: Instant::now() }))
    }

    /// The span queue, to flush at the end.
    pub(crate) fn queue(&self) -> Spans {
        self.spans.clone()
    }

    /// A view opened: its first step begins.
    pub(crate) fn view(&mut self) {
        self.since = Instant::now();
    }

    /// Records the span of a committed step, which began with the previous commit.
    pub(crate) fn committed(&mut self, committed: &Committed) {
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(&mut self.since, now));
        let key = committed.key;
        let is_evaluation = key.phase == Phase::Evaluate;
        let id = StepId { run: self.run.0, term: (key.view.0 >> 32) as u32, step: key.step, is_evaluation };
        let numbers = vec![
            ("bonfire.step", key.step as i64),
            ("bonfire.samples", i64::from(committed.batch)),
            ("bonfire.members", committed.timings.len() as i64),
        ];
        let name = if is_evaluation { "evaluate" } else { "step" };
        self.spans.step(&id, Part { name, end: SystemTime::now(), took, numbers });
    }
}
