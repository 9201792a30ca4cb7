//! Failures of this worker and their exit codes.

use protocol::messages::Failure;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum WorkError {
    /// The connection failed, not this worker: it rejoins.
    ConnectionLost(String),
    /// The failure ends this worker.
    Failed(Failure),
}

impl WorkError {
    /// The reason, without an exit code.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::ConnectionLost(reason) => reason,
            Self::Failed(failure) => &failure.message,
        }
    }
}

impl From<Failure> for WorkError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A failure with a process exit code, of the table at [`Failure::code`].
pub(crate) fn fail(code: u8, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

/// Converts a trainer error to a failure with its exit code.
pub(crate) fn failure(error: &trainer::TrainerError) -> Failure {
    use trainer::TrainerError as E;
    let code = match error {
        E::Config(_) | E::Device(_) | E::Model(_) => 2,
        E::Tensors(_) | E::Shape(_) => 3,
        E::OutOfMemory { .. } | E::Backend { .. } => 4,
    };
    fail(code, error.to_string())
}
