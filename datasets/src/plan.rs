//! The data plan: what a dataset's files hold, which rows are held out, and how rows become numbers. Made once
//! (`prepare.rs`), sent to every worker, and saved with the model.

use std::path::Path;

use configs::{Augment, Sampling};
use serde::{Deserialize, Serialize};

use crate::column::{Column, Feature, Role};
use crate::digest::md5_of_bytes;
use crate::error::DataError;
use crate::format::{Format, Tabular};
use crate::listing::FileEntry;
use crate::memory_budget::MemoryBudget;
use crate::quote::quoted;
use crate::rounding::read_settled;
use crate::split::held_out;

/// What the model predicts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// One of these labels.
    Classes {
        /// Labels in the order of the model's outputs. They are collected from all rows, not only the training split:
        /// the set of labels is part of the table's schema, not a statistic.
        labels: Vec<String>,
    },
    /// A number; the model learns `(y - offset) / scale`, which is what [`crate::Batch::values`] holds, so targets have
    /// unit scale for the optimizer. A prediction `p` is `p * scale + offset` in the target's own unit. Sums over a
    /// batch are standardised too: multiply a mean absolute error by `scale`, and a mean squared one by `scale * scale`
    /// (the tracker's metrics do so; losses stay standardised).
    Values {
        /// Mean over the training split.
        #[serde(deserialize_with = "read_settled")]
        offset: f64,
        /// Standard deviation over the training split.
        #[serde(deserialize_with = "read_settled")]
        scale: f64,
    },
    /// The next token, at each position of a window.
    Tokens {
        /// Vocabulary size; each token is below it. 256 for byte tokens, else the tokenizer's.
        vocabulary: u32,
        /// Tokens per sample.
        window: u32,
    },
}

/// Everything needed to turn a dataset's rows into samples, and predictions back into the target's own terms.
///
/// A row is a line of a table, an image, or a window of text. The plan's JSON has its fields in declaration order and
/// round-trips bit for bit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DataPlan {
    /// Display name.
    pub name: String,
    /// The configured `dataset.uri`.
    pub uri: String,
    /// Path where the coordinator found the file, or the folder of [`DataPlan::files`]; also valid for local workers.
    pub path: String,
    /// MD5 of the file; for a folder, its [`crate::directory_digest`], which ends in `.dir`.
    pub digest: String,
    /// Size of all files in bytes.
    pub bytes: u64,
    /// Files sorted by path.
    pub files: Vec<FileEntry>,
    /// Number of rows.
    pub rows: u64,
    /// Format of the files, and encoding of their rows.
    pub form: Format,
    /// What the model predicts.
    pub output: Output,
    /// Fraction of rows held out.
    #[serde(deserialize_with = "read_settled")]
    pub validation: f64,
    /// Seed of the split.
    pub split_seed: u64,
    /// [channels, height, width] of the features, for image models.
    pub image_shape: Option<[usize; 3]>,
    /// Augmentation of training images.
    pub augment: Augment,
    /// Whether a training epoch visits each sample once, or draws samples.
    #[serde(default)]
    pub sampling: Sampling,
    /// Label counts in the training split, in label order, for classification; else empty.
    #[serde(default)]
    pub label_counts: Vec<u64>,
    /// Memory that reading the data may take in each process, in megabytes (10^6 bytes): `dataset.memory_mb`.
    #[serde(default = "memory_mb")]
    pub memory_mb: u64,
}

/// Default for plans older than the memory budget.
fn memory_mb() -> u64 {
    configs::Dataset::default().memory_mb
}

