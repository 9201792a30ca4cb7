//! The record of one version: a JSON file that is written last, atomically, and never changed.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::error::RegistryError;
use super::reference::MD5_CHARACTERS;
use crate::digest::Digests;
use crate::error::DataError;
use crate::listing::{FileEntry, directory_digest};
use crate::memory_budget::{MemoryBudget, read_whole};
use crate::quote::quoted;

/// Memory for reading a manifest, in multiples of its file size: the file, its entries, and their listing.
const FILE_TIMES: u64 = 8;
/// Memory for a manifest that is kept, likewise.
const KEPT_TIMES: u64 = 3;
/// Length of a BLAKE3 in hexadecimal.
const BLAKE3_CHARACTERS: usize = 64;
/// Version of the manifest format that this program reads and writes.
const FORMAT: u32 = 1;

/// The record of one version. Its JSON has the fields in this order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the manifest format: 1.
    pub format: u32,
    /// Name of the dataset.
    pub name: String,
    /// Version number, from 1 in the order of addition.
    pub version: u64,
    /// DVC's digest: the MD5 of a file, or that of a folder's listing with the suffix `.dir`.
    pub digest: String,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Time of addition in UTC, as in RFC 3339.
    pub at: String,
    /// Name of the user who added it.
    pub by: String,
    /// Path that was added, on the user's machine.
    pub from: String,
    /// The user's message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// The newest version at the time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<Parent>,
    /// Files sorted by path, bytewise.
    pub files: Vec<FileEntry>,
}

/// The preceding version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// Version number.
    pub version: u64,
    /// Digest of the version.
    pub digest: String,
}

impl Manifest {
    pub(super) const FORMAT: u32 = FORMAT;

