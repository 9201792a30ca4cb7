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

/// A model that a run read or wrote.
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
    /// The run was created; the first line.
    Created { user: String, name: String, start_ms: i64, tags: Vec<Pair> },
    /// Everything that one request logged.
    Batch { metrics: Vec<MetricLine>, params: Vec<Pair>, tags: Vec<Pair> },
    /// A new status, end or name.
    Updated { status: Option<String>, end_ms: Option<i64>, name: Option<String> },
    /// A tag was removed.
    TagRemoved { key: String },
    /// The new stage: `active` or `deleted`.
    Stage { stage: String },
    /// Datasets, in MLflow's format, and input models.
    Inputs { datasets: Vec<Value>, models: Vec<ModelUse> },
    /// Output models.
    Outputs { models: Vec<ModelUse> },
}

/// A line of `notes.jsonl`, which belongs to a run of Bonfire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NoteEvent {
    Tags { tags: Vec<Pair> },
    TagRemoved { key: String },
}

/// A line of `experiment.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExperimentEvent {
    /// The experiment was created; the first line.
    Created { name: String, time_ms: i64, tags: Vec<Pair> },
    /// The experiment was renamed.
    Renamed { name: String, time_ms: i64 },
    /// Tags were set.
    Tags { tags: Vec<Pair>, time_ms: i64 },
    /// A tag was removed.
    TagRemoved { key: String, time_ms: i64 },
    /// The new stage: `active` or `deleted`.
    Stage { stage: String, time_ms: i64 },
}

/// A line of a logged model's `events.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelEvent {
    /// The model was created; the first line.
    Created {
        experiment: String,
        name: String,
        model_type: String,
        run: String,
        time_ms: i64,
        params: Vec<Pair>,
        tags: Vec<Pair>,
    },
    /// The new status, such as `LOGGED_MODEL_READY`.
    Status { status: String, time_ms: i64 },
    /// Parameters were added.
    Params { params: Vec<Pair>, time_ms: i64 },
    /// Tags were set.
    Tags { tags: Vec<Pair>, time_ms: i64 },
    /// A tag was removed.
    TagRemoved { key: String, time_ms: i64 },
    /// The model was deleted.
    Deleted { time_ms: i64 },
}

/// A line of `models.jsonl`; `name` is a registered model's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RegistryEvent {
    /// A model was registered.
    Created { name: String, description: String, time_ms: i64, tags: Vec<Pair> },
    /// The description or the name changed.
    Updated { name: String, new_name: Option<String>, description: Option<String>, time_ms: i64 },
    /// The model was deleted, with its versions.
    Deleted { name: String },
    /// Tags were set on the model, or on one of its versions.
    Tags { name: String, version: Option<u64>, tags: Vec<Pair>, time_ms: i64 },
    /// A tag was removed.
    TagRemoved { name: String, version: Option<u64>, key: String, time_ms: i64 },
    /// A version was created.
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
    /// A version's description changed.
    VersionUpdated { name: String, version: u64, description: Option<String>, time_ms: i64 },
    /// A version was deleted; its number is never reused.
    VersionDeleted { name: String, version: u64, time_ms: i64 },
    /// An alias was set to a version.
    Alias { name: String, alias: String, version: u64, time_ms: i64 },
    /// An alias was removed.
    AliasRemoved { name: String, alias: String, time_ms: i64 },
}
