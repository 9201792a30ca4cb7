//! Column statistics over the training split only.

use std::collections::BTreeMap;

use configs::Normalise;

use crate::column::Feature;
use crate::infer::missing_category;
use crate::labels::ordered;
use crate::number::number;
use crate::plan::Output;
use crate::rounding::settled;

/// Statistics of a column over the training split.
#[derive(Default)]
pub(crate) struct Statistics {
    count: f64,
    mean: f64,
    squares: f64,
    least: f64,
    greatest: f64,
    missing: u64,
    /// Categories with their counts.
    categories: BTreeMap<String, u64>,
}

impl Statistics {
    /// Adds a number.
    ///
    /// Welford's running mean and squared deviations ("Note on a method for calculating corrected sums of squares and
    /// products", Technometrics 1962).
    pub(crate) fn number(&mut self, text: &str) {
        let Some(value) = number(text) else { return };
        if self.count == 0.0 {
            (self.least, self.greatest) = (value, value);
        }
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    /// Adds a missing field of a numeric column.
    pub(crate) fn missing_number(&mut self) {
        self.missing += 1;
    }

    /// Adds a category.
    pub(crate) fn category(&mut self, text: &str, is_missing: bool, missing: &[String]) {
        let category = if is_missing { missing_category(missing) } else { text };
        match self.categories.get_mut(category) {
            Some(count) => *count += 1,
            None => drop(self.categories.insert(category.to_owned(), 1)),
        }
    }

    pub(crate) fn count_of(&self, category: &str) -> u64 {
        self.categories.get(category).copied().unwrap_or(0)
    }

    pub(crate) fn greatest(&self) -> f64 {
        self.greatest
    }

    /// Whether no number was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0.0
    }

    /// Encoding of a numeric column, with an indicator of missing fields if there are any and `indicated` is set.
    pub(crate) fn numeric(&self, normalise: Normalise, indicated: bool) -> Feature {
        let (offset, scale) = match normalise {
            Normalise::Standard => (self.mean, self.deviation()),
            Normalise::Minmax => (self.least, self.greatest - self.least),
            Normalise::None => (0.0, 1.0),
        };
        Feature::Numeric {
            offset: settled(offset),
            scale: positive(scale),
            fill: settled(self.mean),
            indicator: indicated && self.missing > 0,
        }
    }

    /// Encoding of a categorical column.
    pub(crate) fn categorical(self) -> Feature {
        Feature::Categorical { categories: ordered(self.categories.into_keys().collect()) }
    }

    /// Scaling of a numeric target.
    pub(crate) fn values(&self) -> Output {
        Output::Values { offset: settled(self.mean), scale: positive(self.deviation()) }
    }

    fn deviation(&self) -> f64 {
        (self.squares / self.count.max(1.0)).sqrt()
    }
}

/// The scale, or 1 for a constant column.
pub(crate) fn positive(scale: f64) -> f64 {
    if scale > 0.0 { settled(scale) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_of_the_population() {
        let mut column = Statistics::default();
        for text in ["2", "4", "4", "4", "5", "5", "7", "9"] {
            column.number(text);
        }
        let standard = Feature::Numeric { offset: 5.0, scale: 2.0, fill: 5.0, indicator: false };
        assert_eq!(column.numeric(Normalise::Standard, true), standard);
        assert_eq!(
            column.numeric(Normalise::Minmax, true),
            Feature::Numeric { offset: 2.0, scale: 7.0, fill: 5.0, indicator: false }
        );
        let mut constant = Statistics::default();
        constant.number("3");
        assert_eq!(
            constant.numeric(Normalise::Standard, true),
            Feature::Numeric { offset: 3.0, scale: 1.0, fill: 3.0, indicator: false }
        );
    }
}
