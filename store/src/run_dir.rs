//! Run directories: made exclusively, found again, held by one coordinator at a time.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::atomic::{StoreError, sync_parent};

/// Why a run directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The file system said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A named run that is there already.
    #[error("run {name:?} exists already ({}): pass --resume to go on with it, or choose another run.name", path.display())]
    Exists {
        /// Its name.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// Another coordinator holds it.
    #[error("run directory {} is held by another coordinator (process {holder}): stop it first", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// The other's process id, or what is known of it.
        holder: String,
    },
    /// Somebody else took the term.
    #[error("term {term} of {} was taken by another coordinator at the same moment", path.display())]
    TermTaken {
        /// The folder.
        path: PathBuf,
        /// The term.
        term: u32,
    },
    /// Too many runs of one stem.
    #[error("there are {count} runs named {stem}-N in {}: name this one with run.name", path.display())]
    Full {
        /// The folder of runs.
        path: PathBuf,
        /// The stem.
        stem: String,
        /// How many.
        count: u32,
    },
}

/// Numbers that a stem may reach.
const NUMBER_MAX: u32 = 100_000;

/// A run's folder, held until this value is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    name: String,
    // Held for its lock.
    _lock: File,
}

impl RunDir {
    /// Makes the folder of a named run.
    ///
    /// # Errors
    /// [`RunDirError::Exists`] if it is there already.
    pub fn create(runs: &Path, name: &str) -> Result<Self, RunDirError> {
        std::fs::create_dir_all(runs).map_err(StoreError::at(runs))?;
        let path = runs.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => Self::take(path, name),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                Err(RunDirError::Exists { name: name.to_owned(), path })
            }
            Err(source) => Err(StoreError { path, source }.into()),
        }
    }

    /// Makes the folder `stem-N` with the next free number.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn create_numbered(runs: &Path, stem: &str) -> Result<Self, RunDirError> {
        std::fs::create_dir_all(runs).map_err(StoreError::at(runs))?;
        let first = numbers(runs, stem)?.into_iter().max().unwrap_or(0) + 1;
        for number in first..NUMBER_MAX {
            // Another coordinator may take the same number first: then the next one is ours.
            match Self::create(runs, &format!("{stem}-{number}")) {
                Err(RunDirError::Exists { .. }) => {}
                other => return other,
            }
        }
        Err(RunDirError::Full { path: runs.to_owned(), stem: stem.to_owned(), count: NUMBER_MAX })
    }

    /// Opens a run that is there; sweeps what a crashed writer left behind.
    ///
    /// # Errors
    /// [`RunDirError::Held`] if another coordinator works on it.
    pub fn open(runs: &Path, name: &str) -> Result<Self, RunDirError> {
        Self::take(runs.join(name), name)
    }

    /// Names of the runs `stem-N`, newest (highest number) first.
    ///
    /// # Errors
    /// When the folder of runs can't be read; an absent one has no runs.
    pub fn numbered(runs: &Path, stem: &str) -> Result<Vec<String>, RunDirError> {
        let mut found = numbers(runs, stem)?;
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|number| format!("{stem}-{number}")).collect())
    }

    fn take(path: PathBuf, name: &str) -> Result<Self, RunDirError> {
        let lock_path = path.join("lock");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(StoreError::at(&lock_path))?;
        if lock.try_lock().is_err() {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder =
                if holder.trim().is_empty() { "unknown".to_owned() } else { holder.trim().to_owned() };
            return Err(RunDirError::Held { path, holder });
        }
        lock.set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{}", std::process::id()))
            .map_err(StoreError::at(&lock_path))?;
        for folder in ["terms", "checkpoints", "exports", "logs"] {
            let folder = path.join(folder);
            std::fs::create_dir_all(&folder).map_err(StoreError::at(&folder))?;
        }
        sweep(&path);
        sweep(&path.join("checkpoints"));
        Ok(Self { path, name: name.to_owned(), _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The highest term taken so far; 0 if none.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn last_term(&self) -> Result<u32, RunDirError> {
        let terms = self.path.join("terms");
        let mut last = 0;
        for entry in std::fs::read_dir(&terms).map_err(StoreError::at(&terms))? {
            let entry = entry.map_err(StoreError::at(&terms))?;
            if let Some(term) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                last = last.max(term);
            }
        }
        Ok(last)
    }

    /// Takes a term by creating its file exclusively, durably.
    ///
    /// # Errors
    /// [`RunDirError::TermTaken`] if the file is there.
    pub fn take_term(&self, term: u32) -> Result<(), RunDirError> {
        let path = self.path.join("terms").join(term.to_string());
        let created = File::options().write(true).create_new(true).open(&path);
        let mut file = match created {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Err(RunDirError::TermTaken { path: self.path.clone(), term });
            }
            other => other.map_err(StoreError::at(&path))?,
        };
        writeln!(file, "{}", std::process::id())
            .and_then(|()| file.sync_all())
            .map_err(StoreError::at(&path))?;
        Ok(sync_parent(&path)?)
    }
}

/// Numbers N of the folders `stem-N`.
fn numbers(runs: &Path, stem: &str) -> Result<Vec<u32>, RunDirError> {
    let entries = match std::fs::read_dir(runs) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(StoreError::at(runs))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::at(runs))?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(stem)?.strip_prefix('-')?.parse::<u32>().ok());
        found.extend(number.filter(|n| *n < NUMBER_MAX));
    }
    Ok(found)
}

/// Removes temporary files of writers that died. What can't be removed does no harm.
fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(crate::atomic::TEMPORARY) {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = RunDir::create_numbered(dir.path(), "digits").expect("made");
        let second = RunDir::create_numbered(dir.path(), "digits").expect("made");
        assert_eq!((first.name(), second.name()), ("digits-1", "digits-2"));
        drop(first);
        std::fs::remove_dir_all(dir.path().join("digits-1")).expect("removed");
        assert_eq!(RunDir::create_numbered(dir.path(), "digits").expect("made").name(), "digits-3");
        std::fs::create_dir(dir.path().join("digits-x")).expect("made");
        assert_eq!(RunDir::numbered(dir.path(), "digits").expect("listed"), ["digits-3", "digits-2"]);
        let said = RunDir::create(dir.path(), "digits-2").expect_err("it exists").to_string();
        assert!(said.contains("--resume"), "{said}");
    }

    #[test]
    fn one_coordinator_at_a_time_and_the_holder_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let held = RunDir::create(dir.path(), "a").expect("made");
        let said = RunDir::open(dir.path(), "a").expect_err("held").to_string();
        assert!(said.contains(&std::process::id().to_string()), "{said}");
        drop(held);
        RunDir::open(dir.path(), "a").expect("free again");
    }

    #[test]
    fn a_term_is_taken_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let run = RunDir::create(dir.path(), "a").expect("made");
        assert_eq!(run.last_term().expect("read"), 0);
        run.take_term(1).expect("taken");
        assert!(matches!(run.take_term(1), Err(RunDirError::TermTaken { term: 1, .. })));
        run.take_term(2).expect("taken");
        assert_eq!(run.last_term().expect("read"), 2);
    }

    #[test]
    fn leftovers_of_a_crash_are_swept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        drop(RunDir::create(dir.path(), "a").expect("made"));
        let leftover = dir.path().join("a/checkpoints/step-00000001.7.partial");
        std::fs::create_dir(&leftover).expect("made");
        std::fs::write(dir.path().join("a/run.json.7.partial"), "x").expect("written");
        RunDir::open(dir.path(), "a").expect("opened");
        assert!(!leftover.exists() && !dir.path().join("a/run.json.7.partial").exists());
    }
}
