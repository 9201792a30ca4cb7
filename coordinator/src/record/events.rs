//! Records and shows the events of the run and its members.

use std::time::Instant;

use protocol::coordinator::RunEvent;
use protocol::ids::MemberId;
use run_record::{EventRecord, MemberRecord, RunRecord};
use serde_json::{Value, json};
use tracing::{info, warn};
use wire::convert::cut;

use super::Recorder;
use crate::clock::unix_seconds;

/// Shorter holds are not displayed, and shorter waits are not kept in run.json.
pub(super) const SHORT_HOLD_MS: u64 = 100;
/// Event kinds that are merged: an event equal to one of the last [`REPEATED_AMONG`] only increments its count, so that
/// two that alternate take two lines.
const REPEATED: [&str; 2] = ["refused", "warning"];
const REPEATED_AMONG: usize = 64;
/// Maximum number of events in run.json, which keeps the newest.
const EVENTS_MAX: usize = 1_000;
/// Maximum length of an event's text in bytes: a file with a thousand of them is still written in a moment.
const EVENT_BYTES_MAX: usize = 2 << 10;
/// Maximum number of events of each kind that outsiders can cause at will, so that they can't push out the run's own
/// history.
const REPEATED_MAX: usize = 100;

impl Recorder {
    pub(crate) fn note(&mut self, note: &RunEvent) {
        self.metadata.metrics.note(note);
        match note {
            RunEvent::Joined { member, join } => {
                info!(name = join.name, device = join.device, "joined");
                let record = MemberRecord {
                    name: join.name.clone(),
                    device: join.device.clone(),
                    fingerprint: hex::encode(join.fingerprint),
                    joined_step: self.progress.step,
                    left_step: None,
                    reason: None,
                    machine: self.metadata.joined(join),
                };
                let RunRecord { members, members_left_out, .. } = &mut self.record;
                self.members.join(members, members_left_out, *member, record);
                let text = format!("{} joined on {}", join.name, join.device);
                self.display.event("joined", &text, &json!({ "name": join.name, "device": join.device }));
                self.keep_event("joined", &text, None);
            }
            RunEvent::Refused { name, failure } => {
                let text = format!("{name} was refused: {}", failure.message);
                self.show_refusal("refused", &text, &json!({ "name": name }));
                self.keep_event("refused", &text, None);
            }
            RunEvent::Left { member, step, reason } => self.left(*member, *step, reason),
            RunEvent::ViewOpened { view, reason } => {
                info!(view = format!("{:#x}", view.0), reason, "view opened");
                self.happened("view", reason, None);
            }
            RunEvent::Retry { step, reason, lost_ms } => {
                self.record.retries += 1;
                self.happened("retry", &format!("step {step} is tried again: {reason}"), Some(*lost_ms));
            }
            RunEvent::Rewound { from_step, to_step, reason } => {
                let text = format!("back from step {from_step} to state {to_step}: {reason}");
                self.happened("rewind", &text, None);
                self.rewound(*from_step);
            }
            RunEvent::Held { step, held_ms } => {
                let text = format!("held still for {held_ms} ms after step {step}");
                self.happened("hold", &text, Some(*held_ms));
            }
            RunEvent::Waiting { reason, late_ms } => self.waits_for(reason, *late_ms),
            RunEvent::Warning { message } => self.warning(message),
            RunEvent::Version { step, digest } => info!(step, digest = hex::encode(digest), "version"),
        }
        self.write_if_due();
    }

    /// Records and shows a warning; the run continues.
    pub(crate) fn warning(&mut self, message: &str) {
        warn!(message);
        self.display.event("warning", &format!("warning: {message}"), &json!({}));
        self.keep_event("warning", message, None);
    }

    /// Records that clients claiming to be a member were refused `count` times.
    pub(crate) fn refused(&mut self, text: &str, count: u64) {
        self.show_refusal("warning", &format!("warning: {text}"), &json!({ "count": count }));
        let record = EventRecord { repeated: count.saturating_sub(1), ..self.event("warning", text) };
        self.run_json_write.mark();
        keep(&mut self.record.events, record);
    }

    fn show_refusal(&mut self, event: &str, text: &str, details: &Value) {
        let Some(left_out) = self.refusals.take(Instant::now()) else { return };
        warn!("{text}");
        self.display.event(event, text, details);
        if left_out > 0 {
            self.line(&format!("{left_out} refusals before this one are not shown; run.json counts them"));
        }
    }

