//! Errors in data: always with the file, and with the line, row or byte if there is one.

use crate::quote::{clipped, plain};

/// Why a dataset can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file can't be read.
    #[error("{}: {source}", plain(.file))]
    Io {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// The underlying error.
        source: std::io::Error,
    },
    /// No file or folder at this path.
    #[error("dataset.uri = {uri:?}: no such file or folder (looked for {tried})")]
    Absent {
        /// The configured value.
        uri: String,
        /// The resolved path.
        tried: String,
    },
    /// An error in a line.
    #[error("{}, line {line}: {}", plain(.file), clipped(.problem))]
    Line {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// Line number, from 1.
        line: u64,
        /// The problem, with the value and what is expected.
        problem: String,
    },
    /// An error in a row of a file without lines.
    #[error("{}, row {row}: {}", plain(.file), clipped(.problem))]
    Row {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// Row number, from 1.
        row: u64,
        /// The problem, with the value and what is expected.
        problem: String,
    },
    /// An error at a byte offset.
    #[error("{}, byte {offset}: {}", plain(.file), clipped(.problem))]
    Byte {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// Byte offset, from 0, in the decompressed contents.
        offset: u64,
        /// The problem, with the value and what is expected.
        problem: String,
    },
    /// An error in the file as a whole.
    #[error("{}: {}", plain(.file), clipped(.problem))]
    File {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// The problem, and how to fix it.
        problem: String,
    },
    /// The file differs from the one the run was started with.
    #[error(
        "{} has changed since the run was started: its MD5 is {found}, the run's data have {expected}",
        plain(.file)
    )]
    Changed {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// MD5 of the file now.
        found: String,
        /// MD5 that the run expects.
        expected: String,
    },
    /// Reading the file exceeds the memory budget.
    #[error(
        "{}: reading it would take {} MB of memory, where {} MB are allowed: set a higher dataset.memory_mb (for the commands \
         `datasets` and `trainer` --memory-mb) if this machine has so much",
        plain(.file),
        .takes.div_ceil(1_000_000),
        .limit / 1_000_000
    )]
    Memory {
        /// Path as resolved from the configuration or the command line.
        file: String,
        /// Bytes of memory needed, as far as known.
        takes: u64,
        /// Allowed bytes of memory.
        limit: u64,
    },
}
