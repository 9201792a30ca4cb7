//! Sinks export a run to other trackers, concurrently with training and without ever delaying it.
//!
//! A run's folder is the source of truth, so a sink *follows* it: unsent data lies in `metrics.jsonl` and needs no
//! other spool. Each sink has its own thread and a small state file, `RUN_DIR/tracker/SINK.json`, with its position,
//! from which it continues after an outage or a crash. Anything that a crash causes to be sent twice is harmless:
//! MLflow drops exact duplicates of metrics, and files are truncated to the length in the state.
//!
//! A sink never trains, never writes to the files that it follows, and never makes a run fail.

mod config;
mod driver;
mod folder;
mod local_file;
mod mlflow;
mod origin;
mod push;
mod state;
mod tensorboard;
#[cfg(test)]
mod testing;
mod wandb;
mod worker;

pub use config::{Environment, SinkConfig, SinkConfigError};
pub use driver::{Sinks, Unsent};
pub use folder::RunFolder;
pub use push::{PushError, PushOutcome, push};
pub use state::SinkState;

use std::time::Duration;

use run_record::follow::Line;

/// Why a sink failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SinkError {
    /// A transient failure: retried, with growing pauses.
    #[error("{0}")]
    Retry(String),
    /// Likewise, with the pause that the other side requested.
    #[error("{0} (it asks to be left alone for {seconds} s)", seconds = .1.as_secs())]
    RetryIn(String, Duration),
    /// A permanent failure: the sink stops, the run goes on.
    #[error("{0}")]
    Refused(String),
}

impl SinkError {
    /// The pause that the other side requested.
    pub(crate) fn pause_asked(&self) -> Option<Duration> {
        if let Self::RetryIn(_, pause) = self { Some(*pause) } else { None }
    }
}

/// A followed file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Metrics of the training.
    Metrics,
    /// Metrics of its machines; absent unless they are monitored.
    System,
}

impl Source {
    /// All sources, in the order in which they are read.
    pub const ALL: [Self; 2] = [Self::Metrics, Self::System];

    /// The file's name in the run's folder.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Metrics => "metrics.jsonl",
            Self::System => "system.jsonl",
        }
    }
}

/// A destination for a run's metrics.
///
/// The state is saved after every call, successful or not. A call that failed, or whose success was lost in a crash, is
/// repeated with the same lines.
pub trait Sink: Send {
    /// The sink's name in `tracker.sinks`.
    fn name(&self) -> &'static str;

    /// The destination, without credentials: each destination has a state of its own.
    fn destination(&self) -> String;

    /// Creates the run at the destination, or finds it again.
    ///
    /// # Errors
    /// A [`SinkError`], transient or permanent; likewise below.
    fn begin(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError>;

    /// Sends the configuration, once and whenever it changed.
    ///
    /// # Errors
    /// As above.
    fn params(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError>;

    /// Takes lines and returns how many it took: the others are passed again, with those appended since.
    ///
    /// # Errors
    /// As above; none of the lines counts as taken.
    fn metrics(&mut self, source: Source, lines: &[Line], state: &mut SinkState) -> Result<usize, SinkError>;

    /// Sends the changed `run.json`.
    ///
    /// # Errors
    /// As above.
    fn record(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError>;

    /// Finishes a run that has ended; `rest` are the lines of `metrics.jsonl` not taken yet. The run may still be
    /// resumed.
    ///
    /// # Errors
    /// As above.
    fn finish(&mut self, run: &RunFolder, rest: &[Line], state: &mut SinkState) -> Result<(), SinkError>;

    /// Messages for people since the last call: data that the tracker refuses although it accepts the rest.
    fn remarks(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Where people can view the run.
    fn place(&self, run: &RunFolder, state: &SinkState) -> String;
}
