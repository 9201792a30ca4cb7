//! Copying a version out, checked on the way.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use super::Registry;
use super::cache::hash_through;
use super::error::RegistryError;
use super::manifest::Manifest;
use super::progress::Progress;
use crate::listing::FileEntry;
use crate::spread::try_spread;

impl Registry {
    /// Copies a version's files to `to` and returns where they are. Every file is hashed on the way and gets its name
    /// when it is whole; a folder that wasn't there appears with all its files or not at all.
    ///
    /// A folder goes to a new or an empty folder. A file goes to a new file, or under its own name into a folder. With
    /// `force` files of the same names are replaced, and other files stay.
    ///
    /// # Errors
    /// When the place is taken, when a file here is missing or damaged, or can't be written.
    pub fn checkout(
        &self,
        manifest: &Manifest,
        to: &Path,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<PathBuf, RegistryError> {
        progress.begin(manifest.files.len() as u64, manifest.bytes);
        if manifest.is_folder() {
            self.checkout_folder(manifest, to, force, progress)?;
            return Ok(to.to_owned());
        }
        let mut path = to.to_owned();
        for file in &manifest.files {
            if to.is_dir() || to.as_os_str().to_string_lossy().ends_with('/') {
                path = to.join(&file.path);
            }
            if !force && path.symlink_metadata().is_ok() {
                return Err(taken(&path, "there is such a file"));
            }
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                std::fs::create_dir_all(parent).map_err(RegistryError::at(parent))?;
            }
            self.copy_out(manifest, file, &path, progress)?;
        }
        Ok(path)
    }

    fn checkout_folder(
        &self,
        manifest: &Manifest,
        to: &Path,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        if to.symlink_metadata().is_ok() {
            if !to.is_dir() {
                return Err(taken(to, "this is a file, and the dataset is a folder").without_force());
            }
            let is_empty = std::fs::read_dir(to).map_err(RegistryError::at(to))?.next().is_none();
            if !is_empty {
                if !force {
                    return Err(taken(to, "this folder is not empty"));
                }
                return self.copy_all(manifest, to, progress);
            }
        }
        // Beside its place, so that it takes the place in one step.
        let to = std::path::absolute(to).map_err(RegistryError::at(to))?;
        let temporary = partial(&to);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(RegistryError::at(parent))?;
        }
        let copied = std::fs::create_dir(&temporary)
            .map_err(RegistryError::at(&temporary))
            .and_then(|()| self.copy_all(manifest, &temporary, progress))
            .and_then(|()| std::fs::rename(&temporary, &to).map_err(RegistryError::at(&to)));
        if copied.is_err() {
            let _ = std::fs::remove_dir_all(&temporary);
        }
        copied
    }

    fn copy_all(&self, manifest: &Manifest, to: &Path, progress: &dyn Progress) -> Result<(), RegistryError> {
        let mut folders: Vec<PathBuf> = manifest
            .files
            .iter()
            .filter_map(|file| to.join(&file.path).parent().map(Path::to_owned))
            .collect();
        folders.dedup();
        for folder in folders {
            std::fs::create_dir_all(&folder).map_err(RegistryError::at(&folder))?;
        }
        try_spread(&manifest.files, |file| self.copy_out(manifest, file, &to.join(&file.path), progress))?;
        Ok(())
    }

    /// Copies one file out, under its name only when it is whole and right.
    fn copy_out(
        &self,
        manifest: &Manifest,
        file: &FileEntry,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let object = self.object(&file.md5);
        let reference = format!("{}@{}", manifest.name, manifest.version);
        let broken = |problem: String| {
            RegistryError::wrong(
                &object,
                format!(
                    "{problem}: the bytes of {:?} in {reference}; add the same data again to mend it (a damaged file is \
                     to be removed first)",
                    file.path
                ),
            )
        };
        let source = File::open(&object).map_err(|why| broken(why.to_string()))?;
        let temporary = partial(path);
        let copied = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .and_then(|copy| hash_through(source, copy, progress))
            .map_err(RegistryError::at(&temporary))
            .and_then(|copied| match copied.md5 == file.md5 {
                true => std::fs::rename(&temporary, path).map_err(RegistryError::at(path)),
                false => Err(broken(format!("damaged, its MD5 is {}", copied.md5))),
            });
        if copied.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        progress.file();
        copied
    }
}

impl RegistryError {
    fn without_force(self) -> Self {
        match self {
            Self::Misused(text) => Self::Misused(text.replace(", or take --force", "")),
            other => other,
        }
    }
}

fn taken(path: &Path, what: &str) -> RegistryError {
    RegistryError::Misused(format!("{}: {what}; name another place, or take --force", path.display()))
}

/// A neighbour for what is not finished.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}
