//! Which checkpoints to keep.

use std::collections::BTreeMap;

/// Keeps the newest checkpoints and the best one by a metric.
pub(crate) struct Retention {
    /// Number of newest checkpoints to keep.
    pub(crate) keep: usize,
    /// Metric that ranks checkpoints.
    metric: String,
    /// The metric's values by step.
    values: BTreeMap<u64, f64>,
}

impl Retention {
    pub(crate) fn new(keep: usize, metric: &str) -> Self {
        Self { keep, metric: metric.to_owned(), values: BTreeMap::new() }
    }

    /// Records an evaluation, replacing one of the same step from before a rewind.
    pub(crate) fn evaluated(&mut self, step: u64, values: &BTreeMap<String, f64>) {
        match values.get(&self.metric) {
            Some(value) => self.values.insert(step, *value),
            None => self.values.remove(&step),
        };
    }

    /// The step of the best evaluated checkpoint.
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
