//! Images per class in two versions.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ComparedData;
use crate::error::DataError;
use crate::formats::idx::{Dimensions, Idx};
use crate::formats::images::{class, is_image};
use crate::memory_budget::{MemoryBudget, read_whole};
use crate::registry::RegistryError;

/// A class with different numbers of images before and after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClassCount {
    /// The class: a folder of images, or an idx label together with its file.
    pub class: String,
    /// Images before.
    pub before: u64,
    /// Images after.
    pub after: u64,
}

/// Classes whose image counts differ, sorted.
pub(super) fn compare_classes(
    before: &ComparedData,
    after: &ComparedData,
    memory: &MemoryBudget,
) -> Result<Vec<ClassCount>, RegistryError> {
    let mut counts: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (at, side, other) in [(0, before, after), (1, after, before)] {
        for (path, file) in &side.files {
            if is_image(path) {
                if let Some(class) = class(path) {
                    counts.entry(class.to_owned()).or_default()[at] += 1;
                }
                continue;
            }
            let is_changed = other.files.get(path).is_none_or(|other| !other.is_same(file));
            if is_changed && path.contains("labels-idx1") {
                for (label, count) in labels_of(side, path, memory)? {
                    counts.entry(format!("{label} in {path}")).or_default()[at] = count;
                }
            }
        }
    }
    let differ = counts.into_iter().filter(|(_, [before, after])| before != after);
    Ok(differ.map(|(class, [before, after])| ClassCount { class, before, after }).collect())
}

/// Counts each label in an idx file; empty if it isn't one (a run would report that as an error).
fn labels_of(
    side: &ComparedData,
    path: &str,
    memory: &MemoryBudget,
) -> Result<BTreeMap<u8, u64>, RegistryError> {
    let Some(file) = side.files.get(path) else { return Ok(BTreeMap::new()) };
    let (bytes, _file) = read_whole(&file.place, memory, 1)?;
    let mut counts = BTreeMap::new();
    match Idx::parse(&file.place, &bytes, Dimensions::Labels, memory) {
        Ok(idx) => idx.numbers.iter().for_each(|label| *counts.entry(*label).or_insert(0) += 1),
        Err(DataError::Io { file, source }) => return Err(RegistryError::Io { place: file, source }),
        Err(why @ DataError::Memory { .. }) => return Err(why.into()),
        Err(_) => {}
    }
    Ok(counts)
}
