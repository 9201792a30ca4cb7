//! What a forward pass gives, and the losses that go by a batch's targets.

use burn::tensor::Tensor;

use crate::error::TrainerError;
use crate::host::{HostBatch, Target};
use crate::models::head::{Loss, score_tokens};

/// What a forward pass gives.
pub struct Scored {
    /// The *sum* over the samples of their losses, shape `[1]`.
    pub loss: Tensor<1>,
    /// Count of samples or tokens that the sum is over.
    pub weight: f64,
    /// Outputs, `[samples, width]`: handed to [`crate::Task::sums`] on the host. For tokens, whose logits are too many to be
    /// brought there, `[tokens, 1]`: 1 where the target's logit is the greatest, else 0.
    pub outputs: Tensor<2>,
}

impl Scored {
    /// The usual loss of outputs, by the batch's targets: cross entropy of logits `[samples, labels]`; for tokens, of
    /// logits `[samples * window, vocabulary]`; for values `[samples, width]`, the mean over a sample's values of the
    /// squared errors. Summed over samples or tokens in a fixed order.
    ///
    /// # Errors
    /// The outputs don't have the targets' shape, a label is outside of them, or the targets are unknown.
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