    fn left(&mut self, member: MemberId, step: u64, reason: &str) {
        let known = self.members.line(member).and_then(|line| self.record.members.get_mut(line));
        let name = known.map_or_else(
            || format!("{:#x}", member.0),
            |m| {
                m.left_step = Some(step);
                m.reason = Some(cut(reason.to_owned(), EVENT_BYTES_MAX));
                m.name.clone()
            },
        );
        info!(name, step, reason, "left");
        self.happened("left", &format!("{name} left after step {step}: {reason}"), None);
    }

    /// Shows a membership event and records it in run.json with its cost in time.
    fn happened(&mut self, event: &str, text: &str, cost_ms: Option<u64>) {
        info!(event, text, cost_ms);
        // The first view is expected.
        let is_short = event == "hold" && cost_ms.is_some_and(|ms| ms < SHORT_HOLD_MS);
        if !is_short && (event != "view" || self.record.views > 1) {
            self.display.event(event, text, &json!({ "cost_ms": cost_ms }));
        }
        self.keep_event(event, text, cost_ms);
    }

    /// Records an event for run.json.
    pub(super) fn keep_event(&mut self, event: &str, text: &str, cost_ms: Option<u64>) {
        let cost_seconds = cost_ms.map(|ms| ms as f64 / 1_000.0);
        if let Some(seconds) = cost_seconds {
            self.add_cost(event, seconds);
        }
        let record = EventRecord { cost_seconds, ..self.event(event, text) };
        self.run_json_write.mark();
        keep(&mut self.record.events, record);
    }

    fn event(&self, event: &str, text: &str) -> EventRecord {
        EventRecord {
            time: unix_seconds(),
            step: self.progress.step,
            event: event.to_owned(),
            text: cut(text.to_owned(), EVENT_BYTES_MAX),
            cost_seconds: None,
            repeated: 0,
        }
    }

    pub(super) fn add_cost(&mut self, event: &str, seconds: f64) {
        *self.record.timings.entry(format!("{event}_seconds")).or_default() += seconds;
    }
}

/// Adds an event; drops the oldest ones and merges repeated ones.
fn keep(events: &mut Vec<EventRecord>, mut record: EventRecord) {
    if REPEATED.contains(&&*record.event) {
        let first = events.len().saturating_sub(REPEATED_AMONG);
        let same = |old: &EventRecord| (&old.event, &old.text) == (&record.event, &record.text);
        if let Some(at) = events[first..].iter().position(same) {
            // The merged event becomes the newest; its step stays that of the first occurrence.
            let old = events.remove(first + at);
            record.step = old.step;
            record.repeated = record.repeated.saturating_add(old.repeated).saturating_add(1);
        }
        let alike = events.iter().filter(|old| old.event == record.event).count();
        if alike >= REPEATED_MAX
            && let Some(oldest) = events.iter().position(|old| old.event == record.event)
        {
            events.remove(oldest);
        }
    }
    events.push(record);
    let surplus = events.len().saturating_sub(EVENTS_MAX);
    events.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: &str, text: &str) -> EventRecord {
        let (event, text) = (event.to_owned(), text.to_owned());
        EventRecord { time: 0.0, step: 1, event, text, cost_seconds: None, repeated: 0 }
    }

    #[test]
    fn what_repeats_is_counted_and_outsiders_push_nothing_out() {
        let mut events = Vec::new();
        keep(&mut events, event("view", "the first"));
        for _ in 0..500 {
            keep(&mut events, event("refused", "a"));
            keep(&mut events, event("refused", "b"));
        }
        assert_eq!(events.iter().map(|event| event.repeated).collect::<Vec<_>>(), [0, 499, 499]);
        for number in 0..5_000 {
            keep(&mut events, event("refused", &number.to_string()));
            keep(&mut events, event("warning", &number.to_string()));
        }
        assert_eq!(events.len(), 1 + 2 * REPEATED_MAX);
        assert_eq!((&*events[0].text, &*events[200].text), ("the first", "4999"));
        for number in 0..5_000 {
            keep(&mut events, event("view", &number.to_string()));
        }
        assert_eq!(events.len(), EVENTS_MAX);
    }
}
