//! The control messages, as plain types. `wire` turns them into protobuf and back.

use std::ops::Range;

use crate::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};

/// The first message of a worker on its control stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Join {
    /// The worker's [`crate::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Tasks that the worker's registry can train, each with its schema version.
    pub tasks: Vec<(String, u32)>,
    /// Hash of the numerics probe's result bits, with backend and driver (see `trainer::fingerprint`).
    pub fingerprint: [u8; 32],
    /// The worker's build, for a warning only.
    pub build: String,
    /// Display name; the coordinator makes it unique among the members.
    pub name: String,
    /// Display name of the device, such as `cpu` or `wgpu:0 (NVIDIA H100)`.
    pub device: String,
    /// Slot in which the coordinator launched this process, if it did.
    pub slot: Option<u32>,
    /// Process id on the worker's host, for display.
    pub pid: u32,
    /// Drawn at random when the process starts. A Join with a known instance is the same process on another stream.
    pub instance: u64,
    /// The run of which the worker was last a member, and to which its held state belongs: every run counts its views
    /// and steps from the same numbers.
    pub run: Option<RunId>,
    /// The committed state that the worker still holds from before it lost the coordinator.
    pub holds: Option<Held>,
}

/// A committed state and, optionally, a prepared step beyond it.
#[derive(Clone, PartialEq, Debug)]
pub struct Held {
    /// The step of the committed state.
    pub step: u64,
    /// The state check (hash, in block order, of per-block hashes of parameters and optimizer state).
    pub state_check: u64,
    /// A prepared but uncommitted training step (its Ready was sent), with its hash.
    pub prepared: Option<(u64, u64)>,
    /// The commit that produced the state: proof that it belongs to this run's history, and the record itself where a
    /// coordinator's host lost the journal's last one. `None` for a loaded state.
    pub commit: Option<Box<CommitRecord>>,
}

/// Scalars that the tree sums in f64 alongside the gradient.
///
/// Element 0 is the loss sum, element 1 the weight (count of samples or tokens); the rest are the task's metric
/// sums (for classification: correct count, then the confusion matrix row by row; see `trainer::Task`).
pub type Sums = Vec<f64>;

/// Wall-clock cost of a step at one member, in microseconds, for the display and for rebalancing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timings {
    /// Time spent waiting for the samples.
    pub data_us: u32,
    /// Forward, backward and the copy to the host.
    pub compute_us: u32,
    /// From the last partial sent to the last slice received.
    pub exchange_us: u32,
    /// The optimizer's pass and the copy to the device, for the previous step.
    pub apply_us: u32,
    /// The copy of the state for a checkpoint, after the previous step; 0 if none was requested.
    pub snapshot_us: u32,
    /// Samples computed by this member in this step.
    pub samples: u32,
}

/// The member holds every reduced slice of this step, intact.
#[derive(Clone, PartialEq, Debug)]
pub struct Ready {
    /// Step, view and phase.
    pub key: StepKey,
    /// The reduced scalars, bit for bit as the reducer sent them. Empty if W was 0.
    pub sums: Sums,
    /// Sum over blocks, in block order, of the f64 sums of squares of the reduced gradient (0 in evaluation).
    pub squared_norm: f64,
    /// Whether loss and gradient are finite.
    pub finite: bool,
    /// One hash over gradient blocks, presence and scalars.
    pub hash: u64,
    /// The state check before the step; in evaluation, of the evaluated state (0 where `elastic.digest_every` skips
    /// it).
    pub state_check: u64,
    /// Local cost of the step.
    pub timings: Timings,
}

