//! The format-specific parts of a data plan.

use serde::{Deserialize, Serialize};

use crate::column::Column;
use crate::rounding::read_settled;

/// Data format.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A text table.
    Csv(Csv),
    /// A table with typed columns.
    Parquet(Parquet),
    /// A file of images and one of labels, as for MNIST.
    Idx(Idx),
    /// A folder of PNG and JPEG files per class.
    Images(Images),
    /// Text, whose tokens are bytes or come from a tokenizer.
    Text(Text),
}

/// A text table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Csv {
    /// Field separator.
    pub delimiter: char,
    /// Whether the first line names the columns.
    pub header: bool,
    /// Field values that mean a missing value.
    pub missing: Vec<String>,
    /// Columns in file order.
    pub columns: Vec<Column>,
    /// Skipped rows (`dataset.on_bad = "skip"`), of which `listed` has the first; `None` if bad rows are errors.
    pub skipped: Option<Skipped>,
}

/// A table with typed columns.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Parquet {
    /// Field values that mean a missing value; a null reads as the first of them.
    pub missing: Vec<String>,
    /// Columns in file order.
    pub columns: Vec<Column>,
}

/// A file of images and one of labels.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Idx {
    /// Path of the images among the plan's files.
    pub images: String,
    /// Path of the labels among the plan's files.
    pub labels: String,
    /// Per-channel scaling.
    pub scaling: Vec<Scaling>,
}

/// A folder of images per class. A row is a file named `class/...png`, `.jpg` or `.jpeg`, in the order of the plan's
/// files, unless it is skipped.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Images {
    /// Per-channel scaling.
    pub scaling: Vec<Scaling>,
    /// Whether images of other sizes are resized to the plan's shape.
    pub resize: bool,
    /// Memory for cached decoded images, in megabytes (10^6 bytes).
    pub cache_mb: u64,
    /// Skipped images; `listed` has all of them.
    pub skipped: Skipped,
}

/// Concatenated text files. Row i has the `window` tokens from `i * window` on as inputs; targets are shifted by one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Text {
    /// Tokens per sample.
    pub window: u32,
    /// Tokens in all files.
    pub tokens: u64,
    /// Tokens at the end that don't fill a window (and its last target), so belong to no sample.
    pub tail: u64,
    /// Size of the text files in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// The tokenizer; `None` for byte tokens.
    #[serde(default)]
    pub tokenizer: Option<TokenizerFile>,
    /// Skipped files; `listed` has all of them.
    #[serde(default)]
    pub skipped: Skipped,
}

/// A tokenizer's JSON file, and a digest of the tokens it produced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenizerFile {
    /// Path where the coordinator found it.
    pub path: String,
    /// MD5 of the file in hexadecimal.
    pub md5: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Highest token number plus one.
    pub vocabulary: u32,
    /// XXH3-64 of all tokens as little-endian u32, in hexadecimal: lets a worker detect that its tokenizer encodes the
    /// text differently.
    pub tokens_hash: String,
}

/// `(v / 255 - offset) / scale` for a pixel value v in 0..=255.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Scaling {
    /// Mean or minimum over all pixels of the training split, or 0.
    #[serde(deserialize_with = "read_settled")]
    pub offset: f64,
    /// Standard deviation or range over all pixels of the training split, or 1.
    #[serde(deserialize_with = "read_settled")]
    pub scale: f64,
}

/// Skipped data. The plan records them, so every worker skips the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Skipped {
    /// Number of skipped files or rows.
    pub count: u64,
    /// Their paths or line numbers.
    pub listed: Vec<String>,
}

/// What all table formats have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tabular<'a> {
    pub(crate) columns: &'a [Column],
    pub(crate) missing: &'a [String],
    /// Whether columns are found by name rather than by position.
    pub(crate) is_named: bool,
}

impl Format {
    /// `csv`, `parquet`, `idx`, `images` or `text`: the value of `dataset.format`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Parquet(_) => "parquet",
            Self::Idx(_) => "idx",
            Self::Images(_) => "images",
            Self::Text(_) => "text",
        }
    }

    /// Skipped data, if the format can skip any.
    #[must_use]
    pub fn skipped(&self) -> Option<&Skipped> {
        match self {
            Self::Csv(csv) => csv.skipped.as_ref(),
            Self::Images(images) => Some(&images.skipped),
            Self::Text(text) => Some(&text.skipped),
            Self::Parquet(_) | Self::Idx(_) => None,
        }
    }

    pub(crate) fn tabular(&self) -> Option<Tabular<'_>> {
        match self {
            Self::Csv(Csv { columns, missing, header, .. }) => {
                Some(Tabular { columns, missing, is_named: *header })
            }
            Self::Parquet(Parquet { columns, missing }) => Some(Tabular { columns, missing, is_named: true }),
            Self::Idx(_) | Self::Images(_) | Self::Text(_) => None,
        }
    }
}
