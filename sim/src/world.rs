//! The world of one run: virtual time, one coordinator at a time, its workers, the disk, and the watch over all.

use std::sync::Arc;

use protocol::coordinator::{OnNan, Outcome};
use protocol::messages::{Commit, EndReason, Ready, View};

use crate::bug::Bug;
use crate::coordinator::CoordinatorNode;
use crate::disk::Disk;
use crate::network::{Queue, What};
use crate::random::Random;
use crate::scenario::{Chaos, Life, Scenario};
use crate::toy::Toy;
use crate::watch::{Finding, Reference, Watch};
use crate::worker::WorkerNode;

/// A life that isn't over by then hangs: all timeouts together are far less.
const LIFE_MS_MAX: u64 = 30 * 60_000;
/// A deadline that its own tick doesn't move so often in a row is no deadline.
const IDLE_TICKS_MAX: u32 = 3;
/// Old messages that are kept to come again.
const ARCHIVE_MAX: usize = 4_000;

/// How a life ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LifeEnd {
    /// The machine finished.
    Finished(Outcome),
    /// The coordinator was killed.
    Killed,
    /// There was nothing to do: the run was complete.
    WasComplete,
}

/// What people were told, and what it cost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Steps that were tried again.
    pub retries: usize,
    /// Times that history went back.
    pub rewinds: usize,
    /// Views.
    pub views: usize,
    /// Why members left, in order.
    pub left: Vec<String>,
    /// Microbatches that were computed.
    pub computed: u64,
}

/// Messages that may come once more.
#[derive(Default)]
pub(crate) struct Archive {
    pub(crate) readies: Vec<Ready>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) views: Vec<View>,
}

/// See the module.
pub struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) toy: Toy,
    pub(crate) bug: Option<Bug>,
    pub(crate) disk: Disk,
    pub(crate) watch: Watch,
    pub(crate) queue: Queue,
    pub(crate) random: Random,
    pub(crate) coordinator: Option<CoordinatorNode>,
    pub(crate) workers: Vec<WorkerNode>,
    pub(crate) archive: Archive,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) corrupt_frames: u32,
    pub(crate) idle_ticks: u32,
    pub(crate) told: Told,
    /// The coordinator is dead and will be started again.
    pub(crate) is_restarting: bool,
    wait_for: usize,
    fired: Vec<Chaos>,
    trace: Option<Vec<String>>,
}

impl<'a> World<'a> {
    /// A run that hasn't begun.
    #[must_use]
    pub fn new(scenario: &'a Scenario, reference: Option<Arc<Reference>>, bug: Option<Bug>) -> Self {
        Self {
            scenario,
            toy: scenario.toy,
            bug,
            disk: Disk::default(),
            watch: Watch::new(reference),
            queue: Queue::default(),
            random: Random::stream(scenario.seed, "world"),
            coordinator: None,
            workers: Vec::new(),
            archive: Archive::default(),
            outcome: None,
            corrupt_frames: 0,
            idle_ticks: 0,
            told: Told::default(),
            is_restarting: false,
            wait_for: 1,
            fired: Vec::new(),
            trace: None,
        }
    }

