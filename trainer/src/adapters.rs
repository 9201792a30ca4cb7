//! Adapts existing burn projects - `Dataset` items, a `Batcher`, a `TrainStep`/`InferenceStep` model - to tasks.
//!
//! burn's `Learner` trains items through a batcher: `Dataset::get` returns an item, `Batcher::batch` combines items to
//! a batch, and `InferenceStep::step` returns the batch's mean loss and outputs. [`Learner`] has three methods of the
//! same shapes, so a project's own types are named there and its own methods called, one line each:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::loss::CrossEntropyLossConfig;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Int, Tensor, TensorData};
//! use trainer::adapters::{Adapted, Learner, Sample, Step};
//! use trainer::{DataSpec, ModelConfig, Registry, TrainerError};
//!
//! // What the project has already: `impl Batcher<DigitItem, DigitBatch> for DigitBatcher` with `batch`, and
//! // `impl InferenceStep for Model` with `step`.
//! struct DigitItem { pixels: Vec<f32>, label: i64 }
//! struct DigitBatch { images: Tensor<2>, labels: Tensor<1, Int> }
//! struct ClassificationOutput { loss: Tensor<1>, output: Tensor<2> }
//! struct DigitBatcher;
//! impl DigitBatcher {
//!     fn batch(&self, items: Vec<DigitItem>, device: &Device) -> DigitBatch {
//!         let labels: Vec<i64> = items.iter().map(|item| item.label).collect();
//!         let pixels: Vec<f32> = items.into_iter().flat_map(|item| item.pixels).collect();
//!         let (count, width) = (labels.len(), pixels.len() / labels.len());
//!         DigitBatch {
//!             images: Tensor::from_data(TensorData::new(pixels, [count, width]), device),
//!             labels: Tensor::from_data(TensorData::new(labels, [count]), device),
//!         }
//!     }
//! }
//! #[derive(Module, Debug)]
//! struct Model { linear: Linear }
//! impl Model {
//!     fn step(&self, batch: DigitBatch) -> ClassificationOutput {
//!         let output = self.linear.forward(batch.images);
//!         let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), batch.labels);
//!         ClassificationOutput { loss, output }
//!     }
//! }
//!
//! // What is new.
//! struct Digits { data: DataSpec }
//!
//! impl Learner for Digits {
//!     type Model = Model;
//!     type Item = DigitItem;
//!     type Batch = DigitBatch;
//!
//!     fn new(_config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
//!         Ok(Self { data: data.clone() })
//!     }
//!     fn model(&self, device: &Device) -> Model {
//!         let inputs = self.data.input.iter().product();
//!         Model { linear: LinearConfig::new(inputs, self.data.output.width()).init(device) }
//!     }
//!     fn item(&self, sample: Sample<'_>) -> DigitItem {
//!         DigitItem { pixels: sample.features.to_vec(), label: sample.label().unwrap_or(0) }
//!     }
//!     fn batch(&self, items: Vec<DigitItem>, device: &Device) -> DigitBatch {
//!         DigitBatcher.batch(items, device) // Batcher::batch
//!     }
//!     fn step(&self, model: &Model, batch: DigitBatch) -> Step {
//!         let step = model.step(batch); // InferenceStep::step
//!         Step { loss: step.loss, output: step.output }
//!     }
//! }
//!
//! let registry = Registry::builtin().with::<Adapted<Digits>>("digits");
//! # use trainer::{DeviceSpec, HostBatch, HostData, OutputSpec, Target};
//! # let data = DataSpec::new(vec![4], OutputSpec::Classes(vec!["a".into(), "b".into()]));
//! # let config = ModelConfig::new("digits", &serde_json::json!({})).unwrap();
//! # let device = trainer::device::open(&DeviceSpec::Cpu).unwrap();
//! # let mut engine = registry.build("digits", &config, &data, &device).unwrap();
//! # engine.initialise(1).unwrap();
//! # let mut batch = HostBatch::empty(&data);
//! # batch.set_count(3);
//! # batch.x.data = HostData::F32(vec![0.5; 12]);
//! # batch.y = Target::Labels(vec![0, 1, 1]);
//! # assert_eq!(engine.evaluate(&batch).unwrap()[1], 3.0);
//! ```
//!
//! `TrainStep` is not called: its `backward` would give gradients of a mean, but members add gradients of sums. A model
//! whose `TrainStep` and `InferenceStep` compute the same loss (as in burn's examples) loses nothing: `step` runs with
//! autodiff and dropout in training, and without them in evaluation.
//!
//! The traits here are this crate's own: burn's require its features `train` and `dataset`, which would build burn a
//! second time for users who don't need them. A project with these features calls `InferenceStep::step(model, batch)`
//! and `Batcher::batch(&batcher, items, device)` in the two lines above.
//!
//! Samples still come from the run's dataset, which the coordinator plans, splits and verifies by digest without
//! knowing burn. Items of a custom `Dataset` must be written to a file first: see docs/own-model.md.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, HostData, Target};
use crate::scored::Scored;
use crate::task::{ModelConfig, Task};

/// A sample of the run's dataset.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample<'a> {
    /// Shape of the input: `[features]`, `[channels, height, width]` or, for tokens, `[window]`.
    pub shape: &'a [usize],
    /// Features in row-major order; empty for tokens.
    pub features: &'a [f32],
    /// Tokens; empty for other data.
    pub tokens: &'a [i64],
    /// Target of the prediction.
    pub target: SampleTarget<'a>,
}

