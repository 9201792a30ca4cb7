//! Compares two versions: files, rows, and column distributions.

mod labels;
mod rows;
mod shift;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digests;
use crate::distribution::Distributions;
use crate::error::DataError;
use crate::memory_budget::MemoryBudget;
use crate::parallel::try_in_parallel;
use crate::registry::{Manifest, Registry, RegistryError, files_of};

pub use labels::ClassCount;
use labels::compare_classes;
pub use rows::RowCounts;
use rows::compare_rows;
pub use shift::{Shift, population_stability};

/// One side of a comparison.
#[derive(Clone, Debug)]
pub struct ComparedData {
    /// Name shown to the user.
    pub label: String,
    /// Whether it is a single file rather than a folder.
    pub is_file: bool,
    /// Files by path.
    files: BTreeMap<String, SideFile>,
}

#[derive(Clone, Debug)]
struct SideFile {
    bytes: u64,
    md5: String,
    blake3: Option<String>,
    place: PathBuf,
}

impl SideFile {
    /// Compares by BLAKE3 if both files have one, else by MD5.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.blake3, &other.blake3) {
            (Some(own), Some(other)) => own == other,
            _ => self.md5 == other.md5,
        }
    }
}

/// Differences between two versions.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    /// Label of the first version.
    pub before: String,
    /// Label of the second version.
    pub after: String,
    /// Files only in the second, with their sizes in bytes.
    pub added: Vec<(String, u64)>,
    /// Files only in the first, with their sizes in bytes.
    pub removed: Vec<(String, u64)>,
    /// Files whose contents differ: path, bytes before, bytes after.
    pub changed: Vec<(String, u64, u64)>,
    /// Number of identical files.
    pub same: u64,
    /// Image classes whose counts differ.
    pub classes: Vec<ClassCount>,
    /// Tables among the changed files.
    pub tables: Vec<TableDifference>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

/// Differences between two versions of a table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TableDifference {
    /// Path of the table's file.
    pub path: String,
    /// Rows before, after, added and removed, over the columns that both have.
    #[serde(flatten)]
    pub rows: RowCounts,
    /// Columns only in the second.
    pub columns_added: Vec<String>,
    /// Columns only in the first.
    pub columns_removed: Vec<String>,
    /// Shifts of the columns that both have.
    pub columns: Vec<Shift>,
}

impl ComparedData {
    /// A version from the registry.
    #[must_use]
    pub fn of_version(registry: &Registry, manifest: &Manifest) -> Self {
        let file = |entry: &crate::listing::FileEntry| {
            let place = registry.object(&entry.md5);
            let (md5, blake3) = (entry.md5.clone(), entry.blake3.clone());
            (entry.path.clone(), SideFile { bytes: entry.bytes, md5, blake3, place })
        };
        Self {
            label: format!("{}@{}", manifest.name, manifest.version),
            is_file: !manifest.is_folder(),
            files: manifest.files.iter().map(file).collect(),
        }
    }

    /// A file or folder in its present state.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of_path(path: &Path) -> Result<Self, RegistryError> {
        let found = files_of(path)?;
        let files = try_in_parallel(&found, |(relative, place)| {
            let Digests { md5, blake3, bytes } = Digests::of_file(place)?;
            let file = SideFile { bytes, md5, blake3: Some(blake3), place: place.clone() };
            Ok::<_, RegistryError>((relative.clone(), file))
        })?;
        let files = files.into_iter().collect();
        Ok(Self { label: path.display().to_string(), is_file: !path.is_dir(), files })
    }
}

/// Compares two versions. Two single files are compared regardless of their names.
///
/// # Errors
/// If a file can't be read. A table that can't be parsed is compared as a file, with a note.
pub fn compare(before: &ComparedData, after: &ComparedData) -> Result<Difference, RegistryError> {
    compare_within(before, after, configs::Dataset::default().memory_mb)
}

/// [`compare`] with at most `memory_mb` megabytes (10^6 bytes) for file contents.
///
/// # Errors
/// As [`compare`], and if reading a file takes more memory.
pub fn compare_within(
    before: &ComparedData,
    after: &ComparedData,
    memory_mb: u64,
) -> Result<Difference, RegistryError> {
    let memory = || MemoryBudget::megabytes(memory_mb);
    let mut after = after.clone();
    if let (true, true, Some(name), Some(other)) =
        (before.is_file, after.is_file, before.files.keys().next(), after.files.keys().next().cloned())
        && let Some(file) = after.files.remove(&other)
    {
        after.files.insert(name.clone(), file);
    }
    let mut difference = Difference {
        before: before.label.clone(),
        after: after.label.clone(),
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
        same: 0,
        classes: compare_classes(before, &after, &memory())?,
        tables: Vec::new(),
        notes: Vec::new(),
    };
    let paths: BTreeSet<&String> = before.files.keys().chain(after.files.keys()).collect();
    for path in paths {
        match (before.files.get(path), after.files.get(path)) {
            (Some(a), Some(b)) if a.is_same(b) => difference.same += 1,
            (Some(a), Some(b)) => {
                difference.changed.push((path.clone(), a.bytes, b.bytes));
                if is_table(path) {
                    match compare_tables(path, &a.place, &b.place, &memory()) {
                        Ok(table) => difference.tables.push(table),
                        Err(DataError::Io { file, source }) => {
                            return Err(RegistryError::Io { place: file, source });
                        }
                        Err(why @ DataError::Memory { .. }) => return Err(why.into()),
                        Err(why) => difference.notes.push(format!("{path} is not compared by rows: {why}")),
                    }
                }
            }
            (Some(a), None) => difference.removed.push((path.clone(), a.bytes)),
            (None, Some(b)) => difference.added.push((path.clone(), b.bytes)),
            (None, None) => {}
        }
    }
    Ok(difference)
}

/// Whether the file's extension is that of a table.
#[must_use]
pub fn is_table(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        ["csv", "tsv", "parquet"].iter().any(|own| extension.eq_ignore_ascii_case(own))
    })
}

fn compare_tables(
    path: &str,
    a: &Path,
    b: &Path,
    memory: &MemoryBudget,
) -> Result<TableDifference, DataError> {
    // Registry objects have no extension, so `path` determines the format.
    let form = crate::distribution::form_of(Path::new(path));
    let (before, after) =
        (Distributions::of_form(a, &form, memory)?, Distributions::of_form(b, &form, memory)?);
    let names =
        |all: &Distributions| all.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (old, new) = (names(&before), names(&after));
    let common: Vec<String> = old.iter().filter(|name| new.contains(name)).cloned().collect();
    let column = |name: &String| {
        let of = |all: &Distributions| all.columns.iter().position(|column| column.name == *name);
        Some(Shift::between(&before.columns[of(&before)?], &after.columns[of(&after)?]))
    };
    Ok(TableDifference {
        path: path.to_owned(),
        rows: compare_rows(a, b, &form, &common, memory)?,
        columns_added: new.iter().filter(|name| !old.contains(name)).cloned().collect(),
        columns_removed: old.iter().filter(|name| !new.contains(name)).cloned().collect(),
        columns: common.iter().filter_map(column).collect(),
    })
}