impl DataPlan {
    /// The dataset's files. If it is a folder ([`DataPlan::is_folder`]), their paths are relative to
    /// [`DataPlan::path`]; else `path` is the only file itself.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Whether the dataset is a folder, judging by the suffix of its digest.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.digest.ends_with(crate::listing::FOLDER_SUFFIX)
    }

    /// Number of values per row: features, or tokens of a window.
    #[must_use]
    pub fn features(&self) -> usize {
        match &self.form {
            Format::Csv(_) | Format::Parquet(_) => {
                self.columns().iter().filter_map(|column| column.feature.as_ref()).map(Feature::width).sum()
            }
            Format::Idx(_) | Format::Images(_) => self.image_shape.map_or(0, |shape| shape.iter().product()),
            Format::Text(text) => text.window as usize,
        }
    }

    /// Columns of a table in file order; empty for other data.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        self.form.tabular().map_or(&[], |tabular| tabular.columns)
    }

    /// Class labels in the order of the model's outputs; empty if this is no classification.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        match &self.output {
            Output::Classes { labels } => labels,
            Output::Values { .. } | Output::Tokens { .. } => &[],
        }
    }

    /// The categorical features of a table, in row order: each one's index among the row's values, and its number of
    /// codes including the unknown one.
    #[must_use]
    pub fn categories(&self) -> Vec<(usize, usize)> {
        let mut place = 0;
        let mut all = Vec::new();
        for feature in self.columns().iter().filter_map(|column| column.feature.as_ref()) {
            if let Feature::Categorical { categories } = feature {
                all.push((place, categories.len() + 1));
            }
            place += feature.width();
        }
        all
    }

    /// Names of the prediction targets: the target column's, or a generic name for data without columns.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        match &self.form {
            Format::Csv(_) | Format::Parquet(_) => {
                let targets = self.columns().iter().filter(|column| column.role == Role::Target);
                targets.map(|column| column.name.clone()).collect()
            }
            Format::Idx(_) | Format::Images(_) => vec!["label".to_owned()],
            Format::Text(_) => vec!["token".to_owned()],
        }
    }

    /// How a row becomes the model's input, and the model's output the target: the part of the plan that other programs
    /// need, without the files.
    ///
    /// For tables, `columns` and `missing`; for images, `pixels`, a pair of `offset` and `scale` per channel for
    /// `(v / 255 - offset) / scale`; for text, `tokens`: "bytes", or an object with the contents of the JSON file as
    /// `tokenizer`, which the caller has read ([`DataPlan::read_tokenizer`]). In addition, always `output` and
    /// `image_shape`.
    #[must_use]
    pub fn normalisation(&self, tokenizer: Option<&str>) -> serde_json::Value {
        let mut map = serde_json::Map::new();
        match &self.form {
            Format::Csv(_) | Format::Parquet(_) => {
                let Tabular { missing, .. } = self.form.tabular().unwrap_or_default();
                map.insert("columns".to_owned(), serde_json::json!(self.columns()));
                map.insert("missing".to_owned(), serde_json::json!(missing));
            }
            Format::Idx(idx) => {
                map.insert("pixels".to_owned(), serde_json::json!(idx.scaling));
            }
            Format::Images(images) => {
                map.insert("pixels".to_owned(), serde_json::json!(images.scaling));
            }
            Format::Text(_) => {
                let tokens = match tokenizer {
                    None => serde_json::json!("bytes"),
                    Some(json) => serde_json::json!({ "tokenizer": json }),
                };
                map.insert("tokens".to_owned(), tokens);
            }
        }
        map.insert("output".to_owned(), serde_json::json!(self.output));
        map.insert("image_shape".to_owned(), serde_json::json!(self.image_shape));
        serde_json::Value::Object(map)
    }

    /// The memory budget for reading the data.
    pub(crate) fn memory(&self) -> MemoryBudget {
        MemoryBudget::megabytes(self.memory_mb)
    }

    /// Numbers of training and validation rows.
    #[must_use]
    pub fn split_lengths(&self) -> (u64, u64) {
        let validation = held_out(self.rows, self.validation);
        (self.rows - validation, validation)
    }

    /// Class weights that balance the label frequencies of the training split: n / (k * n of the label) for n samples
    /// and k labels, as scikit-learn's `compute_class_weight("balanced")`.
    ///
    /// # Errors
    /// If there are no labels, or one is absent from the training split.
    pub fn class_weights(&self) -> Result<Vec<f64>, DataError> {
        let refuse = |problem| Err(DataError::File { file: self.path.clone(), problem });
        let (labels, counts) = (self.labels(), &self.label_counts);
        if labels.is_empty() || labels.len() != counts.len() {
            return refuse("model.class_weights = \"balanced\", but these data have no labels".to_owned());
        }
        if let Some((label, _)) = labels.iter().zip(counts).find(|(_, count)| **count == 0) {
            return refuse(format!(
                "model.class_weights = \"balanced\", but no row of the training split has the label {}: lower \
                 dataset.validation, or set the weights yourself",
                quoted(label)
            ));
        }
        let all: u64 = counts.iter().sum();
        Ok(counts.iter().map(|count| all as f64 / (labels.len() as f64 * *count as f64)).collect())
    }

    /// Digest of everything that determines the samples: [`DataPlan::digest`], the skipped rows, if any, and the
    /// tokenizer, if any. A resumed run must find the same identity.
    #[must_use]
    pub fn identity(&self) -> String {
        let mut more = String::new();
        if let Some(skipped) = self.form.skipped().filter(|skipped| skipped.count > 0) {
            more.push_str(&format!("without {}: {:?}\n", skipped.count, skipped.listed));
        }
        if let Some(tokenizer) = self.tokenizer() {
            more.push_str(&format!("tokenizer {}, tokens {}\n", tokenizer.md5, tokenizer.tokens_hash));
        }
        if more.is_empty() {
            return self.digest.clone();
        }
        format!("{}+{}", self.digest, &md5_of_bytes(more.as_bytes())[..8])
    }

    /// `name@` and the first 8 characters of the digest.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}@{}", self.name, self.digest.get(..8).unwrap_or(&self.digest))
    }
}

/// Completes a plan with the configured name, or that of the file.
pub(crate) fn named(
    config: &configs::Dataset,
    path: &Path,
    plan: impl FnOnce(String, &Path) -> DataPlan,
) -> DataPlan {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
    plan(config.name.clone().or(stem).unwrap_or_else(|| "data".to_owned()), &path)
}
