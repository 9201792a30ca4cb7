//! The world of one run: virtual time, one coordinator at a time, its workers, the disk, and the oracle.

use std::sync::Arc;

use protocol::coordinator::{OnNan, Outcome};
use protocol::messages::{Commit, Ready, View};

use crate::bug::Bug;
use crate::checkers::{Oracle, Reference};
use crate::coordinator_node::CoordinatorNode;
use crate::disk::{Disk, StoredVersion};
use crate::incarnation::{Chaos, Incarnation};
use crate::link::Partitions;
use crate::network::Queue;
use crate::node::WorkerNode;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::toy::Toy;

/// Time on every clock when the world begins.
pub(crate) const CLOCK: u64 = 30 * 86_400_000;
/// Maximum number of old messages that are kept for replay.
const ARCHIVE_MAX: usize = 4_000;

/// How an incarnation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LifeEnd {
    /// The machine finished.
    Finished(Outcome),
    /// The coordinator was killed.
    Killed,
    /// There was nothing to do: the run was complete.
    WasComplete,
}

/// The reported events of a run, and its cost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunSummary {
    /// Retried steps.
    pub retries: usize,
    /// Number of rewinds.
    pub rewinds: usize,
    /// Number of opened views.
    pub views: usize,
    /// Why members left, in order.
    pub left: Vec<String>,
    /// Number of computed microbatches.
    pub computed: u64,
    /// Warnings, in order.
    pub warnings: Vec<String>,
    /// Every view's members with their shares of the microbatches.
    pub shares: Vec<Vec<(String, u32)>>,
}

#[derive(Default)]
pub(crate) struct ReplayableMessages {
    pub(crate) readies: Vec<Ready>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) views: Vec<View>,
}

/// A simulated run, with all its processes and its disk.
pub struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) toy: Toy,
    pub(crate) bug: Option<Bug>,
    pub(crate) disk: Disk,
    pub(crate) oracle: Oracle,
    pub(crate) queue: Queue,
    pub(crate) random: Random,
    pub(crate) coordinator: Option<CoordinatorNode>,
    pub(crate) workers: Vec<WorkerNode>,
    pub(crate) archive: ReplayableMessages,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) corrupt_frames: u32,
    /// The worker whose next frame belongs to a step that hasn't begun.
    pub(crate) ahead: Option<usize>,
    /// Indices of the value and the bit that flip in the next donor.
    pub(crate) donor_flip: Option<(usize, u8)>,
    pub(crate) cuts: Partitions,
    /// Attempts to open a data connection so far.
    pub(crate) attempts: u64,
    /// Offset of the coordinator's clock from the world's.
    pub(crate) coordinator_leap: i64,
    pub(crate) idle_ticks: u32,
    /// Time of the last commit.
    pub(crate) last_progress: u64,
    /// When all faults so far are over.
    pub(crate) disturbed_until: u64,
    pub(crate) is_supervised: bool,
    /// All faults have begun; all are over.
    pub(crate) is_healing: bool,
    pub(crate) is_healed: bool,
    pub(crate) stood_still_ms: u64,
    pub(crate) fired: Vec<Chaos>,
    pub(crate) summary: RunSummary,
    /// The coordinator is dead and will be restarted.
    pub(crate) is_restarting: bool,
    /// No local worker can be started until this time.
    pub(crate) launches_fail_until: u64,
    /// No upload can be begun until this time.
    pub(crate) uploads_fail_until: u64,
    /// No export can be written until this time.
    pub(crate) exports_fail_until: u64,
    /// Number of size checks so far.
    pub(crate) looked: u64,
    /// Whether a view had members of different numerics.
    pub(crate) was_mixed: bool,
    /// Whether the exports are written.
    pub(crate) is_exported: bool,
    /// `train.on_nan` of this incarnation.
    pub(crate) on_nan: OnNan,
    /// A restarted coordinator found nothing to do.
    pub(crate) was_complete: bool,
    pub(crate) wait_for: usize,
    /// When this coordinator was started, and when it last lost a member.
    pub(crate) started_at: u64,
    pub(crate) lost_at: Option<u64>,
    trace: Option<Vec<String>>,
}

impl<'a> World<'a> {
    /// Creates a run that hasn't begun.
    #[must_use]
    pub fn new(scenario: &'a Scenario, reference: Option<Arc<Reference>>, bug: Option<Bug>) -> Self {
        Self {
            scenario,
            toy: scenario.toy,
            bug,
            disk: Disk::default(),
            oracle: Oracle::new(reference),
            queue: Queue::default(),
            random: Random::stream(scenario.seed, "world"),
            coordinator: None,
            workers: Vec::new(),
            archive: ReplayableMessages::default(),
            outcome: None,
            corrupt_frames: 0,
            ahead: None,
            donor_flip: None,
            cuts: Partitions::default(),
            attempts: 0,
            coordinator_leap: 0,
            idle_ticks: 0,
            last_progress: 0,
            disturbed_until: 0,
            is_supervised: false,
            is_healing: false,
            is_healed: false,
            stood_still_ms: 0,
            fired: Vec::new(),
            summary: RunSummary::default(),
            is_restarting: false,
            launches_fail_until: 0,
            uploads_fail_until: 0,
            exports_fail_until: 0,
            looked: 0,
            was_mixed: false,
            is_exported: false,
            on_nan: scenario.plan.on_nan,
            was_complete: false,
            wait_for: 1,
            started_at: 0,
            lost_at: None,
            trace: None,
        }
    }

