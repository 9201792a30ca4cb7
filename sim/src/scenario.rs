//! What a seed means: the run, its toy task, the speeds of everything, and what goes wrong when.

use protocol::coordinator::{CheckpointEvery, OnNan, RunPlan};
use protocol::early_stopping::EarlyStopping;
use protocol::ids::RunId;
use protocol::plan::Geometry;
use protocol::schedule::Schedule;

use crate::random::Random;
use crate::toy::{BETAS, Toy};

/// The most workers that a life starts.
const WORKERS_MAX: u64 = 5;

/// One run under test.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything comes from it.
    pub seed: u64,
    /// The run.
    pub plan: RunPlan,
    /// Its task.
    pub toy: Toy,
    /// How long things take.
    pub speeds: Speeds,
}

/// Upper bounds of virtual durations, in milliseconds; each is drawn anew every time.
#[derive(Clone, Copy, Debug)]
pub struct Speeds {
    /// A message on its way.
    pub network_ms: u64,
    /// One microbatch.
    pub compute_ms: u64,
    /// One append.
    pub journal_ms: u64,
    /// A version's upload and its files.
    pub upload_ms: u64,
}

/// Something that goes wrong, or that a person does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chaos {
    /// SIGKILL of a worker.
    KillWorker(usize),
    /// SIGKILL of the coordinator; with its host, what wasn't fsynced is lost too.
    KillCoordinator {
        /// Whether the host dies.
        host: bool,
    },
    /// SIGKILL of the coordinator, which is started again after a while; workers live on.
    RestartCoordinator {
        /// Whether the host dies.
        host: bool,
        /// How long nobody coordinates.
        after_ms: u64,
    },
    /// Packets between a worker and the coordinator are lost for a while, one way or both.
    Partition {
        /// Which worker.
        worker: usize,
        /// Of which connections.
        which: Which,
        /// To the coordinator.
        up: bool,
        /// To the worker.
        down: bool,
        /// For how long.
        ms: u64,
    },
    /// A control connection breaks.
    BreakControl(usize),
    /// A data connection breaks.
    BreakData(usize),
    /// A worker hears and says nothing for so long.
    PauseWorker(usize, u64),
    /// The coordinator hears and says nothing for so long.
    PauseCoordinator(u64),
    /// A worker computes so many times slower.
    SlowWorker(usize, u64),
    /// SIGINT to the coordinator.
    Stop,
    /// A person asks for a version.
    Checkpoint,
    /// SIGTERM to a worker.
    Leave(usize),
    /// The journal can't be written for so long.
    JournalFails(u64),
    /// Versions can't be written for so long.
    DiskFull(u64),
    /// Another worker comes late.
    LateJoiner,
    /// Frames of the data plane arrive corrupt and are asked for again, this many.
    CorruptFrames(u32),
    /// Old messages come once more.
    Stale,
    /// A bit of a worker's parameters flips.
    FlipBit(usize),
}

/// Connections of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // Their names say it.
pub enum Which {
    Both,
    Control,
    Data,
}

impl Chaos {
    /// Whether the life must go on as if nothing had happened, but for time, as long as one worker is spared.
    #[must_use]
    pub fn is_benign(&self) -> bool {
        match self {
            Self::KillCoordinator { .. }
            | Self::Stop
            | Self::DiskFull(_)
            | Self::FlipBit(_)
            // The first version of a run may be what is lost.
            | Self::RestartCoordinator { .. } => false,
            _ => true,
        }
    }

    /// The worker that it strikes.
    #[must_use]
    pub fn victim(&self) -> Option<usize> {
        match self {
            Self::KillWorker(worker)
            | Self::BreakControl(worker)
            | Self::BreakData(worker)
            | Self::PauseWorker(worker, _)
            | Self::Leave(worker)
            | Self::FlipBit(worker)
            | Self::Partition { worker, .. } => Some(*worker),
            _ => None,
        }
    }
}

impl Which {
    pub(crate) fn includes(self, plane: crate::network::Plane) -> bool {
        match self {
            Self::Both => true,
            Self::Control => plane == crate::network::Plane::Control,
            Self::Data => plane == crate::network::Plane::Data,
        }
    }
}

