//! Copies a version out of the registry, verifying it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Registry;
use super::cache::hash_through;
use super::error::RegistryError;
use super::manifest::Manifest;
use super::progress::Progress;
use crate::listing::FileEntry;
use crate::parallel::try_in_parallel;
use crate::quote::quoted;
use crate::sandboxed_folder::{OpenFolder, SandboxError, SandboxedFolder};

impl Registry {
    /// Copies a version's files to `to` and returns their path. Every file is hashed during the copy and gets its name
    /// once it is complete; a folder that didn't exist appears with all files or not at all.
    ///
    /// A folder goes to a new or empty folder. A file goes to a new file, or under its own name into a folder. With
    /// `force`, files with the same names are replaced, and other files stay. Nothing is written through symlinks in
    /// the folder.
    ///
    /// # Errors
    /// If the destination is taken, if a stored file is missing or damaged, or if a file can't be written.
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
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            std::fs::create_dir_all(parent).map_err(RegistryError::at(parent))?;
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| RegistryError::wrong(&path, "this is no name for a file"))?;
            let (folder, name) = SandboxedFolder::open(parent).and_then(|below| below.folder_of(name))?;
            self.copy_out(manifest, file, &folder, name, force, progress)?;
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
            if !is_empty && !force {
                return Err(taken(to, "this folder is not empty"));
            }
            // A symlink stays and its target is filled: it can't be replaced atomically.
            if !is_empty || to.is_symlink() {
                return self.copy_all(manifest, to, force, progress);
            }
        }
        // Next to the destination, so that a rename completes it atomically.
        let to = std::path::absolute(to).map_err(RegistryError::at(to))?;
        let temporary = partial(&to);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(RegistryError::at(parent))?;
        }
        let copied = std::fs::create_dir(&temporary)
            .map_err(RegistryError::at(&temporary))
            .and_then(|()| self.copy_all(manifest, &temporary, false, progress))
            .and_then(|()| std::fs::rename(&temporary, &to).map_err(RegistryError::at(&to)));
        if copied.is_err() {
            let _ = std::fs::remove_dir_all(&temporary);
        }
        copied
    }

    fn copy_all(
        &self,
        manifest: &Manifest,
        to: &Path,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let below = SandboxedFolder::open(to)?;
        // Create all folders before replacing any file, so that a symlink among them changes nothing.
        let mut last = None;
        for file in &manifest.files {
            let parent = file.path.rsplit_once('/').map(|(parent, _)| parent);
            if parent.is_some() && parent != last {
                below.folder_of(&file.path)?;
            }
            last = parent;
        }
        try_in_parallel(&manifest.files, |file| {
            let (folder, name) = below.folder_of(&file.path)?;
            self.copy_out(manifest, file, &folder, name, force, progress)
        })?;
        Ok(())
    }

    /// Copies one file, and renames it to its final name once it is verified.
    fn copy_out(
        &self,
        manifest: &Manifest,
        file: &FileEntry,
        folder: &OpenFolder,
        name: &str,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let object = self.object(&file.md5);
        let reference = format!("{}@{}", manifest.name, manifest.version);
        let broken = |problem: String| {
            RegistryError::wrong(
                &object,
                format!(
                    "{problem}: the bytes of {} in {reference}; add the same data again to mend it (a damaged file is \
                     to be removed first)",
                    quoted(&file.path)
                ),
            )
        };
        let path = folder.path().join(name);
        let source = File::open(&object).map_err(|why| broken(why.to_string()))?;
        let temporary = partial_name(name);
        let copied = folder
            .create(&temporary)
            .and_then(|copy| hash_through(source, copy, progress))
            .map_err(RegistryError::at(&path))
            .and_then(|copied| match file.differs(&copied) {
                Some(how) => Err(broken(format!("damaged, {how}"))),
                // The file system may treat two names as one (README and readme).
                None if !force && folder.has(name) => Err(RegistryError::wrong(
                    &path,
                    "there is a file of that name already: does this file system take two of the version's names for one?",
                )),
                None => folder.rename(&temporary, name).map_err(RegistryError::at(&path)),
            });
        if copied.is_err() {
            let _ = folder.remove(&temporary);
        }
        progress.file();
        copied
    }
}

impl From<SandboxError> for RegistryError {
    fn from(why: SandboxError) -> Self {
        match why {
            SandboxError::Link(path) => Self::Misused(format!(
                "{}: this is a link, and nothing is written through links: remove it, or name another place",
                path.display()
            )),
            SandboxError::Io(path, why) => Self::at(&path)(why),
        }
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

/// A sibling path for unfinished files.
fn partial(path: &Path) -> PathBuf {
    path.with_file_name(partial_name(&path.file_name().unwrap_or_default().to_string_lossy()))
}

fn partial_name(name: &str) -> String {
    // The name may already be as long as the file system allows.
    let short: String = name.chars().take(100).collect();
    format!(".{short}.{}.partial", std::process::id())
}
