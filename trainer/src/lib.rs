//! burn: devices, models, gradients of a microbatch, host optimizers, evaluation, export.
//!
//! The only crate that computes with tensors. It never opens a socket, a run directory or a dataset, never reads a
//! clock, and draws no random number that a seed or a microbatch's key doesn't fix. A device computes outputs and
//! gradients; parameters are updated on the host, the same bits everywhere (see [`HostOptimizer`]).
//!
//! - [`Registry`] builds a [`Task`] (a burn module and its loss) on an [`OpenDevice`] as an [`Engine`],
//! - [`Engine::gradient`] gives a microbatch's gradient to a [`GradientSink`], region by region of a flat buffer,
//! - [`HostOptimizer::step`] applies the reduced gradient, [`Engine::write_parameters`] brings the result back,
//! - [`tensors`] and [`export`] make files and digests of the flat buffers.
#![recursion_limit = "256"]

pub mod device;
mod engine;
mod error;
pub mod export;
mod fingerprint;
mod guard;
mod host;
mod layout;
pub mod models;
mod module_walk;
pub mod names;
mod optimizer;
mod ordered_sum;
mod registry;
mod state_check;
mod sums;
mod task;
mod task_engine;
pub mod tensors;
mod update_rules;

pub use device::{DeviceInfo, DeviceSpec, OpenDevice};
pub use engine::{Engine, GradientSink};
pub use error::TrainerError;
pub use fingerprint::fingerprint;
pub use host::{Categories, DataSpec, HostBatch, HostData, HostTensor, OutputSpec, Target};
pub use layout::{Layout, Parameter};
pub use models::{Cnn, Gpt, Mlp, Resnet};
pub use optimizer::{BLOCK, HostOptimizer, Moment, OptimizerConfig, UpdateScalars};
pub use ordered_sum::ordered_sum;
pub use registry::Registry;
pub use sums::probabilities;
pub use task::{HostScored, ModelConfig, Scored, Task};
