//! Runs and metrics, kept for people and scripts.
//!
//! This crate owns what a run's numbers mean ([`meaning`]), `metrics.jsonl`, the truth of metrics ([`MetricsFile`]),
//! and `run.json` ([`RunRecord`]); and it sends them to other trackers ([`sink`]). It never trains, never talks to a worker and never imports burn, `protocol` or
//! `wire`: sums come in as plain numbers.

pub mod follow;
pub mod keys;
pub mod meaning;
mod metrics_file;
mod number;
mod run_record;
pub mod sink;

pub use metrics_file::{Metric, MetricsError, MetricsFile};
pub use number::to_json;
pub use run_record::{
    DatasetRecord, EventRecord, FinalRecord, MemberRecord, RecordError, RunRecord, RunStatus,
};
