//! The confusion matrix of an evaluation, as stored in `run.json`.

use serde::{Deserialize, Serialize};

use crate::metric_definitions::{self, Prediction};

/// Maximum number of labels: a larger matrix is unreadable, and `run.json` is rewritten with each checkpoint. Precision
/// and recall of each label are in `metrics.jsonl` in any case.
pub const LABELS_MAX: usize = 64;

/// Counts of predictions by true label and predicted label.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Confusion {
    /// The committed step of the evaluation.
    pub step: u64,
    /// K labels, in the order of the model's outputs.
    pub labels: Vec<String>,
    /// K x K counts of samples: row = truth, column = prediction.
    pub rows: Vec<Vec<u64>>,
}

impl Confusion {
    /// The matrix in an evaluation's sums, in the layout of [`metric_definitions`]; `None` for a prediction without
    /// labels or with more than [`LABELS_MAX`], and where a sum is not a count.
    #[must_use]
    pub fn of(prediction: &Prediction, sums: &[f64], step: u64) -> Option<Self> {
        let Prediction::Labels(labels) = prediction else { return None };
        if labels.len() > LABELS_MAX {
            return None;
        }
        let counts: Option<Vec<u64>> =
            metric_definitions::confusion(labels.len(), sums)?.iter().map(|sum| count(*sum)).collect();
        let rows = counts?.chunks(labels.len()).map(<[u64]>::to_vec).collect();
        Some(Self { step, labels: labels.clone(), rows })
    }
}

/// A sum of ones; f64 represents integers exactly below 2^53.
fn count(sum: f64) -> Option<u64> {
    ((0.0..9_007_199_254_740_992.0).contains(&sum) && sum.fract() == 0.0).then_some(sum as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(count: usize) -> Prediction {
        Prediction::Labels((0..count).map(|label| label.to_string()).collect())
    }

    #[test]
    fn rows_are_the_truth() {
        let sums = [3.0, 6.0, 5.0, 3.0, 1.0, 0.0, 2.0];
        let found = Confusion::of(&labels(2), &sums, 7).expect("a matrix");
        assert_eq!(found.rows, [[3, 1], [0, 2]]);
        assert_eq!((found.step, found.labels.len()), (7, 2));
    }

    #[test]
    fn what_is_no_matrix_gives_none() {
        assert_eq!(Confusion::of(&labels(2), &[3.0, 6.0, 5.0], 1), None, "training has none");
        assert_eq!(Confusion::of(&Prediction::Values { scale: 1.0 }, &[1.0; 7], 1), None);
        for wrong in [f64::NAN, -1.0, 0.5, f64::INFINITY] {
            assert_eq!(Confusion::of(&labels(1), &[0.0, 1.0, 1.0, wrong], 1), None, "{wrong}");
        }
        let many = LABELS_MAX + 1;
        assert_eq!(Confusion::of(&labels(many), &vec![1.0; 3 + many * many], 1), None);
    }

    proptest! {
        #[test]
        fn each_count_is_at_its_place(k in 1..9usize, seed in proptest::collection::vec(0..1000u64, 81)) {
            let mut sums = vec![0.0; 3];
            sums.extend(seed.iter().take(k * k).map(|count| *count as f64));
            let found = Confusion::of(&labels(k), &sums, 1).expect("a matrix");
            for truth in 0..k {
                for guess in 0..k {
                    prop_assert_eq!(found.rows[truth][guess], seed[truth * k + guess]);
                }
            }
        }
    }
}
