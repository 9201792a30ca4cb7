//! The control messages, as plain types. `wire` turns them into protobuf and back.

use std::ops::Range;

use crate::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use crate::journal::CommitRecord;

/// What a worker says first on its control stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Join {
    /// [`crate::PROTOCOL_VERSION`] of the worker.
    pub protocol_version: u32,
    /// Tasks that the worker's registry can train, each with the version of its schema.
    pub tasks: Vec<(String, u32)>,
    /// Hash of the numerics probe's result bits, with backend and driver (see `trainer::fingerprint`).
    pub fingerprint: [u8; 32],
    /// The worker's build, for a warning only.
    pub build: String,
    /// Name for people, unique among the members (made unique by the coordinator if it isn't).
    pub name: String,
    /// The device for people, such as `cpu` or `wgpu:0 (NVIDIA H100)`.
    pub device: String,
    /// Slot in which the coordinator started this process, if it did.
    pub slot: Option<u32>,
    /// Process id on the worker's host, for people.
    pub pid: u32,
    /// Drawn at random when the process started: who comes with the same is the same process on another stream.
    pub instance: u64,
    /// The run that the worker was last a member of. What it holds is of that run, and every run counts its views and
    /// steps from the same numbers.
    pub run: Option<RunId>,
    /// The committed state that the worker still holds from before it lost the coordinator.
    pub holds: Option<Held>,
}

/// A committed state and perhaps a prepared step beyond it.
#[derive(Clone, PartialEq, Debug)]
pub struct Held {
    /// The step of the committed state.
    pub step: u64,
    /// Its state check (hash, in block order, of per-block hashes of parameters and optimizer state).
    pub state_check: u64,
    /// A training step that is prepared (Ready was said) but not committed, with its hash.
    pub prepared: Option<(u64, u64)>,
    /// The commit that made the state: proof that it is of this run's history, and the record itself where a
    /// coordinator's host lost the journal's last one. `None` for a state that was loaded.
    pub commit: Option<Box<CommitRecord>>,
}

/// Scalars that are summed by the tree in f64 beside the gradient.
///
/// Element 0 is the loss sum, element 1 the weight (count of samples or tokens); the rest are the task's metric
/// sums (for classification: correct count, then the confusion matrix row by row; see `trainer::Task`).
pub type Sums = Vec<f64>;

/// Wall-clock cost of a step at one member, in microseconds, for the display and for rebalancing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timings {
    /// Waiting for the samples.
    pub data_us: u32,
    /// Forward, backward and the copy to the host.
    pub compute_us: u32,
    /// From the last partial sent to the last slice received.
    pub exchange_us: u32,
    /// The optimizer's pass and the copy to the device, of the step before.
    pub apply_us: u32,
    /// The copy of the state for a version, after the step before; 0 where none was asked for.
    pub snapshot_us: u32,
    /// Samples computed by this member in this step.
    pub samples: u32,
}

/// "I hold every reduced slice of this step, and they are whole."
#[derive(Clone, PartialEq, Debug)]
pub struct Ready {
    /// Which step of which view.
    pub key: StepKey,
    /// The reduced scalars, bit for bit as the reducer sent them. Empty if W was 0.
    pub sums: Sums,
    /// Sum over blocks, in block order, of the f64 sums of squares of the reduced gradient (0 in evaluation).
    pub squared_norm: f64,
    /// Whether loss and gradient are finite.
    pub finite: bool,
    /// One hash over gradient blocks, presence and scalars.
    pub hash: u64,
    /// The state check before the step; in evaluation, of the state that is evaluated (0 where
    /// `elastic.digest_every` skips it).
    pub state_check: u64,
    /// What the step cost here.
    pub timings: Timings,
}

/// From a worker to the coordinator.
#[derive(Clone, PartialEq, Debug)]
pub enum FromWorker {
    /// First message of a stream.
    Join(Join),
    /// "Model and data are ready and every shape is compiled: I can load a state, or go on from the one I hold."
    Prepared {
        /// Number of trainable f32 elements (the length of the flat buffers).
        elements: u64,
    },
    /// "I hold state `step`, I can enter a view."
    Loaded {
        /// Step of the state.
        step: u64,
        /// Its full state digest (BLAKE3), which the coordinator compares with the version's.
        digest: [u8; 32],
    },
    /// The step is prepared.
    Ready(Ready),
    /// A commit is applied: the run's last (with [`Next::last`]), since no later Ready would carry the check of this
    /// state, or one that was recovered ([`ToWorker::Recover`]).
    Applied {
        /// The step of the state.
        step: u64,
        /// Its state check.
        state_check: u64,
    },
    /// Nothing to say but that the worker lives.
    Heartbeat,
    /// SIGTERM: the worker finishes the step and wants to leave.
    Leaving {
        /// Why, for people.
        reason: String,
    },
    /// The worker can't go on.
    Failed(Failure),
    /// What it was to upload is not with the coordinator, which may not even have heard of it.
    NotUploaded {
        /// What.
        kind: UploadKind,
        /// Step of the state.
        step: u64,
        /// Why, for people.
        reason: String,
    },
}

/// What a member uploads when it is asked to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum UploadKind {
    /// A version.
    Version,
    /// The exports.
    Export,
    /// A state that is shown to those that lack it.
    State,
}

/// Why a worker can't go on, with the exit code that the run should end with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Exit code of the contract: 2 config, 3 data or version, 4 the run failed.
    pub code: u8,
    /// The thing, the value and the way out.
    pub message: String,
}

