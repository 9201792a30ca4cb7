//! What the driver hears: the one channel into it.

use protocol::messages::{FromWorker, ToWorker};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::checkpoints::journal_writer::Appended;
use crate::checkpoints::uploads::VersionOutcome;
use crate::commands::status::StatusReport;
use crate::record::system_report::SystemReport;

/// Everything that can wake the driver.
pub(crate) enum DriverEvent {
    /// The append that was under way is over.
    Appended(Appended),
    /// A worker opened a control stream.
    Opened {
        /// Its number.
        connection: u64,
        /// Where messages to it go.
        outbox: mpsc::Sender<ToWorker>,
        /// Of the token that it came with: [`Token::secret`](wire::token::Token::secret).
        secret: [u8; 32],
    },
    /// A message came on a control stream.
    Message {
        /// Its number.
        connection: u64,
        /// The message.
        message: FromWorker,
        /// What it takes of [`INBOX_BYTES_MAX`](crate::control::streams::INBOX_BYTES_MAX).
        room: Option<OwnedSemaphorePermit>,
    },
    /// A control stream ended.
    Disconnected {
        /// Its number.
        connection: u64,
        /// How.
        reason: String,
    },
    /// A version came, or couldn't be had.
    Version {
        /// Its step.
        step: u64,
        /// What has become of it, or the error.
        result: Result<VersionOutcome, String>,
    },
    /// A state is there to be taken, or couldn't be had.
    State {
        /// Its step.
        step: u64,
        /// Its digest, or the error.
        result: Result<[u8; 32], String>,
    },
    /// The exports are in place, or couldn't be had.
    Exports {
        /// Nothing, or the error.
        result: Result<(), String>,
    },
    /// These slots are to be started, as far as nobody has joined in them.
    StartLocal {
        /// Which.
        slots: Vec<u32>,
    },
    /// A local worker process ended.
    WorkerExited {
        /// Its slot.
        slot: u32,
        /// How, if the system says.
        status: Option<std::process::ExitStatus>,
        /// Its log.
        log: std::path::PathBuf,
    },
    /// SIGINT, SIGTERM or `coordinator stop`.
    Stop {
        /// Who asked.
        reason: String,
        /// Whether a person's signal: the second ends the run at once.
        signal: bool,
    },
    /// `coordinator checkpoint`.
    Checkpoint,
    /// The run's folder is not in its place any more.
    FolderLost,
    /// What a worker, or this machine, says beside the protocol.
    SystemReport(SystemReport),
    /// `coordinator status`.
    Status(oneshot::Sender<StatusReport>),
}
