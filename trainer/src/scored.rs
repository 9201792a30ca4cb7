//! Result of a forward pass, and the standard losses by kind of target.

use burn::tensor::Tensor;

use crate::error::TrainerError;
use crate::host::{HostBatch, Target};
use crate::models::head::{Loss, score_tokens};

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

impl Scored {
    /// The standard loss by kind of target: cross entropy of logits `[samples, labels]`; for tokens, of logits
    /// `[samples * window, vocabulary]`; for values `[samples, width]`, the squared error averaged over a sample's
    /// values. Computed in f32, and summed over samples or tokens in a fixed order.
    ///
    /// # Errors
    /// If the outputs don't have the targets' shape, a label is out of range, or the targets are unknown.
    pub fn by_target(outputs: Tensor<2>, batch: &HostBatch) -> Result<Self, TrainerError> {
        if !matches!(batch.y, Target::Tokens(_)) {
            return Loss::default().score(outputs, batch);
        }
        let targets = batch.token_targets(&outputs.device())?;
        let ([rows, width], [tokens, _]) = (outputs.dims(), targets.dims());
        if rows != tokens {
            return Err(TrainerError::Shape(format!("logits [{rows}, {width}] for {tokens} tokens")));
        }
        batch.check_tokens(width)?;
        Ok(score_tokens(outputs, targets))
    }
}
