//! Columns of a table: the types that a file declares, and what a data plan makes of them.

use serde::{Deserialize, Serialize};

use crate::rounding::read_settled;

/// A column's purpose for the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Role {
    Feature,
    Target,
    /// Sampling weight of the row (`dataset.weight_column`).
    Weight,
    Ignored,
}

/// Encoding of a feature.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// `(x - offset) / scale`; a missing field is replaced by `fill` first. With `indicator`, a second number follows:
    /// 1 if the field is missing, else 0.
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
    /// A code from 1, in the order of `categories`; 0 for anything else.
    Categorical {
        /// Distinct fields of the training split. Missing fields form one category, named by the first of the table's
        /// `missing`, which no field that is present can equal.
        categories: Vec<String>,
    },
}

/// A column of the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Name of the column.
    pub name: String,
    /// Purpose for the model.
    pub role: Role,
    /// Encoding, for feature columns.
    pub feature: Option<Feature>,
}

/// Type that a file declares for a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ColumnType {
    /// Undeclared: inferred from the fields.
    Open,
    /// Text, even if the fields look like numbers.
    Text,
    /// Not scalar, or otherwise unsupported.
    Unusable,
}

impl Feature {
    /// Number of values that the field is encoded as.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Numeric { indicator, .. } => 1 + usize::from(*indicator),
            Self::Categorical { .. } => 1,
        }
    }
}
