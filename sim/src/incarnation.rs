//! What goes wrong in a life of the coordinator, or what a person does; and the lives that a seed draws.

use crate::network::Plane;
use crate::random::Random;
use crate::scenario::Scenario;

/// The most workers that a life starts.
const WORKERS_MAX: u64 = 5;
/// More workers than a life ever has.
const ALL: usize = 64;

/// Something that goes wrong, or that a person does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chaos {
    /// SIGKILL of a worker.
    KillWorker(usize),
    /// SIGKILL of all workers, one every so many milliseconds; 0 is at once.
    KillAll {
        /// Between two of them.
        apart_ms: u64,
    },
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
    /// Packets between a worker and the coordinator are lost for a while, one way or both: on the connections that
    /// there are, and on those that are tried meanwhile.
    Partition {
        /// ConnectionKind worker.
        worker: usize,
        /// On which plane.
        which: ConnectionKind,
        /// To the coordinator.
        up: bool,
        /// To the worker.
        down: bool,
        /// For how long.
        ms: u64,
    },
    /// Packets of the connections that there are now are lost for a while; another one would get through.
    Stall {
        /// ConnectionKind worker.
        worker: usize,
        /// Of which connections.
        which: ConnectionKind,
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
    /// A worker's device does nothing for so long; its streams live, and so do its heartbeats.
    HangWorker(usize, u64),
    /// The coordinator hears and says nothing for so long.
    PauseCoordinator(u64),
    /// A worker computes so many times slower.
    SlowWorker(usize, u64),
    /// Every message on these edges takes up to so much longer, for the rest of the life.
    SlowEdge {
        /// ConnectionKind worker.
        worker: usize,
        /// On which plane.
        which: ConnectionKind,
        /// How much longer.
        ms: u64,
    },
    /// A worker's clock leaps by so many milliseconds, back if they are negative.
    WorkerClock(usize, i64),
    /// The coordinator's clock leaps.
    CoordinatorClock(i64),
    /// SIGINT to the coordinator.
    Stop,
    /// A person asks for a version.
    Checkpoint,
    /// SIGTERM to a worker.
    Leave(usize),
    /// The journal can't be written for so long.
    JournalFails(u64),
    /// An append to the journal neither ends nor fails for so long.
    JournalHangs(u64),
    /// Versions can't be written for so long.
    DiskFull(u64),
    /// The disk damages the newest version.
    DamageVersion,
    /// Exports can't be written for so long.
    ExportsFail(u64),
    /// No upload can be begun for so long.
    UploadsFail(u64),
    /// No local worker can be started for so long.
    LaunchFails(u64),
    /// So many other workers come late, all at once.
    Joiners(usize),
    /// A worker comes whose numerics are others, to a run that has begun.
    OtherNumerics,
    /// So many frames of the data plane arrive corrupt; whoever finds one drops the connection.
    CorruptFrames(u32),
    /// The next frame of a worker is of a step that hasn't begun: it is put out for it.
    Ahead(usize),
    /// Old messages come once more.
    Stale,
    /// The last message of every member and the last one to it come once more.
    Duplicates,
    /// A bit of a worker's parameters or moments flips.
    FlipBit {
        /// ConnectionKind worker.
        worker: usize,
        /// ConnectionKind value, counted over parameters, first and second moments, and around.
        at: usize,
        /// ConnectionKind bit of it, from 0 to 31.
        bit: u8,
    },
    /// The same at the next member that is to show its state to others, just before it does.
    FlipDonor {
        /// ConnectionKind value.
        at: usize,
        /// ConnectionKind bit of it.
        bit: u8,
    },
}

/// Connections of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionKind {
    /// Control messages and frames.
    Both,
    /// Control messages, and states on their way.
    Control,
    /// Frames.
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
    /// How long after its begin it is over; what does no harm that lasts is at once.
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
            // Whatever was due before a leap back is due that much later.
            Self::WorkerClock(_, ms) | Self::CoordinatorClock(ms) if *ms < 0 => ms.unsigned_abs(),
            _ => 0,
        }
    }

    /// The workers that it strikes; all of them, of whom that is true, may as well not be there.
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
    /// `train.on_nan` is "stop".
    pub stops_at_nan: bool,
    /// A supervisor starts killed workers again, and others where too few are left when all faults are over.
    pub is_supervised: bool,
}

impl Incarnation {
    /// Nothing goes wrong.
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

    /// So many workers, and what happens at which event.
    #[must_use]
    pub fn with(workers: usize, chaos: &[(u64, Chaos)]) -> Self {
        Self { chaos: chaos.to_vec(), ..Self::quiet(workers) }
    }

    /// The same under a supervisor.
    #[must_use]
    pub fn supervised(workers: usize, chaos: &[(u64, Chaos)]) -> Self {
        Self { is_supervised: true, ..Self::with(workers, chaos) }
    }
}

impl Scenario {
    /// The lives of a seed: some with faults, and a last quiet one that must complete the run.
    #[must_use]
    pub fn lives(&self) -> Vec<Incarnation> {
        let mut random = Random::stream(self.seed, "lives");
        let mut lives = Vec::new();
        for _ in 0..random.between(0, 4) {
            let workers = random.between(1, WORKERS_MAX) as usize;
            let mut chaos: Vec<(u64, Chaos)> = Vec::new();
            for _ in 0..random.between(1, 9) {
                // Early ones hit the start, late ones the middle and the end.
                let limit = [60, 300, 1_500][random.below(3)];
                chaos.push((random.between(1, limit), draw(&mut random, workers)));
            }
            chaos.sort_by_key(|(at, _)| *at);
            let damaged_version = random.one_in(8);
            // The last life passes over what isn't finite, as the quiet run does.
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
    // Some strike a worker that comes late, or nobody.
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
    // A blink, longer than a lease, longer than a worker's own patience.
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

/// Of a second, of minutes, of days. A monotonic clock, which drivers read, never goes back.
fn leap(random: &mut Random) -> i64 {
    let ms = [random.between(100, 4_000), random.between(5_000, 120_000), random.between(1, 3) * 86_400_000];
    i64::try_from(ms[random.below(3)]).unwrap_or(0)
}
