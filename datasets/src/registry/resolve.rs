//! Resolves configured dataset references to paths.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Registry;
use super::error::RegistryError;
use super::manifest::Manifest;
use super::reference::{Reference, Version};
use super::workspace::Workspace;
use crate::memory_budget::MemoryBudget;

/// Prefix of a `dataset.uri` that always means a registered dataset.
const SCHEME: &str = "dataset:";

/// A version, and the path of its files.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The version's record.
    pub manifest: Manifest,
    /// The file, under its own name, or the folder. Consists of links to the registry's read-only files: do not write.
    pub path: PathBuf,
}

impl Resolved {
    /// `name@` and the first 8 characters of the digest.
    #[must_use]
    pub fn label(&self) -> String {
        self.manifest.label()
    }
}

/// Resolves a `dataset.uri` to a version: `dataset:NAME`, `dataset:NAME@VERSION`, or `NAME@VERSION` if no file or
/// folder has that name. `None` for everything else, which is a path or another kind of address. The registry is `dir`,
/// else [`Registry::of_environment`].
///
/// Files are checked for existence and size but not hashed; their readers do that.
///
/// # Errors
/// If it names a registered dataset that doesn't exist, or whose files are missing or truncated.
pub fn resolve(uri: &str, dir: Option<&Path>) -> Result<Option<Resolved>, RegistryError> {
    resolve_within(uri, dir, &MemoryBudget::megabytes(configs::Dataset::default().memory_mb))
}

/// [`resolve`] with a memory budget for the manifest.
pub(crate) fn resolve_within(
    uri: &str,
    dir: Option<&Path>,
    memory: &MemoryBudget,
) -> Result<Option<Resolved>, RegistryError> {
    let reference: Reference = match uri.strip_prefix(SCHEME) {
        Some(rest) => rest.parse()?,
        None => match uri.parse::<Reference>() {
            Ok(reference) if reference.version != Version::Newest && !Path::new(uri).exists() => reference,
            _ => return Ok(None),
        },
    };
    let registry = dir.map_or_else(Registry::of_environment, Registry::at);
    let registry = registry.with_memory_mb(memory.limit() / 1_000_000);
    let manifest = registry.find(&reference)?;
    let path = registry.view(&manifest)?;
    Ok(Some(Resolved { manifest, path }))
}

impl Registry {
    /// Lays a version out as a file or folder of links into the store, or of copies if the file system has no links.
    ///
    /// # Errors
    /// If a file is missing or truncated, or the view can't be made.
    pub fn view(&self, manifest: &Manifest) -> Result<PathBuf, RegistryError> {
        let folder = self.root.join("views").join(&manifest.digest);
        let path = match manifest.files.as_slice() {
            [file] if !manifest.is_folder() => folder.join(&file.path),
            _ => folder.clone(),
        };
        if !path.exists() {
            self.make_view(manifest, &folder, &path)?;
        }
        for file in &manifest.files {
            let own = folder.join(&file.path);
            let found = std::fs::metadata(&own).map_err(RegistryError::at(&own))?.len();
            if found != file.bytes {
                let problem = format!(
                    "{found} bytes where {}@{} has {}; `datasets verify {}@{}` says more",
                    manifest.name, manifest.version, file.bytes, manifest.name, manifest.version
                );
                return Err(RegistryError::wrong(&own, problem));
            }
        }
        Ok(path)
    }

    fn make_view(&self, manifest: &Manifest, folder: &Path, path: &Path) -> Result<(), RegistryError> {
        let workspace = Workspace::begin(&self.root)?;
        let temporary = workspace.path();
        for file in &manifest.files {
            let (object, link) = (self.object(&file.md5), temporary.join(&file.path));
            if let Some(parent) = link.parent() {
                std::fs::create_dir_all(parent).map_err(RegistryError::at(parent))?;
            }
            if std::fs::hard_link(&object, &link).is_err() {
                std::fs::copy(&object, &link).map_err(RegistryError::at(&object))?;
            }
        }
        // The view of a single file may share its folder with other names of the same contents.
        let (from, to) = match path == folder {
            true => (temporary, folder),
            false => {
                std::fs::create_dir_all(folder).map_err(RegistryError::at(folder))?;
                (temporary.join(path.file_name().unwrap_or_default()), path)
            }
        };
        std::fs::create_dir_all(self.root.join("views")).map_err(RegistryError::at(&self.root))?;
        match std::fs::rename(&from, to) {
            // Another process was first, with the same files.
            Err(why) if matches!(why.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                Ok(())
            }
            renamed => renamed.map_err(RegistryError::at(to)),
        }
    }
}