/// Target of a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum SampleTarget<'a> {
    /// Class index.
    Label(i64),
    /// Target values.
    Values(&'a [f32]),
    /// The next token at each position.
    Tokens(&'a [i64]),
    /// No target: this is a prediction.
    Unknown,
}

impl Sample<'_> {
    /// The class index. `None` for predictions: use any label then, since the loss is discarded.
    #[must_use]
    pub fn label(&self) -> Option<i64> {
        if let SampleTarget::Label(label) = self.target { Some(label) } else { None }
    }
}

/// Result of a model's step, like burn-train's `ClassificationOutput` and `RegressionOutput`.
pub struct Step {
    /// *Mean* of the losses over the batch's samples, shape `[1]`.
    pub loss: Tensor<1>,
    /// Outputs, `[samples, width]`.
    pub output: Tensor<2>,
}

/// A burn project's own types and methods. [`Adapted`] turns it into a [`Task`], whose guarantees apply here too,
/// except that the loss is a mean over the batch's samples (unweighted), as burn's losses are.
pub trait Learner: Sized + Send + 'static {
    /// The burn module.
    type Model: Module + 'static;
    /// Item type of the project's `Dataset`.
    type Item;
    /// Batch type of the project's `Batcher`.
    type Batch;

    /// See [`Task::SCHEMA`].
    const SCHEMA: u32 = 1;

    /// See [`Task::new`].
    ///
    /// # Errors
    /// If a key is invalid, or the data don't fit.
    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError>;

    /// See [`Task::model`].
    fn model(&self, device: &Device) -> Self::Model;

    /// Converts a sample to an item.
    fn item(&self, sample: Sample<'_>) -> Self::Item;

    /// See burn's `Batcher::batch`.
    fn batch(&self, items: Vec<Self::Item>, device: &Device) -> Self::Batch;

    /// See burn's `InferenceStep::step`.
    fn step(&self, model: &Self::Model, batch: Self::Batch) -> Step;
}

/// A [`Learner`] as a [`Task`]: `Registry::builtin().with::<Adapted<Mine>>("mine")`.
#[derive(Debug)]
pub struct Adapted<L>(L);

impl<L: Learner> Adapted<L> {
    /// Mean loss and outputs of the batch, `[batch.count, width]`.
    fn step(&self, model: &L::Model, batch: &HostBatch, device: &Device) -> Result<Step, TrainerError> {
        let items = samples(batch)?.map(|sample| self.0.item(sample)).collect();
        let step = self.0.step(model, self.0.batch(items, device));
        let [rows, width] = step.output.dims();
        if rows != batch.count {
            return Err(TrainerError::Shape(format!(
                "the step gave outputs [{rows}, {width}] for {} samples",
                batch.count
            )));
        }
        Ok(step)
    }
}

impl<L: Learner> Task for Adapted<L> {
    type Model = L::Model;
    const SCHEMA: u32 = L::SCHEMA;

    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        L::new(config, data).map(Self)
    }

    fn model(&self, device: &Device) -> L::Model {
        self.0.model(device)
    }

    fn forward(&self, model: &L::Model, batch: &HostBatch, device: &Device) -> Result<Scored, TrainerError> {
        let Step { loss, output } = self.step(model, batch, device)?;
        let weight = batch.count as f64;
        Ok(Scored { loss: loss.mul_scalar(weight), weight, outputs: output })
    }

    fn predict(
        &self,
        model: &L::Model,
        batch: &HostBatch,
        device: &Device,
    ) -> Result<Tensor<2>, TrainerError> {
        self.step(model, batch, device).map(|step| step.output)
    }
}

/// Iterates over the batch's samples.
fn samples(batch: &HostBatch) -> Result<impl Iterator<Item = Sample<'_>>, TrainerError> {
    let shape = batch.x.shape.get(1..).unwrap_or_default();
    let width: usize = shape.iter().product();
    let (inputs, targets) = (batch.x.data.len(), batch.y.len());
    let fits = |length: usize| batch.count > 0 && length.is_multiple_of(batch.count);
    if inputs != batch.count * width || targets.is_some_and(|targets| !fits(targets)) {
        return Err(TrainerError::Shape(format!(
            "{inputs} inputs of shape {shape:?} and {} targets for {} samples",
            targets.unwrap_or(0),
            batch.count
        )));
    }
    let own = move |sample: usize, of_each: usize| sample * of_each..(sample + 1) * of_each;
    let target_width = targets.unwrap_or(0) / batch.count.max(1);
    Ok((0..batch.count).map(move |sample| {
        let (features, tokens): (&[f32], &[i64]) = match &batch.x.data {
            HostData::F32(data) => (&data[own(sample, width)], &[]),
            HostData::I64(data) => (&[], &data[own(sample, width)]),
        };
        let target = match &batch.y {
            Target::Labels(labels) => SampleTarget::Label(labels[sample]),
            Target::Values { data, .. } => SampleTarget::Values(&data[own(sample, target_width)]),
            Target::Tokens(next) => SampleTarget::Tokens(&next[own(sample, target_width)]),
            Target::Unknown => SampleTarget::Unknown,
        };
        Sample { shape, features, tokens, target }
    }))
}
