//! Versions of datasets on this machine: what was added, when, by whom, and the contents.
//!
//! A registry is a folder:
//!
//! ```text
//! files/md5/ab/cdef...          every file once, named by its MD5; a folder's listing ends in `.dir` (DVC's layout,
//!                               so the folder can serve as a DVC remote)
//! manifests/NAME/000001.json    one per version, written last: a version without a manifest does not exist
//! views/DIGEST/...              a version as a folder of links into `files`, made when paths are needed
//! tmp/                          unfinished files; swept by the next writer once their writer is gone
//! ```
//!
//! The registry never uses the network, and never changes or removes a file that it holds.

mod add;
mod cache;
mod checkout;
mod clock;
mod error;
mod manifest;
mod progress;
mod reference;
mod resolve;
mod source;
mod verify;
mod workspace;

use std::path::{Path, PathBuf};

use crate::memory_budget::MemoryBudget;

pub use add::{Added, Request};
pub use clock::utc;
pub use error::RegistryError;
pub(crate) use manifest::is_md5;
pub use manifest::{Manifest, Parent};
pub use progress::{NoProgress, Progress};
pub use reference::{Reference, Version};
pub(crate) use resolve::resolve_within;
pub use resolve::{Resolved, resolve};
pub use source::files_of;
pub use verify::{Damage, Report};

/// Default folder of the registry, under the working directory.
pub const DEFAULT_DIR: &str = ".bonfire/datasets";
/// Environment variable that names the registry's folder.
pub const DIR_VARIABLE: &str = "BONFIRE_DATASETS";

/// The versions in one folder, which is read and created on demand.
#[derive(Clone, Debug)]
pub struct Registry {
    root: PathBuf,
    memory_mb: u64,
}

impl Registry {
    /// The registry in this folder, which need not exist yet.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), memory_mb: configs::Dataset::default().memory_mb }
    }

    /// Limits the memory for manifests to `memory_mb` megabytes (10^6 bytes).
    #[must_use]
    pub fn with_memory_mb(self, memory_mb: u64) -> Self {
        Self { memory_mb, ..self }
    }

    /// The registry in `BONFIRE_DATASETS`, else in `.bonfire/datasets` under the working directory.
    #[must_use]
    pub fn of_environment() -> Self {
        match std::env::var_os(DIR_VARIABLE) {
            Some(dir) if !dir.is_empty() => Self::at(dir),
            _ => Self::at(DEFAULT_DIR),
        }
    }

    /// The registry's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sorted names of the datasets; empty if the folder doesn't exist.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn names(&self) -> Result<Vec<String>, RegistryError> {
        let folder = self.root.join("manifests");
        let mut names = Vec::new();
        for name in cache::names_in(&folder)? {
            if !self.numbers(&name)?.is_empty() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// All versions of a dataset, oldest first.
    ///
    /// # Errors
    /// If there is no such dataset, or a manifest is damaged.
    pub fn versions(&self, name: &str) -> Result<Vec<Manifest>, RegistryError> {
        reference::check_name(name)?;
        let numbers = self.numbers(name)?;
        if numbers.is_empty() {
            return Err(self.unknown(name));
        }
        let memory = self.memory();
        numbers.into_iter().map(|number| self.manifest(name, number, &memory)).collect()
    }

    /// Looks up a reference; without a version, it means the newest one.
    ///
    /// # Errors
    /// If there is no such dataset or version, or its manifest is damaged.
    pub fn find(&self, reference: &Reference) -> Result<Manifest, RegistryError> {
        let name = &reference.name;
        let numbers = self.numbers(name)?;
        let Some(newest) = numbers.last().copied() else { return Err(self.unknown(name)) };
        let memory = self.memory();
        let found = match &reference.version {
            Version::Newest => Some(self.manifest(name, newest, &memory)?),
            Version::Number(number) if numbers.contains(number) => {
                Some(self.manifest(name, *number, &memory)?)
            }
            Version::Number(_) => None,
            Version::Digest(prefix) => {
                let all = numbers.iter().map(|number| self.manifest(name, *number, &memory));
                let all = all.collect::<Result<Vec<_>, _>>()?;
                let mut found: Vec<Manifest> =
                    all.into_iter().filter(|own| own.digest.starts_with(prefix)).collect();
                // Identical contents may have been added again later; different contents make the prefix ambiguous.
                if found.windows(2).any(|pair| pair[0].digest != pair[1].digest) {
                    return Err(RegistryError::Misused(format!(
                        "{reference}: more than one version of {name} begins with {prefix:?}; write more of the digest"
                    )));
                }
                found.pop()
            }
        };
        found.ok_or_else(|| RegistryError::Wrong {
            place: self.root.display().to_string(),
            problem: format!(
                "there is no {reference}; the newest is {name}@{newest} (`datasets log {name}` lists all)"
            ),
        })
    }

    /// Path of the contents with this MD5 (for a listing: `....dir`).
    #[must_use]
    pub fn object(&self, md5: &str) -> PathBuf {
        let (first, rest) = md5.split_at_checked(2).unwrap_or((md5, ""));
        self.root.join("files/md5").join(first).join(rest)
    }

    fn manifests_of(&self, name: &str) -> PathBuf {
        self.root.join("manifests").join(name)
    }

    fn manifest_path(&self, name: &str, number: u64) -> PathBuf {
        self.manifests_of(name).join(format!("{number:06}.json"))
    }

    fn manifest(&self, name: &str, number: u64, memory: &MemoryBudget) -> Result<Manifest, RegistryError> {
        Manifest::read(&self.manifest_path(name, number), name, number, memory)
    }

    fn memory(&self) -> MemoryBudget {
        MemoryBudget::megabytes(self.memory_mb)
    }

    /// Sorted version numbers of a dataset; empty if there is no such dataset.
    fn numbers(&self, name: &str) -> Result<Vec<u64>, RegistryError> {
        let number = |file: String| {
            let number = file.strip_suffix(".json")?.parse().ok()?;
            // Accept only canonical file names.
            (file == format!("{number:06}.json")).then_some(number)
        };
        let mut numbers: Vec<u64> =
            cache::names_in(&self.manifests_of(name))?.into_iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn unknown(&self, name: &str) -> RegistryError {
        let place = self.root.display().to_string();
        let names = self.names().unwrap_or_default();
        let hint = if names.is_empty() {
            "; nothing was added to it yet (`datasets add PATH --name NAME`, or --dir for another registry)"
                .to_owned()
        } else {
            crate::infer::hint(name, names.iter().map(String::as_str), "datasets here")
        };
        RegistryError::Wrong { place, problem: format!("there is no dataset {name:?}{hint}") }
    }
}
