//! How many images of each class two versions have.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ComparedData;
use crate::error::DataError;
use crate::idx::{Dimensions, Idx};
use crate::images::{class, is_image};
use crate::memory_budget::{MemoryBudget, read_whole};
use crate::registry::RegistryError;

/// A class whose number of images is not the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClassCount {
    /// The class: a folder of images, or a label of a file in idx form, with that file.
    pub class: String,
    /// Images of the first.
    pub before: u64,
    /// Images of the second.
    pub after: u64,
}

/// The classes that have more or fewer images, in order.
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

/// How often each label occurs in a file in idx form; nothing if it is none, which a run would say.
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
