//! Faults and user actions in an incarnation of the coordinator, and the incarnations that a seed draws.

use crate::plane::Plane;
use crate::random::Random;
use crate::scenario::Scenario;

/// The most workers with which an incarnation starts.
const WORKERS_MAX: u64 = 5;
/// More workers than an incarnation ever has.
const ALL: usize = 64;

/// A fault, or an action of a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chaos {
    /// SIGKILL of a worker.
    KillWorker(usize),
    /// SIGKILL of all workers, one every `apart_ms`; 0 is all at once.
    KillAll {
        /// Pause between two kills, in milliseconds.
        apart_ms: u64,
    },
    /// SIGKILL of the coordinator; if its host dies too, unsynced data are lost.
    KillCoordinator {
        /// Whether the host dies.
        host: bool,
    },
    /// SIGKILL of the coordinator, which is restarted after a while; workers stay alive.
    RestartCoordinator {
        /// Whether the host dies.
        host: bool,
        /// Time without a coordinator, in milliseconds.
        after_ms: u64,
    },
    /// Packets between a worker and the coordinator are lost for a while, in one direction or both: on existing
    /// connections and on new attempts.
    Partition {
        /// The affected worker.
        worker: usize,
        /// The affected planes.
        which: ConnectionKind,
        /// Whether packets to the coordinator are lost.
        up: bool,
        /// Whether packets to the worker are lost.
        down: bool,
        /// Duration in milliseconds.
        ms: u64,
    },
    /// Packets of the existing connections are lost for a while; a new connection would work.
    Stall {
        /// The affected worker.
        worker: usize,
        /// The affected connections.
        which: ConnectionKind,
        /// Whether packets to the coordinator are lost.
        up: bool,
        /// Whether packets to the worker are lost.
        down: bool,
        /// Duration in milliseconds.
        ms: u64,
    },
    /// A control connection breaks.
    BreakControl(usize),
    /// A data connection breaks.
    BreakData(usize),
    /// A worker process is paused for this many milliseconds.
    PauseWorker(usize, u64),
    /// A worker's device hangs for this many milliseconds; its streams and heartbeats continue.
    HangWorker(usize, u64),
    /// The coordinator process is paused for this many milliseconds.
    PauseCoordinator(u64),
    /// A worker computes slower by this factor.
    SlowWorker(usize, u64),
    /// Every message on these connections is delayed by up to `ms`, for the rest of the incarnation.
    SlowEdge {
        /// The affected worker.
        worker: usize,
        /// The affected planes.
        which: ConnectionKind,
        /// Maximum extra delay in milliseconds.
        ms: u64,
    },
    /// A worker's clock leaps by this many milliseconds, backwards if negative.
    WorkerClock(usize, i64),
    /// The coordinator's clock leaps by this many milliseconds.
    CoordinatorClock(i64),
    /// SIGINT to the coordinator.
    Stop,
    /// A person requests a checkpoint.
    Checkpoint,
    /// SIGTERM to a worker.
    Leave(usize),
    /// The journal can't be written for this many milliseconds.
    JournalFails(u64),
    /// An append to the journal neither completes nor fails for this many milliseconds.
    JournalHangs(u64),
    /// Checkpoints can't be written for this many milliseconds.
    DiskFull(u64),
    /// The disk damages the newest checkpoint.
    DamageVersion,
    /// Exports can't be written for this many milliseconds.
    ExportsFail(u64),
    /// No upload can be begun for this many milliseconds.
    UploadsFail(u64),
    /// No local worker can be started for this many milliseconds.
    LaunchFails(u64),
    /// This many additional workers join late, all at once.
    Joiners(usize),
    /// A worker with different numerics joins a run that has begun.
    OtherNumerics,
    /// This many frames of the data plane arrive corrupt; the receiver drops the connection.
    CorruptFrames(u32),
    /// A worker's next frame belongs to a step that hasn't begun, for which the worker is evicted.
    Ahead(usize),
    /// Old messages are delivered again.
    Stale,
    /// The last message of every member and the last one to it are delivered again.
    Duplicates,
    /// A bit of a worker's parameters or moments flips.
    FlipBit {
        /// The affected worker.
        worker: usize,
        /// Index of the value, counted over parameters, first and second moments, with wrap-around.
        at: usize,
        /// Index of the bit, from 0 to 31.
        bit: u8,
    },
    /// The same in the next member that sends its state to others, just before it does.
    FlipDonor {
        /// Index of the value.
        at: usize,
        /// Index of the bit.
        bit: u8,
    },
}