/// From a worker to the coordinator.
#[derive(Clone, PartialEq, Debug)]
pub enum FromWorker {
    /// First message of a stream.
    Join(Join),
    /// Model and data are ready and every shape is compiled: the worker can load a state, or continue from the one it
    /// holds.
    Prepared {
        /// Number of trainable f32 elements (the length of the flat buffers).
        elements: u64,
    },
    /// The worker holds state `step` and can enter a view.
    Loaded {
        /// Step of the state.
        step: u64,
        /// The full state digest (BLAKE3), which the coordinator compares with the checkpoint's.
        digest: [u8; 32],
    },
    /// The step is prepared.
    Ready(Ready),
    /// A commit is applied: the run's last (with [`Next::last`]), as no later Ready would carry this state's check,
    /// or a recovered one ([`ToWorker::Recover`]).
    Applied {
        /// The step of the state.
        step: u64,
        /// The state check after the commit.
        state_check: u64,
    },
    /// A sign of life without content.
    Heartbeat,
    /// SIGTERM: the worker finishes the step and wants to leave.
    Leaving {
        /// Reason, for display.
        reason: String,
    },
    /// The worker can't continue.
    Failed(Failure),
    /// A requested upload didn't reach the coordinator, which may not even have seen its start.
    NotUploaded {
        /// What was to be uploaded.
        kind: UploadKind,
        /// Step of the state.
        step: u64,
        /// Reason, for display.
        reason: String,
    },
}

/// What a member uploads on request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum UploadKind {
    /// A checkpoint.
    Version,
    /// All formats of `export.formats`, of the last state.
    Export,
    /// A state transfer to the members that lack the state.
    State,
}

/// Why a worker can't continue, with the exit code for the run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Process exit code: 2 configuration, 3 data or checkpoint, 4 the run failed, 130 interrupted.
    pub code: u8,
    /// Names the thing, the value and the remedy.
    pub message: String,
}

/// One member of a view, in rank order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// The member's id.
    pub member: MemberId,
    /// Display name.
    pub name: String,
    /// Weight in the assignment: how many parts of every batch's microbatches the member computes, relative to the
    /// other members' shares. Each step's contiguous ranges come from all shares by `assignment::ranges`, so a short
    /// batch needs no message of its own.
    pub share: u32,
}

/// Where slices are summed in a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReduceAt {
    /// Members push partials to the coordinator, which sends the reduced slices back.
    Coordinator,
    /// The only member of the view sums locally: no gradient crosses a socket. Same function, same bits.
    Alone,
}

/// A fixed membership that works on steps together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Never reused.
    pub id: ViewId,
    /// In rank order; at least one.
    pub members: Vec<MemberInfo>,
    /// Where slices are reduced.
    pub reduce: ReduceAt,
    /// The view's first step.
    pub step: u64,
    /// The phase of the first step.
    pub phase: Phase,
    /// The microbatches of the first step by rank, if an earlier view gave that step up: members keep the
    /// microbatches they have computed, and only those of lost members are reassigned. Empty: by shares, as in all
    /// later steps.
    pub dealt: Vec<Vec<Range<u32>>>,
}

/// The coordinator's decision on a prepared step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Apply the reduced gradient (training), or record the sums (evaluation).
    Apply,
    /// Not finite with `train.on_nan = "skip"`, or W = 0: samples and learning-rate index advance, nothing else.
    Skip,
}

/// f32 scalars of an update, computed once by the coordinator so that no member needs libm.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct UpdateScalars {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Factor on the gradient: min(1, clip_norm / norm), or 1.
    pub clip_factor: f32,
    /// 1 - beta1^t (Adam, AdamW), t counting applied steps.
    pub bias_correction1: f32,
    /// sqrt(1 - beta2^t) (Adam, AdamW).
    pub bias_correction2_sqrt: f32,
    /// Whether this is the first applied step (SGD's momentum buffer starts as a copy).
    pub first: bool,
}

/// What members do after a commit, in this order. Idempotent, and a pure function of the configuration, the step and
/// journalled requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Next {
    /// This member uploads the state as a checkpoint.
    pub version: Option<MemberId>,
    /// The next phase is Evaluate of the same step.
    pub evaluate: bool,
    /// No further step follows: this was the last, or a stop was requested. Members wait for Export or End.
    pub last: bool,
    /// The membership changes: members wait for a view before they continue.
    pub hold: bool,
}

impl Next {
    /// The step that follows `key` in its view; `None` if members wait.
    #[must_use]
    pub fn step_after(self, key: StepKey) -> Option<StepKey> {
        if self.evaluate {
            return Some(StepKey { phase: Phase::Evaluate, ..key });
        }
        let goes_on = !self.last && !self.hold;
        goes_on.then_some(StepKey { step: key.step.saturating_add(1), phase: Phase::Train, ..key })
    }
}

