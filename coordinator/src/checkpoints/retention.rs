//! Which versions stay.

use std::collections::BTreeMap;

/// The newest so many, and the best by a metric.
pub(crate) struct Retention {
    /// The newest so many.
    pub(crate) keep: usize,
    /// The metric.
    metric: String,
    /// Its values by step.
    values: BTreeMap<u64, f64>,
}

impl Retention {
    /// Before the first evaluation.
    pub(crate) fn new(keep: usize, metric: &str) -> Self {
        Self { keep, metric: metric.to_owned(), values: BTreeMap::new() }
    }

    /// An evaluation gave these values; one of the same step, before history went back, counts no more.
    pub(crate) fn evaluated(&mut self, step: u64, values: &BTreeMap<String, f64>) {
        match values.get(&self.metric) {
            Some(value) => self.values.insert(step, *value),
            None => self.values.remove(&step),
        };
    }

    /// The best of the evaluated versions.
    pub(crate) fn best(&self) -> Option<u64> {
        store::versions::best(&self.values, run_record::keys::lower_is_better(&self.metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_of_what_counts() {
        let mut retention = Retention::new(2, "validation/loss");
        let mut evaluated = |step, key: &str, value| {
            retention.evaluated(step, &BTreeMap::from([(key.to_owned(), value)]));
            retention.best()
        };
        assert_eq!(evaluated(5, "validation/accuracy", 0.9), None);
        assert_eq!(evaluated(10, "validation/loss", 0.5), Some(10));
        assert_eq!(evaluated(15, "validation/loss", 0.6), Some(10));
        assert_eq!(evaluated(10, "validation/loss", 0.7), Some(15), "history went back");
    }
}
