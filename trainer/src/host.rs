//! Batches on the host: what a worker's feed fills and an engine takes.
//!
//! Reusable: the vectors keep their capacity from one microbatch to the next.

/// Elements of a host tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum HostData {
    /// Features.
    F32(Vec<f32>),
    /// Tokens or categories.
    I64(Vec<i64>),
}

impl HostData {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::I64(data) => data.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A dense tensor in row-major order.
#[derive(Clone, PartialEq, Debug)]
pub struct HostTensor {
    /// Dimensions, the batch first: `[count, features]`, `[count, channels, height, width]` or, for tokens,
    /// `[count, window]`.
    pub shape: Vec<usize>,
    /// `shape`'s product of elements.
    pub data: HostData,
}

/// What is to be predicted.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    /// One label index for each sample.
    Labels(Vec<i64>),
    /// One token index for each position of each sample, `count * window` in all, sample by sample.
    Tokens(Vec<i64>),
    /// `width` values for each sample, row by row.
    Values {
        /// Values per sample.
        width: usize,
        /// `count * width` values.
        data: Vec<f32>,
    },
    /// Nothing is known: for [`crate::Engine::predict`] only.
    Unknown,
}

impl Target {
    /// Elements, if they are known.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Self::Labels(indices) | Self::Tokens(indices) => Some(indices.len()),
            Self::Values { data, .. } => Some(data.len()),
            Self::Unknown => None,
        }
    }
}

/// One microbatch on the host.
#[derive(Clone, PartialEq, Debug)]
pub struct HostBatch {
    /// Samples.
    pub count: usize,
    /// Inputs.
    pub x: HostTensor,
    /// Targets.
    pub y: Target,
}

/// What a task's outputs mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputSpec {
    /// One of these labels.
    Classes(Vec<String>),
    /// These values.
    Values(Vec<String>),
    /// At each position the next token, of so many.
    Tokens {
        /// Different tokens; inputs and targets are indices from 0 to below it.
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

/// A feature whose number is a code for a text, a whole one from 0, and says nothing by its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Categories {
    /// Its place among a sample's features.
    pub place: usize,
    /// How many codes there are. 0 is for texts that the training split doesn't have.
    pub codes: usize,
}

/// The shape of the data that a task is built for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataSpec {
    /// One sample's input: `[features]`, `[channels, height, width]` or, for tokens, `[window]`.
    pub input: Vec<usize>,
    /// The outputs.
    pub output: OutputSpec,
    /// Those of a table's features that are codes, by their places; all others are numbers.
    pub categories: Vec<Categories>,
}

impl DataSpec {
    /// Of inputs that are numbers (or tokens) alone.
    #[must_use]
    pub fn new(input: Vec<usize>, output: OutputSpec) -> Self {
        Self { input, output, categories: Vec::new() }
    }

    /// With features that are codes.
    #[must_use]
    pub fn with_categories(mut self, categories: Vec<Categories>) -> Self {
        self.categories = categories;
        self
    }
}

impl HostBatch {
    /// An empty batch for this data, to be filled and reused: of i64 inputs for tokens, of f32 for anything else.
    #[must_use]
    pub fn empty(data: &DataSpec) -> Self {
        let mut shape = vec![0];
        shape.extend_from_slice(&data.input);
        let floats = HostData::F32(Vec::new());
        let (data, y) = match &data.output {
            OutputSpec::Classes(_) => (floats, Target::Labels(Vec::new())),
            OutputSpec::Values(names) => (floats, Target::Values { width: names.len(), data: Vec::new() }),
            OutputSpec::Tokens { .. } => (HostData::I64(Vec::new()), Target::Tokens(Vec::new())),
        };
        Self { count: 0, x: HostTensor { shape, data }, y }
    }

    /// Sets the count of samples, here and in the input's shape.
    pub fn set_count(&mut self, count: usize) {
        self.count = count;
        if let Some(first) = self.x.shape.first_mut() {
            *first = count;
        }
    }
}
