//! Errors of models and devices.

/// An error of this crate. Messages name the object, the value, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// `[model]` or `[optimizer]` is invalid (exit code 2).
    #[error("{0}")]
    Config(String),
    /// The device doesn't exist or can't be opened (exit code 2).
    #[error("{0}")]
    Device(String),
    /// The module can't be trained by members whose replicas must stay identical.
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
        /// Name of the device.
        device: String,
        /// Message of the backend.
        detail: String,
    },
    /// burn or its backend panicked.
    #[error("{during} on {device} failed: {detail}")]
    Backend {
        /// The operation that failed.
        during: String,
        /// Name of the device.
        device: String,
        /// Message of the panic.
        detail: String,
    },
    /// A file of tensors doesn't fit the model (exit code 3).
    #[error("{0}")]
    Tensors(String),
}
