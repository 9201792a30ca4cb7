//! The journal on disk: appended record by record, and locked for the coordinator's lifetime.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::journal::{Record, decode, encode};

use crate::checkpoints::stall_watch::StallWatch;

/// A healthy disk appends a record in less.
const APPEND_TIME: Duration = Duration::from_secs(5);

/// Why the journal can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file system reported an error.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// A record in the middle is damaged.
    #[error(
        "{path}: {source}; it is not a torn tail, so nothing is cut off by itself: put the journal's backup in its place, \
         or begin a new run from the newest version of this one (init.from = its folder)"
    )]
    Damaged { path: String, source: protocol::journal::JournalError },
}

/// An open journal.
pub(crate) struct JournalFile {
    file: File,
    path: PathBuf,
    /// Length of the whole records: a failed append is truncated to it before the next.
    whole: u64,
    /// Whether the file may be longer than `whole`.
    torn: bool,
    stall_watch: StallWatch,
}

impl JournalFile {
    /// Opens or creates the journal and reads its records. Truncates a torn tail, and returns its length.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Record>, u64), JournalError> {
        let io = |source| JournalError::Io { path: path.display().to_string(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let decoded = decode(&bytes)
            .map_err(|source| JournalError::Damaged { path: path.display().to_string(), source })?;
        let whole = decoded.good_bytes as u64;
        let cut = bytes.len() as u64 - whole;
        let own = path.display().to_string();
        let stall_watch = StallWatch::watch(APPEND_TIME, move |took| {
            let seconds = took.as_secs();
            tracing::error!(
                "{own} has been taking a record for {seconds} s: its disk hangs, and the run waits for it"
            );
        });
        let stall_watch = stall_watch.map_err(io)?;
        let mut journal = Self { file, path: path.to_owned(), whole, torn: cut > 0, stall_watch };
        journal.cut_back()?;
        Ok((journal, decoded.records, cut))
    }

    /// Appends a record: written to the operating system on return, synced to disk if `durable`.
    pub(crate) fn append(&mut self, record: &Record, durable: bool) -> Result<(), JournalError> {
        self.stall_watch.begins();
        let appended = self.append_whole(record, durable);
        self.stall_watch.ends();
        appended
    }

    fn append_whole(&mut self, record: &Record, durable: bool) -> Result<(), JournalError> {
        self.cut_back()?;
        let bytes = encode(record);
        self.torn = true;
        self.file.write_all(&bytes).map_err(|source| self.io(source))?;
        if durable {
            self.file.sync_data().map_err(|source| self.io(source))?;
        }
        self.whole += bytes.len() as u64;
        self.torn = false;
        Ok(())
    }

    /// Truncates what a failed append or a crash left after the last whole record.
    fn cut_back(&mut self) -> Result<(), JournalError> {
        if self.torn {
            self.file.set_len(self.whole).map_err(|source| self.io(source))?;
            self.torn = false;
        }
        self.file.seek(SeekFrom::Start(self.whole)).map_err(|source| self.io(source))?;
        Ok(())
    }

    fn io(&self, source: std::io::Error) -> JournalError {
        JournalError::Io { path: self.path.display().to_string(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(reason: &str) -> Record {
        Record::Stop { reason: reason.to_owned() }
    }

    #[test]
    fn a_torn_tail_is_cut_and_the_next_record_follows() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("journal");
        let (mut journal, records, cut) = JournalFile::open(&path).expect("a new journal");
        assert!(records.is_empty() && cut == 0);
        journal.append(&stop("one"), true).expect("written");
        journal.append(&stop("two"), false).expect("written");
        drop(journal);
        let length = std::fs::metadata(&path).expect("it is there").len();
        File::options().write(true).open(&path).and_then(|f| f.set_len(length - 3)).expect("torn");

        let (mut journal, records, cut) = JournalFile::open(&path).expect("the rest is read");
        assert_eq!(records, [stop("one")]);
        assert!(cut > 0);
        journal.append(&stop("three"), false).expect("written");
        let (_, records, cut) = JournalFile::open(&path).expect("whole");
        assert_eq!(records, [stop("one"), stop("three")]);
        assert_eq!(cut, 0);
    }
}
