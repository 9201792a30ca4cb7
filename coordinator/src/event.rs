//! The events of the one channel into the driver.

use protocol::messages::{FromWorker, ToWorker};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::checkpoints::journal_writer::Appended;
use crate::checkpoints::uploads::VersionOutcome;
use crate::commands::status::StatusReport;
use crate::record::system_report::SystemReport;

/// Everything that can wake the driver.
pub(crate) enum DriverEvent {
    /// The pending journal append has finished.
    Appended(Appended),
    /// A worker opened a control stream.
    Opened {
        connection: u64,
        outbox: mpsc::Sender<ToWorker>,
        /// Secret of the token that opened the stream: [`Token::secret`](wire::token::Token::secret).
        secret: [u8; 32],
    },
    /// A message came on a control stream.
    Message {
        connection: u64,
        message: FromWorker,
        /// The message's share of [`INBOX_BYTES_MAX`](crate::control::streams::INBOX_BYTES_MAX).
        room: Option<OwnedSemaphorePermit>,
    },
    /// A control stream ended.
    Disconnected { connection: u64, reason: String },
    /// A checkpoint upload has finished or failed.
    Version { step: u64, result: Result<VersionOutcome, String> },
    /// A state upload has finished or failed.
    State {
        step: u64,
        /// The state's digest, or the error.
        result: Result<[u8; 32], String>,
    },
    /// The exports are in place, or have failed.
    Exports { result: Result<(), String> },
    /// Start workers in these slots, unless workers have joined in them.
    StartLocal { slots: Vec<u32> },
    /// A local worker process ended.
    WorkerExited {
        slot: u32,
        /// The exit status, if the system reports one.
        status: Option<std::process::ExitStatus>,
        log: std::path::PathBuf,
    },
    /// SIGINT, SIGTERM or `coordinator stop`.
    Stop {
        /// Who requested the stop, for messages.
        reason: String,
        /// Whether a signal requested it: the second one ends the run at once.
        signal: bool,
    },
    /// `coordinator checkpoint`.
    Checkpoint,
    /// The run's folder has been moved or deleted.
    FolderLost,
    /// A report from a worker or this machine, outside the protocol.
    SystemReport(SystemReport),
    /// `coordinator status`.
    Status(oneshot::Sender<StatusReport>),
}
