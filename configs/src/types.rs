//! The configuration's types: one struct per section. The keys are documented only in [`crate::keys`].

mod data;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use data::{Augment, ColumnKind, Dataset, DatasetKind, Normalise, OnBad, Sampling, Shuffle};

use crate::values::{Every, Span};

/// A complete configuration. Descriptions, defaults and bounds of the keys are in [`crate::keys`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub run: Run,
    pub dataset: Dataset,
    pub augment: Augment,
    pub train: Train,
    pub model: Model,
    pub init: Init,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub elastic: Elastic,
    pub reduce: Reduce,
    pub checkpoint: Checkpoint,
    pub tracker: Tracker,
    pub telemetry: Telemetry,
    pub export: Export,
    pub local: Local,
}

/// `[run]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Run {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub dir: PathBuf,
    pub seed: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self { name: None, dir: PathBuf::from("runs"), seed: 42 }
    }
}

/// What to do when a step's loss or gradients are not finite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum OnNan {
    Stop,
    Skip,
}

/// Number type of the forward and backward passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Precision {
    #[default]
    F32,
    Bf16,
    F16,
}

impl std::fmt::Display for Precision {
    /// The spelling in `train.precision`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

/// `[train]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Train {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    pub batch_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microbatch_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    pub on_nan: OnNan,
    pub evaluate_every: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    pub monitor: String,
    pub min_delta: f64,
    pub precision: Precision,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch_size: 64,
            microbatch_size: None,
            clip_norm: None,
            on_nan: OnNan::Stop,
            evaluate_every: 1,
            patience: None,
            monitor: "validation/loss".to_owned(),
            min_delta: 0.0,
            precision: Precision::F32,
        }
    }
}

impl Train {
    /// Samples per microbatch: as configured, else an eighth of the batch, rounded up.
    #[must_use]
    pub fn microbatch(&self) -> u32 {
        self.microbatch_size.unwrap_or_else(|| self.batch_size.div_ceil(8)).max(1)
    }

    /// Samples per microbatch of an evaluation: four times that of training, since no memory is needed for the backward
    /// pass, but no more than the batch.
    #[must_use]
    pub fn evaluation_microbatch(&self) -> u32 {
        self.microbatch().saturating_mul(4).min(self.batch_size).max(1)
    }
}

/// `[model]`: its kind, and the keys of that kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Model {
    pub kind: String,
    #[serde(flatten)]
    pub keys: toml::Table,
}

impl Model {
    /// Whether `class_weights` should be computed from the data.
    #[must_use]
    pub fn wants_balanced_weights(&self) -> bool {
        self.keys.get("class_weights").and_then(toml::Value::as_str) == Some("balanced")
            && crate::keys::of_model(&self.kind).any(|key| key.name == "class_weights")
    }

    /// Replaces `class_weights` by these weights, in label order.
    pub fn set_class_weights(&mut self, weights: &[f64]) {
        let weights = weights.iter().copied().map(toml::Value::Float).collect();
        self.keys.insert("class_weights".to_owned(), toml::Value::Array(weights));
    }
}

impl Default for Model {
    fn default() -> Self {
        Self { kind: "mlp".to_owned(), keys: toml::Table::new() }
    }
}

/// `[init]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Init {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub allow_missing: Vec<String>,
    pub freeze: Vec<String>,
}

/// Optimizer algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum OptimizerKind {
    Sgd,
    Adam,
    Adamw,
}

/// `[optimizer]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    pub learning_rate: f64,
    pub momentum: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    pub decay_1d: bool,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 0.001,
            momentum: 0.9,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            decay_1d: true,
        }
    }
}

/// Learning-rate schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ScheduleKind {
    Constant,
    Warmup,
    Cosine,
    Step,
}

/// `[schedule]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub warmup_steps: u64,
    pub final_factor: f64,
    pub step_every: u64,
    pub gamma: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Constant,
            warmup_steps: 0,
            final_factor: 0.0,
            step_every: 1_000,
            gamma: 0.1,
        }
    }
}

/// `[elastic]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Elastic {
    pub min_workers: u32,
    pub max_workers: u32,
    pub lease: Span,
    pub mixed: bool,
}

impl Default for Elastic {
    fn default() -> Self {
        let lease = Span(std::time::Duration::from_secs(10));
        Self { min_workers: 1, max_workers: 64, lease, mixed: false }
    }
}

/// `[reduce]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Reduce {
    pub at: String,
    pub wire: String,
}

impl Default for Reduce {
    fn default() -> Self {
        Self { at: "coordinator".to_owned(), wire: "f32".to_owned() }
    }
}

/// `[checkpoint]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Checkpoint {
    pub every: Every,
    pub keep: usize,
    pub best: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_key: Option<PathBuf>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            every: Every::Epochs(1),
            keep: 3,
            best: "validation/loss".to_owned(),
            sign: None,
            verify_key: None,
        }
    }
}

/// `[tracker]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Tracker {
    pub sinks: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlflow_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlflow_experiment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wandb_project: Option<String>,
    pub listen: String,
    pub git_diff: bool,
    pub system_every: Span,
}

impl Default for Tracker {
    fn default() -> Self {
        let system_every = Span(std::time::Duration::from_secs(10));
        Self {
            sinks: vec!["embedded".to_owned()],
            mlflow_uri: None,
            mlflow_experiment: None,
            wandb_project: None,
            listen: "127.0.0.1:0".to_owned(),
            git_diff: true,
            system_every,
        }
    }
}

/// `[telemetry]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Telemetry {
    pub metrics_listen: String,
    pub otlp: String,
}

/// `[export]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Export {
    pub formats: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<PathBuf>,
}

impl Default for Export {
    fn default() -> Self {
        Self { formats: vec!["safetensors".to_owned()], sign: None }
    }
}

/// `[local]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Local {
    pub workers: u32,
    pub devices: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_binary: Option<PathBuf>,
}

impl Default for Local {
    fn default() -> Self {
        Self { workers: 2, devices: "auto".to_owned(), worker_binary: None }
    }
}