/// One incarnation of the coordinator with its workers.
#[derive(Clone, Debug)]
pub struct Life {
    /// Workers started with it.
    pub workers: usize,
    /// Workers that the coordinator waits for beyond those.
    pub missing: usize,
    /// What happens at which event, in order.
    pub chaos: Vec<(u64, Chaos)>,
    /// The dataset file was changed before it.
    pub other_data: bool,
    /// The newest version's file was damaged before it.
    pub damaged_version: bool,
}

impl Life {
    /// Nothing goes wrong.
    #[must_use]
    pub fn quiet(workers: usize) -> Self {
        Self { workers, missing: 0, chaos: Vec::new(), other_data: false, damaged_version: false }
    }

    /// So many workers, and what happens at which event.
    #[must_use]
    pub fn with(workers: usize, chaos: &[(u64, Chaos)]) -> Self {
        Self { chaos: chaos.to_vec(), ..Self::quiet(workers) }
    }
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::stream(seed, "scenario");
        let (samples, batch) = (random.between(4, 40), random.between(1, 12) as u32);
        let geometry = Geometry {
            samples,
            batch,
            microbatch: random.between(1, 4) as u32,
            seed: random.bits(),
            order: protocol::order::Order::Full,
            evaluation_samples: if random.one_in(4) { 0 } else { random.between(1, 9) },
            evaluation_microbatch: random.between(1, 4) as u32,
        };
        let per_epoch = geometry.steps_per_epoch();
        // Mostly whole epochs, sometimes an end in the middle of one.
        let total_steps = match random.between(0, 3) {
            0 => random.between(1, 12),
            _ => (per_epoch * random.between(1, 3)).min(24),
        };
        let is_large = random.one_in(40);
        let toy = Toy {
            elements: if is_large { 2 * 65_536 + 17 } else { random.between(3, 48) as usize },
            salt: random.bits(),
            nan_sample: random.one_in(6).then(|| random.between(0, samples - 1)),
            weightless: if random.one_in(4) { random.between(2, 4) } else { 0 },
        };
        let total_steps = if is_large { total_steps.min(4) } else { total_steps };
        let checkpoint_every = match random.between(0, 3) {
            0 => CheckpointEvery::Epochs(random.between(1, 2)),
            1 => CheckpointEvery::Millis(random.between(50, 3_000)),
            _ => CheckpointEvery::Steps(random.between(1, 6)),
        };
        let speeds = Speeds {
            network_ms: [2, 20, 300][random.below(3)],
            compute_ms: [5, 60][random.below(2)],
            journal_ms: [1, 30][random.below(2)],
            upload_ms: [20, 400, 4_000][random.below(3)],
        };
        let plan = RunPlan {
            geometry,
            total_steps,
            schedule: schedule(&mut random, total_steps),
            clip_norm: random.one_in(2).then_some(1.5),
            checkpoint_every,
            evaluate_every_epochs: random.between(0, 2),
            export: random.one_in(2),
            ..run_plan()
        };
        let early_stopping = early_stopping(&mut Random::stream(seed, "early stopping"));
        Self { seed, plan: RunPlan { early_stopping, ..plan }, toy, speeds }
    }

    /// The lives of a seed: some with faults, and a last quiet one that must complete the run.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        let mut random = Random::stream(self.seed, "lives");
        let mut lives = Vec::new();
        for _ in 0..random.between(0, 4) {
            let workers = random.between(1, WORKERS_MAX) as usize;
            let mut chaos: Vec<(u64, Chaos)> = Vec::new();
            for _ in 0..random.between(1, 5) {
                // Early ones hit the start, late ones the middle and the end.
                let limit = [60, 300, 1_500][random.below(3)];
                chaos.push((random.between(1, limit), chaos_event(&mut random, workers)));
            }
            chaos.sort_by_key(|(at, _)| *at);
            let damaged_version = random.one_in(8);
            lives.push(Life { damaged_version, ..Life::with(workers, &chaos) });
        }
        lives.push(Life::quiet(random.between(1, WORKERS_MAX) as usize));
        lives
    }
}

