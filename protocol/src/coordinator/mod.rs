//! The coordinator's machine: members, views, steps, commits, journal records.
//!
//! It owns every decision of a run: who is a member, what is computed, what is history, when it is over, and the
//! reason of each. It never sums a gradient (the driver's reducer does), never writes a file and never reads a
//! clock: the driver carries out [`Output`]s in their order and answers with [`Event`]s.
//!
//! Views change while the run goes on. A lost member costs one retry of its own microbatches; joiners enter where the
//! run holds still between two steps; a coordinator that takes over goes on from what its members hold.

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
mod recovery;
mod roster;
mod run_plan;
mod sizes;
mod step;
mod verdict;
mod versions;
mod views;
mod waiting;

pub use machine::Coordinator;
pub use run_plan::{CheckpointEvery, OnNan, RunPlan};

use crate::ids::{MemberId, StepKey, ViewId};
use crate::messages::{EndReason, Failure, FromWorker, ToWorker, View};

/// What a driver tells the machine. `connection` names a control stream; a member is born on one.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A message came on a control stream (the first one is Join).
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
        /// How it was noticed, for people.
        reason: String,
    },
    /// The record that was appended last is with the operating system (or durable, if it asked for that).
    Journalled,
    /// It could not be written; the machine pauses before the commit and asks again. Before the next append the
    /// driver cuts the file back to the length that it had before the failed one.
    JournalFailed {
        /// The error, for people.
        reason: String,
    },
    /// The version's manifest is durable.
    VersionWritten {
        /// Its step.
        step: u64,
        /// Its state digest.
        digest: [u8; 32],
    },
    /// What was uploaded is not the journalled version of this step, and took nothing's place.
    VersionDeviates {
        /// Its step.
        step: u64,
    },
    /// The version could not be had: writing or the upload failed.
    VersionFailed {
        /// Its step.
        step: u64,
        /// The error, for people.
        reason: String,
    },
    /// A member has shown the state that others lack: they can take it.
    StateShown {
        /// Its step.
        step: u64,
        /// The digest of what was uploaded.
        digest: [u8; 32],
    },
    /// It could not be had.
    StateNotShown {
        /// Its step.
        step: u64,
        /// The error, for people.
        reason: String,
    },
    /// All exports are in place (or none were asked for).
    Exported,
    /// An export failed.
    ExportFailed {
        /// The error, for people.
        reason: String,
    },
    /// A person asks for the end after the step in flight (SIGINT, SIGTERM, `coordinator stop`).
    StopRequested {
        /// Who asked, for people.
        reason: String,
    },
    /// A person asks for a version after the step in flight.
    CheckpointRequested,
    /// A member has computed its part of a step: its sums are at the reducer.
    Computed {
        /// Who.
        member: MemberId,
        /// Of which step.
        key: StepKey,
    },
    /// Whose part of a step's gradient is not at the reducer and holds up all others': told before [`Event::Tick`].
    Behind {
        /// Of which step.
        key: StepKey,
        /// Who.
        members: Vec<MemberId>,
    },
    /// The data plane lost a member (broken connection, bad frame).
    DataPlaneLost {
        /// Who.
        member: MemberId,
        /// How it was noticed.
        reason: String,
    },
    /// A member sent over the data plane what nobody who follows the protocol sends.
    ProtocolBroken {
        /// Who.
        member: MemberId,
        /// What, for people.
        what: String,
    },
    /// A local worker process could not be started or ended before it joined.
    LaunchFailed {
        /// The exit code that it asks for: its own where that is of the contract, else 4.
        code: u8,
        /// The error, for people.
        reason: String,
    },
    /// The versions of the run are lost: the state is written once more, and the run ends.
    VersionsLost {
        /// How that came, for people.
        reason: String,
    },
    /// Nobody works for the run any more, and by all that the driver knows nobody will come.
    NobodyLeft {
        /// How that came, for people.
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
    /// The reducer works for this view from now on; what is older is dropped. Comes before the View messages.
    OpenView(View),
    /// The step was committed: its partials and slices are free. Comes before the Commit messages.
    Committed(Committed),
    /// This member is expected to upload this version; answered by VersionWritten, VersionDeviates or VersionFailed.
    ExpectVersion {
        /// The step.
        step: u64,
        /// Who uploads it.
        from: MemberId,
        /// The journalled state digest, if there was such a version before: no other may take its place.
        digest: Option<[u8; 32]>,
    },
    /// This member is expected to show its state; answered by StateShown or StateNotShown. What was shown is of no
    /// use any more when a view opens.
    ExpectState {
        /// The step.
        step: u64,
        /// Who shows it.
        from: MemberId,
    },
    /// This member is expected to upload the exports; answered by Exported or ExportFailed.
    ExpectExport {
        /// The step.
        step: u64,
        /// Who uploads them.
        from: MemberId,
    },
    /// Something that people and the run's record should know.
    RunEvent(RunEvent),
    /// The run is over; nothing follows.
    Finished(Outcome),
}

/// A committed step, for the metrics and the display.
#[derive(Clone, PartialEq, Debug)]
pub struct Committed {
    /// Which step of which view.
    pub key: StepKey,
    /// The epoch that the step belongs to, from 0.
    pub epoch: u64,
    /// Samples counted so far over the run's history, this step's included.
    pub samples: u64,
    /// Samples of this step.
    pub batch: u32,
    /// The reduced sums.
    pub sums: Vec<f64>,
    /// Norm of the mean gradient before clipping (0 in evaluation).
    pub gradient_norm: f64,
    /// Learning rate used.
    pub learning_rate: f32,
    /// Whether it was skipped.
    pub skipped: bool,
    /// (member, timings), in rank order.
    pub timings: Vec<(MemberId, crate::messages::Timings)>,
    /// What the view works on next; `None` where it works on nothing more.
    pub next: Option<StepKey>,
}

/// An event of the run, with its reason.
#[derive(Clone, PartialEq, Debug)]
pub enum RunEvent {
    /// A worker was admitted.
    Joined {
        /// Who.
        member: MemberId,
        /// What it said.
        join: crate::messages::Join,
    },
    /// A worker was refused.
    Refused {
        /// Its name.
        name: String,
        /// Why.
        failure: Failure,
    },
    /// A member is gone.
    Left {
        /// Who.
        member: MemberId,
        /// Last committed step.
        step: u64,
        /// How it was noticed and why.
        reason: String,
    },
    /// A view was opened.
    ViewOpened {
        /// Which.
        view: ViewId,
        /// Why.
        reason: String,
    },
    /// A step is tried again in another view.
    Retry {
        /// Which step.
        step: u64,
        /// Why.
        reason: String,
        /// How long the attempt that was given up had taken, in milliseconds.
        lost_ms: u64,
    },
    /// History goes back.
    Rewound {
        /// The last committed step so far.
        from_step: u64,
        /// The step of the state from which the run goes on.
        to_step: u64,
        /// Why.
        reason: String,
    },
    /// The run held still between two steps while its membership changed, or for want of members.
    Held {
        /// After which step.
        step: u64,
        /// For how long, in milliseconds.
        held_ms: u64,
    },
    /// What the run waits for, when that changes.
    Waiting {
        /// For whom and why; empty when it goes on.
        reason: String,
        /// For how long a step has been under way that takes long, in milliseconds.
        late_ms: Option<u64>,
    },
    /// A warning.
    Warning {
        /// What.
        message: String,
    },
    /// A version is durable.
    Version {
        /// Its step.
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
    /// Exit code of the contract.
    pub code: u8,
    /// For people.
    pub message: String,
    /// The last committed step.
    pub step: u64,
}
