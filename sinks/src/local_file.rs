//! A file that grows behind a state which knows its length: what a crash left beyond it is cut off.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::SinkError;
use super::folder::local;

/// Name of the length in a state's memo.
pub(crate) const BYTES: &str = "bytes";

/// The length of a file that is at least so long; `None` if it is gone or shorter: then it is made anew.
pub(crate) fn holds(path: &Path, bytes: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() >= bytes)
}

/// Cuts the file to `at` bytes and appends; on the disk when it returns.
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
