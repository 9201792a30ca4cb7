//! Versions: immutable folders of files with a manifest that names and hashes them, written last. A folder without
//! a manifest is no version.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{StoreError, TEMPORARY, sync_parent, write_file};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";

/// One file of a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the version's folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
}

/// What a version is, beyond its bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The step of the state.
    pub step: u64,
    /// Epochs that are complete.
    pub epoch: u64,
    /// BLAKE3 over the model's tensors, in hexadecimal.
    pub digest: String,
    /// The same over model and optimizer tensors.
    pub state_digest: String,
    /// Digest of the keys that change the weights.
    pub config_digest: String,
    /// Digest of the dataset.
    pub dataset_digest: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The files, hashed.
    pub files: Vec<FileEntry>,
}

/// A version that is being written. Dropped unfinished, it is no version.
#[derive(Debug)]
pub struct VersionWriter {
    target: PathBuf,
    temporary: PathBuf,
    files: Vec<FileEntry>,
}

/// A file of a version that is being written: hashed as it grows.
#[derive(Debug)]
pub struct FileWriter {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    size: u64,
}

/// The folder of a step's version.
#[must_use]
pub fn folder(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:08}"))
}

impl VersionWriter {
    /// Begins the version of a step. What a crashed writer left of it is removed.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn begin(checkpoints: &Path, step: u64) -> Result<Self, StoreError> {
        let target = folder(checkpoints, step);
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}{TEMPORARY}", std::process::id()));
        let temporary = target.with_file_name(name);
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(StoreError::at(&temporary))?;
        }
        std::fs::create_dir_all(&temporary).map_err(StoreError::at(&temporary))?;
        Ok(Self { target, temporary, files: Vec::new() })
    }

    /// Begins a file.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn file(&self, name: &str) -> Result<FileWriter, StoreError> {
        FileWriter::create(&self.temporary.join(name))
    }

    /// Takes a finished file into the version.
    ///
    /// # Errors
    /// When its bytes can't be made durable.
    pub fn add(&mut self, file: FileWriter) -> Result<&FileEntry, StoreError> {
        let entry = file.finish()?;
        self.files.push(entry);
        Ok(&self.files[self.files.len() - 1])
    }

    /// Writes the manifest, moves the folder into place and makes that durable. A version of the same step that
    /// is there already is replaced.
    ///
    /// # Errors
    /// When the file system says no; then there is no new version.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<Manifest, StoreError> {
        manifest.files = std::mem::take(&mut self.files);
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|why| StoreError { path: self.temporary.clone(), source: why.into() })?;
        write_file(&self.temporary.join(MANIFEST), &text)?;
        if self.target.exists() {
            remove(&self.target)?;
        }
        std::fs::rename(&self.temporary, &self.target).map_err(StoreError::at(&self.target))?;
        sync_parent(&self.target)?;
        Ok(manifest)
    }
}

