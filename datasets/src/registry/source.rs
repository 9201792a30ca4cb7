//! Lists the files to be added.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::error::RegistryError;

/// Folders of other programs. DVC skips them too, so the digests agree (DVC treats a folder with its own `.dvc` as
/// another repository and skips it entirely).
const LEFT_OUT: &[&str] = &[".git", ".hg", ".dvc"];

/// A file to be added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SourceFile {
    /// Path relative to the added folder, with `/`.
    pub(crate) relative: String,
    pub(crate) path: PathBuf,
    /// Size in bytes when it was listed.
    pub(crate) bytes: u64,
}

/// The files to be added.
pub(crate) struct Source {
    pub(crate) is_folder: bool,
    /// Sorted by relative path, bytewise.
    pub(crate) files: Vec<SourceFile>,
}

impl Source {
    /// Lists all files. Follows symlinks to files; skips folders `.git`, `.hg` and `.dvc`, the registry itself, and
    /// empty folders (a version consists of files).
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

/// All files below a file or folder: relative path, and actual path.
///
/// # Errors
/// If one can't be read, or isn't a regular file.
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

/// A file name as UTF-8, which the JSON of manifests and listings requires.
fn text_of(name: &std::ffi::OsStr, path: &Path) -> Result<String, RegistryError> {
    let text = name.to_str().filter(|text| !text.is_empty() && !text.contains(std::path::MAIN_SEPARATOR));
    text.map(str::to_owned).ok_or_else(|| RegistryError::wrong(path, "its name is not UTF-8; rename it"))
}
