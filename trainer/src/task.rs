//! What a user writes to train a model of their own.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, Target};

/// The `[model]` section, as far as a task reads it.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelConfig {
    /// `model.kind`.
    pub kind: String,
    keys: serde_json::Value,
}

impl ModelConfig {
    /// From the section's kind and its remaining keys (anything that serialises to a table, such as `toml::Table`).
    ///
    /// # Errors
    /// The keys are no table.
    pub fn new(kind: &str, keys: &impl Serialize) -> Result<Self, TrainerError> {
        let keys = serde_json::to_value(keys)
            .map_err(|error| TrainerError::Config(format!("[model] of kind {kind:?}: {error}")))?;
        if !keys.is_object() {
            return Err(TrainerError::Config(format!("[model] of kind {kind:?} must be a table")));
        }
        Ok(Self { kind: kind.to_owned(), keys })
    }

    /// The keys as a type of the task's; derive `Deserialize` with `deny_unknown_fields` and `default`.
    ///
    /// # Errors
    /// A key that is unknown, missing or of the wrong type.
    pub fn keys<T: DeserializeOwned>(&self) -> Result<T, TrainerError> {
        T::deserialize(&self.keys)
            .map_err(|error| TrainerError::Config(format!("[model] of kind {:?}: {error}", self.kind)))
    }
}

/// What a forward pass gives.
pub struct Scored {
    /// The *sum* over the samples of their losses, shape `[1]`.
    pub loss: Tensor<1>,
    /// Count of samples or tokens that the sum is over.
    pub weight: f64,
    /// Outputs, `[samples, width]`: handed to [`Task::sums`] on the host. For tokens, whose logits are too many to be
    /// brought there, `[tokens, 1]`: 1 where the target's logit is the greatest, else 0.
    pub outputs: Tensor<2>,
}

/// A burn module, how its loss is had, and what its sums are.
///
/// Losses are sums, never means: members add them, and the global weight divides once. The forward pass must be a
/// function of the parameters, the batch and burn's random generator (seeded for each microbatch) alone.
pub trait Task: Sized + Send + 'static {
    /// The module.
    type Model: Module + 'static;

    /// Raise it when parameters or their meaning change: members of one run must have the same.
    const SCHEMA: u32 = 1;

    /// Checks the configuration against the data.
    ///
    /// # Errors
    /// A key is wrong, or the data don't fit this task.
    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError>;

    /// Builds the module on the device. Its first values come from burn's initialisers, which the caller has seeded.
    fn model(&self, device: &Device) -> Self::Model;

    /// Loss sum and outputs of a batch.
    ///
    /// # Errors
    /// The batch isn't what the task was built for.
    fn forward(
        &self,
        model: &Self::Model,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Scored, TrainerError>;

    /// Outputs of a batch whose targets are unknown: `[samples, width]`, for tokens `[samples * window, vocabulary]`.
    ///
    /// # Errors
    /// The batch isn't what the task was built for.
    fn predict(
        &self,
        model: &Self::Model,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError>;

    /// Metric sums of a batch; the first two are the loss sum and the weight. By default those of classification,
    /// regression or tokens, by the batch's targets.
    fn sums(&self, batch: &HostBatch, scored: &HostScored<'_>) -> Vec<f64> {
        match &batch.y {
            Target::Labels(labels) => crate::sums::classification(labels, scored),
            Target::Tokens(_) => crate::sums::tokens(scored),
            Target::Values { data, width } => crate::sums::regression(data, *width, scored),
            Target::Unknown => vec![scored.loss_sum, scored.weight],
        }
    }
}

/// A forward pass, read back.
pub struct HostScored<'a> {
    /// Sum of the losses.
    pub loss_sum: f64,
    /// Count of samples or tokens.
    pub weight: f64,
    /// Outputs, row by row.
    pub outputs: &'a [f32],
    /// Outputs per row.
    pub width: usize,
    /// Whether this is an evaluation, which also gets the long sums (the confusion matrix).
    pub evaluation: bool,
}
