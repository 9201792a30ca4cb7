//! One run under faults: injects them, repairs them, and waits for the end.

use std::collections::BTreeMap;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::fault::Fault;
use super::growth::Growth;
use super::outcome::{self, Failure, Survived};
use super::processes::{self, FoundProcess};
use super::proxy::Proxy;
use super::test_folder::{self, TestFolder};
use crate::random::Random;

/// Maximum duration of a run, with all its faults.
const DEADLINE: Duration = Duration::from_secs(90);
/// For how long workers may outlive their run.
const GRACE: Duration = Duration::from_secs(3);
/// Once all faults are repaired, how often the run is checked for having a worker.
const RESCUE_EVERY: Duration = Duration::from_secs(2);
/// The polling interval of this program.
const LOOK: Duration = Duration::from_millis(10);

/// The delayed end of a fault.
#[derive(Debug)]
pub(super) enum PendingRepair {
    Continue { pid: u32 },
    Kill { pid: u32 },
    Restart,
    Heal { guest: usize },
}

pub(super) struct ChaosRun<'a> {
    pub(super) folder: &'a mut TestFolder,
    local_workers: String,
    pub(super) coordinator: Option<Child>,
    pub(super) proxies: Vec<Proxy>,
    /// The process ids of the guests behind the proxies.
    pub(super) proxied: Vec<u32>,
    later: Vec<(Instant, PendingRepair)>,
    began: Instant,
    events: Vec<String>,
    pub(super) faults: BTreeMap<&'static str, u32>,
    pub(super) struck: Vec<u32>,
    pub(super) guests: usize,
    /// Guests that ended with a nonzero exit code or by a signal that nobody sent.
    guests_failed: usize,
    growth: Growth,
}

/// Runs a storm in a folder and compares its digest with the quiet run's.
pub(super) fn run(
    folder: &mut TestFolder,
    seed: u64,
    strikes: Duration,
    digest: &str,
) -> Result<Survived, Box<Failure>> {
    let mut random = Random::stream(seed, "real faults");
    let local_workers = random.between(2, 3).to_string();
    let mut storm = ChaosRun {
        folder,
        local_workers,
        coordinator: None,
        proxies: Vec::new(),
        proxied: Vec::new(),
        later: Vec::new(),
        began: Instant::now(),
        events: Vec::new(),
        faults: BTreeMap::new(),
        struck: Vec::new(),
        guests: 0,
        guests_failed: 0,
        growth: Growth::default(),
    };
    let outcome = storm.ride(seed, &mut random, strikes, digest);
    outcome.map_err(|why| {
        let said = storm.folder.tail(60);
        let folder = storm.folder.path().display().to_string();
        Box::new(Failure {
            seed,
            strikes,
            why: format!("{why:#}"),
            events: std::mem::take(&mut storm.events),
            said,
            folder,
        })
    })
}