/// One member of a view, in rank order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// Who.
    pub member: MemberId,
    /// Name for people.
    pub name: String,
    /// Its weight in the assignment: how many parts of every batch's microbatches it computes, relative to the
    /// other members' shares. Each step's contiguous ranges come from all shares by `assignment::ranges`, so a
    /// short batch needs no message of its own.
    pub share: u32,
}

/// Where slices are summed in a view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReduceAt {
    /// Members push partials to the coordinator, which sends the reduced slices back.
    Coordinator,
    /// The only member of the view sums by itself: no gradient crosses a socket. Same function, same bits.
    Alone,
}

/// A membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Never reused.
    pub id: ViewId,
    /// In rank order; at least one.
    pub members: Vec<MemberInfo>,
    /// Who reduces.
    pub reduce: ReduceAt,
    /// The step from which the view works, and its phase.
    pub step: u64,
    /// Its phase.
    pub phase: Phase,
    /// The microbatches of that first step by rank, where it is one that another view gave up: whoever computed some
    /// keeps them, and only those of lost members are dealt out again. Empty: by shares, as all later steps are.
    pub dealt: Vec<Vec<Range<u32>>>,
}

/// What the coordinator decided about a prepared step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Apply the reduced gradient (training), or take note of the sums (evaluation).
    Apply,
    /// Not finite, `train.on_nan = "skip"`, or W = 0: samples and learning-rate index advance, nothing else.
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

/// What members do after a commit, in this order. Idempotent, and a pure function of config, step and journalled
/// requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Next {
    /// This member streams the state as a version.
    pub version: Option<MemberId>,
    /// The next phase is Evaluate of the same step.
    pub evaluate: bool,
    /// No further step follows: the run's last, or a stop was asked for. Members wait for Export or End.
    pub last: bool,
    /// The membership changes: members wait for a view before they go on.
    pub hold: bool,
}

impl Next {
    /// The step that follows that of `key` in its view; none where members wait.
    #[must_use]
    pub fn step_after(self, key: StepKey) -> Option<StepKey> {
        if self.evaluate {
            return Some(StepKey { phase: Phase::Evaluate, ..key });
        }
        let goes_on = !self.last && !self.hold;
        goes_on.then_some(StepKey { step: key.step.saturating_add(1), phase: Phase::Train, ..key })
    }
}

/// The decision that a step is done.
#[derive(Clone, PartialEq, Debug)]
pub struct Commit {
    /// Which step of which view.
    pub key: StepKey,
    /// Apply or skip.
    pub verdict: Verdict,
    /// The journalled hash.
    pub hash: u64,
    /// Applied steps of the whole history up to and with this one: Adam's t.
    pub applied: u64,
    /// Scalars of the update.
    pub scalars: UpdateScalars,
    /// What comes next.
    pub next: Next,
}

/// How the run ended for a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// All steps are committed and the last version is durable.
    Completed,
    /// A person or a supervisor asked for the end; resumable.
    Interrupted,
    /// The run failed; the message says why.
    Failed,
}

/// From the coordinator to a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum ToWorker {
    /// Admission: everything a worker needs to prepare itself.
    Welcome(Welcome),
    /// Refused, with the exit code of the contract.
    Refused(Failure),
    /// The coordinator goes on without this worker, which may join again.
    Evicted {
        /// Why, for people.
        reason: String,
        /// Whether its state may be wrong: it is not to be held on to.
        forget: bool,
    },
    /// Make state 0 on the CPU from the seed, upload it as version 0 and say Loaded.
    Initialise,
    /// Apply the step that is prepared since before the coordinator was lost: it is history. Then say Applied.
    Recover(Commit),
    /// Fetch the version of this step, load it and say Loaded.
    Load {
        /// Step of the version.
        step: u64,
    },
    /// Enter this view and compute its first step.
    View(View),
    /// The step is done.
    Commit(Commit),
    /// The run holds still for others: show them the current state, which is that of this step.
    SendState {
        /// Step of the state.
        step: u64,
    },
    /// Take the state of this step that another member has shown, and say Loaded.
    FetchState {
        /// Step of the state.
        step: u64,
    },
    /// Upload the current state, which is that of this step, as a version: asked for outside a commit when an
    /// earlier upload was still under way at the last step, or when one failed.
    WriteVersion {
        /// Step of the state.
        step: u64,
    },
    /// Upload the export named by format, from the current state.
    Export {
        /// Step of the state.
        step: u64,
    },
    /// The run is over for this worker.
    End {
        /// How.
        reason: EndReason,
        /// For people.
        message: String,
    },
    /// Answers a heartbeat; carries nothing.
    Alive,
}

/// What a worker is told when it is admitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The run.
    pub run: RunId,
    /// The run's name for people.
    pub run_name: String,
    /// The worker's id in it.
    pub member: MemberId,
    /// Its name, made unique.
    pub name: String,
    /// The resolved configuration as TOML (no secrets).
    pub config: String,
    /// The dataset's plan as JSON: digest, split, columns, normalisation (see `datasets::Plan`).
    pub data_plan: String,
    /// Port of the data plane on the host that the worker reached the coordinator at.
    pub data_port: u16,
    /// How often a heartbeat is expected.
    pub heartbeat_ms: u64,
    /// What the member proves itself with. Empty as the machine says it: the driver draws it.
    pub key: MemberKey,
}