/// A worker's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionKind {
    /// Both control messages and frames.
    Both,
    /// Control messages and state transfers.
    Control,
    /// Frames of the data plane.
    Data,
}

impl ConnectionKind {
    pub(crate) fn planes(self) -> &'static [Plane] {
        match self {
            Self::Both => &[Plane::Control, Plane::Data],
            Self::Control => &[Plane::Control],
            Self::Data => &[Plane::Data],
        }
    }
}

impl Chaos {
    /// Duration from its beginning; 0 for a fault without a lasting effect.
    pub(crate) fn lasts_ms(&self) -> u64 {
        match self {
            Self::Partition { ms, .. }
            | Self::Stall { ms, .. }
            | Self::PauseWorker(_, ms)
            | Self::HangWorker(_, ms)
            | Self::PauseCoordinator(ms)
            | Self::UploadsFail(ms)
            | Self::LaunchFails(ms)
            | Self::JournalFails(ms)
            | Self::JournalHangs(ms)
            | Self::ExportsFail(ms)
            | Self::DiskFull(ms)
            | Self::RestartCoordinator { after_ms: ms, .. } => *ms,
            // Timers due before a leap back are delayed by the leap.
            Self::WorkerClock(_, ms) | Self::CoordinatorClock(ms) if *ms < 0 => ms.unsigned_abs(),
            _ => 0,
        }
    }

    /// The affected workers, each of which may count as absent.
    pub(crate) fn victims(&self) -> Vec<usize> {
        match self {
            Self::KillWorker(worker)
            | Self::BreakControl(worker)
            | Self::BreakData(worker)
            | Self::Ahead(worker)
            | Self::PauseWorker(worker, _)
            | Self::HangWorker(worker, _)
            | Self::Leave(worker)
            | Self::WorkerClock(worker, _)
            | Self::SlowEdge { worker, .. }
            | Self::FlipBit { worker, .. }
            | Self::Stall { worker, .. }
            | Self::Partition { worker, .. } => vec![*worker],
            Self::KillAll { .. } => (0..ALL).collect(),
            _ => Vec::new(),
        }
    }
}

/// One incarnation of the coordinator with its workers.
#[derive(Clone, Debug)]
pub struct Incarnation {
    /// Workers started with the coordinator.
    pub workers: usize,
    /// Further workers for which the coordinator waits.
    pub missing: usize,
    /// Event numbers and their faults, in order.
    pub chaos: Vec<(u64, Chaos)>,
    /// The dataset file was changed beforehand.
    pub other_data: bool,
    /// The newest checkpoint's file was damaged beforehand.
    pub damaged_version: bool,
    /// `train.on_nan` is "stop".
    pub stops_at_nan: bool,
    /// A supervisor restarts killed workers, and starts further ones if too few are left when all faults are over.
    pub is_supervised: bool,
}

impl Incarnation {
    /// An incarnation without faults.
    #[must_use]
    pub fn quiet(workers: usize) -> Self {
        Self {
            workers,
            missing: 0,
            chaos: Vec::new(),
            other_data: false,
            damaged_version: false,
            stops_at_nan: false,
            is_supervised: false,
        }
    }

    /// An unsupervised incarnation with `workers` workers and these faults.
    #[must_use]
    pub fn with(workers: usize, chaos: &[(u64, Chaos)]) -> Self {
        Self { chaos: chaos.to_vec(), ..Self::quiet(workers) }
    }

    /// The same with a supervisor.
    #[must_use]
    pub fn supervised(workers: usize, chaos: &[(u64, Chaos)]) -> Self {
        Self { is_supervised: true, ..Self::with(workers, chaos) }
    }
}

impl Scenario {
    /// The incarnations of a seed: some with faults, and a final quiet one that must complete the run.
    #[must_use]
    pub fn lives(&self) -> Vec<Incarnation> {
        let mut random = Random::stream(self.seed, "lives");
        let mut lives = Vec::new();
        for _ in 0..random.between(0, 4) {
            let workers = random.between(1, WORKERS_MAX) as usize;
            let mut chaos: Vec<(u64, Chaos)> = Vec::new();
            for _ in 0..random.between(1, 9) {
                // Early faults hit the start, late ones the middle and the end.
                let limit = [60, 300, 1_500][random.below(3)];
                chaos.push((random.between(1, limit), draw(&mut random, workers)));
            }
            chaos.sort_by_key(|(at, _)| *at);
            let damaged_version = random.one_in(8);
            // The final incarnation skips non-finite steps, like the quiet run.
            let stops_at_nan = random.one_in(3);
            lives.push(Incarnation {
                damaged_version,
                stops_at_nan,
                ..Incarnation::supervised(workers, &chaos)
            });
        }
        let workers = random.between(u64::from(self.plan.min_workers), WORKERS_MAX);
        lives.push(Incarnation::quiet(workers as usize));
        lives
    }
}

