//! Registry errors, and their exit codes.

use std::io;
use std::path::Path;

use crate::error::DataError;
use crate::quote::{clipped, plain};

/// Why a registry operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// An invalid request, such as a bad name or a destination that is taken.
    #[error("{}", clipped(.0))]
    Misused(String),
    /// Something on disk is missing or invalid.
    #[error("{}: {}", plain(.place), clipped(.problem))]
    Wrong {
        /// The file or folder.
        place: String,
        /// The problem, and how to fix it.
        problem: String,
    },
    /// A file-system error.
    #[error("{}: {source}", plain(.place))]
    Io {
        /// The file or folder.
        place: String,
        /// The underlying error.
        source: io::Error,
    },
    /// An error while writing a whole file.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// A table can't be read.
    #[error(transparent)]
    Table(#[from] DataError),
    /// A server can't be reached, or not in time.
    #[error("{}: {}", plain(.place), clipped(.problem))]
    Unreachable {
        /// Address of the server.
        place: String,
        /// The problem, and how to fix it.
        problem: String,
    },
}

impl RegistryError {
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let place = path.display().to_string();
        move |source| Self::Io { place, source }
    }

    pub(crate) fn wrong(path: &Path, problem: impl Into<String>) -> Self {
        Self::Wrong { place: path.display().to_string(), problem: problem.into() }
    }

    /// Exit code of a program that stops with this error: 2 for requests, 3 for data, 4 for unreachable servers.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Misused(_) => 2,
            Self::Wrong { .. } | Self::Io { .. } | Self::Store(_) | Self::Table(_) => 3,
            Self::Unreachable { .. } => 4,
        }
    }
}
