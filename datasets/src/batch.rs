//! A batch of samples.

/// A batch of samples in row-major order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batch {
    /// Number of samples.
    pub count: usize,
    /// `count` x features. For images, features are channels x height x width.
    pub features: Vec<f32>,
    /// `count` x window input tokens, for text.
    pub tokens: Vec<u32>,
    /// Class index of each sample; for text, `count` x window: the token following each of `tokens`.
    pub labels: Vec<u32>,
    /// Standardised target of each sample, for regression: see [`crate::Output::Values`].
    pub values: Vec<f32>,
}

impl Batch {
    /// Empties the batch but keeps its allocations.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.features.clear();
        self.tokens.clear();
        self.labels.clear();
        self.values.clear();
    }
}
