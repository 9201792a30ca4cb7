//! Writes a version: in a temporary sibling folder, hashed on the fly, and renamed once everything is durable.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::manifest::{FileEntry, MANIFEST, Manifest, is_file_name};
use super::{folder, remove};
use crate::atomic::{StoreError, sync_parent, temporary_name, write_file};
use crate::signing::SigningKey;

/// A version being written. If dropped before [`VersionWriter::finish`], no version results.
#[derive(Debug)]
pub struct VersionWriter {
    target: PathBuf,
    temporary: PathBuf,
    files: Vec<FileEntry>,
    key: Option<Arc<SigningKey>>,
}

/// A file of a version being written, hashed on the fly.
#[derive(Debug)]
pub struct FileWriter {
    /// Final path, for errors.
    place: PathBuf,
    name: String,
    file: File,
    hasher: blake3::Hasher,
    size: u64,
}

impl VersionWriter {
    /// Begins the version of a step.
    ///
    /// # Errors
    /// If the file system reports an error.
    pub fn begin(checkpoints: &Path, step: u64) -> Result<Self, StoreError> {
        let target = folder(checkpoints, step);
        let temporary = temporary_name(&target);
        // Errors name the version, not its temporary folder, so that repeated failures have the same message. Parent
        // folders are not created: a run's folder that was removed must not reappear in part.
        for folder in [checkpoints, &temporary] {
            match std::fs::create_dir(folder) {
                Err(why) if why.kind() == ErrorKind::AlreadyExists && folder == checkpoints => {}
                made => made.map_err(StoreError::at(&target))?,
            }
        }
        Ok(Self { target, temporary, files: Vec::new(), key: None })
    }

    /// Signs the manifest with this key, if any; the manifest's hashes cover the other files.
    #[must_use]
    pub fn signed(mut self, key: Option<Arc<SigningKey>>) -> Self {
        self.key = key;
        self
    }

    /// Begins a file.
    ///
    /// # Errors
    /// If the file system reports an error, or the name is taken or not a plain file name.
    pub fn file(&self, name: &str) -> Result<FileWriter, StoreError> {
        let place = self.target.join(name);
        if !is_file_name(name) {
            let source = std::io::Error::new(ErrorKind::InvalidInput, "no name for a file of a version");
            return Err(StoreError { path: place, source });
        }
        let file = File::create_new(self.temporary.join(name)).map_err(StoreError::at(&place))?;
        Ok(FileWriter { place, name: name.to_owned(), file, hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Adds a finished file to the version.
    ///
    /// # Errors
    /// If its contents can't be made durable.
    pub fn add(&mut self, file: FileWriter) -> Result<&FileEntry, StoreError> {
        let entry = file.finish()?;
        self.files.push(entry);
        Ok(&self.files[self.files.len() - 1])
    }

    /// Writes the manifest and moves the folder into place, durably. An existing version of the same step is replaced
    /// atomically. Writing may have taken long, so `is_wanted` is called just before the move; if it returns false, no
    /// version results and the result is `None`.
    ///
    /// # Errors
    /// If the file system reports an error; then there is no new version, and an old one of this step is unchanged.
    pub fn finish(
        mut self,
        mut manifest: Manifest,
        is_wanted: impl FnOnce() -> bool,
    ) -> Result<Option<Manifest>, StoreError> {
        manifest.files = std::mem::take(&mut self.files);
        let bytes = manifest
            .to_bytes()
            .map_err(|why| StoreError { path: self.target.clone(), source: why.into() })?;
        let manifest_file = self.temporary.join(MANIFEST);
        let in_place = |error| StoreError { path: self.target.join(MANIFEST), ..error };
        // Before the manifest, which is written last.
        if let Some(key) = &self.key {
            key.sign_file(&manifest_file, &bytes).map_err(in_place)?;
        }
        write_file(&manifest_file, &bytes).map_err(in_place)?;
        if !is_wanted() {
            return Ok(None);
        }
        self.move_into_place()?;
        sync_parent(&self.target)?;
        Ok(Some(manifest))
    }

    fn move_into_place(&self) -> Result<(), StoreError> {
        match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::EXCHANGE) {
            // The replaced version now has the temporary name, and is removed when this writer is dropped.
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::NOENT) => {}
            // Not every file system can exchange two folders. A crash between the next two steps loses the replaced
            // version, which a replay is about to write again.
            Err(_) if self.target.exists() => remove(&self.target)?,
            Err(_) => {}
        }
        std::fs::rename(&self.temporary, &self.target).map_err(StoreError::at(&self.target))
    }
}

impl Drop for VersionWriter {
    fn drop(&mut self) {
        // After finish() this name is free or the replaced version's; before, it is a leftover.
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

impl FileWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// If the file system reports an error, such as a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(StoreError::at(&self.place))
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn finish(self) -> Result<FileEntry, StoreError> {
        self.file.sync_all().map_err(StoreError::at(&self.place))?;
        let blake3 = self.hasher.finalize().to_hex().to_string();
        Ok(FileEntry { name: self.name, size: self.size, blake3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreErrorKind;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_with_the_files_name() {
        let file = File::options().write(true).open("/dev/full").expect("Linux has it");
        let place = PathBuf::from("checkpoints/step-00000001/model.safetensors");
        let mut writer = FileWriter { place, name: "m".into(), file, hasher: blake3::Hasher::new(), size: 0 };
        let error = writer.write(b"more").expect_err("the disk is full");
        assert_eq!(error.kind(), StoreErrorKind::Full);
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }

    #[test]
    fn names_stay_in_the_folder() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let writer = VersionWriter::begin(dir.path(), 1).expect("begun");
        for name in ["", ".", "..", "../f", "/f", "a/b", "a\0b", MANIFEST] {
            let error = writer.file(name).expect_err("no name");
            assert_eq!(error.source.kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        let _first = writer.file("f").expect("begun");
        let error = writer.file("f").expect_err("taken");
        assert_eq!(error.path, folder(dir.path(), 1).join("f"), "not in the words of what is temporary");
    }

    #[test]
    fn a_version_that_is_there_stays_until_its_successor_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |content: &[u8]| {
            let mut writer = VersionWriter::begin(dir.path(), 1).expect("begun");
            let mut file = writer.file("f").expect("begun");
            file.write(content).expect("written");
            writer.add(file).expect("durable");
            writer
        };
        write(b"old").finish(super::super::tests::manifest(1), || true).expect("finished");
        drop(write(b"new"));
        assert_eq!(std::fs::read(folder(dir.path(), 1).join("f")).expect("read"), b"old");
        write(b"new").finish(super::super::tests::manifest(1), || true).expect("finished");
        assert_eq!(std::fs::read(folder(dir.path(), 1).join("f")).expect("read"), b"new");
        super::super::verify(dir.path(), 1, None).expect("whole");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "the replaced one is gone");
    }
}
