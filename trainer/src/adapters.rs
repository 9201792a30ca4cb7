//! What a burn project has already - `Dataset` items, a `Batcher`, a `TrainStep`/`InferenceStep` model - as a task.
//!
//! burn's `Learner` trains items through a batcher: `Dataset::get` gives an item, `Batcher::batch` makes a batch of some,
//! `InferenceStep::step` gives the batch's mean loss and outputs. [`Learner`] has these three with the same shapes, so a
//! project's own types are named there and its own methods called, one line each:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::loss::CrossEntropyLossConfig;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Int, Tensor, TensorData};
//! use trainer::adapters::{Adapted, Learner, Sample, Step};
//! use trainer::{DataSpec, ModelConfig, Registry, TrainerError};
//!
//! // What the project has. In it, `impl Batcher<DigitItem, DigitBatch> for DigitBatcher` has `batch`, and
//! // `impl InferenceStep for Model` has `step`.
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
//! # let data = DataSpec { input: vec![4], output: OutputSpec::Classes(vec!["a".into(), "b".into()]) };
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
//! `TrainStep` is not called: its `backward` would give gradients of a mean, and members add gradients of sums. A model
//! whose `TrainStep` and `InferenceStep` compute the same loss (burn's examples do) loses nothing by it: `step` runs with
//! autodiff and dropout in training and without them in evaluation.
//!
//! The traits here are this crate's own: burn's are behind its features `train` and `dataset`, which would build a second
//! burn for whoever doesn't need them. A project that has them on calls `InferenceStep::step(model, batch)` and
//! `Batcher::batch(&batcher, items, device)` in the two lines above.
//!
//! The samples still come from the run's dataset, which the coordinator plans, splits and verifies by digest without
//! knowing burn. Items of a `Dataset` of one's own get there as a file: see docs/own-model.md.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::error::TrainerError;
use crate::host::{DataSpec, HostBatch, HostData, Target};
use crate::scored::Scored;
use crate::task::{ModelConfig, Task};

/// One sample of the run's dataset.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample<'a> {
    /// Its input's shape: `[features]`, `[channels, height, width]` or, for tokens, `[window]`.
    pub shape: &'a [usize],
    /// Its features in row-major order; empty for tokens.
    pub features: &'a [f32],
    /// Its tokens; empty for anything else.
    pub tokens: &'a [i64],
    /// What is to be predicted.
    pub target: SampleTarget<'a>,
}

/// What is to be predicted of a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum SampleTarget<'a> {
    /// The index of its label.
    Label(i64),
    /// Its values.
    Values(&'a [f32]),
    /// The next token of each position.
    Tokens(&'a [i64]),
    /// Unknown: this is a prediction.
    Unknown,
}

impl Sample<'_> {
    /// The label's index. A prediction has none: any label does then, since its loss is dropped.
    #[must_use]
    pub fn label(&self) -> Option<i64> {
        if let SampleTarget::Label(label) = self.target { Some(label) } else { None }
    }
}

/// What a step of a model gives, as burn-train's `ClassificationOutput` and `RegressionOutput` have it.
pub struct Step {
    /// The *mean* over the batch's samples of their losses, shape `[1]`.
    pub loss: Tensor<1>,
    /// Outputs, `[samples, width]`.
    pub output: Tensor<2>,
}

/// A burn project's own types and methods. [`Adapted`] makes a [`Task`] of it, whose promises hold here too; only that
/// the loss is a mean over the batch's samples (not weighted ones), as burn's losses give it.
pub trait Learner: Sized + Send + 'static {
    /// The module.
    type Model: Module + 'static;
    /// What the project's `Dataset` gives.
    type Item;
    /// What the project's `Batcher` makes of some.
    type Batch;

    /// As [`Task::SCHEMA`].
    const SCHEMA: u32 = 1;

    /// As [`Task::new`].
    ///
    /// # Errors
    /// A key is wrong, or the data don't fit.
    fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError>;

    /// As [`Task::model`].
    fn model(&self, device: &Device) -> Self::Model;

    /// A sample as an item.
    fn item(&self, sample: Sample<'_>) -> Self::Item;

    /// `Batcher::batch`.
    fn batch(&self, items: Vec<Self::Item>, device: &Device) -> Self::Batch;

    /// `InferenceStep::step`.
    fn step(&self, model: &Self::Model, batch: Self::Batch) -> Step;
}

/// A [`Learner`] as a [`Task`]: `Registry::builtin().with::<Adapted<Mine>>("mine")`.
#[derive(Debug)]
pub struct Adapted<L>(L);

impl<L: Learner> Adapted<L> {
    /// The mean loss and outputs of the batch, `[batch.count, width]`.
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

/// The batch's samples, one after the other.
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
