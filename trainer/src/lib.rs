//! burn: devices, models, gradients of a microbatch, host optimizers, evaluation, export.
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
mod optimizer;
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
pub use host::{DataSpec, HostBatch, HostData, HostTensor, OutputSpec, Target};
pub use layout::{Layout, Parameter};
pub use models::{Cnn, Mlp};
pub use optimizer::{BLOCK, HostOptimizer, Moment, OptimizerConfig, UpdateScalars};
pub use registry::Registry;
pub use sums::probabilities;
pub use task::{HostScored, ModelConfig, Scored, Task};
