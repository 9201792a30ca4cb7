//! Failures with their exit codes.

use datasets::DataError;
use store::StoreError;
use trainer::TrainerError;

/// Why a command failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// 2: command line or configuration; 3: data or version missing or wrong; 4: anything else.
    pub code: u8,
    /// Message for the user: the object, the value, and how to fix it.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::of(2, message)
    }

    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self::of(3, message)
    }

    /// Clips to one line: libraries' messages may repeat file contents.
    fn of(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: datasets::clipped(&message.into()).into_owned() }
    }
}

impl From<TrainerError> for Failure {
    fn from(error: TrainerError) -> Self {
        use TrainerError as E;
        let code = match &error {
            E::Config(_) | E::Device(_) | E::Model(_) => 2,
            E::Tensors(_) | E::Shape(_) => 3,
            E::OutOfMemory { .. } | E::Backend { .. } => 4,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::data(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { code: 4, message: error.to_string() }
    }
}
