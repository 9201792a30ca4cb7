//! What takes its time before it is known what it cost: waiting, coming back to where history was, starting again.

use std::time::{Duration, Instant};

use run_record::EventRecord;
use serde_json::json;
use tracing::info;

use super::Recorder;
use super::events::SHORT_HOLD_MS;
use crate::clock::unix_seconds;

/// An event in run.json that isn't over.
struct OngoingEvent {
    event: &'static str,
    /// Its event's time, by which that is found again.
    time: f64,
    since: Instant,
}

/// Those of this process.
#[derive(Default)]
pub(super) struct OngoingEvents {
    /// The run waits.
    waiting: Option<OngoingEvent>,
    /// Until this step is reached again, a rewind is being paid for.
    rewind: Option<(u64, OngoingEvent)>,
    /// Until the first view, a restart is.
    restart: Option<OngoingEvent>,
}

impl OngoingEvents {
    /// For how long the run has waited.
    pub(super) fn waiting_seconds(&self) -> Option<f64> {
        self.waiting.as_ref().map(|ongoing_event| ongoing_event.since.elapsed().as_secs_f64())
    }
}

impl Recorder {
    /// Another coordinator worked on this run before.
    pub(crate) fn starts_again(&mut self, began: Instant) {
        let text = format!("the coordinator was started again (term {})", self.info.term);
        self.ongoing.restart = Some(self.begin("restart", &text, began));
    }

    /// What the run waits for now; nothing where that is empty. A step that waits has done so for a while already.
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
            // Of no interest to anybody, and there would be one for each worker that comes.
            let time = ongoing_event.time;
            self.record.events.retain(|event| event.event != "waiting" || event.time != time);
        }
    }

    /// What was done after the state that history went back to is to be done again.
    pub(super) fn rewound(&mut self, from_step: u64) {
        let Some(time) = self.record.events.last().map(|event| event.time) else { return };
        // Another one before that was made up for: both are paid for together.
        let reach = self.ongoing.rewind.take().map_or(from_step, |(reach, _)| reach.max(from_step));
        self.ongoing.rewind = Some((reach, OngoingEvent { event: "rewind", time, since: Instant::now() }));
    }

    /// A step was committed: it may be the one from which history had gone back.
    pub(super) fn reached(&mut self, step: u64) {
        let Some((reach, ongoing_event)) = self.ongoing.rewind.take_if(|(reach, _)| step >= *reach) else {
            return;
        };
        self.end(&ongoing_event);
        let seconds = ongoing_event.since.elapsed().as_secs_f64();
        let text = format!("step {reach} is reached again, {seconds:.1} s after history went back");
        self.display.event("reached", &text, &json!({ "cost_ms": seconds * 1_000.0 }));
    }

    /// A view opened: a coordinator that started again has its run going again.
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
