//! burn: devices, models, gradients of a microbatch, host optimizers, evaluation, export.
#![recursion_limit = "256"]

pub mod device;
mod engine;
mod error;
pub mod export;
mod fingerprint;
mod host;
mod layout;
mod models;
mod optimizer;
mod registry;
mod sums;
mod task;
mod task_engine;
pub mod tensors;

pub use device::{DeviceInfo, DeviceSpec, OpenDevice};
pub use engine::{Engine, GradientSink};
pub use error::TrainerError;
pub use fingerprint::fingerprint;
pub use host::{DataSpec, HostBatch, HostData, HostTensor, OutputSpec, Target};
pub use layout::{Layout, Parameter};
pub use models::{Cnn, Mlp};
pub use optimizer::{BLOCK, HostOptimizer, Moment, OptimizerConfig, UpdateScalars};
pub use registry::Registry;
pub use sums::probabilities;
pub use task::{HostScored, ModelConfig, Scored, Task};
