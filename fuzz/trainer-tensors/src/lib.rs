//! The modules of `trainer` that read and write tensors, compiled without burn.
#![allow(dead_code, unused_imports, reason = "the modules are whole, and this crate uses a part")]

#[path = "../../../trainer/src/error.rs"]
mod error;
#[path = "../../../trainer/src/layout.rs"]
mod layout;
#[path = "../../../trainer/src/moment.rs"]
mod moment;
#[path = "../../../trainer/src/names.rs"]
pub mod names;
#[path = "../../../trainer/src/optimizer.rs"]
mod optimizer;
#[path = "../../../trainer/src/optimizer_config.rs"]
mod optimizer_config;
#[path = "../../../trainer/src/optimizer_pass.rs"]
mod optimizer_pass;
#[path = "../../../trainer/src/state_check.rs"]
mod state_check;
#[path = "../../../trainer/src/tensors.rs"]
pub mod tensors;
#[path = "../../../trainer/src/update_rules.rs"]
mod update_rules;

pub use error::TrainerError;
pub use layout::{Layout, Parameter};
pub use optimizer::HostOptimizer;
pub use optimizer_config::OptimizerConfig;
