//! What can go wrong with versions, and what it means to whoever called.

use std::io;
use std::path::Path;

use crate::error::DataError;
use crate::quote::{clipped, plain};

/// Why a version can't be added, found, checked or copied.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The caller asked for something that can't be: a name that is none, a destination that is taken.
    #[error("{}", clipped(.0))]
    Misused(String),
    /// Something on disk is missing or isn't what it should be.
    #[error("{}: {}", plain(.place), clipped(.problem))]
    Wrong {
        /// The file or folder.
        place: String,
        /// What, and the way out.
        problem: String,
    },
    /// The file system said no.
    #[error("{}: {source}", plain(.place))]
    Io {
        /// The file or folder.
        place: String,
        /// What it said.
        source: io::Error,
    },
    /// The file system said no to a whole-file write.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// A table can't be read.
    #[error(transparent)]
    Table(#[from] DataError),
    /// A server can't be reached, or not in time.
    #[error("{}: {}", plain(.place), clipped(.problem))]
    Unreachable {
        /// The address.
        place: String,
        /// What happened, and the way out.
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

    /// The exit code of a program that stops at this: 2 for what the caller asked, 3 for data, 4 for a peer that can't
    /// be reached.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Misused(_) => 2,
            Self::Wrong { .. } | Self::Io { .. } | Self::Store(_) | Self::Table(_) => 3,
            Self::Unreachable { .. } => 4,
        }
    }
}
