//! The records of a run's journal and their encoding.

/// One record (filled in by the machines' author).
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// The run was asked to stop.
    Stop {
        /// Who asked.
        reason: String,
    },
}
