//! Records metrics and progress of committed steps.

use protocol::coordinator::Committed;
use run_record::metric_definitions::metrics;
use run_record::{Confusion, Metric, MetricsError};
use tracing::error;

use super::Recorder;
use crate::clock::unix_seconds;
use crate::display::{MemberLine, Progress};

/// `train/loss` is recorded at least every this many steps.
const METRICS_EVERY: u64 = 10;

/// Evaluation metrics that are displayed; the rest is in metrics.jsonl and run.json.
const HEADLINE: [&str; 4] = [
    "validation/loss",
    "validation/accuracy",
    "validation/mean_absolute_error",
    "validation/mean_squared_error",
];

impl Recorder {
    pub(super) fn trained(&mut self, committed: &Committed, now_ms: u64) {
        self.rates.committed(now_ms, committed.batch);
        self.snapshots(committed);
        let named = metrics(&self.prediction, &committed.sums);
        let value = |key: &str| named.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
        let step = committed.key.step;
        let steps_per_second = self.rates.steps_per_second();
        let left = self.info.total_steps.saturating_sub(step) as f64;
        self.progress = Progress {
            step,
            epoch: committed.epoch,
            samples_per_second: self.rates.samples_per_second(),
            loss: value("loss").unwrap_or(f64::NAN),
            accuracy: value("accuracy"),
            data_wait: self.waited(committed),
            eta_s: if steps_per_second > 0.0 { left / steps_per_second } else { f64::NAN },
            members: self.member_lines(committed),
        };
        self.record.final_state.step = step;
        self.record.final_state.samples = committed.samples;
        self.record.final_state.epoch = step / self.info.steps_per_epoch.max(1);
        self.display.progress(&self.progress);
        self.metadata.metrics.trained(committed, &self.progress);
        let is_due = step == 1 || step.is_multiple_of(METRICS_EVERY) || step == self.info.total_steps;
        if !is_due && !committed.skipped {
            return;
        }
        let mut values: Vec<(String, f64)> =
            named.into_iter().map(|(key, value)| (format!("train/{key}"), value)).collect();
        values.push(("train/learning_rate".to_owned(), f64::from(committed.learning_rate)));
        values.push(("train/gradient_norm".to_owned(), committed.gradient_norm));
        values.push(("train/samples_per_second".to_owned(), self.progress.samples_per_second));
        self.append(committed, values);
    }

    /// Adds the members' data wait to run.json; returns their recent share, for the display.
    fn waited(&mut self, committed: &Committed) -> Option<f64> {
        let [waited, all] = self.data_wait.committed(committed.timings.iter().map(|(_, timings)| timings));
        let mut sum = |key: &str, seconds: f64| {
            let sum = self.record.timings.entry(key.to_owned()).or_default();
            *sum += seconds;
            *sum
        };
        // Summed over all members and all starts of the run.
        let (waited, all) = (sum("data_wait_seconds", waited), sum("member_step_seconds", all));
        if all > 0.0 {
            self.record.timings.insert("data_wait_share".to_owned(), waited / all);
        }
        self.data_wait.share()
    }

    /// Records what the previous step paid for a checkpoint: all members wait for the one that copies its state.
    fn snapshots(&mut self, committed: &Committed) {
        let slowest = committed.timings.iter().map(|(_, timings)| timings.snapshot_us).max().unwrap_or(0);
        if slowest == 0 {
            return;
        }
        let seconds = f64::from(slowest) / 1e6;
        let timings = &mut self.record.timings;
        *timings.entry("snapshots".to_owned()).or_default() += 1.0;
        *timings.entry("snapshot_seconds".to_owned()).or_default() += seconds;
        let most = timings.entry("snapshot_seconds_max".to_owned()).or_default();
        *most = most.max(seconds);
    }

    fn member_lines(&self, committed: &Committed) -> Vec<MemberLine> {
        let batch = f64::from(committed.batch.max(1));
        let lines: Vec<MemberLine> = committed
            .timings
            .iter()
            .map(|(member, timings)| {
                let known = self.members.line(*member).and_then(|line| self.record.members.get(line));
                let seconds = f64::from(timings.compute_us + timings.data_us) / 1e6;
                let samples = f64::from(timings.samples);
                let name = known.map_or_else(|| format!("{:#x}", member.0), |m| m.name.clone());
                MemberLine {
                    name,
                    device: known.map_or_else(String::new, |m| m.device.clone()),
                    samples_per_second: if seconds > 0.0 { samples / seconds } else { 0.0 },
                    share: samples / batch,
                    data_ms: f64::from(timings.data_us) / 1_000.0,
                }
            })
            .collect();
        // A short batch at an epoch's end may have work for some members only: it says nothing about share and speed.
        // All shares come from one step, so that they add up to one.
        let before = &self.progress.members;
        let is_short = committed.batch < self.info.batch;
        let names = |lines: &[MemberLine]| lines.iter().map(|line| line.name.clone()).collect::<Vec<_>>();
        if is_short && names(before) == names(&lines) { before.clone() } else { lines }
    }

    pub(super) fn evaluated(&mut self, committed: &Committed) {
        self.snapshots(committed);
        let named: Vec<(String, f64)> = metrics(&self.prediction, &committed.sums)
            .into_iter()
            .map(|(key, value)| (format!("validation/{key}"), value))
            .collect();
        let headline: Vec<(String, f64)> =
            named.iter().filter(|(key, _)| HEADLINE.contains(&key.as_str())).cloned().collect();
        self.display.progress_now(&self.progress);
        self.display.evaluated(committed.epoch, committed.key.step, &headline);
        self.record.final_state.metrics = named.iter().cloned().collect();
        self.record.final_state.confusion =
            Confusion::of(&self.prediction, &committed.sums, committed.key.step);
        self.run_json_write.mark();
        self.append(committed, named);
    }

    fn append(&mut self, committed: &Committed, values: Vec<(String, f64)>) {
        let epoch = committed.key.step as f64 / self.info.steps_per_epoch.max(1) as f64;
        let time = unix_seconds();
        let metrics = values
            .into_iter()
            .map(|(key, value)| Metric {
                step: committed.key.step,
                epoch,
                samples: committed.samples,
                time,
                key,
                value,
            })
            .collect();
        match self.file.append(metrics) {
            Ok(fresh) => {
                self.display.metrics(&fresh);
                self.sinks.notify();
                self.metrics_are_written();
            }
            Err(trouble) => self.metrics_wait(&trouble),
        }
        self.repeat_sinks();
    }

    /// Reports a failed write of metrics. It doesn't end the run, but is shown as a warning, once per cause.
    pub(super) fn metrics_wait(&mut self, trouble: &MetricsError) {
        error!(%trouble, "metrics can't be written");
        let lost = self.file.left_out() > 0;
        let then = if lost { "so many wait that the oldest are lost" } else { "they wait until they can" };
        let text = format!("metrics can't be written: {trouble}; {then}");
        if self.metrics_trouble.is_news(&text) {
            self.warning(&text);
        }
    }

    fn metrics_are_written(&mut self) {
        if !self.metrics_trouble.is_over() {
            return;
        }
        self.line(&match self.file.left_out() {
            0 => "metrics are written again, and none is missing".to_owned(),
            lost => format!("metrics are written again; {lost} values are missing"),
        });
    }
}
