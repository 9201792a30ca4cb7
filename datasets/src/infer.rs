//! Infers column types from one pass over all rows.

use std::collections::BTreeMap;

use crate::labels::ordered;
use crate::number::{Parsed, parse};
use crate::quote::{beginning, quoted};

/// Maximum distinct values kept per column: beyond it, the column isn't categorical.
pub(crate) const CATEGORIES_MAX: usize = 10_000;
/// An integer target with at most this many distinct values is taken for classes.
const CLASSES_GUESSED_MAX: usize = 20;
/// Memory of a distinct text in addition to its bytes: tree node, count, and allocator overhead.
const DISTINCT_BYTES: u64 = 64;

/// A notable field: byte offset or number of its row, and its text.
pub(crate) type OddField = (u64, String);

/// Evidence about a column's type.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnEvidence {
    /// Number of missing fields, and the first of them.
    pub(crate) missing: u64,
    pub(crate) first_missing: Option<OddField>,
    /// First field that is text.
    pub(crate) first_text: Option<OddField>,
    /// First field that is a number but unusable, for example infinite.
    pub(crate) first_unusable: Option<OddField>,
    /// Distinct fields with their counts, up to `CATEGORIES_MAX`.
    pub(crate) distinct: BTreeMap<String, u64>,
    pub(crate) is_overflown: bool,
    /// Whether the distinct fields, all numeric, were dropped to save memory.
    pub(crate) is_forgotten: bool,
    /// Bytes that the distinct fields take.
    pub(crate) kept: u64,
    /// Count and range of the numbers.
    pub(crate) numbers: u64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    /// Whether any number is fractional.
    pub(crate) has_fractions: bool,
}

impl ColumnEvidence {
    /// Adds a field of the row at `place` and returns how many more bytes of memory it keeps.
    pub(crate) fn field(&mut self, place: u64, text: &str, is_missing: bool) -> u64 {
        // Messages show no more of it.
        let spot = || (place, beginning(text).to_owned());
        if is_missing {
            self.missing += 1;
            self.first_missing.get_or_insert_with(spot);
            return 0;
        }
        match parse(text) {
            Parsed::Number(value) => {
                if self.numbers == 0 {
                    (self.least, self.greatest) = (value, value);
                }
                self.numbers += 1;
                self.least = self.least.min(value);
                self.greatest = self.greatest.max(value);
                self.has_fractions |= value.fract() != 0.0;
            }
            Parsed::Unusable => {
                self.first_unusable.get_or_insert_with(spot);
            }
            Parsed::Text => {
                self.first_text.get_or_insert_with(spot);
            }
        }
        if self.is_forgotten {
            return 0;
        }
        if let Some(count) = self.distinct.get_mut(text) {
            *count += 1;
            return 0;
        }
        if self.distinct.len() >= CATEGORIES_MAX {
            self.is_overflown = true;
            return 0;
        }
        self.distinct.insert(text.to_owned(), 1);
        let bytes = text.len() as u64 + DISTINCT_BYTES;
        self.kept += bytes;
        bytes
    }

    /// Drops the distinct fields if they are many numbers, of which only the range matters; returns the bytes freed.
    pub(crate) fn forget_numbers(&mut self) -> u64 {
        if !self.looks_numeric() || self.looks_like_classes() {
            return 0;
        }
        self.is_forgotten = true;
        self.distinct.clear();
        std::mem::take(&mut self.kept)
    }

    /// Whether every non-missing field is a number. (Whether each is usable is checked later.)
    pub(crate) fn looks_numeric(&self) -> bool {
        self.first_text.is_none() && self.numbers > 0
    }

    /// Whether a target like this is a class rather than a number.
    pub(crate) fn looks_like_classes(&self) -> bool {
        !self.looks_numeric()
            || (!self.has_fractions && !self.is_forgotten && self.distinct.len() <= CLASSES_GUESSED_MAX)
    }

    /// The distinct fields, sorted.
    pub(crate) fn labels(&self) -> Vec<String> {
        ordered(self.distinct.keys().cloned().collect())
    }
}

/// The category of a column's missing fields, never equal to a field that is present.
pub(crate) fn missing_category(missing: &[String]) -> &str {
    missing.first().map_or("", String::as_str)
}

/// Whether a field denotes a missing value.
pub(crate) fn is_missing(missing: &[String], text: &str) -> bool {
    missing.iter().any(|own| own == text)
}

/// Suggests the closest name, or lists the first ones.
pub(crate) fn hint<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone, what: &str) -> String {
    // Names from a file may be as long as the file.
    let lower = beginning(word).to_lowercase();
    let near =
        names.clone().map(|name| (strsim::jaro_winkler(&lower, &beginning(name).to_lowercase()), name));
    match near.filter(|(similarity, _)| *similarity > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, name)) => format!("; did you mean {}?", quoted(name)),
        None => {
            let some: Vec<&str> = names.clone().take(12).map(beginning).collect();
            let more = if names.count() > 12 { ", ..." } else { "" };
            format!("; {what} are {}{more}", some.join(", "))
        }
    }
}
