//! The last word.

use protocol::coordinator::Outcome;
use protocol::messages::EndReason;
use serde_json::json;
use tracker::RunStatus;

use super::Recorder;

impl Recorder {
    /// The run is over: what run.json is to say of it.
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
        self.beside.origin.record(&mut self.record, &self.run_dir, true);
    }

    /// Writes what is still to be written of the run: metrics that wait for room, and run.json.
    ///
    /// # Errors
    /// What can't be written and why, for people.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        let late = self.file.append(Vec::new()).map_err(|why| format!("metrics can't be written: {why}"))?;
        self.display.metrics(&late);
        let path = self.run_dir.join("run.json");
        store::write_file(&path, &self.record.to_bytes())
            .map_err(|why| format!("run.json can't be written: {why}"))
    }

    /// The last word to people.
    pub(crate) fn say_end(&mut self, outcome: &Outcome, seconds: f64) {
        let details = json!({
            "status": self.record.status, "step": outcome.step, "code": outcome.code, "digest": self.record.final_state.digest,
        });
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
            EndReason::Interrupted => {
                format!("interrupted at step {}: go on with --resume; everything is in {dir}", outcome.step)
            }
            EndReason::Failed => {
                let is_said = outcome.message.contains("--resume") || self.newest_version.is_none();
                let hint = if is_said { "" } else { "; go on with --resume" };
                format!("failed at step {}: {}{hint}; everything is in {dir}", outcome.step, outcome.message)
            }
        }
    }
}
