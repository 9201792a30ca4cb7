//! The interface for custom models.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, Target};
use crate::keys;
use crate::scored::{HostScored, Scored};

/// The `[model]` section as seen by a task.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelConfig {
    /// Value of `model.kind`.
    pub kind: String,
    keys: Map<String, Value>,
}

impl ModelConfig {
    /// A section from its kind and its remaining keys (anything that serialises to a table, such as `toml::Table`).
    ///
    /// # Errors
    /// If the keys don't form a table.
    pub fn new(kind: &str, keys: &impl Serialize) -> Result<Self, TrainerError> {
        let keys = serde_json::to_value(keys)
            .map_err(|error| TrainerError::Config(format!("[model] of kind {kind:?}: {error}")))?;
        let Value::Object(keys) = keys else {
            return Err(TrainerError::Config(format!("[model] of kind {kind:?} must be a table")));
        };
        Ok(Self { kind: kind.to_owned(), keys })
    }

    /// Deserialises the keys into the task's own struct: derive `Deserialize`, with `#[serde(default)]` for optional
    /// keys. Call it even if the task has no keys (with an empty struct), since it rejects typos.
    ///
    /// # Errors
    /// If a key is missing, of the wrong type, or not in the struct; the message names it, its value and the closest
    /// valid key.
    pub fn keys<T: DeserializeOwned>(&self) -> Result<T, TrainerError> {
        keys::read(&self.kind, &self.keys)
    }
}

/// A burn module, with its loss and its metric sums.
///
/// Three methods suffice: [`new`](Self::new) reads keys and data, [`model`](Self::model) builds the module, and
/// [`predict`](Self::predict) computes outputs. The others have defaults that depend on the kind of the data's targets.
///
/// # What a task guarantees
///
/// Members of a run compute parts of one step, and any of them may compute any part, or repeat it. They end up with the
/// same bits because a task keeps these guarantees:
///
/// - *Deterministic.* `forward` and `predict` are functions of only the parameters, the batch and burn's random
///   generator, which is seeded with the key of (run's seed, step, microbatch) before each call. No clock, no global
///   counter, no other generator, no file, and no map with a random order. `new` and `model` are functions of their
///   arguments: every member builds the same parameters under the same names in the same order.
/// - *Sums, not means.* The loss is the sum over the samples (or tokens), and [`Scored::weight`] is their number.
///   Microbatches may differ in size; members add losses, weights and gradients, and divide once by the global weight.
///   The same holds for [`sums`](Self::sums). A loss that is not a sum over samples (a contrastive one, say) sees a
///   microbatch, not the global batch.
/// - *Summed in a fixed order.* On GPUs, burn's `sum()` and `mean()` over a whole tensor add in order of arrival. Use
///   [`ordered_sum`](crate::ordered_sum()), or sums along a dimension. A worker computes every shape twice before step
///   0 and warns if the bits differ.
/// - *Stateless.* State that changes in the forward pass (BatchNorm's running statistics) would be updated twice by a
///   retried step: such modules are rejected, naming the layer. Dropout is fine: it draws from the seeded generator,
///   and is off on devices without autodiff (evaluation, prediction).
/// - *Typed as its input.* In training with `train.precision` other than f32, parameters and
///   [`features`](HostBatch::features) have the type [`HostBatch::dtype`], and tensors that the task creates need it
///   too. Outputs and losses may have any float type; losses are better in f32, like those of [`Scored::by_target`].
/// - *All trained state is in parameters.* Float parameters, each once; versions contain nothing else.
pub trait Task: Sized + Send + 'static {
    /// The burn module.
    type Model: Module + 'static;

    /// Increase it when parameters or their meaning change: members of one run must agree on it.
    const SCHEMA: u32 = 1;

    /// Checks the configuration against the data. Every worker calls it before step 0; an error ends the run with exit
    /// code 2 and its message.
    ///
    /// # Errors
    /// If a key is invalid, or the data don't fit this task.
    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError>;

    /// Builds the module on the device. Its initial values come from burn's initialisers, which the caller has seeded.
    fn model(&self, device: &Device) -> Self::Model;

    /// Loss sum and outputs of a batch, in training (`device` with autodiff, dropout on) and in evaluation. The default
    /// applies [`Scored::by_target`] to the outputs of [`predict`](Self::predict).
    ///
    /// # Errors
    /// If the batch doesn't fit the task.
    fn forward(
        &self,
        model: &Self::Model,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Scored, TrainerError> {
        Scored::by_target(self.predict(model, batch, device)?, batch)
    }

    /// Outputs of a batch with unknown targets: `[samples, width]`, for tokens `[samples * window, vocabulary]`.
    ///
    /// # Errors
    /// If the batch doesn't fit the task.
    fn predict(
        &self,
        model: &Self::Model,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError>;

    /// Metric sums of a batch; the first two are the loss sum and the weight. The default computes those of
    /// classification, regression or tokens, depending on the batch's targets.
    fn sums(&self, batch: &HostBatch, scored: &HostScored<'_>) -> Vec<f64> {
        match &batch.y {
            Target::Labels(labels) => crate::sums::classification(labels, scored),
            Target::Tokens(_) => crate::sums::tokens(scored),
            Target::Values { data, width } => crate::sums::regression(data, *width, scored),
            Target::Unknown => vec![scored.loss_sum, scored.weight],
        }
    }
}
