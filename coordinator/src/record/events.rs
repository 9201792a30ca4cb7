//! What happens to the run and its members.

use protocol::coordinator::Note;
use protocol::ids::MemberId;
use serde_json::json;
use tracing::{info, warn};
use tracker::{EventRecord, MemberRecord, RunRecord};

use super::{Recorder, unix_seconds};
use crate::driver::hex;

/// A run that held still or waited for less is nothing that people must know at once.
pub(super) const SHORT_HOLD_MS: u64 = 100;
/// Kinds of events that take one line, however often the very same happens in a row.
const REPEATED: [&str; 2] = ["refused", "warning"];
/// Events that run.json keeps: the newest.
const EVENTS_MAX: usize = 1_000;

impl Recorder {
    /// Something happened.
    pub(crate) fn note(&mut self, note: &Note) {
        self.beside.figures.note(note);
        match note {
            Note::Joined { member, join } => {
                info!(name = join.name, device = join.device, "joined");
                let record = MemberRecord {
                    name: join.name.clone(),
                    device: join.device.clone(),
                    fingerprint: hex(&join.fingerprint),
                    joined_step: self.progress.step,
                    left_step: None,
                    reason: None,
                    machine: self.beside.joined(join),
                };
                let RunRecord { members, members_left_out, .. } = &mut self.record;
                self.members.join(members, members_left_out, *member, record);
                let text = format!("{} joined on {}", join.name, join.device);
                self.display.event("joined", &text, &json!({ "name": join.name, "device": join.device }));
                self.keep_event("joined", &text, None);
            }
            Note::Refused { name, failure } => {
                warn!(name, failure.message, "refused");
                let text = format!("{name} was refused: {}", failure.message);
                self.display.event("refused", &text, &json!({ "name": name }));
                self.keep_event("refused", &text, None);
            }
            Note::Left { member, step, reason } => self.left(*member, *step, reason),
            Note::ViewOpened { view, reason } => {
                info!(view = format!("{:#x}", view.0), reason, "view opened");
                self.happened("view", reason, None);
            }
            Note::Retry { step, reason, lost_ms } => {
                self.record.retries += 1;
                self.happened("retry", &format!("step {step} is tried again: {reason}"), Some(*lost_ms));
            }
            Note::Rewound { from_step, to_step, reason } => {
                let text = format!("back from step {from_step} to state {to_step}: {reason}");
                self.happened("rewind", &text, None);
                self.rewound(*from_step);
            }
            Note::Held { step, held_ms } => {
                let text = format!("held still for {held_ms} ms after step {step}");
                self.happened("hold", &text, Some(*held_ms));
            }
            Note::Waiting { reason, late_ms } => self.waits_for(reason, *late_ms),
            Note::Warning { message } => self.warning(message),
            Note::Version { step, digest } => info!(step, digest = hex(digest), "version"),
        }
        self.write_if_due();
    }

    /// Something that people should know, and that the run goes on with.
    pub(super) fn warning(&mut self, message: &str) {
        warn!(message);
        self.display.event("warning", &format!("warning: {message}"), &json!({}));
        self.keep_event("warning", message, None);
    }

    fn left(&mut self, member: MemberId, step: u64, reason: &str) {
        let known = self.members.line(member).and_then(|line| self.record.members.get_mut(line));
        let name = known.map_or_else(
            || format!("{:#x}", member.0),
            |m| {
                m.left_step = Some(step);
                m.reason = Some(reason.to_owned());
                m.name.clone()
            },
        );
        info!(name, step, reason, "left");
        self.happened("left", &format!("{name} left after step {step}: {reason}"), None);
    }

    /// Something that changed who works on what: for people, and kept in run.json with the time that it cost.
    fn happened(&mut self, event: &str, text: &str, cost_ms: Option<u64>) {
        info!(event, text, cost_ms);
        // The first view is what everybody expects.
        let is_short = event == "hold" && cost_ms.is_some_and(|ms| ms < SHORT_HOLD_MS);
        if !is_short && (event != "view" || self.record.views > 1) {
            self.display.event(event, text, &json!({ "cost_ms": cost_ms }));
        }
        self.keep_event(event, text, cost_ms);
    }

    /// For run.json.
    pub(super) fn keep_event(&mut self, event: &str, text: &str, cost_ms: Option<u64>) {
        let cost_seconds = cost_ms.map(|ms| ms as f64 / 1_000.0);
        if let Some(seconds) = cost_seconds {
            self.add_cost(event, seconds);
        }
        self.due.mark();
        let events = &mut self.record.events;
        if let Some(last) = events.last_mut().filter(|last| (&*last.event, &*last.text) == (event, text))
            && REPEATED.contains(&event)
        {
            last.repeated += 1;
            last.time = unix_seconds();
            return;
        }
        events.push(EventRecord {
            time: unix_seconds(),
            step: self.progress.step,
            event: event.to_owned(),
            text: text.to_owned(),
            cost_seconds,
            repeated: 0,
        });
        let surplus = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..surplus);
    }

    pub(super) fn add_cost(&mut self, event: &str, seconds: f64) {
        *self.record.timings.entry(format!("{event}_seconds")).or_default() += seconds;
    }
}
