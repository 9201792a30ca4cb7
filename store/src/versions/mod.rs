//! Versions: immutable folders of files, with a manifest, written last, that names and hashes them. A folder without a
//! manifest is not a version.

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
    /// Folder of the version.
    pub path: PathBuf,
    /// What is wrong with the version.
    pub reason: String,
    /// Whether the contents may be intact but lack a trusted signature, which no disk failure explains.
    pub is_untrusted: bool,
}

/// Steps of the folders that have a manifest, newest first.
///
/// # Errors
/// If the folder can't be read.
pub fn list(checkpoints: &Path) -> Result<Vec<u64>, StoreError> {
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(checkpoints).map_err(StoreError::at(checkpoints))? {
        let entry = entry.map_err(StoreError::at(checkpoints))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok());
        if let Some(step) = step
            // Only canonical names: `step-5` is not the folder of step 5.
            && folder(checkpoints, step).file_name() == Some(name.as_os_str())
            && entry.path().join(MANIFEST).is_file()
        {
            steps.push(step);
        }
    }
    steps.sort_unstable_by(|a, b| b.cmp(a));
    Ok(steps)
}

/// Reads a version's manifest and verifies the size and hash of every file in it, and its signature if keys are given.
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

/// [`verify`] for a version's folder in any location.
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

/// The newest version that is intact (and signed, if keys are given) among those that `usable` accepts, and the
/// versions that were rejected on the way.
///
/// # Errors
/// If the folder can't be read.
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

/// Removes all versions up to step `written`, the last one written, except for the newest `keep` (at least one) and
/// those in `spare` (the best one, the one in use). Returns the removed steps.
///
/// Versions of later steps than `written` are neither counted nor removed: the run went back before them, because they
/// are damaged or their steps are being redone, and they must not displace the good versions before them.
///
/// # Errors
/// If the folder can't be read or a version can't be removed.
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

/// Name prefix of versions that were set aside.
const VOID: &str = "void-";

/// Renames the versions that `is_void` selects so that they are never chosen again but can be inspected. Removes
/// versions set aside earlier, so that at most one abandoned history is kept. Returns the steps.
///
/// # Errors
/// If the folder can't be read or a version can't be renamed.
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

/// Renames the folder first, which atomically removes the version; leftovers of a crash have a temporary name.
fn remove(path: &Path) -> Result<(), StoreError> {
    let leftover = temporary_name(path);
    std::fs::rename(path, &leftover).map_err(StoreError::at(path))?;
    sync_parent(path)?;
    std::fs::remove_dir_all(&leftover).map_err(StoreError::at(&leftover))
}

/// The version with the best value of a metric: the lowest if `lower_is_better`. Ties go to the older one, and
/// non-finite values are never the best.
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
