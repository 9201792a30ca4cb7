//! The plan of a dataset: what its columns are, which rows are held out, and how fields become numbers. Made once
//! (`prepare.rs`), shipped to every worker, saved with the model.

use serde::{Deserialize, Serialize};

use crate::split::held_out;
use crate::statistics::read_settled;
use crate::table::Form;

/// What a column is to the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Role {
    Feature,
    Target,
    Ignored,
}

/// How a feature's field becomes numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// `(x - offset) / scale`; a missing field is `fill` before that.
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
    },
    /// One of these (1 in its place), or none of them (1 in the last place).
    Categorical {
        /// The distinct fields of the training split; all missing fields are one category, named by the first of
        /// [`Plan::missing`], which no field that is there can be.
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
}

/// All that is needed to turn a file's rows into samples, and predictions back into the target's own terms.
///
/// Its JSON has its fields in the order of this page, and comes back with the same bits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Name for people.
    pub name: String,
    /// As configured.
    pub uri: String,
    /// Where the coordinator found the file: a worker on the same machine finds it there too.
    pub path: String,
    /// MD5 of the file.
    pub digest: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows of the file.
    pub rows: u64,
    /// Character between fields.
    pub delimiter: char,
    /// Whether the first line names the columns.
    pub header: bool,
    /// Fields that mean a missing value.
    pub missing: Vec<String>,
    /// Columns, in the file's order.
    pub columns: Vec<Column>,
    /// What is predicted.
    pub output: Output,
    /// Fraction that is held out.
    #[serde(deserialize_with = "read_settled")]
    pub validation: f64,
    /// Seed of the split.
    pub split_seed: u64,
    /// [channels, height, width] of the features, for models of images.
    pub image_shape: Option<[usize; 3]>,
}

impl Plan {
    /// Numbers that a row becomes.
    #[must_use]
    pub fn features(&self) -> usize {
        self.columns.iter().filter_map(|column| column.feature.as_ref()).map(Feature::width).sum()
    }

    /// Rows of the training and of the validation split.
    #[must_use]
    pub fn split_lengths(&self) -> (u64, u64) {
        let validation = held_out(self.rows, self.validation);
        (self.rows - validation, validation)
    }

    /// `name@` and the digest's first 8 characters.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}@{}", self.name, self.digest.get(..8).unwrap_or(&self.digest))
    }

    pub(crate) fn form(&self) -> Form {
        Form { delimiter: self.delimiter, header: self.header }
    }
}

impl Feature {
    /// Numbers that the field becomes.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Numeric { .. } => 1,
            Self::Categorical { categories } => categories.len() + 1,
        }
    }
}