impl Drop for VersionWriter {
    fn drop(&mut self) {
        // After finish() the folder has another name; before, it is a leftover.
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

impl FileWriter {
    fn create(path: &Path) -> Result<Self, StoreError> {
        let file = File::create(path).map_err(StoreError::at(path))?;
        Ok(Self { path: path.to_owned(), file, hasher: blake3::Hasher::new(), size: 0 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the file system says no (disk full).
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(StoreError::at(&self.path))
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn finish(self) -> Result<FileEntry, StoreError> {
        self.file.sync_all().map_err(StoreError::at(&self.path))?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(FileEntry { name, size: self.size, blake3: self.hasher.finalize().to_hex().to_string() })
    }
}

/// A version that can't be used, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// The version's folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Steps of the folders that have a manifest, newest first.
///
/// # Errors
/// When the folder can't be read.
pub fn list(checkpoints: &Path) -> Result<Vec<u64>, StoreError> {
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(checkpoints).map_err(StoreError::at(checkpoints))? {
        let entry = entry.map_err(StoreError::at(checkpoints))?;
        let step =
            entry.file_name().to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        if let Some(step) = step
            && entry.path().join(MANIFEST).is_file()
        {
            steps.push(step);
        }
    }
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

/// Reads a version's manifest and verifies size and hash of every file it names.
///
/// # Errors
/// What is wrong with the version.
pub fn verify(checkpoints: &Path, step: u64) -> Result<Manifest, Rejected> {
    let path = folder(checkpoints, step);
    let rejected = |reason: String| Rejected { path: path.clone(), reason };
    let text = std::fs::read(path.join(MANIFEST)).map_err(|why| rejected(format!("{MANIFEST}: {why}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|why| rejected(format!("{MANIFEST} is damaged: {why}")))?;
    if manifest.step != step {
        return Err(rejected(format!("{MANIFEST} speaks of step {}", manifest.step)));
    }
    for entry in &manifest.files {
        verify_file(&path.join(&entry.name), entry).map_err(rejected)?;
    }
    Ok(manifest)
}

fn verify_file(path: &Path, entry: &FileEntry) -> Result<(), String> {
    const CHUNK: usize = 1 << 20;
    let mut file = File::open(path).map_err(|why| format!("{}: {why}", entry.name))?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut size = 0u64;
    loop {
        let read = file.read(&mut chunk).map_err(|why| format!("{}: {why}", entry.name))?;
        if read == 0 {
            break;
        }
        size += read as u64;
        hasher.update(&chunk[..read]);
    }
    if size != entry.size {
        return Err(format!("{} has {size} bytes, the manifest says {}", entry.name, entry.size));
    }
    if hasher.finalize().to_hex().as_str() != entry.blake3 {
        return Err(format!("{} is damaged: its BLAKE3 is not the manifest's", entry.name));
    }
    Ok(())
}

/// The newest version of which every file is whole, among those that `usable` allows, and those that had to be
/// passed over.
///
/// # Errors
/// When the folder can't be read.
pub fn newest_valid(
    checkpoints: &Path,
    usable: impl Fn(u64) -> bool,
) -> Result<(Option<Manifest>, Vec<Rejected>), StoreError> {
    let mut passed_over = Vec::new();
    for step in list(checkpoints)?.into_iter().filter(|step| usable(*step)) {
        match verify(checkpoints, step) {
            Ok(manifest) => return Ok((Some(manifest), passed_over)),
            Err(rejected) => passed_over.push(rejected),
        }
    }
    Ok((None, passed_over))
}

/// Removes all but the newest `keep` versions and those that `spare` names (the best one, the one in use).
///
/// # Errors
/// When the folder can't be read or a version can't be removed.
pub fn retain(checkpoints: &Path, keep: usize, spare: &[u64]) -> Result<Vec<u64>, StoreError> {
    let mut removed = Vec::new();
    for step in list(checkpoints)?.into_iter().skip(keep.max(1)) {
        if !spare.contains(&step) {
            remove(&folder(checkpoints, step))?;
            removed.push(step);
        }
    }
    Ok(removed)
}

/// The manifest goes first: what has none does not exist, whatever else a crash leaves of it.
fn remove(path: &Path) -> Result<(), StoreError> {
    let manifest = path.join(MANIFEST);
    match std::fs::remove_file(&manifest) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError { path: manifest, source: e });
        }
        _ => {}
    }
    std::fs::remove_dir_all(path).map_err(StoreError::at(path))
}

/// The version with the best value of a metric: the lowest where `lower_is_better`. Ties go to the older one.
#[must_use]
pub fn best(values: &BTreeMap<u64, f64>, lower_is_better: bool) -> Option<u64> {
    let better = |a: f64, b: f64| if lower_is_better { a < b } else { a > b };
    values
        .iter()
        .filter(|(_, value)| value.is_finite())
        .fold(None, |best: Option<(u64, f64)>, (step, value)| match best {
            Some((_, champion)) if !better(*value, champion) => best,
            _ => Some((*step, *value)),
        })
        .map(|(step, _)| step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(step: u64) -> Manifest {
        Manifest {
            step,
            epoch: 0,
            digest: "d".into(),
            state_digest: "s".into(),
            config_digest: "c".into(),
            dataset_digest: "x".into(),
            created: 1,
            files: Vec::new(),
        }
    }

    fn write(checkpoints: &Path, step: u64) {
        let mut writer = VersionWriter::begin(checkpoints, step).expect("begun");
        for name in ["model.safetensors", "optimizer.safetensors"] {
            let mut file = writer.file(name).expect("a file");
            file.write(format!("{name} of step {step}").as_bytes()).expect("written");
            writer.add(file).expect("durable");
        }
        writer.finish(manifest(step)).expect("finished");
    }

    #[test]
    fn the_newest_whole_version_is_found_and_the_damaged_one_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 1);
        write(dir.path(), 2);
        let files = ["model.safetensors", "optimizer.safetensors", MANIFEST];
        for name in files {
            let path = folder(dir.path(), 2).join(name);
            let whole = std::fs::read(&path).expect("read");
            for at in 0..whole.len() {
                // Every byte of the manifest matters but its white space and what only people read.
                let mut torn = whole.clone();
                torn.truncate(at);
                std::fs::write(&path, &torn).expect("torn");
                let (found, passed_over) = newest_valid(dir.path(), |_| true).expect("listed");
                assert_eq!(found.map(|m| m.step), Some(1), "{name} cut at {at}");
                assert!(passed_over[0].path.ends_with("step-00000002"));
                assert!(passed_over[0].reason.contains(name), "{}", passed_over[0].reason);
                if name != MANIFEST {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 4;
                    std::fs::write(&path, &flipped).expect("flipped");
                    assert!(verify(dir.path(), 2).is_err(), "{name} flipped at {at}");
                }
            }
            std::fs::write(&path, &whole).expect("mended");
        }
        assert_eq!(verify(dir.path(), 2).expect("whole again").step, 2);
    }

    #[test]
    fn an_unfinished_version_does_not_exist() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut writer = VersionWriter::begin(dir.path(), 3).expect("begun");
        let mut file = writer.file("model.safetensors").expect("a file");
        file.write(b"half").expect("written");
        writer.add(file).expect("durable");
        assert!(list(dir.path()).expect("listed").is_empty());
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn retention_keeps_the_newest_and_the_spared() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for step in 1..=6 {
            write(dir.path(), step);
        }
        assert_eq!(retain(dir.path(), 2, &[1]).expect("removed"), [4, 3, 2]);
        assert_eq!(list(dir.path()).expect("listed"), [6, 5, 1]);
    }

    #[test]
    fn a_version_is_replaced_by_its_replay() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write(dir.path(), 1);
        write(dir.path(), 1);
        verify(dir.path(), 1).expect("whole");
    }

    #[test]
    fn the_best_is_by_value_and_ties_go_to_the_older() {
        let values = BTreeMap::from([(1, 0.5), (2, 0.3), (3, 0.3), (4, f64::NAN)]);
        assert_eq!(best(&values, true), Some(2));
        assert_eq!(best(&values, false), Some(1));
        assert_eq!(best(&BTreeMap::new(), true), None);
    }
}
