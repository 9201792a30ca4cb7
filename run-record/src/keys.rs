//! Names of the metrics in `metrics.jsonl` and `run.json`. [`crate::metric_definitions`] names the metrics of a task's
//! sums; the prefix [`TRAIN`] or [`VALIDATION`] is added to them.

/// Prefix of metrics measured in training.
pub const TRAIN: &str = "train/";

/// Prefix of metrics measured on the validation split.
pub const VALIDATION: &str = "validation/";

/// Mean loss of a training step.
pub const TRAIN_LOSS: &str = "train/loss";

/// Accuracy of a training step.
pub const TRAIN_ACCURACY: &str = "train/accuracy";

/// Norm of the whole gradient before clipping.
pub const TRAIN_GRADIENT_NORM: &str = "train/gradient_norm";

/// The step's learning rate.
pub const TRAIN_LEARNING_RATE: &str = "train/learning_rate";

/// Samples a second over the last few seconds.
pub const TRAIN_SAMPLES_PER_SECOND: &str = "train/samples_per_second";

/// Mean loss over the validation split.
pub const VALIDATION_LOSS: &str = "validation/loss";

/// Accuracy over the validation split.
pub const VALIDATION_ACCURACY: &str = "validation/accuracy";

/// Whether a lower value of this metric is better: true for all except hit rates and throughput.
#[must_use]
pub fn lower_is_better(key: &str) -> bool {
    let name = key.strip_prefix(TRAIN).or(key.strip_prefix(VALIDATION)).unwrap_or(key);
    let hits = ["accuracy", "precision", "recall", "f1", "macro_", "samples_per_second"];
    !hits.iter().any(|hit| name.starts_with(hit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_way_is_better() {
        for key in [
            VALIDATION_LOSS,
            "validation/mean_absolute_error",
            TRAIN_LOSS,
            "perplexity",
            "train/bits_per_byte",
        ] {
            assert!(lower_is_better(key), "{key}");
        }
        for key in [VALIDATION_ACCURACY, "validation/recall/loss", "validation/macro_f1", "accuracy"] {
            assert!(!lower_is_better(key), "{key}");
        }
    }
}
