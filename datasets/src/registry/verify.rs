//! Verifies stored files by hashing them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;

use super::Registry;
use super::cache::hash_through;
use super::error::RegistryError;
use super::manifest::Manifest;
use super::progress::Progress;
use super::reference::Reference;
use crate::digest::Digests;
use crate::listing::listing;
use crate::parallel::in_parallel;

/// A file that differs from what was added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// `NAME@VERSION` of the first version that has the file.
    pub version: String,
    /// Path of the file in the version, or of the damaged manifest or listing.
    pub path: String,
    /// The problem, and where it is.
    pub problem: String,
}

/// Result of [`Registry::verify`].
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Number of versions checked.
    pub versions: u64,
    /// Number of distinct files read.
    pub files: u64,
    /// Files among them with only an MD5, because they were added before BLAKE3s were recorded.
    pub md5_only: u64,
    /// Number of bytes read.
    pub bytes: u64,
    /// Damaged or missing files.
    pub damages: Vec<Damage>,
}

/// An object to verify: its expected digests, and a name for it.
struct Expected<'a> {
    object: String,
    bytes: Option<u64>,
    /// `None` for a listing, which is derived from the manifest.
    blake3: Option<String>,
    is_listing: bool,
    version: String,
    path: &'a str,
}

impl Registry {
    /// Hashes all files of a version, or of all versions of all datasets.
    ///
    /// # Errors
    /// If there is no such version. Damage is not an error here but part of the report.
    pub fn verify(
        &self,
        reference: Option<&Reference>,
        progress: &dyn Progress,
    ) -> Result<Report, RegistryError> {
        let mut report = Report::default();
        let manifests = match reference {
            Some(reference) => vec![self.find(reference)?],
            None => self.all_readable(&mut report.damages)?,
        };
        report.versions = manifests.len() as u64;
        // Keyed by both digests: newer versions may have a file's BLAKE3 where older ones only have the MD5.
        let mut objects: BTreeMap<(&str, Option<&str>), Expected> = BTreeMap::new();
        for manifest in &manifests {
            let version = format!("{}@{}", manifest.name, manifest.version);
            for file in &manifest.files {
                objects.entry((&file.md5, file.blake3.as_deref())).or_insert_with(|| Expected {
                    object: file.md5.clone(),
                    bytes: Some(file.bytes),
                    blake3: file.blake3.clone(),
                    is_listing: false,
                    version: version.clone(),
                    path: &file.path,
                });
            }
            if manifest.is_folder() {
                let listing = listing(&manifest.files);
                objects.entry((&manifest.digest, None)).or_insert_with(|| Expected {
                    object: manifest.digest.clone(),
                    bytes: Some(listing.len() as u64),
                    blake3: Some(Digests::of_bytes(&listing).blake3),
                    is_listing: true,
                    version,
                    path: "(the folder's listing)",
                });
            }
        }
        let known: BTreeSet<&str> =
            objects.keys().filter(|(_, blake3)| blake3.is_some()).map(|(md5, _)| *md5).collect();
        objects.retain(|(md5, blake3), expected| {
            blake3.is_some() || expected.is_listing || !known.contains(md5)
        });
        let objects: Vec<Expected> = objects.into_values().collect();
        report.md5_only = objects.iter().filter(|expected| expected.blake3.is_none()).count() as u64;
        progress.begin(objects.len() as u64, objects.iter().filter_map(|object| object.bytes).sum());
        let checked = in_parallel(&objects, |expected| self.check(expected, progress));
        report.files = objects.len() as u64;
        for (bytes, damage) in checked {
            report.bytes += bytes;
            report.damages.extend(damage);
        }
        report.damages.sort_by(|a, b| (&a.version, &a.path).cmp(&(&b.version, &b.path)));
        Ok(report)
    }

    /// All readable manifests; the others are added to `damages`.
    fn all_readable(&self, damages: &mut Vec<Damage>) -> Result<Vec<Manifest>, RegistryError> {
        let mut manifests = Vec::new();
        let memory = self.memory();
        for name in self.names()? {
            for number in self.numbers(&name)? {
                match self.manifest(&name, number, &memory) {
                    Ok(manifest) => manifests.push(manifest),
                    Err(error) => damages.push(Damage {
                        version: format!("{name}@{number}"),
                        path: "(the manifest)".to_owned(),
                        problem: error.to_string(),
                    }),
                }
            }
        }
        Ok(manifests)
    }

    /// Hashes an object; returns the bytes read and any damage.
    fn check(&self, expected: &Expected, progress: &dyn Progress) -> (u64, Option<Damage>) {
        let path = self.object(&expected.object);
        let place = path.display();
        let md5 = expected.object.trim_end_matches(".dir");
        let hashed = File::open(&path).and_then(|file| hash_through(file, std::io::sink(), progress));
        progress.file();
        let (bytes, problem) = match hashed {
            Ok(hashed)
                if hashed.md5 == md5
                    && expected.bytes.is_none_or(|bytes| bytes == hashed.bytes)
                    && expected.blake3.as_ref().is_none_or(|blake3| *blake3 == hashed.blake3) =>
            {
                return (hashed.bytes, None);
            }
            Ok(hashed) if hashed.md5 == md5 && expected.blake3.is_some() => (
                hashed.bytes,
                format!(
                    "another file with the same MD5, made on purpose: {place} has the BLAKE3 {}, not {}",
                    hashed.blake3,
                    expected.blake3.as_deref().unwrap_or_default()
                ),
            ),
            Ok(hashed) => (
                hashed.bytes,
                format!("damaged: {place} has the MD5 {} and {} bytes", hashed.md5, hashed.bytes),
            ),
            Err(why) if why.kind() == ErrorKind::NotFound => (0, format!("missing: there is no {place}")),
            Err(why) => (0, format!("unreadable: {place}: {why}")),
        };
        let damage = Damage { version: expected.version.clone(), path: expected.path.to_owned(), problem };
        (bytes, Some(damage))
    }
}
