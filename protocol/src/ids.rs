//! Identifiers of runs, views, members and steps.

/// The UUID of a run, generated once when the run starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RunId(pub [u8; 16]);

/// The id of a view: `term << 32 | counter`, never reused, so "older" is one comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ViewId(pub u64);

/// The id of a worker admitted to a run: `term << 32 | counter`, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MemberId(pub u64);

/// Secret that authenticates a member's data connection and uploads. It belongs to the membership and dies with it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct MemberKey(pub [u8; 32]);

impl std::fmt::Debug for MemberKey {
    /// Secrets never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemberKey(...)")
    }
}

/// The half of a step that a message belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Gradients of the global batch of step `step`, whose commit makes state `step`.
    Train,
    /// Metric sums of state `step` over the validation samples.
    Evaluate,
}

/// Identifies the step that a frame or control message belongs to; messages with older keys are dropped.
///
/// `step` counts from 1: state 0 is the initial checkpoint, and the commit of `(Train, k)` turns state k-1 into state
/// k. `(Evaluate, k)` comes after `(Train, k)`, which is what the derived order says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StepKey {
    /// The view in which the step is attempted.
    pub view: ViewId,
    /// The step number, from 1.
    pub step: u64,
    /// Training or evaluation.
    pub phase: Phase,
}
