//! Batches on the host, filled by a worker's feed and consumed by an engine.
//!
//! They are reusable: vectors keep their capacity from one microbatch to the next.

use configs::Precision;

/// Elements of a host tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum HostData {
    /// Features.
    F32(Vec<f32>),
    /// Tokens or categories.
    I64(Vec<i64>),
}

impl HostData {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::I64(data) => data.len(),
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A dense tensor in row-major order.
#[derive(Clone, PartialEq, Debug)]
pub struct HostTensor {
    /// `[count, features]`, `[count, channels, height, width]` or, for tokens, `[count, window]`.
    pub shape: Vec<usize>,
    /// Elements; as many as the product of `shape`.
    pub data: HostData,
}

/// Targets of a batch.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    /// One class index per sample.
    Labels(Vec<i64>),
    /// One token index per position of each sample, `count * window` in all, sample by sample.
    Tokens(Vec<i64>),
    /// `width` values per sample, row by row.
    Values {
        /// Values per sample.
        width: usize,
        /// `count * width` values.
        data: Vec<f32>,
    },
    /// Unknown: for [`crate::Engine::predict`] only.
    Unknown,
}

impl Target {
    /// Number of elements, if known.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Self::Labels(indices) | Self::Tokens(indices) => Some(indices.len()),
            Self::Values { data, .. } => Some(data.len()),
            Self::Unknown => None,
        }
    }
}

/// A microbatch on the host.
#[derive(Clone, PartialEq, Debug)]
pub struct HostBatch {
    /// Number of samples.
    pub count: usize,
    /// Inputs of the samples.
    pub x: HostTensor,
    /// Targets of the samples.
    pub y: Target,
    /// Number type of forward and backward in training; the inputs here are always f32.
    pub precision: Precision,
}

/// Meaning of a task's outputs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputSpec {
    /// Classification into these labels.
    Classes(Vec<String>),
    /// Regression of these values.
    Values(Vec<String>),
    /// Prediction of the next token at each position.
    Tokens {
        /// Vocabulary size; inputs and targets are indices in `0..vocabulary`.
        vocabulary: usize,
    },
}

impl OutputSpec {
    /// Outputs per sample; for tokens, per position.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Tokens { vocabulary } => *vocabulary,
            Self::Classes(names) | Self::Values(names) => names.len(),
        }
    }
}

/// A categorical feature: its value is an integer code from 0 whose magnitude has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Categories {
    /// Index among a sample's features.
    pub place: usize,
    /// Number of codes. Code 0 is for texts absent from the training split.
    pub codes: usize,
}

/// The shape of the data that a task is built for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataSpec {
    /// Shape of one sample's input: `[features]`, `[channels, height, width]` or, for tokens, `[window]`.
    pub input: Vec<usize>,
    /// Meaning of the outputs.
    pub output: OutputSpec,
    /// Categorical features of a table, by index; all others are numeric.
    pub categories: Vec<Categories>,
    /// `train.precision`: the number type of training.
    pub precision: Precision,
}

impl DataSpec {
    /// Data whose inputs are all numeric (or tokens).
    #[must_use]
    pub fn new(input: Vec<usize>, output: OutputSpec) -> Self {
        Self { input, output, categories: Vec::new(), precision: Precision::F32 }
    }

    /// Sets the categorical features.
    #[must_use]
    pub fn with_categories(mut self, categories: Vec<Categories>) -> Self {
        self.categories = categories;
        self
    }

    /// Sets the number type of training.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }
}

impl HostBatch {
    /// An empty batch for this data, to be filled and reused: i64 inputs for tokens, f32 for anything else.
    #[must_use]
    pub fn empty(data: &DataSpec) -> Self {
        let precision = data.precision;
        let mut shape = vec![0];
        shape.extend_from_slice(&data.input);
        let floats = HostData::F32(Vec::new());
        let (data, y) = match &data.output {
            OutputSpec::Classes(_) => (floats, Target::Labels(Vec::new())),
            OutputSpec::Values(names) => (floats, Target::Values { width: names.len(), data: Vec::new() }),
            OutputSpec::Tokens { .. } => (HostData::I64(Vec::new()), Target::Tokens(Vec::new())),
        };
        Self { count: 0, x: HostTensor { shape, data }, y, precision }
    }

    /// Sets the number of samples, here and in the input's shape.
    pub fn set_count(&mut self, count: usize) {
        self.count = count;
        if let Some(first) = self.x.shape.first_mut() {
            *first = count;
        }
    }
}
