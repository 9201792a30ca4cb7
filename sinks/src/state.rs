//! A sink's progress: a small file in the run's folder, written atomically after each successful step.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folder::local;
use super::{RunFolder, Sink, SinkError, Source};

/// Folder of the states in a run's folder.
const FOLDER: &str = "tracker";
/// Extension of the file whose lock marks a state as in use.
const LOCK: &str = "lock";
/// How often a busy state's owner is looked up, and the pause between two attempts.
const LOOKS_MAX: usize = 50;
const LOOKS_APART: Duration = Duration::from_millis(20);

/// A sink's progress.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkState {
    /// The sink's name.
    pub sink: String,
    /// The destination, without credentials.
    pub destination: String,
    /// The run's id at the destination; empty before it exists.
    pub run: String,
    /// Bytes read of each followed file.
    pub offsets: BTreeMap<String, u64>,
    /// Number of metrics taken.
    pub metrics: u64,
    /// Fingerprint of the configuration that was sent.
    pub params: String,
    /// Fingerprint of the record that was sent.
    pub record: String,
    /// The final status that was sent; empty while the run goes on.
    pub finished: String,
    /// Failures since the last success.
    pub attempts: u32,
    /// The last failure, if nothing succeeded since.
    pub last_error: Option<String>,
    /// Values that the sink itself stores.
    pub memo: BTreeMap<String, Value>,
    /// The greatest step taken, by file and key: it counts as sent should the file be truncated.
    pub newest: BTreeMap<String, BTreeMap<String, u64>>,
    /// `newest` at the time when a file was found truncated: recomputed values up to there were sent before.
    pub already: BTreeMap<String, BTreeMap<String, u64>>,
}

impl SinkState {
    /// Starts again from nothing, since the data sent before is gone.
    pub(crate) fn start_over(&mut self) {
        let (sink, destination) = (std::mem::take(&mut self.sink), std::mem::take(&mut self.destination));
        *self = Self { sink, destination, ..Self::default() };
    }

    /// A number in the memo.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.memo.get(name)?.as_u64()
    }

    /// A text in the memo.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.memo.get(name)?.as_str()
    }

    /// Stores a value in the memo.
    pub(crate) fn remember(&mut self, name: &str, value: impl Into<Value>) {
        self.memo.insert(name.to_owned(), value.into());
    }

    /// Handles a followed file that is shorter than the part already read: continues from its end, without values sent
    /// before.
    pub(crate) fn cut(&mut self, source: Source, length: u64) {
        self.offsets.insert(source.file().to_owned(), length);
        if let Some(newest) = self.newest.get(source.file()).cloned() {
            self.already.insert(source.file().to_owned(), newest);
        }
    }

    pub(crate) fn offset(&self, source: Source) -> u64 {
        self.offsets.get(source.file()).copied().unwrap_or(0)
    }
}

/// An exclusively locked state file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// Holds the file's lock, which ends with the process.
    _lock: File,
    saved: SinkState,
}

impl StateFile {
    /// Opens the state of a sink and its destination: `SINK.json`, or `SINK-HASH.json` if that one belongs to another
    /// destination. It is written at once, so that a process that starts a moment later sees whose it is.
    pub(crate) fn open(run: &RunFolder, sink: &dyn Sink) -> Result<(Self, SinkState), SinkError> {
        let folder = run.path().join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|why| not_written(&folder, &why))?;
        let (name, destination) = (sink.name(), sink.destination());
        let is_others = |path: &Path| Ok(read(path)?.is_some_and(|other| other.destination != destination));
        let mut path = folder.join(format!("{name}.json"));
        for _ in 0..LOOKS_MAX {
            if is_others(&path)? {
                path = folder.join(format!("{name}-{:08x}.json", crc32fast::hash(destination.as_bytes())));
            }
            match lock(&path)? {
                Some(lock) if !is_others(&path)? => {
                    let state =
                        SinkState { sink: name.to_owned(), destination, ..read(&path)?.unwrap_or_default() };
                    let mut file = Self { path, _lock: lock, saved: SinkState::default() };
                    file.save(&state)?;
                    return Ok((file, state));
                }
                // The owner has not written its destination yet.
                None if read(&path)?.is_none() => std::thread::sleep(LOOKS_APART),
                None if !is_others(&path)? => break,
                _ => {}
            }
        }
        Err(SinkError::Retry(format!(
            "another process sends this run to {destination} just now ({} is locked)",
            path.with_extension(LOCK).display()
        )))
    }

    /// Writes the state atomically if it changed.
    pub(crate) fn save(&mut self, state: &SinkState) -> Result<(), SinkError> {
        if *state == self.saved {
            return Ok(());
        }
        let mut bytes = serde_json::to_vec_pretty(state)
            .map_err(|why| SinkError::Retry(format!("{}: {why}", self.path.display())))?;
        bytes.push(b'\n');
        store::write_file(&self.path, &bytes).map_err(|why| SinkError::Retry(why.to_string()))?;
        self.saved = state.clone();
        Ok(())
    }
}

/// Missing permissions are a permanent failure.
fn not_written(path: &Path, why: &std::io::Error) -> SinkError {
    if !matches!(why.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) {
        return local(path, why);
    }
    SinkError::Refused(format!(
        "{} can't be written: {why}. How far a run was sent is kept there: push it as somebody who may write to its folder, or push \
         a copy of it",
        path.display()
    ))
}

/// `None`: another process holds the lock.
fn lock(path: &Path) -> Result<Option<File>, SinkError> {
    let path = path.with_extension(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|why| not_written(&path, &why))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(why)) => Err(local(&path, &why)),
    }
}

fn read(path: &Path) -> Result<Option<SinkState>, SinkError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(local(path, &why)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|why| {
        SinkError::Refused(format!(
            "{} is no sink's state ({why}): move it away, and the run is sent again from its beginning",
            path.display()
        ))
    })
}
