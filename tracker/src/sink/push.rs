//! `coordinator tracker push`: a run's folder into a tracker, now.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant};

use super::driver::pause_after;
use super::worker::{Turn, Worker};
use super::{RunFolder, SinkConfig, SinkError};
use crate::RunRecord;

/// What was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// Metrics that were sent now.
    pub metrics: u64,
    /// Metrics that had been sent before.
    pub before: u64,
    /// Where people look at the run.
    pub place: String,
    /// What people should know.
    pub remarks: Vec<String>,
}

/// Why a run wasn't pushed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PushError {
    /// The folder is no run.
    #[error("{0}")]
    Run(String),
    /// The tracker won't take it, now or later.
    #[error("{0}")]
    Refused(String),
    /// The tracker can't be reached, or failed. What was taken is known, and pushing again goes on from there.
    #[error("{0}")]
    Failed(String),
}

impl PushError {
    fn of(why: SinkError) -> Self {
        match why {
            SinkError::Retry(why) => Self::Failed(why),
            SinkError::Refused(why) => Self::Refused(why),
        }
    }
}

/// Sends all of a run's folder that was not sent there before. A run that goes on is sent as far as it is. Failures that
/// may get better are tried again until nothing was sent for `patience`.
///
/// # Errors
/// When the folder is no run, or the tracker doesn't take it.
pub fn push(run_dir: &Path, config: &SinkConfig, patience: Duration) -> Result<Pushed, PushError> {
    RunRecord::read(&run_dir.join(RunRecord::FILE))
        .map_err(|why| PushError::Run(format!("{} is no run: {why}", run_dir.display())))?;
    let run = RunFolder::new(run_dir);
    let mut worker = Worker::open(config.sink(&run), run).map_err(|(_, why)| PushError::of(why))?;
    let before = worker.state().metrics;
    let (mut since, mut failures) = (Instant::now(), 0);
    loop {
        match worker.turn(true) {
            Ok(Turn::Done) => break,
            Ok(Turn::More | Turn::Idle) => (since, failures) = (Instant::now(), 0),
            Err(SinkError::Retry(_)) if since.elapsed() < patience => {
                failures += 1;
                let pause = pause_after(failures, RandomState::new().build_hasher().finish());
                std::thread::sleep(pause.min(patience.saturating_sub(since.elapsed())));
            }
            Err(why) => return Err(PushError::of(why)),
        }
    }
    Ok(Pushed {
        metrics: worker.state().metrics.saturating_sub(before),
        before,
        place: worker.place(),
        remarks: worker.remarks(),
    })
}
