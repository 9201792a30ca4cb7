//! Watches a folder that must not move while a process works in it.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::atomic::StoreError;

/// A folder and a file in it, held open and identified by their inodes, regardless of names. (The file matters because
/// removing a folder that is being written to may leave it in place, with other files in it.)
#[derive(Debug)]
pub struct HeldFolder {
    path: PathBuf,
    folder: File,
    file_name: PathBuf,
    file: File,
}

/// Location of a held folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderLocation {
    /// At its original path.
    InPlace,
    /// Moved to this path.
    Moved(PathBuf),
    /// Removed, or moved out of this process's sight.
    Gone,
}

impl HeldFolder {
    /// Holds the folder at this path, and one of its files.
    ///
    /// # Errors
    /// If they can't be opened.
    pub fn open(path: &Path, file_name: &str) -> Result<Self, StoreError> {
        let open = |path: &Path| File::open(path).map_err(StoreError::at(path));
        let (folder, file) = (open(path)?, open(&path.join(file_name))?);
        Ok(Self { path: path.to_owned(), folder, file_name: file_name.into(), file })
    }

    /// Path of the folder when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's present location. If the file system temporarily can't tell, the folder counts as in place.
    #[must_use]
    pub fn whereabouts(&self) -> FolderLocation {
        match self.is_at(&self.path) {
            Ok(false) => {}
            Err(why) if is_absence(&why) => {}
            Ok(true) | Err(_) => return FolderLocation::InPlace,
        }
        let link = format!("/proc/self/fd/{}", self.folder.as_raw_fd());
        let now = std::fs::read_link(link).ok().filter(|now| self.is_at(now).unwrap_or(false));
        now.map_or(FolderLocation::Gone, FolderLocation::Moved)
    }

    fn is_at(&self, path: &Path) -> std::io::Result<bool> {
        let folder = is_same(&self.folder.metadata()?, &std::fs::metadata(path)?);
        Ok(folder && is_same(&self.file.metadata()?, &std::fs::metadata(path.join(&self.file_name))?))
    }
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// On a network file system, a removed folder is a stale handle.
fn is_absence(why: &Error) -> bool {
    matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_known_by_what_it_is_and_not_by_its_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join("lock"), "").expect("written");
        let held = HeldFolder::open(&path, "lock").expect("opened");
        assert_eq!(held.whereabouts(), FolderLocation::InPlace);
        std::fs::rename(&path, &other).expect("moved");
        let moved = FolderLocation::Moved(other.canonicalize().expect("it is there"));
        assert_eq!(held.whereabouts(), moved);
        std::fs::create_dir(&path).expect("another one of its name");
        assert_eq!(held.whereabouts(), moved);
        std::fs::remove_dir_all(&other).expect("removed");
        assert_eq!(held.whereabouts(), FolderLocation::Gone);
        std::fs::remove_dir(&path).expect("removed");
        std::fs::write(&path, "a file").expect("written");
        assert_eq!(held.whereabouts(), FolderLocation::Gone);
    }

    /// As left by `rm -rf` that met a file created meanwhile.
    #[test]
    fn a_folder_that_was_emptied_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("lock"), "").expect("written");
        let held = HeldFolder::open(dir.path(), "lock").expect("opened");
        std::fs::remove_file(dir.path().join("lock")).expect("removed");
        assert_eq!(held.whereabouts(), FolderLocation::Gone);
        std::fs::write(dir.path().join("lock"), "").expect("another one");
        assert_eq!(held.whereabouts(), FolderLocation::Gone);
    }
}
