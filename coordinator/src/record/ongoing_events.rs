//! Events whose cost is known only when they end: waiting, rewinds, restarts.

use std::time::{Duration, Instant};

use run_record::EventRecord;
use serde_json::json;
use tracing::info;

use super::Recorder;
use super::events::SHORT_HOLD_MS;
use crate::clock::unix_seconds;

/// An unfinished event in run.json.
struct OngoingEvent {
    event: &'static str,
    /// The time of its event record, which identifies it.
    time: f64,
    since: Instant,
}

/// The unfinished events of this process.
#[derive(Default)]
pub(super) struct OngoingEvents {
    waiting: Option<OngoingEvent>,
    /// A rewind is ongoing until this step is reached again.
    rewind: Option<(u64, OngoingEvent)>,
    /// A restart is ongoing until the first view.
    restart: Option<OngoingEvent>,
}

impl OngoingEvents {
    /// How long the run has been waiting.
    pub(super) fn waiting_seconds(&self) -> Option<f64> {
        self.waiting.as_ref().map(|ongoing_event| ongoing_event.since.elapsed().as_secs_f64())
    }
}

impl Recorder {
    /// Records a restart: an earlier coordinator worked on this run.
    pub(crate) fn starts_again(&mut self, began: Instant) {
        let text = format!("the coordinator was started again (term {})", self.info.term);
        self.ongoing.restart = Some(self.begin("restart", &text, began));
    }

    /// Sets what the run waits for; an empty reason means that it runs. A slow step has been waiting for `late_ms`
    /// already.
    pub(super) fn waits_for(&mut self, reason: &str, late_ms: Option<u64>) {
        self.waiting_for = reason.to_owned();
        self.waits_in_step = late_ms.is_some();
        if reason.is_empty() {
            return self.waits_no_more();
        }
        info!(reason, "waiting");
        let text = format!("waiting for {reason}");
        if self.says_what_it_waits_for || self.waits_in_step {
            self.display.event("waiting", &text, &json!({}));
        }
        let ongoing_event = match self.ongoing.waiting.take() {
            None => {
                let late = Duration::from_millis(late_ms.unwrap_or(0));
                let since = Instant::now();
                self.begin("waiting", &text, since.checked_sub(late).unwrap_or(since))
            }
            Some(ongoing_event) => {
                if let Some(event) = self.event_of(&ongoing_event) {
                    event.text = text;
                }
                ongoing_event
            }
        };
        self.ongoing.waiting = Some(ongoing_event);
        self.run_json_write.mark();
    }

    fn waits_no_more(&mut self) {
        let Some(ongoing_event) = self.ongoing.waiting.take() else { return };
        if ongoing_event.since.elapsed().as_millis() >= u128::from(SHORT_HOLD_MS) {
            self.end(&ongoing_event);
        } else {
            // Short waits are noise: there would be one for each worker that joins.
            let time = ongoing_event.time;
            self.record.events.retain(|event| event.event != "waiting" || event.time != time);
        }
    }

    /// Records a rewind: steps up to `from_step` must be repeated.
    pub(super) fn rewound(&mut self, from_step: u64) {
        let Some(time) = self.record.events.last().map(|event| event.time) else { return };
        // If an earlier rewind has not been made up for yet, the costs of both are counted together.
        let reach = self.ongoing.rewind.take().map_or(from_step, |(reach, _)| reach.max(from_step));
        self.ongoing.rewind = Some((reach, OngoingEvent { event: "rewind", time, since: Instant::now() }));
    }

    /// Ends a rewind when its step is committed again.
    pub(super) fn reached(&mut self, step: u64) {
        let Some((reach, ongoing_event)) = self.ongoing.rewind.take_if(|(reach, _)| step >= *reach) else {
            return;
        };
        self.end(&ongoing_event);
        let seconds = ongoing_event.since.elapsed().as_secs_f64();
        let text = format!("step {reach} is reached again, {seconds:.1} s after history went back");
        self.display.event("reached", &text, &json!({ "cost_ms": seconds * 1_000.0 }));
    }

    /// Ends a restart: the first view has opened.
    pub(super) fn goes_on(&mut self) {
        if let Some(ongoing_event) = self.ongoing.restart.take() {
            self.end(&ongoing_event);
        }
    }

    fn begin(&mut self, event: &'static str, text: &str, since: Instant) -> OngoingEvent {
        self.keep_event(event, text, None);
        let time = self.record.events.last().map_or_else(unix_seconds, |event| event.time);
        OngoingEvent { event, time, since }
    }

    fn event_of(&mut self, ongoing_event: &OngoingEvent) -> Option<&mut EventRecord> {
        let mut events = self.record.events.iter_mut().rev();
        events.find(|event| event.event == ongoing_event.event && event.time == ongoing_event.time)
    }

    fn end(&mut self, ongoing_event: &OngoingEvent) {
        let seconds = ongoing_event.since.elapsed().as_secs_f64();
        self.add_cost(ongoing_event.event, seconds);
        if let Some(event) = self.event_of(ongoing_event) {
            event.cost_seconds = Some(seconds);
        }
        self.run_json_write.mark();
    }
}
