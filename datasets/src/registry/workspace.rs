//! Private folders for unfinished files.
//!
//! A writer holds the lock of its folder while it lives; the next writer sweeps folders whose locks are free. So the
//! leftovers of killed writers disappear without tracking process ids.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::RegistryError;

const LOCK: &str = "lock";

/// A folder that is removed on drop.
pub(crate) struct Workspace {
    folder: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl Workspace {
    /// Creates a workspace under the registry's root, and sweeps abandoned ones.
    pub(crate) fn begin(root: &Path) -> Result<Self, RegistryError> {
        let all = root.join("tmp");
        std::fs::create_dir_all(&all).map_err(RegistryError::at(&all))?;
        // Held while folders are created and swept, so that a folder that isn't locked yet isn't swept.
        let turn = locked(&all.join(LOCK))?;
        sweep(&all);
        let folder = (0u64..)
            .map(|number| all.join(format!("{}-{number}", std::process::id())))
            .find(|folder| !folder.exists())
            .unwrap_or_else(|| all.join("last"));
        std::fs::create_dir(&folder).map_err(RegistryError::at(&folder))?;
        let lock = locked(&folder.join(LOCK))?;
        drop(turn);
        Ok(Self { folder, next: AtomicU64::new(0), _lock: lock })
    }

    /// A unique path on the registry's file system.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Opens or creates a file, and waits for an exclusive lock on it.
pub(crate) fn locked(path: &Path) -> Result<File, RegistryError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(RegistryError::at(path))?;
    file.lock().map_err(RegistryError::at(path))?;
    Ok(file)
}

/// Removes folders whose writers are gone. Failures are left for the next writer.
fn sweep(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let folder = entry.path();
        if !folder.is_dir() {
            continue;
        }
        let is_free = match OpenOptions::new().write(true).open(folder.join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => true,
        };
        if is_free {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_swept_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mine = Workspace::begin(dir.path()).expect("begun");
        std::fs::write(mine.path(), "half").expect("written");
        let left = dir.path().join("tmp/99999999-0");
        std::fs::create_dir(&left).expect("made");
        std::fs::write(left.join("0"), "half").expect("written");
        std::fs::write(left.join(LOCK), "").expect("written");
        let other = Workspace::begin(dir.path()).expect("begun");
        assert!(!left.exists(), "what a dead writer left is still there");
        assert!(mine.folder.join("0").exists(), "a living writer's file is gone");
        let folder = other.folder.clone();
        drop(other);
        assert!(!folder.exists());
    }
}