fn draw(random: &mut Random, workers: usize) -> Chaos {
    // Some faults hit a late worker, or none at all.
    let worker = random.below(workers + 1);
    match random.between(0, 50) {
        0..=2 => Chaos::KillWorker(worker),
        3 => Chaos::KillCoordinator { host: random.one_in(2) },
        4..=7 => Chaos::RestartCoordinator { host: random.one_in(3), after_ms: random.between(1, 20_000) },
        8 => Chaos::BreakControl(worker),
        9 | 10 => Chaos::BreakData(worker),
        11 => Chaos::PauseWorker(worker, random.between(100, 4_000)),
        12 => Chaos::PauseWorker(worker, random.between(11_000, 60_000)),
        13 => Chaos::PauseCoordinator(random.between(100, 4_000)),
        14 => Chaos::PauseCoordinator(random.between(11_000, 50_000)),
        15 => Chaos::SlowWorker(worker, random.between(2, 20)),
        16 => Chaos::Stop,
        17 => Chaos::Checkpoint,
        18 => Chaos::Leave(worker),
        19 => Chaos::JournalFails(random.between(100, 20_000)),
        20 => Chaos::DiskFull(random.between(100, 20_000)),
        21 => Chaos::Joiners(1),
        22 => Chaos::Joiners(10),
        23 => Chaos::CorruptFrames(random.between(1, 6) as u32),
        24..=27 => draw_partition(random, worker, false),
        28 => draw_partition(random, worker, true),
        29 => Chaos::Stale,
        30 | 31 => Chaos::Duplicates,
        32 | 33 => Chaos::FlipBit { worker, at: random.below(1 << 20), bit: random.below(32) as u8 },
        34 => Chaos::FlipDonor { at: random.below(1 << 20), bit: random.below(32) as u8 },
        35 => Chaos::KillAll { apart_ms: 0 },
        36 => Chaos::KillAll { apart_ms: random.between(1, 5_000) },
        37 => Chaos::WorkerClock(worker, leap(random)),
        38 => Chaos::CoordinatorClock(leap(random)),
        39 => Chaos::LaunchFails(random.between(1_000, 20_000)),
        40 => Chaos::UploadsFail(random.between(100, 20_000)),
        41 => Chaos::HangWorker(worker, random.between(1_000, 29_000)),
        42 => Chaos::HangWorker(worker, random.between(40_000, 300_000)),
        43 | 44 => Chaos::JournalHangs(random.between(100, 40_000)),
        45 | 46 => Chaos::DamageVersion,
        47 | 48 => Chaos::ExportsFail(random.between(100, 6_000)),
        49 => Chaos::OtherNumerics,
        _ => Chaos::SlowEdge { worker, which: which(random), ms: random.between(50, 2_000) },
    }
}

fn draw_partition(random: &mut Random, worker: usize, is_stall: bool) -> Chaos {
    let which = which(random);
    let (up, down) = [(true, true), (true, false), (false, true)][random.below(3)];
    // Short, longer than a lease, longer than a worker's own timeout.
    let ms = [random.between(100, 9_000), random.between(10_000, 30_000), random.between(30_000, 120_000)];
    let ms = ms[random.below(3)];
    match is_stall {
        true => Chaos::Stall { worker, which, up, down, ms },
        false => Chaos::Partition { worker, which, up, down, ms },
    }
}

fn which(random: &mut Random) -> ConnectionKind {
    [ConnectionKind::Both, ConnectionKind::Control, ConnectionKind::Data][random.below(3)]
}

/// Leaps of a second, of minutes, of days. A monotonic clock, which drivers read, never goes back.
fn leap(random: &mut Random) -> i64 {
    let ms = [random.between(100, 4_000), random.between(5_000, 120_000), random.between(1, 3) * 86_400_000];
    i64::try_from(ms[random.below(3)]).unwrap_or(0)
}
