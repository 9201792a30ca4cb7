//! Adds a version: file contents first, the manifest last.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Registry;
use super::cache;
use super::error::RegistryError;
use super::manifest::{Manifest, Parent};
use super::progress::Progress;
use super::reference::check_name;
use super::source::Source;
use super::workspace::{Workspace, locked};
use crate::digest::md5_of_bytes;
use crate::listing::{FileEntry, listing};
use crate::parallel::try_in_parallel;
use crate::quote::quoted;

/// A version to be added.
#[derive(Clone, Debug)]
pub struct Request {
    /// The file or folder.
    pub path: PathBuf,
    /// Name of the dataset.
    pub name: String,
    /// Message for people.
    pub message: Option<String>,
    /// User who adds it.
    pub by: String,
    /// Time in UTC as in RFC 3339 ([`super::utc`]).
    pub at: String,
}

/// Result of adding a version.
#[derive(Clone, Debug)]
pub struct Added {
    /// The version with these contents.
    pub manifest: Manifest,
    /// False if the newest version already has the same contents.
    pub is_new: bool,
    /// An older version with the same contents, if they were added before.
    pub same_as: Option<u64>,
}

impl Registry {
    /// Adds a file or folder as a new version, unless the newest version has the same contents (including BLAKE3).
    /// Reads on all cores and stores each file once. The version exists once its manifest does: a killed process leaves
    /// files without a manifest, which the next call reuses or sweeps.
    ///
    /// Concurrent calls make two versions, one after the other.
    ///
    /// # Errors
    /// If the name is invalid, or something can't be read or written; then no version is added.
    pub fn add(&self, request: &Request, progress: &dyn Progress) -> Result<Added, RegistryError> {
        check_name(&request.name)?;
        let source = Source::find(&request.path, &self.root)?;
        let workspace = Workspace::begin(&self.root)?;
        progress.begin(source.files.len() as u64, source.files.iter().map(|file| file.bytes).sum());
        let files = try_in_parallel(&source.files, |file| self.take_in(file, &workspace, progress))?;
        check_collisions(&files, &request.path)?;
        let digest = if source.is_folder {
            let listing = listing(&files);
            let digest = format!("{}.dir", md5_of_bytes(&listing));
            self.take_in_as(&digest, &listing, &workspace)?;
            digest
        } else {
            files.iter().map(|file| file.md5.clone()).collect()
        };
        cache::sync(&self.root)?;
        let path = std::path::absolute(&request.path).unwrap_or_else(|_| request.path.clone());
        self.publish_version(Manifest {
            format: Manifest::FORMAT,
            name: request.name.clone(),
            version: 0,
            digest,
            bytes: files.iter().map(|file| file.bytes).sum(),
            at: request.at.clone(),
            by: request.by.clone(),
            from: path.display().to_string(),
            message: request.message.clone(),
            parent: None,
            files,
        })
    }

    /// Numbers the version and writes its manifest, unless the newest version has the same contents.
    fn publish_version(&self, mut manifest: Manifest) -> Result<Added, RegistryError> {
        let folder = self.manifests_of(&manifest.name);
        std::fs::create_dir_all(&folder).map_err(RegistryError::at(&folder))?;
        let _turn = locked(&folder.join("lock"))?;
        let numbers = self.numbers(&manifest.name)?;
        let mut same_as = None;
        if let Some(newest) = numbers.last() {
            let newest = self.manifest(&manifest.name, *newest, &self.memory())?;
            // A version without BLAKE3s may have the same contents; the new version records them.
            if newest.digest == manifest.digest && !newest.is_md5_only() {
                return Ok(Added { manifest: newest, is_new: false, same_as });
            }
            for number in numbers.iter().rev() {
                if self.manifest(&manifest.name, *number, &self.memory())?.digest == manifest.digest {
                    same_as = Some(*number);
                    break;
                }
            }
            manifest.version = newest.version;
            manifest.parent = Some(Parent { version: newest.version, digest: newest.digest });
        }
        manifest.version += 1;
        sync_folders(&folder)?;
        store::write_file(&self.manifest_path(&manifest.name, manifest.version), &manifest.to_json())?;
        Ok(Added { manifest, is_new: true, same_as })
    }
}

/// Files with the same MD5 but different contents can't coexist in a registry; such collisions are always deliberate.
fn check_collisions(files: &[FileEntry], root: &Path) -> Result<(), RegistryError> {
    let mut seen: HashMap<&str, &FileEntry> = HashMap::new();
    for file in files {
        let first = *seen.entry(&file.md5).or_insert(file);
        if first.blake3 != file.blake3 {
            let problem = format!(
                "{} and {} have the same MD5 {}, but not the same BLAKE3: somebody made them so on purpose; trust neither",
                quoted(&first.path),
                quoted(&file.path),
                file.md5
            );
            return Err(RegistryError::wrong(root, problem));
        }
    }
    Ok(())
}

/// Makes the folders above durable, in case they are new.
fn sync_folders(folder: &Path) -> Result<(), RegistryError> {
    cache::sync(folder)
}
