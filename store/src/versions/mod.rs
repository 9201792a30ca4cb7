//! Versions: immutable folders of files with a manifest that names and hashes them, written last. A folder without
//! a manifest is no version.

mod manifest;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::atomic::{StoreError, sync_parent, temporary_name};
use crate::signing::TrustedKeys;

pub use manifest::{FileEntry, MANIFEST, MANIFEST_SIGNATURE, Manifest};
pub use writer::{FileWriter, VersionWriter};

/// The folder of a step's version.
#[must_use]
pub fn folder(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:08}"))
}

/// A version that can't be used, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("version {} can't be used: {reason}", path.display())]
pub struct Rejected {
    /// The version's folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it may be whole, and isn't signed by a trusted key: nothing that a disk does.
    pub is_untrusted: bool,
}

/// Steps of the folders that have a manifest, newest first.
///
/// # Errors
/// When the folder can't be read.
pub fn list(checkpoints: &Path) -> Result<Vec<u64>, StoreError> {
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(checkpoints).map_err(StoreError::at(checkpoints))? {
        let entry = entry.map_err(StoreError::at(checkpoints))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        if let Some(step) = step
            // `step-5` is nobody's: the folder of step 5 has another name.
            && folder(checkpoints, step).file_name() == Some(name.as_os_str())
            && entry.path().join(MANIFEST).is_file()
        {
            steps.push(step);
        }
    }
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

/// Reads a version's manifest and verifies size and hash of every file it names, and the manifest's signature where keys
/// are given.
///
/// # Errors
/// What is wrong with the version.
pub fn verify(checkpoints: &Path, step: u64, trusted: Option<&TrustedKeys>) -> Result<Manifest, Rejected> {
    let path = folder(checkpoints, step);
    let manifest = verify_folder(&path, trusted)?;
    if manifest.step != step {
        let reason = format!("{MANIFEST} speaks of step {}", manifest.step);
        return Err(Rejected { path, reason, is_untrusted: false });
    }
    Ok(manifest)
}

/// The same of a version's folder, wherever it is.
///
/// # Errors
/// What is wrong with the version.
pub fn verify_folder(path: &Path, trusted: Option<&TrustedKeys>) -> Result<Manifest, Rejected> {
    let rejected = |reason: String| Rejected { path: path.to_owned(), reason, is_untrusted: false };
    let bytes = match std::fs::read(path.join(MANIFEST)) {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            return Err(rejected(format!("there is no {MANIFEST}")));
        }
        other => other.map_err(|why| rejected(format!("{MANIFEST}: {why}")))?,
    };
    let manifest = Manifest::from_bytes(&bytes).map_err(|why| rejected(format!("{MANIFEST} {why}")))?;
    if let Some(keys) = trusted {
        let untrusted =
            |why| Rejected { path: path.to_owned(), reason: format!("it {why}"), is_untrusted: true };
        keys.verify_file(&path.join(MANIFEST), &bytes).map_err(untrusted)?;
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
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            Err(why) => return Err(format!("{}: {why}", entry.name)),
        };
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

/// The newest version of which every file is whole (and signed, where keys are given), among those that `usable` allows,
/// and those that had to be passed over.
///
/// # Errors
/// When the folder can't be read.
pub fn newest_valid(
    checkpoints: &Path,
    usable: impl Fn(u64) -> bool,
    trusted: Option<&TrustedKeys>,
) -> Result<(Option<Manifest>, Vec<Rejected>), StoreError> {
    let mut passed_over = Vec::new();
    for step in list(checkpoints)?.into_iter().filter(|step| usable(*step)) {
        match verify(checkpoints, step, trusted) {
            Ok(manifest) => return Ok((Some(manifest), passed_over)),
            Err(rejected) => passed_over.push(rejected),
        }
    }
    Ok((None, passed_over))
}

/// Removes all but the newest `keep` versions (at least one) up to the one that was `written` last, and those that
/// `spare` names (the best one, the one in use). Gives the steps of those that were removed.
///
/// Versions of later steps than `written` are neither counted nor removed: the run went back, as they are damaged or
/// what came after is done again, and they must not cost the good ones before them their place.
///
/// # Errors
/// When the folder can't be read or a version can't be removed.
pub fn retain(checkpoints: &Path, written: u64, keep: usize, spare: &[u64]) -> Result<Vec<u64>, StoreError> {
    let mut removed = Vec::new();
    let counted = list(checkpoints)?.into_iter().filter(|step| *step <= written);
    for step in counted.skip(keep.max(1)) {
        if !spare.contains(&step) {
            remove(&folder(checkpoints, step))?;
            removed.push(step);
        }
    }
    Ok(removed)
}

/// Before the name of a version that was set aside.
const VOID: &str = "void-";

/// Takes the versions that `is_void` names out of the way, for people to look at: nothing chooses them any more. Those
/// that were set aside before go, so that there are never more than one history leaves behind. Gives their steps.
///
/// # Errors
/// When the folder can't be read or a version can't be renamed.
pub fn set_aside(checkpoints: &Path, is_void: impl Fn(u64) -> bool) -> Result<Vec<u64>, StoreError> {
    let void: Vec<u64> = list(checkpoints)?.into_iter().filter(|step| is_void(*step)).collect();
    if void.is_empty() {
        return Ok(void);
    }
    for entry in std::fs::read_dir(checkpoints).map_err(StoreError::at(checkpoints))? {
        let entry = entry.map_err(StoreError::at(checkpoints))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(VOID)) {
            remove(&entry.path())?;
        }
    }
    for step in &void {
        let path = folder(checkpoints, *step);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = checkpoints.join(format!("{VOID}{name}"));
        std::fs::rename(&path, &aside).map_err(StoreError::at(&path))?;
    }
    sync_parent(&checkpoints.join(VOID))?;
    Ok(void)
}

/// In one move it is no version any more; what a crash leaves of it has the name of a leftover and is swept.
fn remove(path: &Path) -> Result<(), StoreError> {
    let leftover = temporary_name(path);
    std::fs::rename(path, &leftover).map_err(StoreError::at(path))?;
    sync_parent(path)?;
    std::fs::remove_dir_all(&leftover).map_err(StoreError::at(&leftover))
}

/// The version with the best value of a metric: the lowest where `lower_is_better`. Ties go to the older one, and
/// what is not finite is never the best.
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
mod tests;