    /// Whether the version is a folder rather than a single file.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.digest.ends_with(".dir")
    }

    /// `name@` and the first 8 characters of the digest, as recorded in runs.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.digest.get(..8).unwrap_or(&self.digest))
    }

    /// Whether some files have only an MD5, because they were added before BLAKE3s were recorded.
    #[must_use]
    pub fn is_md5_only(&self) -> bool {
        self.files.iter().any(|file| file.blake3.is_none())
    }

    /// Checks files that were read against those of this version.
    pub(crate) fn check_read(&self, read: &[FileEntry]) -> Result<(), DataError> {
        for file in read {
            let own = self.files.binary_search_by(|own| own.path.as_bytes().cmp(file.path.as_bytes()));
            let own = own.ok().and_then(|at| self.files.get(at));
            let problem = match own {
                None => Some("it has no such file".to_owned()),
                Some(own) => file.blake3.as_ref().and_then(|blake3| {
                    let found = Digests { md5: file.md5.clone(), blake3: blake3.clone(), bytes: file.bytes };
                    own.differs(&found)
                }),
            };
            if let Some(problem) = problem {
                let label = format!("{}@{}", self.name, self.version);
                return Err(DataError::File {
                    file: file.path.clone(),
                    problem: format!(
                        "this is not the file of {label}: {problem} (`datasets verify {label}`)"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Serialises the manifest for its file.
    pub(super) fn to_json(&self) -> Vec<u8> {
        // A plain struct of strings and numbers always serialises.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Reads and validates a manifest: paths stay inside, digests are consistent.
    pub(super) fn read(
        path: &Path,
        name: &str,
        number: u64,
        memory: &MemoryBudget,
    ) -> Result<Self, RegistryError> {
        let (bytes, parsed) = match read_whole(path, memory, FILE_TIMES) {
            Err(DataError::Io { source, .. }) => return Err(RegistryError::at(path)(source)),
            read => read?,
        };
        let wrong = |problem: String| {
            RegistryError::wrong(
                path,
                format!("{problem}; take this file from a copy, or add the data again"),
            )
        };
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|why| wrong(format!("this is no manifest: {why}")))?;
        if manifest.format != FORMAT {
            let own = manifest.format;
            return Err(RegistryError::wrong(
                path,
                format!("format = {own}: this program reads format {FORMAT}; a newer one is needed"),
            ));
        }
        manifest.check(name, number).map_err(wrong)?;
        drop(parsed);
        memory.hold((bytes.len() as u64).saturating_mul(KEPT_TIMES)).map_err(|why| why.of(path))?;
        Ok(manifest)
    }

    fn check(&self, name: &str, number: u64) -> Result<(), String> {
        if self.name != name || self.version != number {
            return Err(format!(
                "this is the manifest of {}@{}, in the place of {name}@{number}",
                self.name, self.version
            ));
        }
        let in_order = self.files.windows(2).all(|pair| pair[0].path.as_bytes() < pair[1].path.as_bytes());
        if !in_order {
            return Err("its files are not in order, or one is there twice".to_owned());
        }
        for file in &self.files {
            if !is_inside(&file.path) {
                return Err(format!("the path {} leads out of the dataset", quoted(&file.path)));
            }
            if !is_md5(&file.md5) {
                return Err(format!(
                    "{} has the MD5 {}, which is none",
                    quoted(&file.path),
                    quoted(&file.md5)
                ));
            }
            if let Some(blake3) = file.blake3.as_deref().filter(|blake3| !is_blake3(blake3)) {
                return Err(format!(
                    "{} has the BLAKE3 {}, which is none",
                    quoted(&file.path),
                    quoted(blake3)
                ));
            }
        }
        let found = match self.files.as_slice() {
            _ if self.is_folder() => directory_digest(&self.files),
            [file] if !file.path.contains('/') => file.md5.clone(),
            _ => return Err("it is that of a file, but lists another number of files".to_owned()),
        };
        if found != self.digest {
            return Err(format!("its files have the digest {found}, it says {}", self.digest));
        }
        let bytes = self.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.bytes));
        match bytes {
            Some(bytes) if bytes == self.bytes => Ok(()),
            _ => Err(format!("it says {} bytes, its files have another sum", self.bytes)),
        }
    }
}

/// Whether a path stays under the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn is_blake3(text: &str) -> bool {
    text.len() == BLAKE3_CHARACTERS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn is_md5(text: &str) -> bool {
    text.len() == MD5_CHARACTERS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(paths: &[String]) -> Manifest {
        let mut files: Vec<FileEntry> = paths
            .iter()
            .map(|path| {
                let digests = Digests { bytes: 1, ..Digests::of_bytes(path.as_bytes()) };
                FileEntry::new(path.clone(), digests)
            })
            .collect();
        files.sort();
        files.dedup_by(|a, b| a.path == b.path);
        Manifest {
            format: FORMAT,
            name: "d".to_owned(),
            version: 2,
            digest: directory_digest(&files),
            bytes: files.len() as u64,
            at: "2026-01-02T03:04:05Z".to_owned(),
            by: "ann".to_owned(),
            from: "/d".to_owned(),
            message: Some("why\n\"so\"".to_owned()),
            parent: Some(Parent { version: 1, digest: "x".to_owned() }),
            files,
        }
    }

    fn read(bytes: &[u8]) -> Result<Manifest, RegistryError> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("000002.json");
        std::fs::write(&path, bytes).expect("written");
        Manifest::read(&path, "d", 2, &MemoryBudget::megabytes(100))
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let good = String::from_utf8(manifest(&["a".to_owned(), "s/b".to_owned()]).to_json()).expect("text");
        read(good.as_bytes()).expect("good");
        let check = |from: &str, to: &str, says: &str| {
            assert!(good.contains(from), "{from}");
            let error = read(good.replace(from, to).as_bytes()).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        };
        check("\"s/b\"", "\"../b\"", "not in order");
        check("\"s/b\"", "\"s/../b\"", "leads out");
        check("\"s/b\"", "\"s/c\"", "digest");
        check("\"a\"", "\"/a\"", "leads out");
        check("\"blake3\": \"", "\"blake3\": \"x", "BLAKE3");
        check("\"version\": 2", "\"version\": 3", "in the place of d@2");
        check("\"format\": 1", "\"format\": 9", "newer");
        check("\"bytes\": 2,\n  \"at\"", "\"bytes\": 3,\n  \"at\"", "another sum");
        check("{", "", "no manifest");
    }

    proptest! {
        #[test]
        fn it_comes_back_as_it_was(paths in proptest::collection::vec("[a-z\u{e9}\u{1f600} \"\\\\\n-]{1,8}", 0..5)) {
            let own = manifest(&paths);
            prop_assert_eq!(read(&own.to_json()).expect("read"), own);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
