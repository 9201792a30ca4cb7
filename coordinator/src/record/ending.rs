//! The end of a run: its final record and last message.

use protocol::coordinator::Outcome;
use protocol::messages::EndReason;
use run_record::RunStatus;
use serde_json::json;

use super::Recorder;

impl Recorder {
    /// Records the outcome in the run's record.
    pub(crate) fn conclude(&mut self, outcome: &Outcome, seconds: f64, exact: bool) {
        self.waits_for("", None);
        self.record.status = match outcome.reason {
            EndReason::Completed => RunStatus::Completed,
            EndReason::Interrupted => RunStatus::Interrupted,
            EndReason::Failed => RunStatus::Failed,
        };
        self.record.message.clone_from(&outcome.message);
        self.record.exact = exact;
        self.record.final_state.step = outcome.step;
        self.record.timings.insert("run_seconds".to_owned(), seconds);
        self.note_activity();
        self.metadata.origin.record(&mut self.record, &self.run_dir, true);
    }

    /// Writes what is still pending: metrics that wait for disk space, and run.json.
    ///
    /// # Errors
    /// With a message that says what can't be written and why.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        let late = self.file.append(Vec::new()).map_err(|why| format!("metrics can't be written: {why}"))?;
        self.display.metrics(&late);
        let path = self.run_dir.join("run.json");
        store::write_file(&path, &self.record.to_bytes())
            .map_err(|why| format!("run.json can't be written: {why}"))
    }

    /// Whether a new run failed before it began: a start that its own workers refuse would be refused again.
    pub(crate) fn is_refused_start(&self, outcome: &Outcome) -> bool {
        let is_refusal = outcome.reason == EndReason::Failed && matches!(outcome.code, 2 | 3);
        is_refusal && outcome.step == 0 && self.newest_version.is_none()
    }

    /// Prints the last message of a refused start, whose folder is removed.
    pub(crate) fn say_refused(&mut self, outcome: &Outcome) {
        let details = json!({ "status": RunStatus::Failed, "step": 0, "code": outcome.code });
        let text = format!("{}; {} is removed again", outcome.message, self.run_dir.display());
        self.display.end(&text, &details, true);
    }

    /// Prints the run's last message.
    pub(crate) fn say_end(&mut self, outcome: &Outcome, seconds: f64) {
        let mut details = json!({
            "status": self.record.status, "step": outcome.step, "code": outcome.code, "digest": self.record.final_state.digest,
        });
        if outcome.reason != EndReason::Completed {
            details["resume"] = self.resume_line.clone().into();
        }
        let line = self.last_line(outcome, seconds);
        self.display.progress_now(&self.progress);
        self.display.end(&line, &details, outcome.reason == EndReason::Failed);
    }

    fn last_line(&self, outcome: &Outcome, seconds: f64) -> String {
        let dir = self.run_dir.display();
        let took = crate::display::duration(seconds);
        match outcome.reason {
            EndReason::Completed => {
                let exports = self.run_dir.join("exports");
                let exported = std::fs::read_dir(&exports).is_ok_and(|mut entries| entries.next().is_some());
                let exported =
                    if exported { format!(", the model in {}", exports.display()) } else { String::new() };
                let early = if outcome.step < self.info.total_steps {
                    format!(" ({})", outcome.message)
                } else {
                    String::new()
                };
                format!("completed {} steps in {took}{early}: everything is in {dir}{exported}", outcome.step)
            }
            EndReason::Interrupted => format!(
                "interrupted at step {}: everything is in {dir}; go on with\n  {}",
                outcome.step, self.resume_line
            ),
            EndReason::Failed => {
                // A run without a checkpoint has nothing to resume from.
                let has_version = self.newest_version.is_some() || self.info.first_step > 0;
                let hint = if has_version {
                    format!("; once that is mended, go on with\n  {}", self.resume_line)
                } else {
                    String::new()
                };
                format!("failed at step {}: {}; everything is in {dir}{hint}", outcome.step, outcome.message)
            }
        }
    }
}
