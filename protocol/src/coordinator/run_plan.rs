//! The part of the configuration that the coordinator's machine needs, and nothing more.

use crate::early_stopping::EarlyStopping;
use crate::ids::RunId;
use crate::plan::Geometry;
use crate::schedule::Schedule;

/// How to handle a step whose loss or gradient is not finite (`train.on_nan`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnNan {
    /// The run fails, with the state of the step before.
    #[default]
    Stop,
    /// The step is committed and nothing is applied: samples and learning-rate index advance, Adam's t doesn't.
    Skip,
}

/// When checkpoints are due (`checkpoint.every`). The run's last state is always saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointEvery {
    /// After every given number of steps.
    Steps(u64),
    /// After every given number of epochs.
    Epochs(u64),
    /// At the first commit when this many milliseconds have passed since the last request.
    Millis(u64),
}

/// The run, as the machine sees it. A zero in a count that must be positive is read as one.
#[derive(Clone, PartialEq, Debug)]
pub struct RunPlan {
    /// The run's id.
    pub run: RunId,
    /// Display name of the run.
    pub run_name: String,
    /// The resolved configuration as TOML, shipped in Welcome.
    pub config: String,
    /// Digest of the trajectory keys, for the journal.
    pub config_digest: String,
    /// The dataset's plan as JSON, shipped in Welcome.
    pub data_plan: String,
    /// Digest of the dataset version, for the journal.
    pub data_digest: String,
    /// Port of the data plane, shipped in Welcome.
    pub data_port: u16,
    /// Name of the task (`model.kind`) that every worker must know.
    pub task: String,
    /// Samples, batches and microbatches.
    pub geometry: Geometry,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Adam's betas; `None` for an optimizer without bias correction.
    pub betas: Option<(f64, f64)>,
    /// Maximum norm of the gradient; larger gradients are scaled down.
    pub clip_norm: Option<f64>,
    /// How to handle a non-finite step.
    pub on_nan: OnNan,
    /// How many workers must join before step 1.
    pub wait_for_workers: u32,
    /// The run works with at least this many members (`wait_for_workers` is raised to it); with fewer it pauses.
    pub min_workers: u32,
    /// More workers than this are refused.
    pub max_workers: u32,
    /// Whether members may differ in numerics fingerprint; the run then does not claim bit-exactness.
    pub mixed: bool,
    /// When checkpoints are due.
    pub checkpoint_every: CheckpointEvery,
    /// Evaluation after every this many epochs, and after the last step; 0 is never.
    pub evaluate_every_epochs: u64,
    /// Whether the run may end before its last step.
    pub early_stopping: Option<EarlyStopping>,
    /// Whether exports are made at the end.
    pub export: bool,
    /// A member that has been silent for this long is lost.
    pub lease_ms: u64,
    /// How long a start waits for workers to join. A run that had begun waits without end, and reports it at this
    /// interval.
    pub join_timeout_ms: u64,
    /// How long a coordinator that takes over waits for all members of the last view to rejoin before it continues
    /// with those that have; also how long the run waits for a lost member that alone holds the committed state.
    pub rejoin_ms: u64,
    /// How long a member may take to load a state and warm up; also for the first step of a view.
    pub load_timeout_ms: u64,
    /// The least time allowed for a step; ten times the slowest step of the view if that is more.
    pub step_timeout_ms: u64,
    /// How long the upload of a checkpoint or an export may take.
    pub transfer_timeout_ms: u64,
    /// How long failed writes of the last checkpoint are retried: otherwise the members' state would be lost.
    pub last_version_ms: u64,
}

impl RunPlan {
    /// Default of [`RunPlan::load_timeout_ms`]: compiling every shape takes up to half a minute on a GPU.
    pub const LOAD_TIMEOUT_MS: u64 = 600_000;
    /// Default of [`RunPlan::rejoin_ms`]: workers retry every two seconds at least.
    pub const REJOIN_MS: u64 = 5_000;
    /// Default of [`RunPlan::step_timeout_ms`].
    pub const STEP_TIMEOUT_MS: u64 = 30_000;
    /// Default of [`RunPlan::transfer_timeout_ms`].
    pub const TRANSFER_TIMEOUT_MS: u64 = 600_000;
    /// Default of [`RunPlan::last_version_ms`]: time for a person to free disk space.
    pub const LAST_VERSION_MS: u64 = 30 * 60_000;

    /// How many workers a start waits for.
    pub(crate) fn workers_needed(&self) -> usize {
        self.wait_for_workers.max(self.min_workers).max(1) as usize
    }

    /// Interval of a worker's heartbeats: four per lease.
    pub(crate) fn heartbeat_ms(&self) -> u64 {
        (self.lease_ms / 4).max(1)
    }

    /// Epochs that are complete after `step` steps, if `step` ends one.
    fn epochs_at(&self, step: u64) -> Option<u64> {
        let per_epoch = self.geometry.steps_per_epoch().max(1);
        (step > 0 && step.is_multiple_of(per_epoch)).then(|| step / per_epoch)
    }

    /// Whether Evaluate follows the commit of training step `step`: a pure function of the configuration.
    pub(crate) fn evaluation_due(&self, step: u64) -> bool {
        if self.evaluate_every_epochs == 0 || self.geometry.evaluation_samples == 0 || step == 0 {
            return false;
        }
        step == self.total_steps
            || self.epochs_at(step).is_some_and(|epochs| epochs.is_multiple_of(self.evaluate_every_epochs))
    }

    /// Whether `checkpoint.every` requires a checkpoint after `step`, `since_ms` after the last request.
    pub(crate) fn version_due(&self, step: u64, since_ms: u64) -> bool {
        match self.checkpoint_every {
            CheckpointEvery::Steps(every) => step.is_multiple_of(every.max(1)),
            CheckpointEvery::Epochs(every) => {
                self.epochs_at(step).is_some_and(|epochs| epochs.is_multiple_of(every.max(1)))
            }
            CheckpointEvery::Millis(every) => since_ms >= every,
        }
    }

    /// The epoch of `step` (from 0) and the samples processed up to and including it.
    pub(crate) fn progress(&self, step: u64) -> (u64, u64) {
        if step == 0 {
            return (0, 0);
        }
        let plan = self.geometry.step(step);
        (plan.epoch, plan.epoch * self.geometry.samples + plan.start + u64::from(plan.samples))
    }
}
