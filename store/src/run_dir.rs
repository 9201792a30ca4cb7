//! Run directories: created exclusively, found again, and held by one coordinator at a time.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::atomic::{StoreError, TEMPORARY, sync_parent, temporary_writer};

/// Tolerated clock skew between this machine and file servers.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// Why a run directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A file-system error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run with this name exists.
    #[error("run {name:?} exists already ({}): pass --resume to go on with it, or choose another run.name", path.display())]
    Exists {
        /// Name of the run.
        name: String,
        /// Folder of the run.
        path: PathBuf,
    },
    /// Another coordinator holds the run.
    #[error("run directory {} is held by another coordinator (process {holder}): stop it first", path.display())]
    Held {
        /// Folder of the run.
        path: PathBuf,
        /// Process id of the other coordinator, or a note that it is unknown.
        holder: String,
    },
    /// Another coordinator took this term.
    #[error("term {term} of {} was taken by another coordinator at the same moment", path.display())]
    TermTaken {
        /// Folder of the run.
        path: PathBuf,
        /// The term that was taken.
        term: u32,
    },
    /// There is no such run.
    #[error("there is no run {name:?} in {}", runs.display())]
    Absent {
        /// Folder of all runs.
        runs: PathBuf,
        /// Name of the run.
        name: String,
    },
    /// The name is not a valid folder name.
    #[error("run.name = {name:?} can't be a folder's name: no slashes, not empty, not \".\" or \"..\"")]
    Name {
        /// The invalid name.
        name: String,
    },
    /// Too many runs with the same stem.
    #[error("there are {count} runs named {stem}-N in {}: name this one with run.name", path.display())]
    Full {
        /// Folder of all runs.
        path: PathBuf,
        /// The stem of their names.
        stem: String,
        /// Maximum number of runs per stem.
        count: u32,
    },
}

/// Maximum number of runs per stem.
const NUMBER_MAX: u32 = 100_000;

/// A run's folder, locked until this value is dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    name: String,
    // Keeps the lock.
    _lock: File,
}

impl RunDir {
    /// Creates the folder of a named run.
    ///
    /// # Errors
    /// [`RunDirError::Exists`] if the folder exists.
    pub fn create(runs: &Path, name: &str) -> Result<Self, RunDirError> {
        check_name(name)?;
        std::fs::create_dir_all(runs).map_err(StoreError::at(runs))?;
        let path = runs.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => {
                sync_parent(&path)?;
                Self::take(path, name)
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                Err(RunDirError::Exists { name: name.to_owned(), path })
            }
            Err(source) => Err(StoreError { path, source }.into()),
        }
    }

    /// Creates the folder `stem-N` with the next free number.
    ///
    /// # Errors
    /// If the file system reports an error, or all numbers are taken.
    pub fn create_numbered(runs: &Path, stem: &str) -> Result<Self, RunDirError> {
        std::fs::create_dir_all(runs).map_err(StoreError::at(runs))?;
        let first = numbers(runs, stem)?.into_iter().max().unwrap_or(0) + 1;
        for number in first..NUMBER_MAX {
            // If another coordinator takes the number first, try the next one.
            match Self::create(runs, &format!("{stem}-{number}")) {
                Err(RunDirError::Exists { .. }) => {}
                other => return other,
            }
        }
        Err(RunDirError::Full { path: runs.to_owned(), stem: stem.to_owned(), count: NUMBER_MAX })
    }

    /// Opens an existing run and sweeps the leftovers of crashed writers.
    ///
    /// # Errors
    /// [`RunDirError::Held`] if another coordinator holds it, [`RunDirError::Absent`] if it doesn't exist.
    pub fn open(runs: &Path, name: &str) -> Result<Self, RunDirError> {
        check_name(name)?;
        if !Self::exists(runs, name) {
            return Err(RunDirError::Absent { runs: runs.to_owned(), name: name.to_owned() });
        }
        Self::take(runs.join(name), name)
    }

    /// Whether a run of this name exists.
    #[must_use]
    pub fn exists(runs: &Path, name: &str) -> bool {
        check_name(name).is_ok() && runs.join(name).is_dir()
    }

    /// Whether this folder belongs to a run.
    #[must_use]
    pub fn is_run(folder: &Path) -> bool {
        folder.join("lock").is_file() && folder.join("terms").is_dir()
    }

    /// Removes the folder of a run that never began.
    ///
    /// # Errors
    /// If the file system reports an error; the folder named in it remains.
    pub fn discard(self) -> Result<(), RunDirError> {
        Ok(std::fs::remove_dir_all(&self.path).map_err(StoreError::at(&self.path))?)
    }

    /// Names of the runs `stem-N`, newest (highest number) first.
    ///
    /// # Errors
    /// If the folder of runs can't be read; an absent folder has no runs.
    pub fn numbered(runs: &Path, stem: &str) -> Result<Vec<String>, RunDirError> {
        let mut found = numbers(runs, stem)?;
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|number| format!("{stem}-{number}")).collect())
    }

    /// The run that `--resume` without a name selects: the newest incomplete one, else the newest.
    ///
    /// # Errors
    /// As [`RunDir::numbered`].
    pub fn to_resume(runs: &Path, stem: &str) -> Result<Option<String>, RunDirError> {
        let names = Self::numbered(runs, stem)?;
        let unfinished =
            names.iter().find(|name| Self::status(&runs.join(name)).as_deref() != Some("completed"));
        Ok(unfinished.or(names.first()).cloned())
    }

    /// Name of the run that process `pid` locked last. `began` is when that process started: process ids are reused.
    #[must_use]
    pub fn held_by(runs: &Path, pid: u32, began: SystemTime) -> Option<String> {
        let is_its = |run: &Path| {
            let lock = run.join("lock");
            let taken = std::fs::metadata(&lock).and_then(|lock| lock.modified()).ok();
            taken.is_some_and(|taken| taken + CLOCKS_APART >= began)
                && std::fs::read_to_string(&lock).is_ok_and(|holder| holder.trim() == pid.to_string())
        };
        let run = std::fs::read_dir(runs).ok()?.flatten().find(|run| is_its(&run.path()))?;
        run.file_name().into_string().ok()
    }

    /// `status` of a run's `run.json`; `None` if the file is absent or unreadable.
    #[must_use]
    pub fn status(run_dir: &Path) -> Option<String> {
        let text = std::fs::read(run_dir.join("run.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&text).ok()?;
        record.get("status")?.as_str().map(str::to_owned)
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
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() }.to_owned();
                return Err(RunDirError::Held { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(StoreError { path: lock_path, source }.into()),
        }
        lock.set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{}", std::process::id()))
            .map_err(StoreError::at(&lock_path))?;
        for folder in ["terms", "checkpoints", "exports", "logs"] {
            let folder = path.join(folder);
            std::fs::create_dir_all(&folder).map_err(StoreError::at(&folder))?;
        }
        // Only the lock holder writes here, but exports are also written by other processes.
        sweep(&path, &|_| true);
        sweep(&path.join("checkpoints"), &|_| true);
        for format in std::fs::read_dir(path.join("exports")).into_iter().flatten().flatten() {
            sweep(&format.path(), &|writer| !is_alive(writer));
        }
        Ok(Self { path, name: name.to_owned(), _lock: lock })
    }

    /// Path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the run.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The highest term taken so far, or 0.
    ///
    /// # Errors
    /// If the folder can't be read.
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

    /// Takes a term durably by creating its file exclusively.
    ///
    /// # Errors
    /// [`RunDirError::TermTaken`] if the file exists.
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

/// The numbers N of all folders `stem-N`.
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

/// Checks that a name stays below the folder of runs.
fn check_name(name: &str) -> Result<(), RunDirError> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name && !name.contains('\0') => Ok(()),
        _ => Err(RunDirError::Name { name: name.to_owned() }),
    }
}

