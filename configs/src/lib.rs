//! The typed configuration of a run.
//!
//! This crate owns the configuration's types ([`Config`]), the list of its keys ([`keys::KEYS`], rendered as
//! `KEYS.md`), and the error messages about invalid files. It never opens anything but the configuration file, starts
//! nothing, and imports no other crate of this workspace. Presets are the .toml files in this crate's folder. Start
//! with [`Config::load`].
//!
//! # From a file to a configuration
//!
//! [`Config::load`] validates in four stages, so that a `Config` is always valid:
//!
//! 1. The text parses as TOML, and `--set` flags are applied to it (`overrides`).
//! 2. Every key is in the list and its value fits the key's [`keys::Kind`] (`known`).
//! 3. The types are filled; built-in models get default values of their keys (`load`).
//! 4. The combination of values makes sense (`check`).
//!
//! Stages 1 and 2 report all errors at once, as does stage 4, each with its line or flag:
//!
//! ```
//! let text = "
//! [dataset]
//! uri = \"houses.csv\"
//!
//! [train]
//! epochs = 10
//! batchsize = 32
//! ";
//! let error = configs::Config::parse(text, "houses.toml", &["optimizer.kind=sdg".to_owned()]).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "houses.toml:7: unknown key train.batchsize (= 32): did you mean train.batch_size?\n\
//!      --set optimizer.kind=sdg: optimizer.kind = \"sdg\": expected one of \"sgd\", \"adam\", \"adamw\"; \
//!      did you mean \"sgd\"?"
//! );
//! ```
//!
//! # What a resume may change
//!
//! [`Config::digest`] covers the keys that change the weights. Two configurations with the same digest train the same
//! bits; [`difference()`] lists the keys in which two configurations differ.
//!
//! ```
//! # let read = |flag: &str| configs::Config::parse(
//! #     "[dataset]\nuri = \"a.csv\"\n[train]\nepochs = 2", "a.toml", &[flag.to_owned()]).expect("right");
//! let (run, more_workers) = (read("local.workers=2"), read("local.workers=7"));
//! assert_eq!(run.digest(), more_workers.digest());
//! let other_seed = read("run.seed=7");
//! assert_eq!(configs::difference(&run, &other_seed), ["run.seed: 42 in the run, now 7"]);
//! ```

mod check;
mod difference;
mod error;
mod key_positions;
pub mod keys;
mod kind;
mod known;
mod load;
mod overrides;
mod page;
mod types;
mod values;

pub use difference::difference;
pub use error::{ConfigError, Problem, nearest};
pub use load::Resolved;
pub use page::page;
pub use types::{
    Augment, Checkpoint, ColumnKind, Config, Dataset, DatasetKind, Elastic, Export, Init, Local, Model,
    Normalise, OnBad, OnNan, Optimizer, OptimizerKind, Precision, Reduce, Run, Sampling, Schedule,
    ScheduleKind, Shuffle, Tracker, Train,
};
pub use values::{Every, Span};
