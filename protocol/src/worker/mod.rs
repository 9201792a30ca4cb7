//! The worker's machine: phases of a member from Join to End.
//!
//! It owns what a member may do when: it prepares, loads, computes, says Ready, applies, in this order and only
//! when told. Without its coordinator it keeps what it holds and tries to join again. It never touches a tensor, a
//! socket or a clock: the driver carries out [`Output`]s and answers with [`Event`]s.

mod entry;
mod machine;
mod step;

pub use machine::Worker;

use crate::ids::StepKey;
use crate::messages::{
    Commit, EndReason, Failure, FromWorker, Sums, Timings, ToWorker, UploadKind, View, Welcome,
};
use crate::reduce::{BlockFacts, is_finite, step_hash};

/// What a driver tells the machine.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A control message came.
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
    /// Answer to [`Output::Initialise`], [`Output::Load`] and [`Output::FetchState`]: the state is in memory and (for Initialise) uploaded.
    Loaded {
        /// Step of the state.
        step: u64,
        /// Its full digest.
        digest: [u8; 32],
        /// Its state check.
        state_check: u64,
    },
    /// All reduced slices and scalars of this step are here and whole.
    Reduced {
        /// Which.
        key: StepKey,
        /// Reduced scalars.
        sums: Sums,
        /// Squared norm in block order.
        squared_norm: f64,
        /// Loss and gradient finite.
        finite: bool,
        /// Hash over gradient, presence and scalars.
        hash: u64,
        /// What it cost.
        timings: Timings,
    },
    /// The commit is applied; the state is that of this step.
    Applied {
        /// The step.
        step: u64,
        /// Its state check.
        state_check: u64,
    },
    /// What it was to upload didn't get to the coordinator. That is no reason to end.
    NotUploaded {
        /// What.
        kind: UploadKind,
        /// Step of the state.
        step: u64,
        /// Why.
        reason: String,
    },
    /// Something that the worker can't recover from (device, data, memory, data plane).
    Failed(Failure),
    /// SIGTERM or SIGINT.
    LeaveRequested {
        /// Why.
        reason: String,
    },
    /// A deadline has passed.
    Tick,
}

impl Event {
    /// [`Event::Reduced`], of what is known of the reduced step.
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
        /// The pause.
        after_ms: u64,
        /// Why, for people.
        reason: String,
    },
    /// Build the task from the config, load the data, compile every shape; answer Prepared or Failed. A worker that
    /// joins the same run again keeps what it has, its state too.
    Prepare(Box<Welcome>),
    /// Make state 0 from the seed on the CPU, upload it, answer Loaded.
    Initialise,
    /// Download this version, load it, answer Loaded.
    Load {
        /// Its step.
        step: u64,
    },
    /// Download the state that another member shows, answer Loaded with the digest of what came.
    FetchState {
        /// Its step.
        step: u64,
    },
    /// Upload the current state for those that lack it, while the run holds still. A failure is answered with
    /// [`Event::NotUploaded`].
    SendState {
        /// Its step.
        step: u64,
    },
    /// Work in this view from now on; drop what is older.
    EnterView(View),
    /// Compute this member's microbatches of the step, exchange, and answer Reduced.
    Compute(StepKey),
    /// Apply the reduced gradient (or skip; in evaluation nothing changes), free the step's partials, and answer
    /// Applied: after `(Evaluate, k)` with the state check of state k once more.
    Apply(Commit),
    /// Take a snapshot of the current state and upload it as a version, behind the training. The machine goes on
    /// at once and is not told when it is done: the coordinator knows by the manifest. A failure is answered with
    /// [`Event::NotUploaded`].
    WriteVersion {
        /// Its step.
        step: u64,
    },
    /// Upload the exports of the current state.
    Export {
        /// Its step.
        step: u64,
    },
    /// The worker ends.
    Exit {
        /// How.
        reason: EndReason,
        /// Exit code of the contract.
        code: u8,
        /// For people.
        message: String,
    },
}

/// What a worker is started with.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// What it says first.
    pub join: crate::messages::Join,
    /// How long it waits for admission, and for a coordinator of which nothing is heard.
    pub join_timeout_ms: u64,
}
