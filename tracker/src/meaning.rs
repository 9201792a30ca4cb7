//! What the summed scalars of a step mean.
//!
//! Members send sums, never averages: averages of averages of unequal parts are wrong. The layout of the sums is
//!
//! - classification: `[loss sum, weight, correct, confusion...]`, the confusion matrix K x K row by row, row = truth,
//!   column = prediction; in training it is left out,
//! - regression: `[loss sum, weight, sum of absolute errors, sum of squared errors]`.

/// What a task predicts, as far as its metrics go.
#[derive(Clone, PartialEq, Debug)]
pub enum Prediction {
    /// One of these labels.
    Labels(Vec<String>),
    /// Numbers, standardised by `scale`: errors are multiplied by it to be in the target's own unit.
    Values {
        /// Standard deviation of the target over the training split.
        scale: f64,
    },
}

/// Named values of one step, such as `("loss", 0.1)`; the caller puts `train/` or `validation/` before.
///
/// The loss is the mean over the weight (samples or tokens). Precision of a label that was never predicted and
/// recall of one that never occurs are left out rather than given a made-up number.
#[must_use]
pub fn metrics(prediction: &Prediction, sums: &[f64]) -> Vec<(String, f64)> {
    let (Some(loss_sum), Some(weight)) = (sums.first(), sums.get(1)) else { return Vec::new() };
    if *weight <= 0.0 {
        return Vec::new();
    }
    let mut named = vec![("loss".to_owned(), loss_sum / weight)];
    match prediction {
        Prediction::Labels(labels) => {
            if let Some(correct) = sums.get(2) {
                named.push(("accuracy".to_owned(), correct / weight));
            }
            if let Some(confusion) = confusion(labels.len(), sums) {
                per_label(labels, confusion, &mut named);
            }
        }
        Prediction::Values { scale } => {
            if let (Some(absolute), Some(squared)) = (sums.get(2), sums.get(3)) {
                named.push(("mean_absolute_error".to_owned(), absolute / weight * scale));
                named.push(("mean_squared_error".to_owned(), squared / weight * scale * scale));
            }
        }
    }
    named
}

/// The confusion matrix in the sums, K x K row by row (row = truth), if it is there.
#[must_use]
pub fn confusion(labels: usize, sums: &[f64]) -> Option<&[f64]> {
    let matrix = sums.get(3..)?;
    (labels > 0 && matrix.len() == labels * labels).then_some(matrix)
}

fn per_label(labels: &[String], confusion: &[f64], named: &mut Vec<(String, f64)>) {
    let k = labels.len();
    for (index, label) in labels.iter().enumerate() {
        let hit = confusion[index * k + index];
        let predicted: f64 = (0..k).map(|truth| confusion[truth * k + index]).sum();
        let occurring: f64 = confusion[index * k..(index + 1) * k].iter().sum();
        if predicted > 0.0 {
            named.push((format!("precision/{label}"), hit / predicted));
        }
        if occurring > 0.0 {
            named.push((format!("recall/{label}"), hit / occurring));
        }
    }
}

/// Sums partial sums in the shape of the fixed tree over their microbatches: node `[j*2^l, (j+1)*2^l)` is left +
/// right, and a child beyond the count is not added. The same bits as a run gets from its members.
#[must_use]
pub fn tree_sum(mut parts: Vec<Vec<f64>>) -> Vec<f64> {
    while parts.len() > 1 {
        let mut level = Vec::with_capacity(parts.len().div_ceil(2));
        let mut pairs = parts.into_iter();
        while let Some(mut left) = pairs.next() {
            if let Some(right) = pairs.next() {
                for (l, r) in left.iter_mut().zip(&right) {
                    *l += r;
                }
            }
            level.push(left);
        }
        parts = level;
    }
    parts.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(named: &[(String, f64)], key: &str) -> Option<f64> {
        named.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }

    #[test]
    fn classification_by_hand() {
        let labels = Prediction::Labels(vec!["a".into(), "b".into(), "c".into()]);
        // Truth a: 3 right, 1 as b. Truth b: 2 right. c never occurs, never predicted.
        let sums = [3.0, 6.0, 5.0, 3.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        let named = metrics(&labels, &sums);
        assert_eq!(value(&named, "loss"), Some(0.5));
        assert_eq!(value(&named, "accuracy"), Some(5.0 / 6.0));
        assert_eq!(value(&named, "precision/a"), Some(1.0));
        assert_eq!(value(&named, "recall/a"), Some(0.75));
        assert_eq!(value(&named, "precision/b"), Some(2.0 / 3.0));
        assert_eq!(value(&named, "recall/c"), None);
    }

    #[test]
    fn regression_is_in_the_targets_own_unit() {
        let named = metrics(&Prediction::Values { scale: 2.0 }, &[8.0, 4.0, 2.0, 8.0]);
        assert_eq!(value(&named, "mean_absolute_error"), Some(1.0));
        assert_eq!(value(&named, "mean_squared_error"), Some(8.0));
    }

    #[test]
    fn nothing_is_made_up_from_no_samples() {
        assert!(metrics(&Prediction::Labels(vec!["a".into()]), &[0.0, 0.0, 0.0]).is_empty());
        assert!(metrics(&Prediction::Labels(vec![]), &[]).is_empty());
    }

    #[test]
    fn the_tree_pairs_neighbours_and_copies_the_odd_one() {
        let tiny = 2f64.powi(-60);
        // ((1 + tiny) + (tiny + tiny)) + tiny: pairing keeps what a running sum would lose differently.
        let parts = [1.0, tiny, tiny, tiny, tiny].map(|x| vec![x]).to_vec();
        assert_eq!(tree_sum(parts), [((1.0 + tiny) + (tiny + tiny)) + tiny]);
        assert_eq!(tree_sum(vec![vec![-0.0],]).first().map(|x| x.to_bits()), Some((-0.0f64).to_bits()));
        assert!(tree_sum(Vec::new()).is_empty());
    }
}