/// The decision that completes a step.
#[derive(Clone, PartialEq, Debug)]
pub struct Commit {
    /// Step, view and phase.
    pub key: StepKey,
    /// Apply or skip.
    pub verdict: Verdict,
    /// The journalled hash.
    pub hash: u64,
    /// Applied steps of the whole history, this one included: Adam's t.
    pub applied: u64,
    /// What the update needs of libm, computed once so that all members have the same bits.
    pub scalars: UpdateScalars,
    /// Instructions for after the commit.
    pub next: Next,
}

/// How the run ended for a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// All steps are committed and the last checkpoint is durable.
    Completed,
    /// A person or a supervisor requested the end; the run can be resumed.
    Interrupted,
    /// The run failed; the message says why.
    Failed,
}

/// From the coordinator to a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum ToWorker {
    /// Admission, with everything a worker needs to prepare.
    Welcome(Welcome),
    /// Refused, with the exit code for the worker.
    Refused(Failure),
    /// The coordinator continues without this worker, which may rejoin.
    Evicted {
        /// Reason, for display.
        reason: String,
        /// Whether the worker must discard its state, which may be wrong.
        forget: bool,
    },
    /// Create state 0 on the CPU from the seed, upload it as the initial checkpoint and send Loaded.
    Initialise,
    /// Apply the step prepared before the coordinator was lost: it is committed. Then send Applied.
    Recover(Commit),
    /// Fetch the checkpoint of this step, load it and send Loaded.
    Load {
        /// Step of the checkpoint.
        step: u64,
    },
    /// Enter this view and compute its first step.
    View(View),
    /// The step is done.
    Commit(Commit),
    /// The run is held for other members: send them the current state, which is that of this step.
    SendState {
        /// Step of the state.
        step: u64,
    },
    /// Fetch the state of this step, sent by another member, and send Loaded.
    FetchState {
        /// Step of the state.
        step: u64,
    },
    /// Upload the current state, which is that of this step, as a checkpoint. Requested outside a commit when an
    /// earlier upload was still in progress at the last step, or failed.
    WriteVersion {
        /// Step of the state.
        step: u64,
    },
    /// Upload the exports of the configured formats, from the current state.
    Export {
        /// Step of the state.
        step: u64,
    },
    /// The run is over for this worker.
    End {
        /// How the run ended.
        reason: EndReason,
        /// Explanation, for display.
        message: String,
    },
    /// Answers a heartbeat; carries nothing.
    Alive,
}

/// What a worker learns on admission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The run's id.
    pub run: RunId,
    /// Display name of the run.
    pub run_name: String,
    /// The worker's member id.
    pub member: MemberId,
    /// The worker's name, made unique.
    pub name: String,
    /// The resolved configuration as TOML (no secrets).
    pub config: String,
    /// The dataset's plan as JSON: digest, split, columns, normalisation (see `datasets::Plan`).
    pub data_plan: String,
    /// Port of the data plane, on the host at which the worker reached the coordinator.
    pub data_port: u16,
    /// Interval at which heartbeats are expected.
    pub heartbeat_ms: u64,
    /// The member's secret. The machine leaves it empty; the driver draws it.
    pub key: MemberKey,
}

/// A step was decided.
#[derive(Clone, PartialEq, Debug)]
pub struct CommitRecord {
    /// Step, view and phase.
    pub key: StepKey,
    /// The members' hash over gradient, presence and scalars.
    pub hash: u64,
    /// Apply or skip.
    pub verdict: Verdict,
    /// Applied steps of the whole history, this one included: Adam's t.
    pub applied: u64,
    /// What the update needs of libm, computed once so that all members have the same bits.
    pub scalars: UpdateScalars,
    /// The members' instructions for after the commit.
    pub next: Next,
    /// The reduced sums.
    pub sums: Sums,
    /// Squared norm of the mean gradient.
    pub squared_norm: f64,
    /// The check of the state before a training step, or of the evaluated state, on which all members agreed; 0 if
    /// unknown, as in journals of earlier versions.
    pub state_check: u64,
}
