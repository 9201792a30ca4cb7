//! The two planes between a worker and the coordinator.

/// A worker has one connection per plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plane {
    /// Control messages.
    Control,
    /// Frames of partials and slices.
    Data,
}
