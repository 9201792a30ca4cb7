//! What is in a file or folder that is to be added.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::error::RegistryError;

/// Folders that belong to other programs. DVC leaves them out too, so the digests agree (a folder with a `.dvc` of its own
/// is another repository to DVC, which leaves all of it out).
const LEFT_OUT: &[&str] = &[".git", ".hg", ".dvc"];

/// A file to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SourceFile {
    /// Relative to what is added, with `/`.
    pub(crate) relative: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its bytes when it was found.
    pub(crate) bytes: u64,
}

/// What is to be added.
pub(crate) struct Source {
    pub(crate) is_folder: bool,
    /// By relative path, in the order of bytes.
    pub(crate) files: Vec<SourceFile>,
}

impl Source {
    /// Finds all files. Links to files are read through; folders `.git`, `.hg` and `.dvc` and the registry itself are
    /// left out, empty folders too (a version is its files).
    pub(crate) fn find(path: &Path, registry: &Path) -> Result<Self, RegistryError> {
        let metadata = std::fs::metadata(path).map_err(RegistryError::at(path))?;
        if !metadata.is_dir() {
            let name = path.file_name().unwrap_or_default();
            let file =
                SourceFile { relative: text_of(name, path)?, path: path.to_owned(), bytes: metadata.len() };
            check_kind(path, &metadata)?;
            return Ok(Self { is_folder: false, files: vec![file] });
        }
        let registry = registry.canonicalize().ok();
        let mut files = Vec::new();
        let mut folders = vec![(path.to_owned(), String::new())];
        while let Some((folder, prefix)) = folders.pop() {
            if registry.is_some() && folder.canonicalize().ok() == registry {
                continue;
            }
            for entry in std::fs::read_dir(&folder).map_err(RegistryError::at(&folder))? {
                let entry = entry.map_err(RegistryError::at(&folder))?;
                let own = entry.path();
                let relative = format!("{prefix}{}", text_of(&entry.file_name(), &own)?);
                let kind = entry.file_type().map_err(RegistryError::at(&own))?;
                if kind.is_dir() {
                    if !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
                        folders.push((own, format!("{relative}/")));
                    }
                    continue;
                }
                let metadata = std::fs::metadata(&own).map_err(RegistryError::at(&own))?;
                check_kind(&own, &metadata)?;
                files.push(SourceFile { relative, path: own, bytes: metadata.len() });
            }
        }
        if files.is_empty() {
            return Err(RegistryError::wrong(
                path,
                "there is no file in this folder; name a file or a folder with files",
            ));
        }
        files.sort_by(|a, b| a.relative.as_bytes().cmp(b.relative.as_bytes()));
        Ok(Self { is_folder: true, files })
    }
}

/// The files of a file or folder: path relative to it, and where it is.
///
/// # Errors
/// When one can't be read, or is no plain file.
pub fn files_of(path: &Path) -> Result<Vec<(String, PathBuf)>, RegistryError> {
    let source = Source::find(path, Path::new(""))?;
    Ok(source.files.into_iter().map(|file| (file.relative, file.path)).collect())
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), RegistryError> {
    if metadata.is_dir() {
        return Err(RegistryError::wrong(
            path,
            "this is a link to a folder, which would be lost (DVC drops it in silence); put the folder itself here",
        ));
    }
    if !metadata.is_file() {
        return Err(RegistryError::wrong(path, "this is no plain file; leave it out of the dataset"));
    }
    Ok(())
}

/// A name as text: manifests and listings are JSON, which has no other bytes.
fn text_of(name: &std::ffi::OsStr, path: &Path) -> Result<String, RegistryError> {
    let text = name.to_str().filter(|text| !text.is_empty() && !text.contains(std::path::MAIN_SEPARATOR));
    text.map(str::to_owned).ok_or_else(|| RegistryError::wrong(path, "its name is not UTF-8; rename it"))
}
