//! Files that are written whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file system said no.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct StoreError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What it said.
    pub source: std::io::Error,
}

impl StoreError {
    pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, source }
    }
}

/// Writes a file whole or not at all: a temporary neighbour, fsync, rename, fsync of the folder.
///
/// # Errors
/// When the file system says no; the old content, if any, is then still there.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = temporary_name(path);
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    if let Err(source) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(StoreError { path: path.to_owned(), source });
    }
    std::fs::rename(&temporary, path).map_err(StoreError::at(path))?;
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

/// What a crashed writer may leave behind; swept when its folder is opened again.
pub(crate) const TEMPORARY: &str = ".partial";

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}{TEMPORARY}", std::process::id()));
    path.with_file_name(name)
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
    fn an_error_names_the_file_and_leaves_the_old_content() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("absent/f");
        let said = write_file(&path, b"one").expect_err("the folder is absent").to_string();
        assert!(said.contains("absent/f"), "{said}");
    }
}
