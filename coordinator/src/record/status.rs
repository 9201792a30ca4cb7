//! Builds the answer to `coordinator status`.

use protocol::ids::MemberId;
use wire::proto::MemberStatus;

use super::Recorder;
use crate::clock::unix_seconds;
use crate::commands::status::{StatusReport, bounded, last_events};

impl Recorder {
    /// The current status report.
    pub(crate) fn status(&self) -> StatusReport {
        let mut metrics: std::collections::HashMap<String, f64> =
            self.record.final_state.metrics.iter().map(|(key, value)| (key.clone(), *value)).collect();
        if self.progress.loss.is_finite() && self.progress.step > self.info.first_step {
            metrics.insert("train/loss".to_owned(), self.progress.loss);
        }
        let report = StatusReport {
            run: self.info.name.clone(),
            directory: self.run_dir.display().to_string(),
            state: self.state().to_owned(),
            step: self.progress.step,
            total_steps: self.info.total_steps,
            epoch: self.progress.epoch,
            samples_per_second: self.progress.samples_per_second,
            eta_seconds: self.progress.eta_s,
            metrics,
            members: self.members_now(),
            views: self.record.views,
            waiting_for: self.waiting_for.clone(),
            newest_version: self.newest_version,
            term: self.info.term,
            started: self.started,
            now: unix_seconds(),
            waiting_seconds: self.ongoing.waiting_seconds(),
            retries: self.record.retries,
            events: last_events(&self.record.events),
            message: String::new(),
        };
        bounded(report)
    }

    fn state(&self) -> &'static str {
        match (&self.view, self.waiting_for.is_empty() || self.waits_in_step) {
            (None, _) => "starting",
            (Some(_), true) => "running",
            (Some(_), false) => "paused",
        }
    }

    /// All current members, whether or not they took part in the last step.
    fn members_now(&self) -> Vec<MemberStatus> {
        let in_view = |id: MemberId| {
            self.view.as_ref().is_some_and(|view| view.members.iter().any(|info| info.member == id))
        };
        let status = |(id, line): (MemberId, usize)| {
            let known = self.record.members.get(line).filter(|record| record.left_step.is_none())?;
            let last = self.progress.members.iter().find(|line| line.name == known.name);
            let last = last.filter(|_| in_view(id));
            Some(MemberStatus {
                name: known.name.clone(),
                device: known.device.clone(),
                share: last.map_or(0.0, |line| line.share),
                samples_per_second: last.map_or(0.0, |line| line.samples_per_second),
                state: if in_view(id) { "in the view" } else { "joining" }.to_owned(),
            })
        };
        self.members.lines().filter_map(status).collect()
    }
}
