//! The typed configuration of a run.
//!
//! This crate owns the configuration's types ([`Config`]), the one list of its keys ([`keys::KEYS`], written out as
//! `KEYS.md`), and the messages about what is wrong with a file. It never opens anything but the configuration file,
//! starts nothing, and imports nothing in-house. The presets are the .toml files beside it.
//!
//! # From a file to a configuration
//!
//! [`Config::load`] goes through four gates, and a value that comes out is a right one:
//!
//! 1. The text is TOML, and the `--set` flags are put into it (`overrides`).
//! 2. Every key is of the list and its value is of the key's [`keys::Kind`] (`known`).
//! 3. The types are filled; a model that is built in gets the defaults of its keys (`load`).
//! 4. The values go together (`check`).
//!
//! All that is wrong at the gates 1 and 2, or at 4, is told at once, with the line or the flag that it stands in:
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
//! [`Config::digest`] covers the keys that change the weights. Two configurations with one digest train the same bits;
//! [`difference()`] says which keys keep two from it.
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
mod init_and_early_stopping;
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
