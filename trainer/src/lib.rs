//! burn: devices, models, gradients of microbatches, host optimizers, evaluation and export.
//!
//! This is the only crate that computes with tensors. It never opens a socket, a run directory or a dataset, never
//! reads a clock, and never draws a random number that isn't determined by a seed or a microbatch's key. Devices
//! compute outputs and gradients; parameters are updated on the host, with the same bits everywhere (see
//! [`HostOptimizer`]).
//!
//! Start with:
//!
//! - [`Registry`], which builds a [`Task`] (a burn module and its loss) on an [`OpenDevice`] as an [`Engine`],
//! - [`Engine::gradient`], which passes a microbatch's gradient to a [`GradientSink`], region by region of a flat
//!   buffer,
//! - [`HostOptimizer::step`], which applies the reduced gradient, and [`Engine::write_parameters`], which uploads the
//!   result,
//! - [`tensors`] and [`export`], which turn flat buffers into files and digests.
//!
//! # Custom models
//!
//! A custom model is a burn module and a [`Task`] that defines how it is built and fed. The default methods derive loss
//! and metrics from the data's targets.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor, activation::tanh};
//! use trainer::{DataSpec, HostBatch, ModelConfig, Registry, Task, TrainerError};
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     first: Linear,
//!     last: Linear,
//! }
//!
//! /// `[model]`: other keys are rejected, with a suggestion.
//! #[derive(serde::Deserialize)]
//! struct Keys {
//!     hidden: usize,
//! }
//!
//! struct MyTask {
//!     keys: Keys,
//!     inputs: usize,
//!     outputs: usize,
//! }
//!
//! impl Task for MyTask {
//!     type Model = Net;
//!
//!     fn new(config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
//!         let inputs = data.input.iter().product();
//!         Ok(Self { keys: config.keys()?, inputs, outputs: data.output.width() })
//!     }
//!
//!     fn model(&self, device: &Device) -> Net {
//!         Net {
//!             first: LinearConfig::new(self.inputs, self.keys.hidden).init(device),
//!             last: LinearConfig::new(self.keys.hidden, self.outputs).init(device),
//!         }
//!     }
//!
//!     fn predict(&self, net: &Net, batch: &HostBatch, device: &Device) -> Result<Tensor<2>, TrainerError> {
//!         let x = batch.features([batch.count, self.inputs], device)?;
//!         Ok(net.last.forward(tanh(net.first.forward(x))))
//!     }
//! }
//!
//! let registry = Registry::builtin().with::<MyTask>("my-model");
//! ```
//!
//! `worker::main(registry)` makes a worker with this model, and `trainer_cli::main(registry)` a `trainer` command. What
//! such an engine does in a worker can be tried out here:
//!
//! ```
//! use trainer::{DataSpec, DeviceSpec, HostBatch, HostData, ModelConfig, OutputSpec, Registry, Target};
//!
//! # fn main() -> Result<(), trainer::TrainerError> {
//! let data = DataSpec::new(vec![2], OutputSpec::Classes(vec!["ant".into(), "bee".into()]));
//! let config = ModelConfig::new("mlp", &serde_json::json!({ "hidden": [8] }))?;
//! let device = trainer::device::open(&DeviceSpec::Cpu)?;
//! let mut engine = Registry::builtin().build("mlp", &config, &data, &device)?;
//! engine.initialise(42)?;
//!
//! let mut batch = HostBatch::empty(&data);
//! batch.set_count(3);
//! batch.x.data = HostData::F32(vec![0.0, 1.0, 1.0, 0.0, 0.5, 0.5]);
//! batch.y = Target::Labels(vec![0, 1, 1]);
//! let sums = engine.evaluate(&batch)?;
//! assert_eq!(sums[1], 3.0, "the loss sum is over three samples");
//!
//! let typo = ModelConfig::new("mlp", &serde_json::json!({ "hiden": [8] }))?;
//! let refused = Registry::builtin().build("mlp", &typo, &data, &device).err().map(|error| error.to_string());
//! assert_eq!(refused.as_deref(), Some("unknown key model.hiden (= [8]): did you mean model.hidden?"));
//! # Ok(())
//! # }
//! ```
//!
//! Weights have the same bits for any number of workers if a task keeps the guarantees listed at [`Task`]. For models
//! written for burn's `Learner`, see [`adapters`].
#![recursion_limit = "256"]

pub mod adapters;
mod agreement;
mod batch;
pub mod device;
mod engine;
mod error;
pub mod export;
mod fingerprint;
pub mod flat_state;
mod guard;
mod host;
mod keys;
mod layout;
mod loss;
pub mod models;
mod module_walk;
mod moment;
pub mod names;
mod optimizer;
mod optimizer_config;
mod optimizer_pass;
mod ordered_sum;
mod precision;
mod registry;
mod scored;
mod state_check;
mod sums;
mod task;
mod task_engine;
pub mod tensors;
mod update_rules;

pub use agreement::Agreement;
pub use configs::Precision;
pub use device::{DeviceInfo, DeviceSpec, OpenDevice};
pub use engine::{Engine, GradientSink};
pub use error::TrainerError;
pub use fingerprint::fingerprint;
pub use host::{Categories, DataSpec, HostBatch, HostData, HostTensor, OutputSpec, Target};
pub use layout::{Layout, Parameter};
pub use models::{Cnn, Gpt, Mlp, Resnet};
pub use moment::Moment;
pub use optimizer::HostOptimizer;
pub use optimizer_config::OptimizerConfig;
pub use ordered_sum::ordered_sum;
pub use registry::Registry;
pub use scored::{HostScored, Scored};
pub use state_check::BLOCK;
pub use sums::probabilities;
pub use task::{ModelConfig, Task};
pub use update_rules::UpdateScalars;
