//! Failures of this worker, and the exit codes that they mean.

use protocol::messages::Failure;

/// Replaces an exit code if the connection failed rather than this worker: it rejoins.
pub(crate) const CONNECTION: u8 = 0;

/// A failure with the exit code of the contract.
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
