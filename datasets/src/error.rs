//! What can be wrong with data: always with the file, and the line, row or byte where there is one.

use crate::quote::{clipped, plain};

/// Why a dataset can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file can't be read.
    #[error("{}: {source}", plain(.file))]
    Io {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is no such file.
    #[error("dataset.uri = {uri:?}: no such file or folder (looked for {tried})")]
    Absent {
        /// As configured.
        uri: String,
        /// Where it was looked for.
        tried: String,
    },
    /// Something is wrong with a line.
    #[error("{}, line {line}: {}", plain(.file), clipped(.problem))]
    Line {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// From 1.
        line: u64,
        /// What, with the value and what is expected.
        problem: String,
    },
    /// Something is wrong with a row of a file that has no lines.
    #[error("{}, row {row}: {}", plain(.file), clipped(.problem))]
    Row {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// From 1.
        row: u64,
        /// What, with the value and what is expected.
        problem: String,
    },
    /// Something is wrong at a byte.
    #[error("{}, byte {offset}: {}", plain(.file), clipped(.problem))]
    Byte {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// From 0; in what a compressed file holds.
        offset: u64,
        /// What, with the value and what is expected.
        problem: String,
    },
    /// Something is wrong with the whole file.
    #[error("{}: {}", plain(.file), clipped(.problem))]
    File {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// What, and the way out.
        problem: String,
    },
    /// The file is not the one that the run was started on.
    #[error(
        "{} has changed since the run was started: its MD5 is {found}, the run's data have {expected}",
        plain(.file)
    )]
    Changed {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// Its digest now.
        found: String,
        /// The run's.
        expected: String,
    },
    /// Reading it takes more memory than it may.
    #[error(
        "{}: reading it would take {} MB of memory, where {} MB are allowed: set a higher dataset.memory_mb (for the commands \
         `datasets` and `trainer` --memory-mb) if this machine has so much",
        plain(.file),
        .takes.div_ceil(1_000_000),
        .limit / 1_000_000
    )]
    Memory {
        /// Its path, as the configuration or the command line leads to it.
        file: String,
        /// Bytes of memory, as far as they are known.
        takes: u64,
        /// Bytes that may be taken.
        limit: u64,
    },
}
