//! The worker's machine: phases of a member from Join to End.
//!
//! It owns the sequence of a member's actions: it prepares, loads, computes, sends Ready and applies, in this order
//! and only on request. Without its coordinator it keeps its state and tries to rejoin. It never touches a tensor, a
//! socket or a clock: the driver executes [`Output`]s and answers with [`Event`]s. Begin with [`Worker`].

mod entry;
mod machine;
mod step;

pub use machine::Worker;

use crate::ids::StepKey;
use crate::messages::{
    Commit, EndReason, Failure, FromWorker, Sums, Timings, ToWorker, UploadKind, View, Welcome,
};
use crate::reduce::{BlockFacts, is_finite, step_hash};

/// What a driver reports to the machine.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A control message arrived.
    Message(ToWorker),
    /// Answer to [`Output::Reconnect`]: a new control stream is open.
    Connected,
    /// The control stream broke, or could not be opened.
    Disconnected {
        /// How it was noticed.
        reason: String,
    },
    /// Answer to [`Output::Prepare`]: model, data and device are ready, and every shape is compiled.
    Prepared {
        /// Number of f32 elements.
        elements: u64,
    },
    /// Answer to [`Output::Initialise`], [`Output::Load`] and [`Output::FetchState`]: the state is in memory and (for
    /// Initialise) uploaded.
    Loaded {
        /// Step of the state.
        step: u64,
        /// The full state digest.
        digest: [u8; 32],
        /// Hash of parameters and optimizer state, which members compare at every step.
        state_check: u64,
    },
    /// All reduced slices and scalars of this step have arrived intact.
    Reduced {
        /// Step, view and phase.
        key: StepKey,
        /// Reduced scalars.
        sums: Sums,
        /// Squared norm in block order.
        squared_norm: f64,
        /// Whether loss and gradient are finite.
        finite: bool,
        /// Hash over gradient, presence and scalars.
        hash: u64,
        /// Local cost of the step.
        timings: Timings,
    },
    /// The commit is applied; the state is that of this step.
    Applied {
        /// Step of the state.
        step: u64,
        /// Hash of parameters and optimizer state, which members compare at every step.
        state_check: u64,
    },
    /// An upload didn't reach the coordinator. That is no reason to end.
    NotUploaded {
        /// What was to be uploaded.
        kind: UploadKind,
        /// Step of the state.
        step: u64,
        /// The error, for display.
        reason: String,
    },
    /// An unrecoverable failure (device, data, memory, data plane).
    Failed(Failure),
    /// SIGTERM or SIGINT.
    LeaveRequested {
        /// The signal or request, for display.
        reason: String,
    },
    /// A deadline has passed.
    Tick,
}

impl Event {
    /// Builds [`Event::Reduced`] from the facts of the reduced step.
    #[must_use]
    pub fn reduced(
        key: StepKey,
        facts: &BlockFacts,
        sums: &[f64],
        presence: &[u8],
        timings: Timings,
    ) -> Self {
        let squared_norm = facts.squared_norm();
        let hash = step_hash(&facts.hashes, presence, sums, squared_norm);
        let finite = is_finite(sums, squared_norm);
        Self::Reduced { key, sums: sums.to_vec(), squared_norm, finite, hash, timings }
    }
}

/// What the machine asks of its driver, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Send on the control stream.
    Send(FromWorker),
    /// Drop the control stream if there is one, and open another after a pause; answer Connected or Disconnected.
    Reconnect {
        /// Pause in milliseconds.
        after_ms: u64,
        /// Reason, for display.
        reason: String,
    },
    /// Build the task from the config, load the data, compile every shape; answer Prepared or Failed. A worker that
    /// rejoins the same run keeps what it has, including its state.
    Prepare(Box<Welcome>),
    /// Create state 0 from the seed on the CPU, upload it, answer Loaded.
    Initialise,
    /// Download this checkpoint, load it, answer Loaded.
    Load {
        /// Step of the checkpoint.
        step: u64,
    },
    /// Download the state that another member sends, answer Loaded with the digest of the received state.
    FetchState {
        /// Step of the state.
        step: u64,
    },
    /// Upload the current state for the members that lack it, while the run is held. A failure is answered with
    /// [`Event::NotUploaded`].
    SendState {
        /// Step of the state.
        step: u64,
    },
    /// Work in this view from now on; drop older work.
    EnterView(View),
    /// Compute this member's microbatches of the step, exchange, and answer Reduced.
    Compute(StepKey),
    /// Apply the reduced gradient (or skip; in evaluation nothing changes), free the step's partials, and answer
    /// Applied: after `(Evaluate, k)` with the state check of state k once more.
    Apply(Commit),
    /// Take a snapshot of the current state and upload it as a checkpoint, in the background. The machine continues
    /// at once and gets no completion event: the coordinator learns of it from the manifest. A failure is answered
    /// with [`Event::NotUploaded`].
    WriteVersion {
        /// Step of the state.
        step: u64,
    },
    /// Upload the exports of the current state.
    Export {
        /// Step of the state.
        step: u64,
    },
    /// The worker ends.
    Exit {
        /// How the run ended for this worker.
        reason: EndReason,
        /// Process exit code, of the table at [`Failure::code`](crate::messages::Failure::code).
        code: u8,
        /// Explanation, for display.
        message: String,
    },
}

/// Start-up parameters of a worker.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Its first message.
    pub join: crate::messages::Join,
    /// How long it waits for admission, and for a silent coordinator.
    pub join_timeout_ms: u64,
}
