//! Atomic file writes.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file-system error, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}{}", path.display(), self.kind().way_out())]
pub struct StoreError {
    /// The file or folder.
    pub path: PathBuf,
    /// The underlying error.
    pub source: std::io::Error,
}

/// Classes of errors that call for different reactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreErrorKind {
    /// The disk or the user's quota is full. Retryable once there is room.
    Full,
    /// The file system is mounted read-only.
    ReadOnly,
    /// Permission denied.
    Denied,
    /// No such file or folder.
    Absent,
    /// Any other error; see the source.
    Other,
}

impl StoreErrorKind {
    fn way_out(self) -> &'static str {
        match self {
            Self::Full => "; make room there and try again",
            Self::ReadOnly => "; choose a writable folder",
            Self::Denied => "; choose another folder, or mend its permissions",
            Self::Absent | Self::Other => "",
        }
    }
}

impl StoreError {
    pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, source }
    }

    /// Classifies the error.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        match self.source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            ErrorKind::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
            ErrorKind::PermissionDenied => StoreErrorKind::Denied,
            ErrorKind::NotFound => StoreErrorKind::Absent,
            _ => StoreErrorKind::Other,
        }
    }
}

/// Writes a file atomically: temporary sibling, fsync, rename, fsync of the folder.
///
/// # Errors
/// If the file system reports an error; the old contents, if any, are then unchanged.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary_name(path);
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if let Err(source) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(StoreError { path: path.to_owned(), source });
    }
    sync_parent(path)
}

/// Makes a rename or a creation in the path's folder durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(StoreError::at(parent))
}

/// Suffix of unfinished files. Leftovers of crashed writers are swept when their run is opened.
pub(crate) const TEMPORARY: &str = ".partial";

/// A sibling path unique to this writer: `name.PID-N.partial`.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{writer}{TEMPORARY}", std::process::id()));
    path.with_file_name(name)
}

/// Process id of the writer of this temporary name, if it is one.
pub(crate) fn temporary_writer(name: &str) -> Option<u32> {
    let (_, writer) = name.strip_suffix(TEMPORARY)?.rsplit_once('.')?;
    writer.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        write_file(&path, b"one").expect("written");
        write_file(&path, b"two").expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "no temporary file stays");
    }

    #[test]
    fn an_error_names_the_file_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let error = write_file(&dir.path().join("absent/f"), b"one").expect_err("the folder is absent");
        assert!(error.to_string().contains("absent/f"), "{error}");
        assert_eq!(error.kind(), StoreErrorKind::Absent);
        // A folder blocks the rename.
        let path = dir.path().join("f");
        std::fs::create_dir(&path).expect("made");
        write_file(&path, b"one").expect_err("a folder is there");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "no temporary file stays");
    }

    #[test]
    fn many_writers_of_one_file_leave_one_whole_content() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_file(path, &[writer; 5000]).expect("written");
                    }
                });
            }
        });
        let content = std::fs::read(&path).expect("read");
        assert!(content.len() == 5000 && content.iter().all(|byte| *byte == content[0]));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn what_the_system_says_has_a_kind_and_a_way_out() {
        let kinds = [
            (28, StoreErrorKind::Full, "make room"),
            (122, StoreErrorKind::Full, "make room"),
            (30, StoreErrorKind::ReadOnly, "writable"),
            (13, StoreErrorKind::Denied, "permissions"),
            (2, StoreErrorKind::Absent, "/runs/a"),
            (5, StoreErrorKind::Other, "/runs/a"),
        ];
        for (number, kind, says) in kinds {
            let error =
                StoreError { path: "/runs/a".into(), source: std::io::Error::from_raw_os_error(number) };
            assert_eq!(error.kind(), kind, "errno {number}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_temporary_name_says_whose_it_is() {
        let name = temporary_name(Path::new("/runs/a/run.json"));
        let name = name.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(temporary_writer(name), Some(std::process::id()), "{name}");
        for other in ["run.json", "a.partial", "a.7.partial", ".partial", "a.x-1.partial"] {
            assert_eq!(temporary_writer(other), None, "{other}");
        }
    }
}
