//! Shifts in a column's distribution.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::distribution::{Distribution, NumberSummary};

/// Bins of a numeric column: deciles of the first version.
const BINS: usize = 10;
/// Fraction substituted for an empty bin, whose logarithm is undefined. Evidently uses the same value.
const EMPTY: f64 = 0.0001;

/// How one column's distribution shifted.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Shift {
    /// Column name.
    pub name: String,
    /// Missing fields before and after.
    pub missing: [u64; 2],
    /// Means before and after, for numeric columns.
    pub mean: Option<[f64; 2]>,
    /// Standard deviations before and after, for numeric columns.
    pub deviation: Option<[f64; 2]>,
    /// The quantiles 0.05, 0.25, 0.5, 0.75 and 0.95 before and after, for numeric columns.
    pub quantiles: Option<[[f64; 5]; 2]>,
    /// Categories whose counts differ: text, count before, count after.
    pub counts: Vec<(String, u64, u64)>,
    /// [`population_stability`], if both are numeric or both categorical.
    pub psi: Option<f64>,
}

/// Quantile levels of [`Shift::quantiles`].
pub(crate) const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

impl Shift {
    pub(super) fn between(before: &Distribution, after: &Distribution) -> Self {
        let numbers = before.numbers.as_ref().zip(after.numbers.as_ref());
        let counts = before.counts.as_deref().zip(after.counts.as_deref());
        let missing = [before.missing, after.missing];
        let categories = counts.map(|(a, b)| joined(a, b));
        let psi = match (&categories, numbers) {
            (Some(categories), _) => {
                let pairs: Vec<[u64; 2]> = categories.iter().map(|(_, a, b)| [*a, *b]).collect();
                population_stability(&with(pairs, missing))
            }
            (None, Some((a, b))) => population_stability(&with(tenths(a, b), missing)),
            (None, None) => None,
        };
        let both = |of: fn(&NumberSummary) -> f64| numbers.map(|(a, b)| [of(a), of(b)]);
        Self {
            name: before.name.clone(),
            missing,
            mean: both(|numbers| numbers.mean),
            deviation: both(|numbers| numbers.deviation),
            quantiles: numbers.map(|(a, b)| [a, b].map(|own| QUANTILES.map(|at| own.quantile(at)))),
            counts: categories.unwrap_or_default().into_iter().filter(|(_, a, b)| a != b).collect(),
            psi,
        }
    }
}

/// Population stability index of counts before and after in the same bins: the sum over the bins of
/// `(q - p) * ln(q / p)`, where `p` and `q` are the fractions before and after; an empty bin counts as 0.0001. `None`
/// if either side is empty. Zero means identical fractions; by the usual rule of thumb, less than 0.1 is little change
/// and more than 0.25 a great one, regardless of the number of rows.
///
/// Formula and rule: B. Yurdakul, "Statistical properties of population stability index", Western Michigan University
/// 2018, dissertation 3208; the rule goes back to E. M. Lewis, "An introduction to credit scoring", 1994.
#[must_use]
pub fn population_stability(bins: &[[u64; 2]]) -> Option<f64> {
    let total = |side: usize| bins.iter().map(|bin| bin[side]).sum::<u64>();
    let totals = [total(0), total(1)];
    if totals.contains(&0) {
        return None;
    }
    let fraction = |bin: &[u64; 2], side: usize| match bin[side] {
        0 => EMPTY,
        count => count as f64 / totals[side] as f64,
    };
    let part = |bin: &[u64; 2]| {
        let (before, after) = (fraction(bin, 0), fraction(bin, 1));
        (after - before) * (after / before).ln()
    };
    // Skip bins that are empty on both sides.
    Some(bins.iter().filter(|bin| **bin != [0, 0]).map(part).sum())
}

/// Counts of both sides in bins delimited by the first one's deciles; repeated values make fewer bins.
fn tenths(a: &NumberSummary, b: &NumberSummary) -> Vec<[u64; 2]> {
    let mut edges: Vec<f64> = (1..BINS).map(|tenth| a.quantile(tenth as f64 / BINS as f64)).collect();
    edges.dedup();
    let mut bins = vec![[0; 2]; edges.len() + 1];
    for (side, numbers) in [a, b].into_iter().enumerate() {
        for value in &numbers.values {
            bins[edges.partition_point(|edge| edge < value)][side] += 1;
        }
    }
    // Scale samples back to the columns' counts, so that missing fields keep their weight.
    for (side, numbers) in [a, b].into_iter().enumerate() {
        let kept = numbers.values.len().max(1) as u64;
        if numbers.is_sampled() {
            for bin in &mut bins {
                bin[side] = (u128::from(bin[side]) * u128::from(numbers.count) / u128::from(kept)) as u64;
            }
        }
    }
    bins
}

/// Adds a bin for missing fields.
fn with(mut bins: Vec<[u64; 2]>, missing: [u64; 2]) -> Vec<[u64; 2]> {
    bins.push(missing);
    bins
}

/// The union of both sides' categories, with their counts.
fn joined(a: &[(String, u64)], b: &[(String, u64)]) -> Vec<(String, u64, u64)> {
    let mut all: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (side, counts) in [a, b].into_iter().enumerate() {
        for (text, count) in counts {
            all.entry(text).or_default()[side] = *count;
        }
    }
    all.into_iter().map(|(text, [a, b])| (text.to_owned(), a, b)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_index_is_that_of_the_formula() {
        let check = |bins: &[[u64; 2]], expected: f64| {
            let found = population_stability(bins).expect("both have something");
            assert!((found - expected).abs() < 1e-12, "{bins:?}: {found}, not {expected}");
        };
        check(&[[1, 2], [3, 6]], 0.0);
        // p = 0.5, 0.5; q = 0.25, 0.75.
        check(&[[10, 1], [10, 3]], -0.25 * 0.5f64.ln() + 0.25 * 1.5f64.ln());
        // An empty bin: p = 1, 0.0001; q = 0.5, 0.5.
        check(&[[4, 2], [0, 2]], -0.5 * 0.5f64.ln() + 0.4999 * 5_000f64.ln());
        check(&[[4, 4], [0, 0]], 0.0);
        assert_eq!(population_stability(&[[1, 0]]), None);
        assert_eq!(population_stability(&[]), None);
    }

    proptest! {
        #[test]
        fn it_is_never_negative_and_the_same_both_ways(bins in proptest::collection::vec([0u64..1_000, 0u64..1_000], 1..20)) {
            let turned: Vec<[u64; 2]> = bins.iter().map(|[a, b]| [*b, *a]).collect();
            match (population_stability(&bins), population_stability(&turned)) {
                (Some(a), Some(b)) => prop_assert!(a >= -1e-12 && (a - b).abs() < 1e-9, "{a} {b}"),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
