//! The coordinator's machine: members, views, steps, commits, journal records.
//!
//! It owns every decision of a run: membership, assignments, commits and the end, each with its reason. It never sums
//! a gradient (the driver's reducer does), never writes a file and never reads a clock: the driver executes
//! [`Output`]s in order and answers with [`Event`]s. Begin with [`Coordinator`].
//!
//! Views change while the run continues. A lost member costs one retry of its own microbatches; joiners enter while
//! the run is held between two steps; a coordinator that takes over continues from the states its members hold.

mod admission;
mod balance;
mod claims;
mod closing;
mod disconnected;
mod early;
mod ending;
mod handover;
mod journal_queue;
mod loss;
mod machine;
mod penalties;
mod phase_state;
mod recovery;
mod roster;
mod run_plan;
mod sizes;
mod step;
mod uploads;
mod verdict;
mod versions;
mod views;
mod waiting;

pub use machine::Coordinator;
pub use run_plan::{CheckpointEvery, OnNan, RunPlan};

use crate::ids::{MemberId, StepKey, ViewId};
use crate::messages::{EndReason, Failure, FromWorker, ToWorker, View};

/// What a driver reports to the machine. `connection` identifies a control stream; each member joins on one.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A message arrived on a control stream (the first one is Join).
    Message {
        /// The stream.
        connection: u64,
        /// The message.
        message: FromWorker,
    },
    /// A control stream ended or broke.
    Disconnected {
        /// The stream.
        connection: u64,
        /// How it was noticed, for display.
        reason: String,
    },
    /// The last appended record is with the operating system (or durable, if that was requested).
    Journalled,
    /// The last append failed; the machine pauses before the commit and retries. Before the next append the driver
    /// truncates the file to its length before the failed one.
    JournalFailed {
        /// The error, for display.
        reason: String,
    },
    /// The checkpoint's manifest is durable.
    VersionWritten {
        /// Step of the checkpoint.
        step: u64,
        /// Its state digest.
        digest: [u8; 32],
    },
    /// The upload differs from the journalled checkpoint of this step; it replaced nothing.
    VersionDeviates {
        /// Step of the checkpoint.
        step: u64,
    },
    /// Uploading or writing the checkpoint failed.
    VersionFailed {
        /// Step of the checkpoint.
        step: u64,
        /// The error, for display.
        reason: String,
    },
    /// A member has sent the state that others lack: they can fetch it.
    StateShown {
        /// Step of the state.
        step: u64,
        /// The digest of the uploaded state.
        digest: [u8; 32],
    },
    /// The state transfer failed.
    StateNotShown {
        /// Step of the state.
        step: u64,
        /// The error, for display.
        reason: String,
    },
    /// All exports are written (or none were requested).
    Exported,
    /// An export failed.
    ExportFailed {
        /// The error, for display.
        reason: String,
    },
    /// A person requests the end after the step in flight (SIGINT, SIGTERM, `coordinator stop`).
    StopRequested {
        /// The requester, for display.
        reason: String,
    },
    /// A person requests a checkpoint after the step in flight.
    CheckpointRequested,
    /// A member has computed its part of a step; the reducer has its sums.
    Computed {
        /// The member's id.
        member: MemberId,
        /// The computed step.
        key: StepKey,
    },
    /// Members whose missing part of a step's gradient blocks all others. Reported before [`Event::Tick`].
    Behind {
        /// The blocked step.
        key: StepKey,
        /// The missing members.
        members: Vec<MemberId>,
    },
    /// The data plane lost a member (broken connection, bad frame).
    DataPlaneLost {
        /// The lost member.
        member: MemberId,
        /// How it was noticed.
        reason: String,
    },
    /// A member violated the protocol on the data plane.
    ProtocolBroken {
        /// The violating member.
        member: MemberId,
        /// The violation, for display.
        what: String,
    },
    /// A local worker process could not be started or ended before it joined.
    LaunchFailed {
        /// The process's own exit code if the table has it, else 4.
        code: u8,
        /// The error, for display.
        reason: String,
    },
    /// The run's checkpoints are lost: the state is written once more, and the run ends.
    VersionsLost {
        /// How they were lost, for display.
        reason: String,
    },
    /// No worker is left, and the driver expects none to come.
    NobodyLeft {
        /// The evidence, for display.
        reason: String,
    },
    /// A deadline has passed.
    Tick,
}