/// Removes the leftovers of dead writers. Failures are harmless.
fn sweep(folder: &Path, is_leftover_of: &dyn Fn(u32) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(TEMPORARY) && temporary_writer(&name).is_none_or(is_leftover_of) {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

fn is_alive(process: u32) -> bool {
    i32::try_from(process)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
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
    fn leftovers_of_a_crash_are_swept_and_a_living_writers_are_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        drop(RunDir::create(dir.path(), "a").expect("made"));
        let run = dir.path().join("a");
        let swept = [
            "checkpoints/step-00000001.7-0.partial",
            "run.json.7-3.partial",
            "exports/s/f.999999999-0.partial",
        ];
        let living = format!("exports/s/f.{}-0.partial", std::process::id());
        std::fs::create_dir(run.join("exports/s")).expect("made");
        std::fs::create_dir(run.join(swept[0])).expect("made");
        for file in [swept[1], swept[2], living.as_str(), "exports/s/f"] {
            std::fs::write(run.join(file), "x").expect("written");
        }
        RunDir::open(dir.path(), "a").expect("opened");
        assert!(swept.iter().all(|name| !run.join(name).exists()));
        assert!(run.join(living).exists() && run.join("exports/s/f").exists());
    }

    #[test]
    fn resume_means_the_newest_unfinished_else_the_newest() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(RunDir::to_resume(&dir.path().join("absent"), "a").expect("listed"), None);
        let check = |statuses: [Option<&str>; 3], expected: &str| {
            for (number, status) in (9..).zip(statuses) {
                let run = dir.path().join(format!("a-{number}"));
                std::fs::create_dir_all(&run).expect("made");
                let _ = std::fs::remove_file(run.join("run.json"));
                if let Some(status) = status {
                    std::fs::write(run.join("run.json"), status).expect("written");
                }
            }
            let found = RunDir::to_resume(dir.path(), "a").expect("listed");
            assert_eq!(found.as_deref(), Some(expected), "{statuses:?}");
        };
        let completed = Some(r#"{"status":"completed"}"#);
        let failed = Some(r#"{"status":"failed"}"#);
        check([completed, completed, completed], "a-11");
        check([failed, failed, completed], "a-10");
        check([failed, completed, completed], "a-9");
        check([completed, None, completed], "a-10");
        check([completed, Some("torn{"), completed], "a-10");
        check([failed, failed, failed], "a-11");
    }

    #[test]
    fn what_is_not_there_or_no_name_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(RunDir::open(dir.path(), "a"), Err(RunDirError::Absent { .. })));
        for name in ["", ".", "..", "../a", "a/b", "/a", "a/", "./a", "a\0"] {
            assert!(matches!(RunDir::create(dir.path(), name), Err(RunDirError::Name { .. })), "{name:?}");
            assert!(!RunDir::exists(dir.path(), name), "{name:?}");
        }
        let said = RunDir::create(dir.path(), "../a").expect_err("no name").to_string();
        assert!(said.contains("run.name"), "{said}");
    }

    #[test]
    fn threads_that_race_for_a_number_get_different_ones() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut names: Vec<String> = std::thread::scope(|scope| {
            let race = || RunDir::create_numbered(dir.path(), "a").expect("made").name().to_owned();
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
        });
        names.sort();
        assert_eq!(names, (1..=8).map(|number| format!("a-{number}")).collect::<Vec<_>>());
    }
}
