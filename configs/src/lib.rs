//! The typed configuration of a run.
//!
//! This crate owns the configuration's types ([`Config`]), the one list of its keys ([`keys::KEYS`]), and the messages
//! about what is wrong with a file. It never opens anything but the configuration file, starts nothing, and imports
//! nothing in-house. The presets are the .toml files beside it.

mod check;
mod difference;
mod error;
pub mod keys;
mod load;
mod types;
mod values;

pub use difference::difference;
pub use error::{ConfigError, Problem};
pub use load::Resolved;
pub use types::{
    Checkpoint, ColumnKind, Config, Dataset, DatasetKind, Elastic, Export, Local, Model, Normalise, OnNan,
    Optimizer, OptimizerKind, Reduce, Run, Schedule, ScheduleKind, Tracker, Train,
};
pub use values::{Every, Span};
