//! Metric sums of a batch on the host, in f64 and in sample order.

use crate::scored::HostScored;

/// `[loss sum, weight, correct]`, then in evaluation the K x K confusion matrix: row = truth, column = prediction.
///
/// The prediction is the first of the largest outputs. Labels out of range are ignored.
pub(crate) fn classification(labels: &[i64], scored: &HostScored<'_>) -> Vec<f64> {
    let classes = scored.width;
    let mut sums = vec![0.0; if scored.evaluation { 3 + classes * classes } else { 3 }];
    sums[0] = scored.loss_sum;
    sums[1] = scored.weight;
    for (row, label) in scored.outputs.chunks_exact(classes.max(1)).zip(labels) {
        let Some(truth) = usize::try_from(*label).ok().filter(|truth| *truth < classes) else { continue };
        let predicted = first_greatest(row);
        if predicted == truth {
            sums[2] += 1.0;
        }
        if scored.evaluation {
            sums[3 + truth * classes + predicted] += 1.0;
        }
    }
    sums
}

fn first_greatest(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// `[loss sum, weight, sum of absolute errors, sum of squared errors]`; a sample's error is the mean over its values.
pub(crate) fn regression(values: &[f32], width: usize, scored: &HostScored<'_>) -> Vec<f64> {
    let mut absolute = 0.0;
    let mut squared = 0.0;
    for (output, value) in scored.outputs.iter().zip(values) {
        let error = f64::from(*output) - f64::from(*value);
        absolute += error.abs();
        squared += error * error;
    }
    let width = width.max(1) as f64;
    vec![scored.loss_sum, scored.weight, absolute / width, squared / width]
}

/// `[loss sum, weight, correct]`, in training and evaluation: K is the vocabulary size, and a K x K matrix would be too
/// large. The outputs are 1 for correct predictions, else 0.
pub(crate) fn tokens(scored: &HostScored<'_>) -> Vec<f64> {
    let correct = scored.outputs.iter().map(|hit| f64::from(*hit)).sum();
    vec![scored.loss_sum, scored.weight, correct]
}

/// Row-wise softmax: converts the logits of [`crate::Engine::predict`] to probabilities, for a classification.
#[must_use]
pub fn probabilities(logits: &[f32], classes: usize) -> Vec<f64> {
    let mut all = Vec::with_capacity(logits.len());
    for row in logits.chunks(classes.max(1)) {
        let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let start = all.len();
        all.extend(row.iter().map(|x| (f64::from(*x) - f64::from(greatest)).exp()));
        let total: f64 = all[start..].iter().sum();
        for p in &mut all[start..] {
            *p /= total;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(outputs: &[f32], width: usize, evaluation: bool) -> HostScored<'_> {
        HostScored { loss_sum: 1.5, weight: 3.0, outputs, width, evaluation }
    }

    #[test]
    fn a_tie_goes_to_the_first_and_the_matrix_is_by_truth() {
        let outputs = [0.0, 1.0, 1.0, 0.5, 2.0, 3.0];
        assert_eq!(classification(&[1, 0, 0], &scored(&outputs, 2, false)), [1.5, 3.0, 2.0]);
        assert_eq!(
            classification(&[1, 0, 0], &scored(&outputs, 2, true)),
            [1.5, 3.0, 2.0, 1.0, 1.0, 0.0, 1.0]
        );
        assert_eq!(classification(&[9, -1, 0], &scored(&outputs, 2, false)), [1.5, 3.0, 0.0]);
    }

    #[test]
    fn regression_errors_are_means_over_a_samples_values() {
        assert_eq!(
            regression(&[0.0, 0.0, 1.0, 1.0], 2, &scored(&[1.0, 3.0, 1.0, 0.0], 2, false)),
            [1.5, 3.0, 2.5, 5.5]
        );
    }

    #[test]
    fn tokens_have_no_matrix() {
        assert_eq!(tokens(&scored(&[1.0, 0.0, 1.0], 1, true)), [1.5, 3.0, 2.0]);
    }

    #[test]
    fn probabilities_sum_to_one_even_for_great_logits() {
        let p = probabilities(&[1000.0, 1000.0, 0.0, 0.0], 2);
        assert_eq!(p, [0.5, 0.5, 0.5, 0.5]);
    }
}
