//! Datasets of one file or of a folder: where they are, which files they have, and what is in them.

use std::path::{Component, Path, PathBuf};

use crate::digest::Digests;
use crate::error::DataError;
use crate::listing::FileEntry;
use crate::memory_budget::{MemoryBudget, read_at_most};
use crate::registry::{Manifest, RegistryError};

/// Files of a dataset at most: the plan, which lists them, goes to every worker.
const FILES_MAX: usize = 1_000_000;
/// Folders in folders: a link that leads back to a folder above itself ends here.
const DEPTH_MAX: usize = 32;
/// Folders that are not data: those of version control, as DVC has it.
const LEFT_OUT: [&str; 3] = [".git", ".hg", ".dvc"];

/// The path of `uri`: of a version of the registry (`dataset:NAME[@VERSION]` or `NAME@VERSION`), else as it stands (from
/// the working directory), else beside the configuration.
///
/// # Errors
/// When neither is a file or a folder, or the registry has no such version.
pub fn resolve(uri: &str, config_dir: Option<&Path>) -> Result<PathBuf, DataError> {
    let memory = MemoryBudget::megabytes(configs::Dataset::default().memory_mb);
    find(uri, config_dir, &memory).map(|(path, _)| path)
}

/// As [`resolve`], with the version if it is one of the registry.
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

/// The paths of all files below a folder, relative to it and in order; hidden ones too, version control's not.
pub(crate) fn list(root: &Path) -> Result<Vec<String>, DataError> {
    let mut paths = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        // Joined with nothing, a file's path would end in a slash.
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
            // What a link leads to is what counts.
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

/// A file's bytes and their entry. The caller has asked for the memory of so many bytes.
pub(crate) fn read_new(root: &Path, relative: &str, most: u64) -> Result<(Vec<u8>, FileEntry), DataError> {
    let path = root.join(relative);
    let bytes = read_at_most(&path, most)?.map_err(|why| why.of(&path))?;
    let entry = FileEntry::new(relative.to_owned(), Digests::of_bytes(&bytes));
    Ok((bytes, entry))
}

/// How many bytes a file has.
pub(crate) fn length(path: &Path) -> Result<u64, DataError> {
    let metadata = std::fs::metadata(path);
    metadata
        .map(|metadata| metadata.len())
        .map_err(|source| DataError::Io { file: path.display().to_string(), source })
}

/// The entry of a file whose bytes are of no interest.
pub(crate) fn entry_of(root: &Path, relative: &str) -> Result<FileEntry, DataError> {
    Ok(FileEntry::new(relative.to_owned(), Digests::of_file(&root.join(relative))?))
}

/// A file's bytes, if they are those of its entry: what a plan says about them holds. The caller has asked for the memory of
/// as many bytes as the entry has.
pub(crate) fn read_known(path: &Path, entry: &FileEntry) -> Result<Vec<u8>, DataError> {
    if length(path)? != entry.bytes {
        return Err(changed(path, entry, &Digests::of_file(path)?));
    }
    let bytes = read_at_most(path, entry.bytes)?.map_err(|why| why.of(path))?;
    let digests = Digests::of_bytes(&bytes);
    if entry.differs(&digests).is_none() { Ok(bytes) } else { Err(changed(path, entry, &digests)) }
}

/// A file is another one than its entry says.
pub(crate) fn changed(path: &Path, entry: &FileEntry, found: &Digests) -> DataError {
    let file = path.display().to_string();
    if found.md5 != entry.md5 {
        return DataError::Changed { file, found: found.md5.clone(), expected: entry.md5.clone() };
    }
    let how =
        entry.differs(found).unwrap_or_else(|| format!("it has {} bytes, not {}", found.bytes, entry.bytes));
    DataError::File { file, problem: format!("it has changed since the run was started: {how}") }
}

/// Where a file of a plan is. A plan comes from elsewhere: none of its paths leads out of the folder.
///
/// # Errors
/// When the entry's path would lead out of the folder.
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
