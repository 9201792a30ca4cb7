//! What belongs to one form of data alone: the parts of a plan that differ from form to form.

use serde::{Deserialize, Serialize};

use crate::plan::Column;
use crate::statistics::read_settled;

/// The form of the data.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A table in text.
    Csv(Csv),
    /// A table with typed columns.
    Parquet(Parquet),
    /// A file of images and one of labels, as MNIST has them.
    Idx(Idx),
    /// A folder with a folder of PNG and JPEG files for each class.
    Images(Images),
    /// Text, whose tokens are bytes or a tokenizer's.
    Text(Text),
}

/// A table in text.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Csv {
    /// Character between fields.
    pub delimiter: char,
    /// Whether the first line names the columns.
    pub header: bool,
    /// Fields that mean a missing value.
    pub missing: Vec<String>,
    /// Columns, in the file's order.
    pub columns: Vec<Column>,
    /// Rows that are left out (`dataset.on_bad = "skip"`); none where bad rows stop. `listed` has the first of them.
    pub skipped: Option<Skipped>,
}

/// A table with typed columns.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Parquet {
    /// Fields that mean a missing value; a null is the first of them.
    pub missing: Vec<String>,
    /// Columns, in the file's order.
    pub columns: Vec<Column>,
}

/// A file of images and one of labels.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Idx {
    /// The images among the plan's files.
    pub images: String,
    /// Their labels.
    pub labels: String,
    /// One for each channel.
    pub scaling: Vec<Scaling>,
}

/// A folder with a folder of images for each class. A row is a file that is named `class/...png`, `.jpg` or `.jpeg`, in
/// the order of the plan's files, unless it is skipped.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Images {
    /// One for each channel.
    pub scaling: Vec<Scaling>,
    /// Whether images of another size are scaled to the plan's shape.
    pub resize: bool,
    /// Megabytes (10^6 bytes) in which the images may be kept decoded.
    pub cache_mb: u64,
    /// Images that are left out; `listed` has all of them.
    pub skipped: Skipped,
}

/// Text, file after file. Row i has the tokens from `i * window` on as inputs, and those one further on as targets.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Text {
    /// Tokens of a sample.
    pub window: u32,
    /// Tokens of all files.
    pub tokens: u64,
    /// Tokens at the end that fill no window (and its last target), so are in no sample.
    pub tail: u64,
    /// Bytes of the files that are text.
    #[serde(default)]
    pub bytes: u64,
    /// What made the tokens; none where they are bytes.
    #[serde(default)]
    pub tokenizer: Option<TokenizerFile>,
    /// Files that are left out; `listed` has all of them.
    #[serde(default)]
    pub skipped: Skipped,
}

/// A tokenizer's JSON file, and what it made of the text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenizerFile {
    /// Where the coordinator found it.
    pub path: String,
    /// MD5 of its bytes.
    pub md5: String,
    /// How many they are.
    pub bytes: u64,
    /// One more than the highest number of a token.
    pub vocabulary: u32,
    /// XXH3-64 of all tokens of the text, as little-endian u32, in hexadecimal: a worker whose tokenizer makes others of the
    /// same text sees it.
    pub tokens_hash: String,
}

/// `(v / 255 - offset) / scale` for a pixel's value v of 0 to 255.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Scaling {
    /// Mean or minimum over all pixels of the training split, or 0.
    #[serde(deserialize_with = "read_settled")]
    pub offset: f64,
    /// Standard deviation or range over all pixels of the training split, or 1.
    #[serde(deserialize_with = "read_settled")]
    pub scale: f64,
}

/// What is left out. It was decided when the plan was made, so every worker leaves out the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// Which: paths, or lines.
    pub listed: Vec<String>,
}

/// What tables of all forms have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tabular<'a> {
    pub(crate) columns: &'a [Column],
    pub(crate) missing: &'a [String],
    /// Whether columns are found by name, not by place.
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

    /// What is left out of the data.
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
