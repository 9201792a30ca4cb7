//! Plain lines, for pipes and files: one per evaluation, and one every ten seconds in between.

use std::time::{Duration, Instant};

use super::{Progress, RunInfo, duration};
use crate::record::data_wait::shown;

/// Plain output is read later: often enough to show that the run is alive, rare enough to read.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Plain {
    info: Option<RunInfo>,
    printed: Option<Instant>,
    last: Option<Progress>,
}

impl Plain {
    pub(crate) fn begin(&mut self, info: &RunInfo) {
        let from =
            if info.first_step > 0 { format!(" from step {}", info.first_step) } else { String::new() };
        print(&format!("{}: {} steps, {} an epoch{from}", info.name, info.total_steps, info.steps_per_epoch));
        self.info = Some(info.clone());
        self.printed = Some(Instant::now());
    }

    pub(crate) fn progress(&mut self, progress: &Progress) {
        self.last = Some(progress.clone());
        if self.printed.is_some_and(|at| at.elapsed() >= PROGRESS_INTERVAL) {
            self.printed = Some(Instant::now());
            let total = self.info.as_ref().map_or(0, |info| info.total_steps);
            print(&format!(
                "step {}/{total}  loss {:.4}  {:.0} samples/s{}  {} left",
                progress.step,
                progress.loss,
                progress.samples_per_second,
                shown(progress.data_wait),
                duration(progress.eta_s)
            ));
        }
    }

    pub(crate) fn evaluated(&mut self, epoch: u64, step: u64, headline: &str) {
        self.printed = Some(Instant::now());
        let training = self.last.as_ref().map_or(String::new(), |last| {
            let data_wait = shown(last.data_wait);
            format!("train/loss {:.4}  {:.0} samples/s{data_wait}  ", last.loss, last.samples_per_second)
        });
        print(&format!("epoch {:>3}  step {step:>6}  {training}{headline}", epoch + 1));
    }
}

/// Prints a line on standard output. A closed reader (`| head`) is no reason to fail the run.
pub(crate) fn print(text: &str) {
    printable::print_line(text);
}
