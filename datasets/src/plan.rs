//! The plan of a dataset: what its files hold, which rows are held out, and how rows become numbers. Made once
//! (`prepare.rs`), shipped to every worker, saved with the model.

use configs::{Augment, Sampling};
use serde::{Deserialize, Serialize};

use crate::digest::md5_of_bytes;
use crate::error::DataError;
use crate::format::{Format, Tabular};
use crate::listing::FileEntry;
use crate::memory_budget::MemoryBudget;
use crate::quote::quoted;
use crate::split::held_out;
use crate::statistics::read_settled;

/// What a column is to the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Role {
    Feature,
    Target,
    /// How often a row is drawn (`dataset.weight_column`).
    Weight,
    Ignored,
}

/// How a feature's field becomes numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// `(x - offset) / scale`; a missing field is `fill` before that. With an `indicator` a second number follows: 1
    /// where the field is missing, else 0.
    Numeric {
        /// Mean or minimum over the training split, or 0.
        #[serde(deserialize_with = "read_settled")]
        offset: f64,
        /// Standard deviation or range over the training split, or 1.
        #[serde(deserialize_with = "read_settled")]
        scale: f64,
        /// Mean over the training split.
        #[serde(deserialize_with = "read_settled")]
        fill: f64,
        /// Whether the training split has missing fields.
        #[serde(default)]
        indicator: bool,
    },
    /// A code: 1 for the first of these, 2 for the second, ..., and 0 for anything else.
    Categorical {
        /// The distinct fields of the training split; all missing fields are one category, named by the first of
        /// the table's `missing`, which no field that is there can be.
        categories: Vec<String>,
    },
}

/// One column of the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it is to the model.
    pub role: Role,
    /// For features.
    pub feature: Option<Feature>,
}

/// What is predicted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// One of these labels.
    Classes {
        /// In the order of the model's outputs. Those of all rows, not of the training split alone: which labels there
        /// are is what the table means, no statistic of it.
        labels: Vec<String>,
    },
    /// A number; the model learns `(y - offset) / scale`, which is what [`crate::Batch::values`] holds, so an optimizer
    /// meets targets of size 1 whatever their unit. A prediction `p` is `p * scale + offset` in the target's own unit.
    /// Sums over a batch are in standardised units too: a mean absolute error is to be multiplied by `scale`, a mean
    /// squared one by `scale * scale` (the tracker's metrics do so; a loss stays as it was trained on).
    Values {
        /// Mean over the training split.
        #[serde(deserialize_with = "read_settled")]
        offset: f64,
        /// Standard deviation over the training split.
        #[serde(deserialize_with = "read_settled")]
        scale: f64,
    },
    /// The next token, at each of a window's places.
    Tokens {
        /// Different tokens; each is below it. 256 where tokens are bytes, else the tokenizer's.
        vocabulary: u32,
        /// Tokens of a sample.
        window: u32,
    },
}

/// All that is needed to turn a dataset's rows into samples, and predictions back into the target's own terms.
///
/// A row is a line of a table, an image, or a window of a text. A plan's JSON has its fields in the order of this page,
/// and comes back with the same bits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DataPlan {
    /// Name for people.
    pub name: String,
    /// As configured.
    pub uri: String,
    /// Where the coordinator found the data, a file or the folder of [`DataPlan::files`]: a worker on the same machine finds
    /// them there too.
    pub path: String,
    /// MD5 of the file; of a folder [`crate::directory_digest`], which ends in `.dir`.
    pub digest: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The files, in the order of their paths.
    pub files: Vec<FileEntry>,
    /// Rows.
    pub rows: u64,
    /// What the files are, and how their rows become numbers.
    pub form: Format,
    /// What is predicted.
    pub output: Output,
    /// Fraction that is held out.
    #[serde(deserialize_with = "read_settled")]
    pub validation: f64,
    /// Seed of the split.
    pub split_seed: u64,
    /// [channels, height, width] of the features, for models of images.
    pub image_shape: Option<[usize; 3]>,
    /// What is done to the images of training.
    pub augment: Augment,
    /// Whether an epoch of training has each sample once, or draws.
    #[serde(default)]
    pub sampling: Sampling,
    /// How often each label of a classification occurs in the training split, in their order; else empty.
    #[serde(default)]
    pub label_counts: Vec<u64>,
    /// Megabytes (10^6 bytes) of memory that reading the data may take, in each process (`dataset.memory_mb`).
    #[serde(default = "memory_mb")]
    pub memory_mb: u64,
}

/// Of a plan of before there was a budget.
fn memory_mb() -> u64 {
    configs::Dataset::default().memory_mb
}

impl DataPlan {
    /// The files that the dataset is made of. Their paths are relative to [`DataPlan::path`] if it is a folder
    /// ([`DataPlan::is_folder`]), else the one file is `path` itself.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Whether the dataset is a folder of files, by the form of its digest.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.digest.ends_with(crate::listing::FOLDER_SUFFIX)
    }

    /// Numbers that a row becomes: features, or tokens of a window.
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

    /// Columns of a table, in the file's order; none of other data.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        self.form.tabular().map_or(&[], |tabular| tabular.columns)
    }

    /// Labels of a classification, in the order of the model's outputs; else none.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        match &self.output {
            Output::Classes { labels } => labels,
            Output::Values { .. } | Output::Tokens { .. } => &[],
        }
    }

    /// The categorical features of a table, in a row's order: each one's place among the row's numbers and how many
    /// codes it has, the unknown one's included.
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

    /// Names of what is predicted: the target column's, or a word for it where there are no columns.
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

    /// How a row becomes the model's input, and its output the target, for other programs: the plan without its files.
    ///
    /// Of tables `columns` and `missing`; of images `pixels`, a pair of `offset` and `scale` for each channel, which
    /// `(v / 255 - offset) / scale` takes; of texts `tokens`: "bytes", or an object with the text of the JSON file as
    /// `tokenizer`, which the caller has read ([`DataPlan::read_tokenizer`]). With all of them `output` and `image_shape`.
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

    /// What reading the data may take.
    pub(crate) fn memory(&self) -> MemoryBudget {
        MemoryBudget::megabytes(self.memory_mb)
    }

    /// Rows of the training and of the validation split.
    #[must_use]
    pub fn split_lengths(&self) -> (u64, u64) {
        let validation = held_out(self.rows, self.validation);
        (self.rows - validation, validation)
    }

    /// A weight for each label that makes up for how often it occurs in the training split: n / (k * n of the label) for
    /// n samples and k labels, which is what scikit-learn's `compute_class_weight("balanced")` gives.
    ///
    /// # Errors
    /// When there are no labels, or one of them is not in the training split at all.
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

    /// The digest of all that makes the samples what they are: [`DataPlan::digest`]; where rows are left out, which; and the
    /// tokenizer, if there is one.
    /// The data of a run that is resumed must have the same.
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

    /// `name@` and the digest's first 8 characters.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}@{}", self.name, self.digest.get(..8).unwrap_or(&self.digest))
    }
}

impl Feature {
    /// Numbers that the field becomes.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Numeric { indicator, .. } => 1 + usize::from(*indicator),
            Self::Categorical { .. } => 1,
        }
    }
}
