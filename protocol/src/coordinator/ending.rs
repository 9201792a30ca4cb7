//! How a run ends: complete, on request, or because it can't continue.

use super::journal_queue::AfterAppend;
use super::machine::{Coordinator, State};
use super::{Outcome, Output};
use crate::Millis;
use crate::journal::{EndRecord, Record};
use crate::messages::{EndReason, ToWorker};

impl Coordinator {
    pub(super) fn on_stop(&mut self, now: Millis, reason: String) {
        if self.stop.is_some() || matches!(self.state, State::Ending(_)) {
            return;
        }
        self.append(Record::Stop { reason: reason.clone() }, false, AfterAppend::Nothing);
        self.stop = Some(reason);
        match &self.state {
            State::Gathering { .. } | State::Loading { .. } | State::Handover { .. }
                if self.has_begun
                    && self.roster.iter().any(|member| member.can_enter(self.position.step)) =>
            {
                self.end_hold(now);
                self.view = None; // No member needs a further check: the state was compared when it was used.
                self.start_closing(now);
            }
            State::Gathering { .. }
            | State::Initialising(_)
            | State::Loading { .. }
            | State::Handover { .. }
            | State::Opening => self.end_interrupted("no step was under way"),
            _ if self.journal_queue.is_failing() => {
                self.end_interrupted("the journal can't be written, so the step in flight is not committed");
            }
            State::Closing(_) => self.advance_closing(now),
            _ => {} // The step in flight is finished first.
        }
    }

    pub(super) fn end_interrupted(&mut self, why: &str) {
        let reason = self.stop.clone().unwrap_or_else(|| "interrupted".to_owned());
        let step = self.position.step;
        let message = format!("stopped after step {step} ({reason}; {why}); {}", self.way_back());
        self.end(EndReason::Interrupted, 130, message);
    }

    /// Ends the run as failed.
    pub(super) fn fail(&mut self, code: u8, message: &str) {
        self.fail_after(code, message, None);
    }

    /// Ends the run as failed, after one more record in the journal.
    pub(super) fn fail_after(&mut self, code: u8, message: &str, before: Option<Record>) {
        // A refusal before any state exists recurs on every attempt.
        let is_refused = matches!(code, 2 | 3) && self.uploads.durable_step().is_none();
        let message = match is_refused {
            true => message.to_owned(),
            false => format!("{message}; {}", self.way_back()),
        };
        self.end_after(EndReason::Failed, code, message, before);
    }

    pub(super) fn end(&mut self, reason: EndReason, code: u8, message: String) {
        self.end_after(reason, code, message, None);
    }

    fn end_after(&mut self, reason: EndReason, code: u8, message: String, before: Option<Record>) {
        if matches!(self.state, State::Ending(_) | State::Finished(_)) {
            return;
        }
        let step = self.position.step;
        self.journal_queue.clear();
        if let Some(record) = before {
            self.append(record, true, AfterAppend::Nothing);
        }
        self.state = State::Ending(Outcome { reason, code, message: message.clone(), step });
        self.append(Record::End(EndRecord { reason, code, message, step }), true, AfterAppend::End);
    }

    pub(super) fn finish(&mut self) {
        let State::Ending(outcome) = &self.state else { return };
        let outcome = outcome.clone();
        self.state = State::Finished(outcome.clone());
        let connections: Vec<u64> = self.roster.iter().map(|member| member.connection).collect();
        for connection in connections {
            self.send(connection, ToWorker::End { reason: outcome.reason, message: outcome.message.clone() });
            self.put(Output::Close { connection });
        }
        self.put(Output::Finished(outcome));
    }

    /// How to continue a run that ends here.
    fn way_back(&self) -> String {
        match self.uploads.durable_step() {
            Some(step) => format!("--resume goes on from version {step}"),
            None => "no version was written yet, so --resume starts again from the seed".to_owned(),
        }
    }
}
