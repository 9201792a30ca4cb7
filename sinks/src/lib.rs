//! Sending a run to other trackers, beside its training and never in its way.
//!
//! A run's folder is the truth, so a sink *follows* it: what waits to be sent lies in `metrics.jsonl` and needs no other
//! spool. Each sink is a thread of its own with a small state file, `RUN_DIR/tracker/SINK.json`, that says how far it
//! is; it goes on from there after an outage or a crash. What a crash may send twice is harmless: MLflow drops metrics
//! that it has to the last digit, and files are cut to the length that the state knows.
//!
//! A sink never trains, never writes to what it follows, and never makes a run fail.

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

/// Why a sink didn't get on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SinkError {
    /// It may get better by itself: tried again, less and less often.
    #[error("{0}")]
    Retry(String),
    /// Likewise, and the other side has said how long to leave it alone.
    #[error("{0} (it asks to be left alone for {seconds} s)", seconds = .1.as_secs())]
    RetryIn(String, Duration),
    /// It won't: the sink stops, the run goes on.
    #[error("{0}")]
    Refused(String),
}

impl SinkError {
    /// How long the other side asked to be left alone.
    pub(crate) fn pause_asked(&self) -> Option<Duration> {
        if let Self::RetryIn(_, pause) = self { Some(*pause) } else { None }
    }
}

/// A file that is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// What training measured.
    Metrics,
    /// What its machines did meanwhile; absent where nobody looks.
    System,
}

impl Source {
    /// All of them, in the order in which they are read.
    pub const ALL: [Self; 2] = [Self::Metrics, Self::System];

    /// Its name in the run's folder.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Metrics => "metrics.jsonl",
            Self::System => "system.jsonl",
        }
    }
}

/// Where a run's numbers go.
///
/// The state is saved after every call, whatever came of it. A call that failed, or whose success was lost in a crash,
/// is made again with the same lines.
pub trait Sink: Send {
    /// Its name, as `tracker.sinks` has it.
    fn name(&self) -> &'static str;

    /// Where things go, without credentials: another destination has a state of its own.
    fn destination(&self) -> String;

    /// Makes the run over there, or finds it again.
    ///
    /// # Errors
    /// As [`SinkError`] says; likewise below.
    fn begin(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError>;

    /// The configuration, once and whenever it changed.
    ///
    /// # Errors
    /// As above.
    fn params(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError>;

    /// Takes lines, and says how many of them: the others come again, with what was appended since.
    ///
    /// # Errors
    /// As above; none of the lines counts as taken.
    fn metrics(&mut self, source: Source, lines: &[Line], state: &mut SinkState) -> Result<usize, SinkError>;

    /// `run.json` changed.
    ///
    /// # Errors
    /// As above.
    fn record(&mut self, run: &RunFolder, state: &mut SinkState) -> Result<(), SinkError>;

    /// The run is over; `rest` are the lines of `metrics.jsonl` that were not taken. It may be resumed all the same.
    ///
    /// # Errors
    /// As above.
    fn finish(&mut self, run: &RunFolder, rest: &[Line], state: &mut SinkState) -> Result<(), SinkError>;

    /// What people should know since the last call: something that the tracker doesn't take, though it takes the rest.
    fn remarks(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Where people look at it.
    fn place(&self, run: &RunFolder, state: &SinkState) -> String;
}
