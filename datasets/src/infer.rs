//! What a table's columns are, from looking at all rows once.

use std::collections::{BTreeMap, BTreeSet};

use crate::quote::{beginning, quoted};

/// Distinct texts of a column that are kept at most: beyond it the column is no category.
pub(crate) const CATEGORIES_MAX: usize = 10_000;
/// A whole-number target with at most so many distinct values is taken for a class.
const CLASSES_GUESSED_MAX: usize = 20;
/// What a distinct text takes beside its bytes: its place in the tree, its count, and what the allocator adds.
const DISTINCT_BYTES: u64 = 64;

/// A field that stands out: where its row begins, and its text.
pub(crate) type OddField = (u64, String);

/// What was seen of a column.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnEvidence {
    /// Missing fields, and the first.
    pub(crate) missing: u64,
    pub(crate) first_missing: Option<OddField>,
    /// The first field that is text.
    pub(crate) first_text: Option<OddField>,
    /// The first field that is a number, but none to calculate with.
    pub(crate) first_unusable: Option<OddField>,
    /// Distinct fields and how often each occurs, up to the bound.
    pub(crate) distinct: BTreeMap<String, u64>,
    pub(crate) is_overflown: bool,
    /// Whether its distinct fields, all of them numbers, were forgotten for want of memory.
    pub(crate) is_forgotten: bool,
    /// Bytes that the distinct fields take.
    pub(crate) kept: u64,
    /// Numbers and their range.
    pub(crate) numbers: u64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
    /// Whether a number is not whole.
    pub(crate) has_fractions: bool,
}

impl ColumnEvidence {
    /// Takes in a field of the row that begins at `place`, and says how much more memory that keeps.
    pub(crate) fn field(&mut self, place: u64, text: &str, is_missing: bool) -> u64 {
        // A message shows no more of it.
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

    /// Forgets the distinct fields if they are many numbers, of which only the range counts, and says how much memory
    /// that frees.
    pub(crate) fn forget_numbers(&mut self) -> u64 {
        if !self.looks_numeric() || self.looks_like_classes() {
            return 0;
        }
        self.is_forgotten = true;
        self.distinct.clear();
        std::mem::take(&mut self.kept)
    }

    /// Whether every field that is there is a number. (Whether each can be calculated with is asked later.)
    pub(crate) fn looks_numeric(&self) -> bool {
        self.first_text.is_none() && self.numbers > 0
    }

    /// Whether a target like this is a class rather than a number.
    pub(crate) fn looks_like_classes(&self) -> bool {
        !self.looks_numeric()
            || (!self.has_fractions && !self.is_forgotten && self.distinct.len() <= CLASSES_GUESSED_MAX)
    }

    /// The distinct fields, in order.
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

/// What a field reads as.
enum Parsed {
    Number(f64),
    Unusable,
    Text,
}

fn parse(text: &str) -> Parsed {
    match text.parse::<f64>() {
        Ok(value) if value.abs() <= f64::from(f32::MAX) => Parsed::Number(value),
        Ok(_) => Parsed::Unusable,
        Err(_) => Parsed::Text,
    }
}

/// A number that a sample can hold: finite, within the range of f32.
pub(crate) fn number(text: &str) -> Option<f64> {
    match parse(text) {
        Parsed::Number(value) => Some(value),
        Parsed::Unusable | Parsed::Text => None,
    }
}

/// Why a field is not a number.
pub(crate) fn no_number(name: &str, text: &str) -> String {
    match parse(text) {
        Parsed::Unusable => {
            let (name, text) = (quoted(name), beginning(text));
            format!("column {name} is numeric, but {text} is not a finite number within +-3.4e38")
        }
        _ => format!("column {} is numeric, but this field is {}", quoted(name), quoted(text)),
    }
}

/// The category that missing fields of a column share. A field that is there is never equal to it.
pub(crate) fn missing_category(missing: &[String]) -> &str {
    missing.first().map_or("", String::as_str)
}

/// Whether a field means that there is no value.
pub(crate) fn is_missing(missing: &[String], text: &str) -> bool {
    missing.iter().any(|own| own == text)
}

/// The nearest of some names, or the first of them.
pub(crate) fn hint<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone, what: &str) -> String {
    // Names of a file may be as long as the file.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_what_is_neither() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(number(text), expected, "{text:?}");
        check("1", Some(1.0));
        check("-1.5e3", Some(-1500.0));
        check("+.5", Some(0.5));
        for text in ["", "x", "1,5", "0x10", "1_000", "inf", "NaN", "1e39", "-Infinity"] {
            check(text, None);
        }
    }

    #[test]
    fn labels_stand_in_the_order_of_people() {
        let check = |labels: &[&str], expected: &[&str]| {
            assert_eq!(ordered(labels.iter().map(|label| (*label).to_owned()).collect()), expected);
        };
        check(&["10", "9", "-1"], &["-1", "9", "10"]);
        check(&["10", "9", "x"], &["10", "9", "x"]);
    }
}
