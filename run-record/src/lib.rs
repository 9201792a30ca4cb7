//! The files that describe a run: `run.json` ([`RunRecord`]), `metrics.jsonl` ([`MetricsFile`], [`follow`]), the
//! definitions and names of its metrics ([`metric_definitions`], [`keys`]) and its [`provenance`].
//!
//! Sums come in as plain numbers. This crate never trains, serves or sends anything, and never imports burn, `protocol`
//! or `wire`. Begin with [`RunRecord`].

mod confusion;
pub mod follow;
pub mod keys;
pub mod metric_definitions;
mod metrics_file;
pub mod number;
pub mod provenance;
mod record;

pub use confusion::{Confusion, LABELS_MAX};
pub use metrics_file::{Metric, MetricsError, MetricsFile};
pub use number::to_json;
pub use record::{
    ActiveRecord, DatasetRecord, EventRecord, FinalRecord, MemberMachine, MemberRecord, RecordError,
    RunRecord, RunStatus,
};