/// Operational keys and names, the same for all scenarios.
fn run_plan() -> RunPlan {
    RunPlan {
        run: RunId([9; 16]),
        run_name: "toy-1".to_owned(),
        config: String::new(),
        config_digest: "config".to_owned(),
        data_plan: String::new(),
        data_digest: "data".to_owned(),
        data_port: 0,
        task: "toy".to_owned(),
        geometry: Geometry {
            samples: 1,
            batch: 1,
            microbatch: 1,
            seed: 0,
            order: protocol::order::Order::Full,
            evaluation_samples: 0,
            evaluation_microbatch: 1,
        },
        total_steps: 1,
        schedule: Schedule::Constant { learning_rate: 0.01 },
        betas: Some(BETAS),
        clip_norm: None,
        on_nan: OnNan::Skip,
        wait_for_workers: 1,
        min_workers: 1,
        max_workers: 8,
        mixed: false,
        checkpoint_every: CheckpointEvery::Steps(1),
        evaluate_every_epochs: 1,
        early_stopping: None,
        export: false,
        lease_ms: 10_000,
        join_timeout_ms: 60_000,
        rejoin_ms: 5_000,
        load_timeout_ms: 60_000,
        step_timeout_ms: 30_000,
        transfer_timeout_ms: 60_000,
    }
}

/// Some runs end when an evaluation is no better than the one before, or none of the two before.
fn early_stopping(random: &mut Random) -> Option<EarlyStopping> {
    let patience = random.between(1, 2);
    random.one_in(4).then(|| EarlyStopping {
        metric: "loss".to_owned(),
        sum: 0,
        scale: 1.0,
        lower_is_better: random.one_in(2),
        min_delta: 0.0,
        patience,
    })
}

fn schedule(random: &mut Random, total_steps: u64) -> Schedule {
    let learning_rate = 0.05;
    let warmup_steps = random.between(0, 4);
    match random.between(0, 3) {
        0 => Schedule::Constant { learning_rate },
        1 => Schedule::WarmUp { learning_rate, warmup_steps },
        2 => Schedule::Cosine { learning_rate, warmup_steps, total_steps, final_factor: 0.1 },
        _ => Schedule::Step { learning_rate, warmup_steps, every: 3, gamma: 0.5 },
    }
}

fn chaos_event(random: &mut Random, workers: usize) -> Chaos {
    // Some strike a worker that comes late, or nobody.
    let who = random.below(workers + 1);
    match random.between(0, 26) {
        0..=2 => Chaos::KillWorker(who),
        3 => Chaos::KillCoordinator { host: random.one_in(2) },
        4..=7 => Chaos::RestartCoordinator { host: random.one_in(3), after_ms: random.between(1, 20_000) },
        8 => Chaos::BreakControl(who),
        9 | 10 => Chaos::BreakData(who),
        11 => Chaos::PauseWorker(who, random.between(100, 4_000)),
        12 => Chaos::PauseWorker(who, random.between(11_000, 60_000)),
        13 => Chaos::PauseCoordinator(random.between(100, 4_000)),
        14 => Chaos::PauseCoordinator(random.between(11_000, 50_000)),
        15 => Chaos::SlowWorker(who, random.between(2, 20)),
        16 => Chaos::Stop,
        17 => Chaos::Checkpoint,
        18 => Chaos::Leave(who),
        19 => Chaos::JournalFails(random.between(100, 20_000)),
        20 => Chaos::DiskFull(random.between(100, 20_000)),
        21 | 22 => Chaos::LateJoiner,
        23 => Chaos::CorruptFrames(random.between(1, 6) as u32),
        24 | 25 => Chaos::Partition {
            worker: who,
            which: [Which::Both, Which::Control, Which::Data][random.below(3)],
            up: random.one_in(2),
            down: random.one_in(2),
            ms: random.between(100, 60_000),
        },
        _ => Chaos::Stale,
    }
}
