//! Runs and metrics, kept for people and scripts.
//!
//! This crate owns what a run's numbers mean ([`meaning`]), `metrics.jsonl`, the truth of metrics ([`MetricsFile`]),
//! `run.json` ([`RunRecord`]) and where a run comes from ([`provenance`]); it shows them ([`server`]) and sends them to
//! other trackers ([`sink`]). It never trains, never talks to a worker and never imports burn, `protocol` or `wire`: sums
//! come in as plain numbers.

pub mod access;
mod clients;
mod confusion;
pub mod connections;
pub mod filter;
pub mod follow;
pub mod index;
pub mod keys;
pub mod metric_definitions;
mod metrics_file;
mod number;
pub mod prometheus;
pub mod provenance;
mod run_record;
pub mod server;
pub mod sink;
pub mod system;
pub mod traces;

pub use confusion::{Confusion, LABELS_MAX};
pub use metrics_file::{Metric, MetricsError, MetricsFile};
pub use number::to_json;
pub use run_record::{
    ActiveRecord, DatasetRecord, EventRecord, FinalRecord, MemberMachine, MemberRecord, RecordError,
    RunRecord, RunStatus,
};
