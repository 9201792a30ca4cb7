//! Adding a version: the bytes first, the manifest last.

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

/// What is to be added.
#[derive(Clone, Debug)]
pub struct Request {
    /// The file or folder.
    pub path: PathBuf,
    /// The dataset that it is a version of.
    pub name: String,
    /// Why, for people.
    pub message: Option<String>,
    /// Who adds it.
    pub by: String,
    /// When: UTC as in RFC 3339 ([`super::utc`]).
    pub at: String,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Added {
    /// The version with these bytes.
    pub manifest: Manifest,
    /// Whether it is a new one. It is not when the newest version has the same bytes.
    pub is_new: bool,
    /// An older version with the same bytes: they came back.
    pub same_as: Option<u64>,
}

impl Registry {
    /// Reads a file or folder on all cores, keeps each file's bytes once, and writes the manifest of a new version;
    /// none if the newest version has the same bytes (and their BLAKE3). Until the manifest is there, there is no version: a process that
    /// is killed on the way leaves files without one, which the next call uses or sweeps.
    ///
    /// Two calls at the same time make two versions, one after the other.
    ///
    /// # Errors
    /// When the name is none, or something can't be read or written; then there is no new version.
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

    /// Gives the version its number and writes its manifest, if its bytes are not those of the newest one.
    fn publish_version(&self, mut manifest: Manifest) -> Result<Added, RegistryError> {
        let folder = self.manifests_of(&manifest.name);
        std::fs::create_dir_all(&folder).map_err(RegistryError::at(&folder))?;
        let _turn = locked(&folder.join("lock"))?;
        let numbers = self.numbers(&manifest.name)?;
        let mut same_as = None;
        if let Some(newest) = numbers.last() {
            let newest = self.manifest(&manifest.name, *newest, &self.memory())?;
            // A version that only an MD5 vouches for has the same bytes, as far as is known: this one says it.
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

/// Two files with one MD5 and different bytes can't lie in one registry, and are made on purpose only.
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
