//! What a table's columns are, from looking at all rows once.

use std::collections::{BTreeMap, BTreeSet};

/// Distinct texts of a column that are kept at most: beyond it the column is no category.
pub(crate) const CATEGORIES_MAX: usize = 10_000;
/// A whole-number target with at most so many distinct values is taken for a class.
const CLASSES_GUESSED_MAX: usize = 20;

/// What was seen of a column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Missing fields.
    pub(crate) missing: u64,
    /// Fields that are no finite number, with the first one's line and text.
    pub(crate) not_numbers: u64,
    pub(crate) first_not_number: Option<(u64, String)>,
    /// Distinct fields and how often each occurs, up to the bound.
    pub(crate) distinct: BTreeMap<String, u64>,
    pub(crate) overflown: bool,
    /// Range of the numbers.
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    pub(crate) numbers: u64,
    /// Whether all numbers are whole.
    pub(crate) fractions: bool,
}

impl Seen {
    /// Takes in a field.
    pub(crate) fn field(&mut self, line: u64, text: &str, missing: bool) {
        if missing {
            self.missing += 1;
            return;
        }
        match number(text) {
            Some(value) => {
                if self.numbers == 0 {
                    (self.least, self.greatest) = (value, value);
                }
                self.numbers += 1;
                self.least = self.least.min(value);
                self.greatest = self.greatest.max(value);
                self.fractions |= value.fract() != 0.0;
            }
            None => {
                self.not_numbers += 1;
                self.first_not_number.get_or_insert_with(|| (line, text.to_owned()));
            }
        }
        if let Some(count) = self.distinct.get_mut(text) {
            *count += 1;
        } else if self.distinct.len() < CATEGORIES_MAX {
            self.distinct.insert(text.to_owned(), 1);
        } else {
            self.overflown = true;
        }
    }

    /// Whether every field that is there is a number.
    pub(crate) fn is_numeric(&self) -> bool {
        self.not_numbers == 0 && self.numbers > 0
    }

    /// Whether a target like this is a class rather than a number.
    pub(crate) fn looks_like_classes(&self) -> bool {
        !self.is_numeric() || (!self.fractions && self.distinct.len() <= CLASSES_GUESSED_MAX)
    }

    /// The distinct fields, in the order of numbers where all are numbers, else of text.
    pub(crate) fn labels(&self) -> Vec<String> {
        ordered(self.distinct.keys().cloned().collect())
    }
}

/// Sorts labels as people would: numbers by value, texts by characters.
pub(crate) fn ordered(labels: BTreeSet<String>) -> Vec<String> {
    let mut labels: Vec<String> = labels.into_iter().collect();
    if labels.iter().all(|label| number(label).is_some()) {
        labels.sort_by(|a, b| number(a).unwrap_or(0.0).total_cmp(&number(b).unwrap_or(0.0)));
    }
    labels
}

/// A finite number.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}
