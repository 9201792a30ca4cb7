//! Labels of a classification: their order, number and counts.

use std::collections::BTreeSet;

use crate::number::number;

/// Maximum number of labels: a model has an output for each.
pub(crate) const LABELS_MAX: usize = 1_000;

/// Sorts labels naturally: numbers by value, texts by character.
pub(crate) fn ordered(labels: BTreeSet<String>) -> Vec<String> {
    let mut labels: Vec<String> = labels.into_iter().collect();
    if labels.iter().all(|label| number(label).is_some()) {
        labels.sort_by(|a, b| number(a).unwrap_or(0.0).total_cmp(&number(b).unwrap_or(0.0)));
    }
    labels
}

/// Counts each label.
pub(crate) fn counts(labels: usize, of_rows: impl Iterator<Item = u32>) -> Vec<u64> {
    let mut counts = vec![0; labels];
    of_rows.for_each(|label| counts[label as usize] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_the_order_of_people() {
        let check = |labels: &[&str], expected: &[&str]| {
            assert_eq!(ordered(labels.iter().map(|label| (*label).to_owned()).collect()), expected);
        };
        check(&["10", "9", "-1"], &["-1", "9", "10"]);
        check(&["10", "9", "x"], &["10", "9", "x"]);
    }
}
