//! The scenario of a seed: the run, its toy task, and all speeds. Faults are in [`crate::Incarnation`].

use protocol::coordinator::{CheckpointEvery, OnNan, RunPlan};
use protocol::early_stopping::EarlyStopping;
use protocol::ids::RunId;
use protocol::plan::Geometry;
use protocol::schedule::Schedule;

use crate::random::Random;
use crate::toy::{BETAS, Toy};

/// One run under test.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed that determines everything else.
    pub seed: u64,
    /// The run's plan.
    pub plan: RunPlan,
    /// The run's task.
    pub toy: Toy,
    /// Durations of simulated actions.
    pub speeds: Speeds,
}

/// Upper bounds of virtual durations, in milliseconds; each is drawn anew every time.
#[derive(Clone, Copy, Debug)]
pub struct Speeds {
    /// Transit of a message.
    pub network_ms: u64,
    /// Computation of one microbatch.
    pub compute_ms: u64,
    /// One append to the journal.
    pub journal_ms: u64,
    /// Upload of a checkpoint and writing of its files.
    pub upload_ms: u64,
    /// Delay of a timer after it is due.
    pub timer_ms: u64,
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
        // Mostly whole epochs, sometimes ending in the middle of one.
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
            timer_ms: [0, 1, 15][Random::stream(seed, "timers").below(3)],
        };
        let plan = RunPlan {
            geometry,
            total_steps,
            schedule: schedule(&mut random, total_steps),
            clip_norm: random.one_in(2).then_some(1.5),
            checkpoint_every,
            evaluate_every_epochs: random.between(0, 2),
            export: random.one_in(2),
            min_workers: if random.one_in(4) { 2 } else { 1 },
            max_workers: if random.one_in(2) { 16 } else { 8 },
            ..run_plan()
        };
        let early_stopping = early_stopping(&mut Random::stream(seed, "early stopping"));
        let mixed = Random::stream(seed, "mixed").one_in(4);
        Self { seed, plan: RunPlan { early_stopping, mixed, ..plan }, toy, speeds }
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
        last_version_ms: 30_000,
    }
}

/// Some runs end when an evaluation does not improve on the last one, or on the last two.
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
