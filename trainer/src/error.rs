//! What can go wrong between a model and its device.

/// Everything this crate refuses or fails at. The text names the thing, the value and the way out.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// `[model]` or `[optimizer]` says something that can't be built (exit code 2).
    #[error("{0}")]
    Config(String),
    /// A device that isn't there, or can't be opened (exit code 2).
    #[error("{0}")]
    Device(String),
    /// The module can't be trained by members that must stay equal.
    #[error("{0}")]
    Model(String),
    /// A batch or a flat buffer doesn't have the model's shape.
    #[error("{0}")]
    Shape(String),
    /// The device, or host memory for it, is full.
    #[error(
        "out of memory while computing {samples} samples on {device}: use a smaller train.microbatch_size ({detail})"
    )]
    OutOfMemory {
        /// Samples of the microbatch.
        samples: usize,
        /// The device's name.
        device: String,
        /// What the backend said.
        detail: String,
    },
    /// burn or its backend panicked.
    #[error("{during} on {device} failed: {detail}")]
    Backend {
        /// What was being computed.
        during: String,
        /// The device's name.
        device: String,
        /// The panic's message.
        detail: String,
    },
    /// A file of tensors isn't what the model needs (exit code 3).
    #[error("{0}")]
    Tensors(String),
}