/// What the machine asks of its driver, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Send on a control stream.
    Send {
        /// The stream.
        connection: u64,
        /// The message.
        message: ToWorker,
    },
    /// Close a control stream after what was sent.
    Close {
        /// The stream.
        connection: u64,
    },
    /// Append to the journal, then answer Journalled or JournalFailed.
    Append {
        /// The record.
        record: crate::journal::Record,
        /// Whether it must be fsynced before the answer.
        durable: bool,
    },
    /// From now on the reducer works for this view and drops older work. Precedes the View messages.
    OpenView(View),
    /// The step was committed: its partials and slices are free. Precedes the Commit messages.
    Committed(Committed),
    /// Expect this member to upload this checkpoint; answered by VersionWritten, VersionDeviates or VersionFailed.
    ExpectVersion {
        /// Step of the checkpoint.
        step: u64,
        /// The uploading member.
        from: MemberId,
        /// The journalled state digest, if this checkpoint existed before: no other may replace it.
        digest: Option<[u8; 32]>,
    },
    /// Expect this member to send its state; answered by StateShown or StateNotShown. The transferred state is
    /// obsolete once a view opens.
    ExpectState {
        /// Step of the state.
        step: u64,
        /// The sending member.
        from: MemberId,
    },
    /// Expect this member to upload the exports; answered by Exported or ExportFailed.
    ExpectExport {
        /// Step of the exported state.
        step: u64,
        /// The uploading member.
        from: MemberId,
    },
    /// Something for display and for the run's record.
    RunEvent(RunEvent),
    /// The run is over; nothing follows.
    Finished(Outcome),
}

/// A committed step, for the metrics and the display.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// Step, view and phase.
    pub key: StepKey,
    /// The step's epoch, from 0.
    pub epoch: u64,
    /// Samples processed over the run's history, this step's included.
    pub samples: u64,
    /// Samples of this step.
    pub batch: u32,
    /// The reduced sums.
    pub sums: Vec<f64>,
    /// Norm of the mean gradient before clipping (0 in evaluation).
    pub gradient_norm: f64,
    /// Learning rate used.
    pub learning_rate: f32,
    /// Whether the update was skipped.
    pub skipped: bool,
    /// (member, timings), in rank order.
    pub timings: Vec<(MemberId, crate::messages::Timings)>,
    /// The view's next step; `None` if it has none.
    pub next: Option<StepKey>,
}

/// An event of the run, with its reason.
#[derive(Clone, PartialEq, Debug)]
pub enum RunEvent {
    /// A worker was admitted.
    Joined {
        /// The new member's id.
        member: MemberId,
        /// The worker's Join message.
        join: crate::messages::Join,
    },
    /// A worker was refused.
    Refused {
        /// The worker's name.
        name: String,
        /// Exit code and reason.
        failure: Failure,
    },
    /// A member is gone.
    Left {
        /// The member's id.
        member: MemberId,
        /// The last committed step.
        step: u64,
        /// How it was noticed and why.
        reason: String,
    },
    /// A view was opened.
    ViewOpened {
        /// The view's id.
        view: ViewId,
        /// Why the membership changed.
        reason: String,
    },
    /// A step is retried in another view.
    Retry {
        /// The retried step.
        step: u64,
        /// Why the last attempt was given up.
        reason: String,
        /// Duration of the abandoned attempt, in milliseconds.
        lost_ms: u64,
    },
    /// The run continues from an older state.
    Rewound {
        /// The last committed step so far.
        from_step: u64,
        /// The step of the state from which the run continues.
        to_step: u64,
        /// Why the newer state is unavailable.
        reason: String,
    },
    /// The run was held between two steps while its membership changed, or for lack of members.
    Held {
        /// The step after which it was held.
        step: u64,
        /// Duration in milliseconds.
        held_ms: u64,
    },
    /// What the run waits for; emitted on every change.
    Waiting {
        /// Members and reason; empty when the run continues.
        reason: String,
        /// For a slow step: how long it has been in progress, in milliseconds.
        late_ms: Option<u64>,
    },
    /// A warning for display.
    Warning {
        /// The text of the warning.
        message: String,
    },
    /// A checkpoint is durable.
    Version {
        /// Step of the checkpoint.
        step: u64,
        /// Its state digest.
        digest: [u8; 32],
    },
}

/// How the run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Completed, interrupted or failed.
    pub reason: EndReason,
    /// Process exit code, of the table at [`Failure::code`](crate::messages::Failure::code).
    pub code: u8,
    /// Explanation, for display.
    pub message: String,
    /// The last committed step.
    pub step: u64,
}
