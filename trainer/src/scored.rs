//! Result of a forward pass, on the device and on the host.

use burn::tensor::Tensor;

/// Result of a forward pass.
pub struct Scored {
    /// *Sum* of the samples' losses, shape `[1]`.
    pub loss: Tensor<1>,
    /// Number of samples or tokens in the sum.
    pub weight: f64,
    /// Outputs, `[samples, width]`, passed to [`crate::Task::sums`] on the host. For tokens, whose logits are too many
    /// to be read back, `[tokens, 1]`: 1 if the target's logit is the largest, else 0.
    pub outputs: Tensor<2>,
}

/// Result of a forward pass on the host.
pub struct HostScored<'a> {
    /// Sum of the losses.
    pub loss_sum: f64,
    /// Number of samples or tokens.
    pub weight: f64,
    /// Outputs, row by row.
    pub outputs: &'a [f32],
    /// Outputs per row.
    pub width: usize,
    /// Whether this is an evaluation, which also computes the long sums (the confusion matrix).
    pub evaluation: bool,
}