    /// Records a line for every event from now on.
    pub fn start_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// The lines recorded since [`World::start_trace`].
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or(&[])
    }

    /// Compares only the resulting bits, not the origin of slices.
    pub fn compare_bits_alone(&mut self) {
        self.oracle.compares_bits_alone = true;
    }

    /// Whether a flipped bit affected a computation.
    #[must_use]
    pub fn was_tainted(&self) -> bool {
        self.oracle.was_tainted
    }

    /// Whether effects of a flip may still exist.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.oracle.is_tainted
    }

    /// The longest time without a commit after all faults were over, in virtual milliseconds.
    #[must_use]
    pub fn stood_still_ms(&self) -> u64 {
        self.stood_still_ms
    }

    /// Time of the last commit or checkpoint, in virtual milliseconds.
    #[must_use]
    pub fn last_progress_ms(&self) -> u64 {
        self.last_progress
    }

    /// The newest intact checkpoint.
    #[must_use]
    pub fn newest_version(&self) -> Option<(u64, [u8; 32])> {
        self.disk.whole_versions().first().copied()
    }

    /// The events reported so far.
    #[must_use]
    pub fn summary(&self) -> &RunSummary {
        &self.summary
    }

    /// Exit codes and messages of the last incarnation's workers; `None` for killed ones.
    #[must_use]
    pub fn exits(&self) -> Vec<Option<(u8, String)>> {
        self.workers.iter().map(|worker| worker.exit.clone()).collect()
    }

    /// This run's results, as a reference for others.
    #[must_use]
    pub fn to_reference(&self) -> Option<Reference> {
        self.newest_version().map(|(_, digest)| self.oracle.to_reference(digest))
    }

    /// Runs one incarnation: the coordinator and `life.workers` workers start, work and end.
    ///
    /// # Errors
    /// A violation that a checker found.
    pub fn live(&mut self, life: &Incarnation) -> Result<LifeEnd, String> {
        self.prepare(life);
        self.wait_for = life.workers + life.missing;
        if !self.open_coordinator(self.wait_for)? {
            return Ok(LifeEnd::WasComplete);
        }
        for worker in 0..life.workers {
            self.start_worker(Some(worker));
        }
        self.run(life)?;
        let end = match self.outcome.take() {
            Some(outcome) => LifeEnd::Finished(outcome),
            None if self.was_complete => LifeEnd::WasComplete,
            None => LifeEnd::Killed,
        };
        self.check_end(life, &end)?;
        Ok(end)
    }

    fn prepare(&mut self, life: &Incarnation) {
        self.queue.clear();
        self.workers.clear();
        self.coordinator = None;
        self.outcome = None;
        self.corrupt_frames = 0;
        self.ahead = None;
        self.donor_flip = None;
        self.cuts.clear();
        self.coordinator_leap = 0;
        (self.is_restarting, self.was_complete) = (false, false);
        self.is_supervised = life.is_supervised;
        (self.is_healing, self.is_healed) = (false, false);
        self.fired.clear();
        self.disk.journal_fails_until = 0;
        self.disk.journal_hangs_until = 0;
        self.exports_fail_until = 0;
        self.on_nan = if life.stops_at_nan { OnNan::Stop } else { self.scenario.plan.on_nan };
        self.disk.full_until = 0;
        self.toy = self.scenario.toy;
        if life.other_data {
            self.toy.salt ^= 1;
        }
        if life.damaged_version {
            self.damage_newest_version();
        }
        let is_tainted = |version: &StoredVersion| version.state.as_ref().is_some_and(|state| state.tainted);
        let has_tainted_version = self.disk.versions.values().any(is_tainted);
        self.oracle.on_life(has_tainted_version);
    }

    pub(crate) fn damage_newest_version(&mut self) {
        // The initial checkpoint stays intact here: without it the run starts from its seed, which has its own test.
        let newest = self.disk.whole_versions().first().map(|(step, _)| *step).filter(|step| *step > 0);
        let version = newest.and_then(|step| self.disk.versions.get_mut(&step));
        let Some(version) = version else { return };
        version.is_damaged = true;
        if let Some(state) = &mut version.state {
            state.parameters[0] = f32::from_bits(state.parameters[0].to_bits() ^ 1);
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.queue.now();
        if let Some(trace) = &mut self.trace {
            let mut line = line();
            line.truncate(300);
            trace.push(format!("{now:>8} {line}"));
        }
    }

    pub(crate) fn archive<T>(list: &mut Vec<T>, message: T) {
        if list.len() < ARCHIVE_MAX {
            list.push(message);
        }
    }
}