    /// Keeps a line for everything that happens from now on.
    pub fn start_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// The lines.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or(&[])
    }

    /// Compares bits at the end only: a replica will be made wrong on purpose.
    pub fn be_lenient(&mut self, lenient: bool) {
        self.watch.lenient = lenient;
    }

    /// The newest version that is whole.
    #[must_use]
    pub fn newest_version(&self) -> Option<(u64, [u8; 32])> {
        self.disk.whole_versions().first().copied()
    }

    /// What people were told so far.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Exit codes and messages of the last life's workers; `None` of those that were killed.
    #[must_use]
    pub fn exits(&self) -> Vec<Option<(u8, String)>> {
        self.workers.iter().map(|worker| worker.exit.clone()).collect()
    }

    /// What this run came to, for others to reproduce.
    #[must_use]
    pub fn to_reference(&self) -> Option<Reference> {
        self.newest_version().map(|(_, digest)| self.watch.to_reference(digest))
    }

    /// The coordinator and `life.workers` workers start, live and end.
    ///
    /// # Errors
    /// What a checker found.
    pub fn live(&mut self, life: &Life) -> Result<LifeEnd, String> {
        self.prepare(life);
        self.wait_for = life.workers + life.missing;
        if !self.open_coordinator(self.wait_for)? {
            return Ok(LifeEnd::WasComplete);
        }
        for worker in 0..life.workers {
            self.start_worker(Some(worker));
        }
        self.run(life)?;
        let end = self.outcome.take().map_or(LifeEnd::Killed, LifeEnd::Finished);
        self.check_end(life, &end)?;
        Ok(end)
    }

    fn prepare(&mut self, life: &Life) {
        self.queue.clear();
        self.workers.clear();
        self.coordinator = None;
        self.outcome = None;
        self.corrupt_frames = 0;
        self.is_restarting = false;
        self.fired.clear();
        self.disk.journal_fails_until = 0;
        self.disk.full_until = 0;
        self.toy = self.scenario.toy;
        if life.other_data {
            self.toy.salt ^= 1;
        }
        if life.damaged_version {
            self.damage_newest_version();
        }
    }

    fn damage_newest_version(&mut self) {
        // Version 0 stays whole here: without it the run starts from its seed, which has a test of its own.
        let newest = self.disk.whole_versions().first().map(|(step, _)| *step).filter(|step| *step > 0);
        let version = newest.and_then(|step| self.disk.versions.get_mut(&step));
        if let Some(state) = version.and_then(|version| version.state.as_mut()) {
            state.parameters[0] += 1.0;
        }
    }

    fn run(&mut self, life: &Life) -> Finding {
        let begin = self.queue.now();
        let (mut events, mut chaos) = (0u64, life.chaos.iter().peekable());
        while self.coordinator.is_some()
            || self.is_restarting
            || self.workers.iter().any(|worker| worker.is_alive)
        {
            let Some(what) = self.queue.pop() else {
                return Err(format!("no silent hang: nothing happens any more; {}", self.who_waits()));
            };
            if self.queue.now() > begin + LIFE_MS_MAX {
                return Err(format!("no silent hang: no end in half an hour; {}", self.who_waits()));
            }
            events += 1;
            while let Some((_, event)) = chaos.next_if(|(at, _)| *at <= events) {
                self.note(|| format!("CHAOS {event:?}"));
                self.fired.push(*event);
                self.strike(*event)?;
            }
            self.dispatch(what)?;
        }
        Ok(())
    }

    pub(crate) fn dispatch(&mut self, what: What) -> Finding {
        let process = what.process();
        if let What::Continue(_) = what {
            return self.continue_process(process);
        }
        if let What::StartCoordinator = what {
            self.note(|| "the coordinator is started again".to_owned());
            self.is_restarting = false;
            self.open_coordinator(self.wait_for)?;
            return Ok(());
        }
        if let Some(backlog) = self.backlog(process) {
            backlog.push(what);
            return Ok(());
        }
        self.note(|| format!("{what:?}"));
        match process {
            Some(worker) => self.at_worker(worker, what)?,
            None => self.at_coordinator(what)?,
        }
        self.check_waits()
    }

    /// Where a paused process's events wait.
    fn backlog(&mut self, process: Option<usize>) -> Option<&mut Vec<What>> {
        match process {
            Some(worker) => self.workers.get_mut(worker)?.paused.as_mut(),
            None => self.coordinator.as_mut()?.paused.as_mut(),
        }
    }

    fn continue_process(&mut self, process: Option<usize>) -> Finding {
        let backlog = match process {
            Some(worker) => self.workers.get_mut(worker).and_then(|node| node.paused.take()),
            None => self.coordinator.as_mut().and_then(|node| node.paused.take()),
        };
        if process.is_none() && self.bug == Some(crate::bug::Bug::TrustsTimeAfterPause) {
            self.tick_through_pause()?;
        }
        for what in backlog.unwrap_or_default() {
            self.dispatch(what)?;
        }
        Ok(())
    }

    /// Whatever isn't over has a deadline ahead of it, or work in flight that will answer.
    fn check_waits(&mut self) -> Finding {
        self.arm_ticks();
        if let Some(node) = &self.coordinator
            && node.machine.next_deadline().is_none()
            && node.appending.is_none()
        {
            return Err(format!(
                "no silent hang: the coordinator waits for {} for ever",
                node.machine.waits_for()
            ));
        }
        for (index, node) in self.workers.iter().enumerate().filter(|(_, node)| node.is_alive) {
            if node.machine.as_ref().is_some_and(|machine| machine.next_deadline().is_none()) {
                return Err(format!("no silent hang: worker {index} has no deadline"));
            }
        }
        if self.idle_ticks > IDLE_TICKS_MAX {
            return Err(format!(
                "no silent hang: a deadline passes and nothing changes; {}",
                self.who_waits()
            ));
        }
        Ok(())
    }

    fn who_waits(&self) -> String {
        let mut lines = Vec::new();
        if let Some(node) = &self.coordinator {
            lines.push(format!("the coordinator waits for {}", node.machine.waits_for()));
        }
        for (index, node) in self.workers.iter().enumerate().filter(|(_, node)| node.is_alive) {
            let what =
                node.machine.as_ref().map_or("its start".to_owned(), protocol::worker::Worker::waits_for);
            lines.push(format!("worker {index} waits for {what}"));
        }
        lines.join(", ")
    }

    /// Whether the end fits to what happened.
    fn check_end(&self, life: &Life, end: &LifeEnd) -> Finding {
        let LifeEnd::Finished(outcome) = end else { return Ok(()) };
        let can_stop_by_itself = self.scenario.plan.on_nan == OnNan::Stop && self.toy.nan_sample.is_some();
        let was_harmless = !life.other_data && life.missing == 0 && !can_stop_by_itself;
        let victims: std::collections::BTreeSet<usize> =
            self.fired.iter().filter_map(Chaos::victim).collect();
        let is_one_spared = (0..life.workers).any(|worker| !victims.contains(&worker));
        let was_quiet = was_harmless && is_one_spared && self.fired.iter().all(Chaos::is_benign);
        if was_quiet && outcome.reason != EndReason::Completed {
            return Err(format!("a life without harm ended with \"{}\"", outcome.message));
        }
        let is_code_right = match outcome.reason {
            EndReason::Completed => outcome.code == 0,
            EndReason::Interrupted => outcome.code == 130,
            EndReason::Failed => matches!(outcome.code, 2..=4),
        };
        if !is_code_right {
            return Err(format!("exit code {} of a run that {:?}", outcome.code, outcome.reason));
        }
        if outcome.reason != EndReason::Completed && !outcome.message.contains("--resume") {
            return Err(format!("a message without a way back: \"{}\"", outcome.message));
        }
        if outcome.reason == EndReason::Completed {
            self.watch.on_completed(self.scenario, self.newest_version())?;
        }
        if was_quiet {
            self.check_exits(&victims)?;
        }
        Ok(())
    }

    fn check_exits(&self, victims: &std::collections::BTreeSet<usize>) -> Finding {
        for (index, node) in self.workers.iter().enumerate().filter(|(index, _)| !victims.contains(index)) {
            match &node.exit {
                Some((0, _)) | None => {}
                Some((2 | 4, _)) if node.is_late => {} // Refused, or after the end.
                Some((4, message)) if message.contains("no coordinator was reached") => {} // Put out before the end.
                Some((code, message)) => {
                    return Err(format!("worker {index} of a completed run exited with {code}: {message}"));
                }
            }
        }
        Ok(())
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
