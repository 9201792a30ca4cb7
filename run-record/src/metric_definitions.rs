//! Definitions of the metrics that are computed from the summed scalars of a step.
//!
//! Members send sums, never averages: an average of averages over unequal parts is wrong. The layout of the sums is
//!
//! - classification: `[loss sum, weight, correct, confusion...]`, the confusion matrix K x K row by row, row = truth,
//!   column = prediction; in training it is left out,
//! - tokens: `[loss sum, weight, correct]`, the weight being the count of target tokens,
//! - regression: `[loss sum, weight, sum of absolute errors, sum of squared errors]`.

/// The kind of prediction that a task makes, as far as its metrics depend on it.
#[derive(Clone, PartialEq, Debug)]
pub enum Prediction {
    /// One of these labels.
    Labels(Vec<String>),
    /// The next token at each position of a text.
    Tokens {
        /// Mean length of a token in bytes: 1 where each byte is a token.
        bytes_per_token: f64,
    },
    /// Numbers, standardised by `scale`: errors are multiplied by it to recover the target's own unit.
    Values {
        /// Standard deviation of the target over the training split.
        scale: f64,
    },
}

/// Named values of one step, such as `("loss", 0.1)`; the caller adds the prefix `train/` or `validation/`.
///
/// The loss is the mean over the weight (samples or tokens). Precision of a label that was never predicted and
/// recall of one that never occurs are left out rather than given a made-up number. `macro_precision`,
/// `macro_recall` and `macro_f1` are plain means over the labels that occur or were predicted, where an omitted value
/// counts as 0: scikit-learn's `average="macro", zero_division=0`.
///
/// For tokens, `perplexity` is exp(loss), and `bits_per_byte` the loss in bits per byte of the text: it is comparable
/// across tokenisers.
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
        Prediction::Tokens { bytes_per_token } => {
            if let Some(correct) = sums.get(2) {
                named.push(("accuracy".to_owned(), correct / weight));
            }
            named.push(("perplexity".to_owned(), (loss_sum / weight).exp()));
            let bits = loss_sum / weight / std::f64::consts::LN_2;
            named.push(("bits_per_byte".to_owned(), bits / bytes_per_token));
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

/// The confusion matrix in the sums, K x K row by row (row = truth), if present.
#[must_use]
pub fn confusion(labels: usize, sums: &[f64]) -> Option<&[f64]> {
    let matrix = sums.get(3..)?;
    (labels > 0 && matrix.len() == labels * labels).then_some(matrix)
}

fn per_label(labels: &[String], confusion: &[f64], named: &mut Vec<(String, f64)>) {
    let k = labels.len();
    let mut totals = [0.0; 3];
    let mut present = 0.0;
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
        if predicted + occurring > 0.0 {
            present += 1.0;
            totals[0] += if predicted > 0.0 { hit / predicted } else { 0.0 };
            totals[1] += if occurring > 0.0 { hit / occurring } else { 0.0 };
            totals[2] += 2.0 * hit / (predicted + occurring);
        }
    }
    if present > 0.0 {
        let names = ["macro_precision", "macro_recall", "macro_f1"];
        named.extend(names.into_iter().zip(totals).map(|(name, total)| (name.to_owned(), total / present)));
    }
}

/// Adds the sums of microbatches, in their order, in the shape of a fixed tree: node `[j*2^l, (j+1)*2^l)` is left +
/// right, and a child beyond the count is not added. The result is bit-identical to that of a run's members, which use
/// `protocol`'s tree; it is duplicated here because offline evaluation must not import `protocol`.
#[derive(Clone, Debug, Default)]
pub struct TreeSum {
    /// Complete nodes, the widest first: the binary digits of the count.
    nodes: Vec<(u32, Vec<f64>)>,
}

impl TreeSum {
    /// Adds the next microbatch's sums.
    pub fn push(&mut self, sums: Vec<f64>) {
        let mut node = (0, sums);
        while self.nodes.last().is_some_and(|(level, _)| *level == node.0)
            && let Some((level, left)) = self.nodes.pop()
        {
            node = (level + 1, add(left, &node.1));
        }
        self.nodes.push(node);
    }

    /// The total; empty if nothing was added.
    #[must_use]
    pub fn finish(mut self) -> Vec<f64> {
        let mut sum = self.nodes.pop().map(|(_, last)| last).unwrap_or_default();
        while let Some((_, left)) = self.nodes.pop() {
            sum = add(left, &sum);
        }
        sum
    }
}

fn add(mut left: Vec<f64>, right: &[f64]) -> Vec<f64> {
    for (l, r) in left.iter_mut().zip(right) {
        *l += r;
    }
    left
}