impl ChaosRun<'_> {
    fn ride(
        &mut self,
        seed: u64,
        random: &mut Random,
        strikes: Duration,
        digest: &str,
    ) -> anyhow::Result<Survived> {
        self.start(false)?;
        let status = self.strike_until_the_end(random, strikes)?;
        let seconds = self.began.elapsed().as_secs_f64();
        ensure!(status.code() == Some(0), "the coordinator ended with {status}");
        let record = self.folder.record()?;
        ensure!(record["status"] == "completed", "run.json says status = {}", record["status"]);
        let own = test_folder::digest(&record)?;
        ensure!(own == digest, "its digest is {own}, the quiet run's is {digest}");
        self.growth.check()?;
        // A worker that is partitioned or stopped as the run ends can't know that it has.
        let is_calm = self.later.is_empty();
        let strays = self.strays();
        ensure!(strays.is_empty() || !is_calm, "workers outlived the run: {}", strays.join(", "));
        ensure!(self.guests_failed == 0, "{} guests failed by themselves", self.guests_failed);
        Ok(Survived {
            seed,
            model: self.folder.small.name(),
            faults: std::mem::take(&mut self.faults),
            views: record["views"].as_u64().unwrap_or(0),
            retries: record["retries"].as_u64().unwrap_or(0),
            seconds,
            evidence: outcome::evidence(&record),
        })
    }

    fn start(&mut self, resume: bool) -> anyhow::Result<()> {
        let workers = self.local_workers.clone();
        let mut arguments = vec!["--local-workers", &workers];
        if resume {
            arguments.push("--resume");
        }
        let child = self.folder.coordinator(&arguments)?;
        self.tell(&format!("coordinator {} started, {}", child.id(), arguments.join(" ")));
        self.coordinator = Some(child);
        Ok(())
    }

    fn strike_until_the_end(&mut self, random: &mut Random, strikes: Duration) -> anyhow::Result<ExitStatus> {
        let (mut pause_ms, mut fault) = Fault::draw(random);
        let mut next = None;
        let (mut healed, mut rescue) = (false, Instant::now());
        loop {
            ensure!(self.began.elapsed() < DEADLINE, "it did not complete within {DEADLINE:?}");
            for (pid, status) in self.folder.bury() {
                if !status.success() && !self.struck.contains(&pid) {
                    self.guests_failed += 1;
                    self.tell(&format!("guest {pid} ended by itself with {status}"));
                }
            }
            let folder = self.folder.path().to_owned();
            self.growth.look(Instant::now(), || processes::of_folder(&folder));
            self.due(healed)?;
            if let Some(child) = &mut self.coordinator
                && let Some(status) = child.try_wait().context("the coordinator can't be waited for")?
            {
                self.tell(&format!("coordinator ended with {status}"));
                return Ok(status);
            }
            // The first fault waits for a run that others can find, and for a guest whose connections can be cut.
            if next.is_none() && self.folder.run_dir().join("token").exists() {
                self.guest(true)?;
                next = Some(Instant::now() + Duration::from_millis(pause_ms));
            }
            if self.began.elapsed() > strikes {
                if !healed && self.later.is_empty() {
                    healed = true;
                    self.tell("the storm is over");
                    rescue = Instant::now();
                }
                // A worker that was told to leave may be the last one, and may have gone only now.
                if healed && Instant::now() >= rescue {
                    self.rescue()?;
                    rescue = Instant::now() + RESCUE_EVERY;
                }
            } else if next.is_some_and(|next| Instant::now() >= next) {
                self.inject(fault)?;
                (pause_ms, fault) = Fault::draw(random);
                next = Some(Instant::now() + Duration::from_millis(pause_ms));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends the faults that are due.
    fn due(&mut self, all: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| all || *at <= now);
        self.later = later;
        for (_, what) in due {
            match what {
                PendingRepair::Continue { pid } => {
                    if processes::signal(self.folder.path(), pid, Signal::CONT) {
                        self.tell(&format!("{pid} goes on"));
                    }
                }
                PendingRepair::Kill { pid } => {
                    self.struck.push(pid);
                    if processes::signal(self.folder.path(), pid, Signal::KILL) {
                        self.tell(&format!("{pid} is killed, where a worker joins"));
                    }
                }
                PendingRepair::Restart => self.start(true)?,
                PendingRepair::Heal { guest } => {
                    self.proxies[guest].heal();
                    self.tell(&format!("proxy {guest} is healed"));
                }
            }
        }
        Ok(())
    }

    /// A run that all workers have left waits for people to start others, so this does.
    fn rescue(&mut self) -> anyhow::Result<()> {
        if self.folder.workers().is_empty() && self.folder.run_dir().join("token").exists() {
            self.guest(false)?;
        }
        Ok(())
    }

    pub(super) fn later(&mut self, pause_ms: u64, what: PendingRepair) {
        self.later.push((Instant::now() + Duration::from_millis(pause_ms), what));
    }

    /// Workers that are still alive some time after the run's end, when all faults are repaired.
    fn strays(&mut self) -> Vec<String> {
        // Nothing is restarted any more.
        self.later.retain(|(_, what)| !matches!(what, PendingRepair::Restart));
        let end = Instant::now() + GRACE;
        loop {
            let _ = self.due(true);
            self.folder.bury();
            let mut strays = self.folder.workers();
            // A worker that came when the run was already gone retries until its join timeout.
            strays.retain(|worker| self.said(worker).contains("admitted run"));
            if strays.is_empty() || Instant::now() > end {
                return strays.iter().map(|worker| self.last_words(worker)).collect();
            }
            std::thread::sleep(LOOK);
        }
    }

    fn last_words(&self, worker: &FoundProcess) -> String {
        let said = self.said(worker);
        format!("{} ({}): {:?}", worker.name, worker.pid, said.lines().last().unwrap_or("said nothing"))
    }

    /// The whole output of a worker of this name.
    fn said(&self, worker: &FoundProcess) -> String {
        let logs = [format!("{}.err", worker.name), format!("runs/chaos/logs/{}.log", worker.name)];
        let read = |log: &String| std::fs::read_to_string(self.folder.path().join(log)).ok();
        logs.iter().find_map(read).unwrap_or_default()
    }

    pub(super) fn tell(&mut self, what: &str) {
        self.events.push(format!("{:7.3} s  {what}", self.began.elapsed().as_secs_f64()));
    }
}

impl Drop for ChaosRun<'_> {
    fn drop(&mut self) {
        processes::kill_all(self.folder.path());
        if let Some(child) = &mut self.coordinator {
            // Killed above, or ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
