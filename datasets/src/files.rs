//! Finds and reads the files of a dataset, which is a single file or a folder.

use std::path::{Component, Path, PathBuf};

use crate::digest::Digests;
use crate::error::DataError;
use crate::listing::FileEntry;
use crate::memory_budget::{MemoryBudget, read_at_most};
use crate::registry::{Manifest, RegistryError};

/// Maximum files of a dataset: the data plan, which lists them, goes to every worker.
const FILES_MAX: usize = 1_000_000;
/// Maximum folder depth: stops at symlink cycles.
const DEPTH_MAX: usize = 32;
/// Version-control folders, which DVC skips too.
const LEFT_OUT: [&str; 3] = [".git", ".hg", ".dvc"];

/// Resolves `uri`: a registry version (`dataset:NAME[@VERSION]` or `NAME@VERSION`), else a path from the working
/// directory, else a path from the configuration's folder.
///
/// # Errors
/// If neither path is a file or a folder, or the registry has no such version.
pub fn resolve(uri: &str, config_dir: Option<&Path>) -> Result<PathBuf, DataError> {
    let memory = MemoryBudget::megabytes(configs::Dataset::default().memory_mb);
    find(uri, config_dir, &memory).map(|(path, _)| path)
}

/// [`resolve`], with the manifest if `uri` is a registry version.
pub(crate) fn find(
    uri: &str,
    config_dir: Option<&Path>,
    memory: &MemoryBudget,
) -> Result<(PathBuf, Option<Manifest>), DataError> {
    let of_registry = crate::registry::resolve_within(uri, None, memory);
    let of_registry = of_registry.map_err(|why| match why {
        RegistryError::Table(why @ DataError::Memory { .. }) => why,
        why => DataError::File { file: format!("dataset.uri = {uri:?}"), problem: why.to_string() },
    })?;
    if let Some(version) = of_registry {
        return Ok((version.path, Some(version.manifest)));
    }
    let plain = uri.strip_prefix("file://").unwrap_or(uri);
    let beside = config_dir.map(|dir| dir.join(plain)).filter(|path| path != Path::new(plain));
    let candidates = [Some(PathBuf::from(plain)), beside];
    let found = candidates.iter().flatten().find(|path| path.is_file() || path.is_dir());
    found.cloned().map(|path| (path, None)).ok_or_else(|| {
        let tried: Vec<String> = candidates.iter().flatten().map(|path| path.display().to_string()).collect();
        DataError::Absent { uri: uri.to_owned(), tried: tried.join(", ") }
    })
}

/// Relative paths of all files below a folder, sorted; includes hidden files but not version-control folders.
pub(crate) fn list(root: &Path) -> Result<Vec<String>, DataError> {
    let mut paths = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        // Joining an empty path would add a trailing slash.
        let here = if folder.is_empty() { root.to_owned() } else { root.join(&folder) };
        let io = |source| DataError::Io { file: here.display().to_string(), source };
        for entry in std::fs::read_dir(&here).map_err(io)? {
            let entry = entry.map_err(io)?;
            let path = entry.path();
            let refuse = |problem: String| DataError::File { file: path.display().to_string(), problem };
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(refuse("the file's name is not UTF-8: rename it".to_owned()));
            };
            let relative = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            // Follow symlinks.
            let kind = std::fs::metadata(&path)
                .map_err(|source| DataError::Io { file: path.display().to_string(), source })?;
            if kind.is_dir() {
                if depth == DEPTH_MAX {
                    return Err(refuse(format!("folders lie more than {DEPTH_MAX} deep")));
                }
                if !LEFT_OUT.contains(&name) {
                    folders.push((relative, depth + 1));
                }
            } else if kind.is_file() {
                paths.push(relative);
            } else {
                return Err(refuse("this is neither a file nor a folder: remove it".to_owned()));
            }
            if paths.len() + folders.len() > FILES_MAX {
                return Err(refuse(format!("the dataset has more than {FILES_MAX} files")));
            }
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a file and computes its entry. The caller has reserved `most` bytes of memory.
pub(crate) fn read_new(root: &Path, relative: &str, most: u64) -> Result<(Vec<u8>, FileEntry), DataError> {
    let path = root.join(relative);
    let bytes = read_at_most(&path, most)?.map_err(|why| why.of(&path))?;
    let entry = FileEntry::new(relative.to_owned(), Digests::of_bytes(&bytes));
    Ok((bytes, entry))
}

/// Size of a file in bytes.
pub(crate) fn length(path: &Path) -> Result<u64, DataError> {
    let metadata = std::fs::metadata(path);
    metadata
        .map(|metadata| metadata.len())
        .map_err(|source| DataError::Io { file: path.display().to_string(), source })
}

/// The entry of a file whose contents aren't needed.
pub(crate) fn entry_of(root: &Path, relative: &str) -> Result<FileEntry, DataError> {
    Ok(FileEntry::new(relative.to_owned(), Digests::of_file(&root.join(relative))?))
}

/// Reads a file and verifies it against its entry in the data plan. The caller has reserved memory for `entry.bytes`.
pub(crate) fn read_known(path: &Path, entry: &FileEntry) -> Result<Vec<u8>, DataError> {
    if length(path)? != entry.bytes {
        return Err(changed(path, entry, &Digests::of_file(path)?));
    }
    let bytes = read_at_most(path, entry.bytes)?.map_err(|why| why.of(path))?;
    let digests = Digests::of_bytes(&bytes);
    if entry.differs(&digests).is_none() { Ok(bytes) } else { Err(changed(path, entry, &digests)) }
}

/// The error for a file that doesn't match its entry.
pub(crate) fn changed(path: &Path, entry: &FileEntry, found: &Digests) -> DataError {
    let file = path.display().to_string();
    if found.md5 != entry.md5 {
        return DataError::Changed { file, found: found.md5.clone(), expected: entry.md5.clone() };
    }
    let how =
        entry.differs(found).unwrap_or_else(|| format!("it has {} bytes, not {}", found.bytes, entry.bytes));
    DataError::File { file, problem: format!("it has changed since the run was started: {how}") }
}

/// Path of a data plan's file. Plans come from elsewhere, so paths that leave the folder are rejected.
///
/// # Errors
/// If the entry's path leaves the folder.
pub fn place(root: &Path, entry: &FileEntry) -> Result<PathBuf, DataError> {
    let relative = Path::new(&entry.path);
    let is_below = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if entry.path.is_empty() || !is_below {
        let problem = format!("the plan names a file {:?}, which is not below the folder", entry.path);
        return Err(DataError::File { file: root.display().to_string(), problem });
    }
    Ok(root.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_listed_in_order_without_version_control() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for path in ["sub/c.txt", "sub-1.txt", "a.txt", ".git/x", "sub/.hidden"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        assert_eq!(list(dir.path()).expect("listed"), ["a.txt", "sub-1.txt", "sub/.hidden", "sub/c.txt"]);
    }

    #[test]
    fn no_path_of_a_plan_leads_out() {
        let entry =
            |path: &str| FileEntry { path: path.to_owned(), bytes: 0, md5: String::new(), blake3: None };
        for path in ["", "../x", "/etc/passwd", "a/../../x"] {
            assert!(place(Path::new("d"), &entry(path)).is_err(), "{path}");
        }
        assert_eq!(place(Path::new("d"), &entry("a/b")).expect("below"), Path::new("d/a/b"));
    }
}
