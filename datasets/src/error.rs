//! What can be wrong with data: always with the file, and the line, row or byte where there is one.

/// Why a dataset can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file can't be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
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
    #[error("{file}, line {line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// From 1.
        line: u64,
        /// What, with the value and what is expected.
        problem: String,
    },
    /// Something is wrong with a row of a file that has no lines.
    #[error("{file}, row {row}: {problem}")]
    Row {
        /// The file.
        file: String,
        /// From 1.
        row: u64,
        /// What, with the value and what is expected.
        problem: String,
    },
    /// Something is wrong at a byte.
    #[error("{file}, byte {offset}: {problem}")]
    Byte {
        /// The file.
        file: String,
        /// From 0; in what a compressed file holds.
        offset: u64,
        /// What, with the value and what is expected.
        problem: String,
    },
    /// Something is wrong with the whole file.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What, and the way out.
        problem: String,
    },
    /// The file is not the one that the run was started on.
    #[error(
        "{file} has changed since the run was started: its MD5 is {found}, the run's data have {expected}"
    )]
    Changed {
        /// The file.
        file: String,
        /// Its digest now.
        found: String,
        /// The run's.
        expected: String,
    },
}
