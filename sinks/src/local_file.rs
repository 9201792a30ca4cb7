//! An append-only file whose length a state tracks: anything that a crash left beyond that length is truncated.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::SinkError;
use super::folder::local;

/// Key of the length in a state's memo.
pub(crate) const BYTES: &str = "bytes";

/// Whether the file has at least this length; if not, it must be rebuilt.
pub(crate) fn holds(path: &Path, bytes: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() >= bytes)
}

/// Truncates the file to `at` bytes, appends and syncs it; returns the new length.
pub(crate) fn append(path: &Path, at: u64, bytes: &[u8]) -> Result<u64, SinkError> {
    let written = || -> std::io::Result<()> {
        let mut file: File = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)?;
        file.sync_data()
    };
    written().map_err(|why| local(path, &why))?;
    Ok(at + bytes.len() as u64)
}
