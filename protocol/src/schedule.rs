//! Learning rates (filled in by the numerics' author).

/// Learning rate by step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Schedule {
    /// The same at every step.
    Constant {
        /// It.
        learning_rate: f64,
    },
}
