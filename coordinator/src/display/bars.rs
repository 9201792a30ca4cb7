//! Bars on a terminal: one for the run, one for the epoch, a line for each worker.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Progress, RunInfo, duration};
use crate::data_wait::shown;

/// Ten redraws a second are smooth and cost nothing.
const REDRAWS_PER_SECOND: u8 = 10;

pub(crate) struct Bars {
    all: MultiProgress,
    run: ProgressBar,
    epoch: ProgressBar,
    members: BTreeMap<String, ProgressBar>,
    info: Option<RunInfo>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(REDRAWS_PER_SECOND));
        Self {
            all,
            run: ProgressBar::hidden(),
            epoch: ProgressBar::hidden(),
            members: BTreeMap::new(),
            info: None,
        }
    }

    pub(crate) fn begin(&mut self, info: &RunInfo) {
        self.run = self.all.add(ProgressBar::new(info.total_steps));
        self.run.set_style(style("{prefix:>9.bold} {bar:28.yellow} {pos}/{len}  {msg}"));
        self.run.set_prefix("run");
        self.run.set_position(info.first_step);
        self.epoch = self.all.add(ProgressBar::new(info.steps_per_epoch));
        self.epoch.set_style(style("{prefix:>9.bold} {bar:28.cyan} {pos}/{len}  {msg}"));
        self.epoch.set_prefix("epoch");
        self.info = Some(info.clone());
        self.run.enable_steady_tick(Duration::from_millis(500));
    }

    pub(crate) fn progress(&mut self, progress: &Progress) {
        let Some(info) = &self.info else { return };
        self.run.set_position(progress.step);
        self.run.set_message(format!(
            "{:.0} samples/s{}  {} left",
            progress.samples_per_second,
            shown(progress.data_wait),
            duration(progress.eta_s)
        ));
        self.epoch.set_prefix(format!("epoch {}", progress.epoch + 1));
        self.epoch.set_position(progress.step - progress.epoch * info.steps_per_epoch);
        let accuracy = progress.accuracy.map(|a| format!("  accuracy {a:.3}")).unwrap_or_default();
        self.epoch.set_message(format!("loss {:.4}{accuracy}", progress.loss));
        for line in &progress.members {
            let bar = self.members.entry(line.name.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(100));
                bar.set_style(style("{prefix:>9.dim} {bar:28.dim} {pos:>3} %  {msg}"));
                bar.set_prefix(line.name.clone());
                bar
            });
            bar.set_position((line.share * 100.0).round() as u64);
            bar.set_message(format!(
                "of the samples, {:.0} samples/s on {}",
                line.samples_per_second, line.device
            ));
        }
    }

    /// A line above the bars.
    pub(crate) fn line(&self, text: &str) {
        // A terminal that went away is no reason to fail the run.
        let _ = self.all.println(text);
    }

    pub(crate) fn end(&mut self, text: &str) {
        self.run.disable_steady_tick();
        for bar in self.members.values() {
            bar.finish_and_clear();
        }
        self.epoch.finish_and_clear();
        self.run.abandon();
        self.line(text);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}
