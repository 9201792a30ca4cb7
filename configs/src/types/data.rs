//! `[dataset]` and `[augment]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Task type of the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum DatasetKind {
    Classification,
    Regression,
}

/// Kind of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ColumnKind {
    Numeric,
    Categorical,
    Ignore,
}

/// Scaling of numeric columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Normalise {
    Standard,
    Minmax,
    None,
}

/// Order of the samples in an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Shuffle {
    #[default]
    Full,
    Window,
    None,
}

/// Contents of an epoch: each sample once, or draws with replacement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Sampling {
    #[default]
    Each,
    Balanced,
    Weighted,
}

/// What to do with an image that can't be decoded, or a row that doesn't fit its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum OnBad {
    Stop,
    Skip,
}

/// `[dataset]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Dataset {
    pub uri: String,
    pub format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<DatasetKind>,
    pub columns: BTreeMap<String, ColumnKind>,
    pub delimiter: char,
    pub header: bool,
    pub missing: Vec<String>,
    pub validation: f64,
    pub split_seed: u64,
    pub normalise: Normalise,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_shape: Option<[usize; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    pub resize: bool,
    pub cache_mb: u64,
    pub memory_mb: u64,
    pub window: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    pub shuffle: Shuffle,
    pub shuffle_window: u64,
    pub sampling: Sampling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_column: Option<String>,
    pub on_bad: OnBad,
}

impl Default for Dataset {
    fn default() -> Self {
        Self {
            uri: String::new(),
            format: "csv".to_owned(),
            name: None,
            target: None,
            kind: None,
            columns: BTreeMap::new(),
            delimiter: ',',
            header: true,
            missing: ["", "NA", "NaN", "nan", "null", "?"].map(str::to_owned).to_vec(),
            validation: 0.2,
            split_seed: 0,
            normalise: Normalise::Standard,
            image_shape: None,
            labels: None,
            resize: false,
            cache_mb: 512,
            memory_mb: 4_096,
            window: 128,
            tokenizer: None,
            shuffle: Shuffle::Full,
            shuffle_window: 65_536,
            sampling: Sampling::Each,
            weight_column: None,
            on_bad: OnBad::Stop,
        }
    }
}

/// `[augment]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Augment {
    pub shift: u32,
    pub flip: bool,
    pub crop: u32,
}
