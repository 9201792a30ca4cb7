//! `coordinator tracker push`: sends a run's folder to a tracker, once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant};

use run_record::{RecordError, RunRecord};

use super::driver::pause_after;
use super::worker::{TurnOutcome, Worker};
use super::{RunFolder, SinkConfig, SinkError};

/// The result of a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushOutcome {
    /// Number of metrics sent by this push.
    pub metrics: u64,
    /// Number of metrics sent before.
    pub before: u64,
    /// Where people can view the run.
    pub place: String,
    /// Messages for people.
    pub remarks: Vec<String>,
}

/// Why a push failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PushError {
    /// The folder is not a run.
    #[error("{0}")]
    Run(String),
    /// The tracker permanently refuses the run.
    #[error("{0}")]
    Refused(String),
    /// The tracker can't be reached, or failed. Progress is saved, and another push continues from there.
    #[error("{0}")]
    Failed(String),
}

impl PushError {
    fn of(why: SinkError) -> Self {
        match why {
            SinkError::Refused(why) => Self::Refused(why),
            retry => Self::Failed(retry.to_string()),
        }
    }
}

/// Sends everything in a run's folder that was not sent there before; for a run in progress, everything so far.
/// Transient failures are retried until no progress is made for `patience`.
///
/// # Errors
/// When the folder is not a run, or the tracker doesn't accept it.
pub fn push(run_dir: &Path, config: &SinkConfig, patience: Duration) -> Result<PushOutcome, PushError> {
    RunRecord::read(&run_dir.join(RunRecord::FILE)).map_err(|why| PushError::Run(no_run(run_dir, &why)))?;
    let run = RunFolder::new(run_dir);
    let mut worker = Worker::open(config.sink(&run), run).map_err(|(_, why)| PushError::of(why))?;
    let before = worker.state().metrics;
    let (mut since, mut failures) = (Instant::now(), 0);
    loop {
        match worker.turn(true) {
            Ok(TurnOutcome::Done) => break,
            Ok(TurnOutcome::More | TurnOutcome::Idle) => (since, failures) = (Instant::now(), 0),
            Err(why @ SinkError::Refused(_)) => return Err(PushError::of(why)),
            Err(why) => {
                failures += 1;
                let pause = pause_after(&why, failures, RandomState::new().build_hasher().finish());
                let left = patience.saturating_sub(since.elapsed());
                // A retry before the requested time would be in vain.
                if left.is_zero() || why.pause_asked().is_some_and(|asked| asked > left) {
                    return Err(PushError::of(why));
                }
                std::thread::sleep(pause.min(left));
            }
        }
    }
    Ok(PushOutcome {
        metrics: worker.state().metrics.saturating_sub(before),
        before,
        place: worker.place(),
        remarks: worker.remarks(),
    })
}

/// Explains why a folder is not a run, and which one to give instead.
fn no_run(dir: &Path, why: &RecordError) -> String {
    let is_run = |folder: &Path| folder.join(RunRecord::FILE).is_file();
    let shown = dir.display();
    if !dir.exists() {
        return format!(
            "{shown} is no run: there is no such folder; give a run's own, such as runs/digits-1"
        );
    }
    let parent = dir.parent().unwrap_or(dir);
    if dir.is_file() {
        let instead = if is_run(parent) { parent.display().to_string() } else { "a run's own".to_owned() };
        return format!("{shown} is no run but a file; give the folder: {instead}");
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    match entries.filter(|path| is_run(path)).min() {
        Some(run) => format!("{shown} is no run, it holds runs; give one of them, such as {}", run.display()),
        None => format!("{shown} is no run: {why}; give a run's own folder, such as runs/digits-1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gives_no_run_is_told_what_to_give() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().join("digits-1");
        std::fs::create_dir_all(run.join("exports")).expect("made");
        std::fs::write(run.join(RunRecord::FILE), "{").expect("written");
        let said = |path: &Path| {
            let pushed = push(path, &SinkConfig::tensorboard(), Duration::ZERO);
            let Err(PushError::Run(why)) = pushed else { panic!("{pushed:?}") };
            assert!(why.starts_with(&format!("{} is no run", path.display())), "{why}");
            why
        };
        let shown = run.display().to_string();
        assert!(said(&dir.path().join("digits-2")).contains("no such folder"));
        assert!(said(&run.join(RunRecord::FILE)).ends_with(&format!("give the folder: {shown}")));
        assert!(said(dir.path()).ends_with(&format!("such as {shown}")));
        assert!(said(&run.join("exports")).contains("run.json"));
        assert!(said(&run).contains("run.json"), "a record that can't be read is named");
    }
}
