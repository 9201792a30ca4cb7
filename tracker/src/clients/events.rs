//! The lines of the clients' files. Fields may be added, none renamed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Float, Int};

/// A parameter or a tag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// Key, value, milliseconds since 1970, step.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct MetricLine(pub(crate) String, pub(crate) Float, pub(crate) Int, pub(crate) Int);

/// A model that a run took in or put out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ModelUse {
    pub(crate) model_id: String,
    #[serde(default)]
    pub(crate) step: Int,
}

/// A line of a run's `events.jsonl`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunEvent {
    /// The first line.
    Created { user: String, name: String, start_ms: i64, tags: Vec<Pair> },
    /// What one request logged.
    Batch { metrics: Vec<MetricLine>, params: Vec<Pair>, tags: Vec<Pair> },
    /// Status, end or name.
    Updated { status: Option<String>, end_ms: Option<i64>, name: Option<String> },
    /// A tag is gone.
    TagRemoved { key: String },
    /// `active` or `deleted`.
    Stage { stage: String },
    /// Datasets, in MLflow's form, and models that it took in.
    Inputs { datasets: Vec<Value>, models: Vec<ModelUse> },
    /// Models that it put out.
    Outputs { models: Vec<ModelUse> },
}

/// A line of a run of ours' `notes.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NoteEvent {
    /// Tags are set.
    Tags { tags: Vec<Pair> },
    /// A tag is gone.
    TagRemoved { key: String },
}

/// A line of `experiment.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExperimentEvent {
    /// The first line.
    Created { name: String, time_ms: i64, tags: Vec<Pair> },
    /// It has another name.
    Renamed { name: String, time_ms: i64 },
    /// Tags are set.
    Tags { tags: Vec<Pair>, time_ms: i64 },
    /// A tag is gone.
    TagRemoved { key: String, time_ms: i64 },
    /// `active` or `deleted`.
    Stage { stage: String, time_ms: i64 },
}

/// A line of a logged model's `events.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelEvent {
    /// The first line.
    Created {
        experiment: String,
        name: String,
        model_type: String,
        run: String,
        time_ms: i64,
        params: Vec<Pair>,
        tags: Vec<Pair>,
    },
    /// Its status, such as `LOGGED_MODEL_READY`.
    Status { status: String, time_ms: i64 },
    /// Parameters are added.
    Params { params: Vec<Pair>, time_ms: i64 },
    /// Tags are set.
    Tags { tags: Vec<Pair>, time_ms: i64 },
    /// A tag is gone.
    TagRemoved { key: String, time_ms: i64 },
    /// It is deleted.
    Deleted { time_ms: i64 },
}

/// A line of `models.jsonl`; `name` is a registered model's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RegistryEvent {
    /// There is a registered model.
    Created { name: String, description: String, time_ms: i64, tags: Vec<Pair> },
    /// It is described, or renamed.
    Updated { name: String, new_name: Option<String>, description: Option<String>, time_ms: i64 },
    /// It is gone, with its versions.
    Deleted { name: String },
    /// Tags are set: on the model, or on a version of it.
    Tags { name: String, version: Option<u64>, tags: Vec<Pair>, time_ms: i64 },
    /// A tag is gone.
    TagRemoved { name: String, version: Option<u64>, key: String, time_ms: i64 },
    /// There is a version.
    Version {
        name: String,
        version: u64,
        source: String,
        run: String,
        model: String,
        description: String,
        time_ms: i64,
        tags: Vec<Pair>,
    },
    /// A version is described.
    VersionUpdated { name: String, version: u64, description: Option<String>, time_ms: i64 },
    /// A version is gone; its number is not given again.
    VersionDeleted { name: String, version: u64, time_ms: i64 },
    /// An alias points to a version.
    Alias { name: String, alias: String, version: u64, time_ms: i64 },
    /// An alias is gone.
    AliasRemoved { name: String, alias: String, time_ms: i64 },
}