/// The [`TreeSum`] of all parts at once.
#[must_use]
pub fn tree_sum(parts: Vec<Vec<f64>>) -> Vec<f64> {
    let mut tree = TreeSum::default();
    for part in parts {
        tree.push(part);
    }
    tree.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(named: &[(String, f64)], key: &str) -> Option<f64> {
        named.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }

    #[test]
    fn classification_by_hand() {
        let labels = Prediction::Labels(vec!["a".into(), "b".into(), "c".into()]);
        // Truth a: 3 right, 1 as b. Truth b: 2 right. c never occurs and is never predicted.
        let sums = [3.0, 6.0, 5.0, 3.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
        let named = metrics(&labels, &sums);
        assert_eq!(value(&named, "loss"), Some(0.5));
        assert_eq!(value(&named, "accuracy"), Some(5.0 / 6.0));
        assert_eq!(value(&named, "precision/a"), Some(1.0));
        assert_eq!(value(&named, "recall/a"), Some(0.75));
        assert_eq!(value(&named, "precision/b"), Some(2.0 / 3.0));
        assert_eq!(value(&named, "recall/c"), None);
        assert_eq!(value(&named, "macro_precision"), Some((1.0 + 2.0 / 3.0) / 2.0));
        assert_eq!(value(&named, "macro_recall"), Some(0.875));
        assert_eq!(value(&named, "macro_f1"), Some((6.0 / 7.0 + 0.8) / 2.0));
        assert_eq!(confusion(3, &sums), Some(&sums[3..]));
        assert_eq!(confusion(3, &sums[..3]), None);
        // Training sums have no matrix.
        let named = metrics(&labels, &sums[..3]);
        assert_eq!(named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["loss", "accuracy"]);
    }

    /// A label that is predicted but never occurs counts in the means, as in scikit-learn.
    #[test]
    fn a_label_that_was_only_predicted_counts_as_nothing_right() {
        let labels = Prediction::Labels(vec!["a".into(), "b".into()]);
        let named = metrics(&labels, &[1.0, 4.0, 3.0, 3.0, 1.0, 0.0, 0.0]);
        assert_eq!(value(&named, "precision/b"), Some(0.0));
        assert_eq!(value(&named, "recall/b"), None);
        assert_eq!(value(&named, "macro_recall"), Some(0.375));
        assert_eq!(value(&named, "macro_precision"), Some(0.5));
    }

    #[test]
    fn regression_is_in_the_targets_own_unit() {
        let named = metrics(&Prediction::Values { scale: 2.0 }, &[8.0, 4.0, 2.0, 8.0]);
        assert_eq!(value(&named, "mean_absolute_error"), Some(1.0));
        assert_eq!(value(&named, "mean_squared_error"), Some(8.0));
    }

    #[test]
    fn tokens_by_hand() {
        // 4 tokens at a loss of ln 8 each are 3 bits per token.
        let sums = [4.0 * 8f64.ln(), 4.0, 1.0];
        let named = metrics(&Prediction::Tokens { bytes_per_token: 1.0 }, &sums);
        let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["loss", "accuracy", "perplexity", "bits_per_byte"]);
        assert_eq!(value(&named, "accuracy"), Some(0.25));
        assert!(value(&named, "perplexity").is_some_and(|perplexity| (perplexity - 8.0).abs() < 1e-12));
        assert!(value(&named, "bits_per_byte").is_some_and(|bits| (bits - 3.0).abs() < 1e-12));
        let named = metrics(&Prediction::Tokens { bytes_per_token: 4.0 }, &sums);
        assert!(value(&named, "bits_per_byte").is_some_and(|bits| (bits - 0.75).abs() < 1e-12));
    }

    #[test]
    fn nothing_is_made_up_from_no_samples() {
        assert!(metrics(&Prediction::Labels(vec!["a".into()]), &[0.0, 0.0, 0.0]).is_empty());
        assert!(metrics(&Prediction::Labels(vec![]), &[]).is_empty());
    }

    #[test]
    fn the_tree_pairs_neighbours_and_copies_the_odd_one() {
        // Half an ulp of 1: a running sum would lose each of them, whereas a pair of them survives.
        let half = 2f64.powi(-53);
        let parts = [1.0, half, half, half, half].map(|x| vec![x]).to_vec();
        assert_eq!(tree_sum(parts), [1.0 + 2f64.powi(-51)]);
        assert_eq!(tree_sum(vec![vec![-0.0],]).first().map(|x| x.to_bits()), Some((-0.0f64).to_bits()));
        assert!(tree_sum(Vec::new()).is_empty());
    }

    /// The tree by its definition.
    fn by_definition(parts: &[f64], level: u32, index: usize) -> Option<f64> {
        if level == 0 {
            return parts.get(index).copied();
        }
        let left = by_definition(parts, level - 1, 2 * index)?;
        Some(by_definition(parts, level - 1, 2 * index + 1).map_or(left, |right| left + right))
    }

    proptest! {
        #[test]
        fn the_tree_is_the_defined_one(parts in proptest::collection::vec(-1e9..1e9f64, 0..70)) {
            let sum = tree_sum(parts.iter().map(|part| vec![*part, -*part]).collect());
            let expected = by_definition(&parts, 7, 0);
            prop_assert_eq!(sum.first().map(|x| x.to_bits()), expected.map(f64::to_bits));
            prop_assert_eq!(sum.get(1).map(|x| x.to_bits()), expected.map(|x| (-x).to_bits()));
        }

        #[test]
        fn any_sums_have_a_meaning_or_none(sums in proptest::collection::vec(any::<f64>(), 0..20), k in 0..5usize) {
            let labels = (0..k).map(|label| label.to_string()).collect();
            let _ = metrics(&Prediction::Labels(labels), &sums);
            let _ = metrics(&Prediction::Values { scale: 2.0 }, &sums);
            let _ = metrics(&Prediction::Tokens { bytes_per_token: 1.0 }, &sums);
        }
    }
}
