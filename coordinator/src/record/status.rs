//! The answer to `coordinator status`.

use super::Recorder;
use crate::status::StatusReport;

impl Recorder {
    /// For `coordinator status`.
    pub(crate) fn status(&self) -> StatusReport {
        let mut metrics: std::collections::HashMap<String, f64> =
            self.record.final_state.metrics.iter().map(|(key, value)| (key.clone(), *value)).collect();
        if self.progress.loss.is_finite() && self.progress.step > self.info.first_step {
            metrics.insert("train/loss".to_owned(), self.progress.loss);
        }
        StatusReport {
            run: self.info.name.clone(),
            directory: self.run_dir.display().to_string(),
            state: if self.view.is_some() { "running" } else { "starting" }.to_owned(),
            step: self.progress.step,
            total_steps: self.info.total_steps,
            epoch: self.progress.epoch,
            samples_per_second: self.progress.samples_per_second,
            eta_seconds: self.progress.eta_s,
            metrics,
            members: self
                .progress
                .members
                .iter()
                .map(|line| wire::proto::MemberStatus {
                    name: line.name.clone(),
                    device: line.device.clone(),
                    share: line.share,
                    samples_per_second: line.samples_per_second,
                })
                .collect(),
            views: self.record.views,
            waiting_for: self.waiting_for.clone(),
            newest_version: self.newest_version,
        }
    }
}
