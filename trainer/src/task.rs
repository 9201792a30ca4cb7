//! What a user writes to train a model of their own.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, Target};
use crate::keys;
use crate::scored::Scored;

/// The `[model]` section, as far as a task reads it.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelConfig {
    /// `model.kind`.
    pub kind: String,
    keys: Map<String, Value>,
}

impl ModelConfig {
    /// From the section's kind and its remaining keys (anything that serialises to a table, such as `toml::Table`).
    ///
    /// # Errors
    /// The keys are no table.
    pub fn new(kind: &str, keys: &impl Serialize) -> Result<Self, TrainerError> {
        let keys = serde_json::to_value(keys)
            .map_err(|error| TrainerError::Config(format!("[model] of kind {kind:?}: {error}")))?;
        let Value::Object(keys) = keys else {
            return Err(TrainerError::Config(format!("[model] of kind {kind:?} must be a table")));
        };
        Ok(Self { kind: kind.to_owned(), keys })
    }

    /// The keys as a struct of the task's: derive `Deserialize`, with `#[serde(default)]` for keys that may be absent.
    /// Call it even if the task has no keys (with an empty struct): it is what refuses a typo.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type, or not the struct's; the message names it, its value and the nearest
    /// right key.
    pub fn keys<T: DeserializeOwned>(&self) -> Result<T, TrainerError> {
        keys::read(&self.kind, &self.keys)
    }
}

/// A burn module, how its loss is had, and what its sums are.
///
/// Three methods are enough: [`new`](Self::new) reads keys and data, [`model`](Self::model) builds the module,
/// [`predict`](Self::predict) computes outputs. The rest has defaults that go by the data's targets.
///
/// # What a task guarantees
///
/// Members of a run compute parts of one step, and any of them may compute any part, or do it again. They hold the same
/// bits afterwards because a task keeps these promises:
///
/// - *Determined.* `forward` and `predict` are functions of the parameters, the batch and burn's random generator alone,
///   which is seeded with the key of (run's seed, step, microbatch) before each call. No clock, no global counter, no
///   other generator, no file, and no map whose order is random. `new` and `model` are functions of their arguments:
///   every member builds the same parameters under the same names in the same order.
/// - *Sums, not means.* The loss is the sum over the samples (or tokens) and [`Scored::weight`] their number. Microbatches
///   may differ in size; members add losses, weights and gradients, and the global weight divides once. The same holds
///   for [`sums`](Self::sums). A loss that is not a sum over samples (a contrastive one, say) sees a microbatch, not
///   the global batch.
/// - *Summed in a fixed order.* On GPUs burn's `sum()` and `mean()` over a whole tensor add in the order of arrival. Use
///   [`ordered_sum`](crate::ordered_sum()), or sums along a dimension. A worker computes every shape twice before step
///   0 and warns where the bits differ.
/// - *Stateless.* Whatever changes in the forward pass (BatchNorm's running statistics) would be counted twice by a
///   step that is tried again: such modules are refused by the layer's name. Dropout is right: it draws from the seeded
///   generator, and is off where the device has no autodiff (evaluation, prediction).
/// - *All trained state is in parameters.* Float parameters, each once; versions carry them and nothing else.
pub trait Task: Sized + Send + 'static {
    /// The module.
    type Model: Module + 'static;

    /// Raise it when parameters or their meaning change: members of one run must have the same.
    const SCHEMA: u32 = 1;

    /// Checks the configuration against the data, in every worker before step 0: a refusal ends the run with exit code
    /// 2 and its message.
    ///
    /// # Errors
    /// A key is wrong, or the data don't fit this task.
    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError>;

    /// Builds the module on the device. Its first values come from burn's initialisers, which the caller has seeded.
    fn model(&self, device: &Device) -> Self::Model;

    /// Loss sum and outputs of a batch, in training (`device` with autodiff, dropout on) and in evaluation. By default
    /// what [`Scored::by_target`] makes of [`predict`](Self::predict)'s outputs.
    ///
    /// # Errors
    /// The batch isn't what the task was built for.
    fn forward(
        &self,
        model: &Self::Model,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Scored, TrainerError> {
        Scored::by_target(self.predict(model, batch, device)?, batch)
    }

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
