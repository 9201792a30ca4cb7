//! One run under faults: strikes, heals, and waits for the end.

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use super::fault::Fault;
use super::place::{self, Place};
use super::processes::{self, Found};
use super::proxy::Proxy;
use crate::random::Random;

/// Longest that a run may take, with all its faults.
const DEADLINE: Duration = Duration::from_secs(90);
/// Most guests alive at once.
const GUESTS_MAX: usize = 6;
/// After a run's end its workers have so long to end too.
const GRACE: Duration = Duration::from_secs(3);
/// After the storm, how often it is seen to that the run has a worker.
const RESCUE_EVERY: Duration = Duration::from_secs(2);
/// How often this program looks around.
const LOOK: Duration = Duration::from_millis(10);

/// What a run went through that completed with the right digest.
#[derive(Clone, Debug)]
pub struct Survived {
    seed: u64,
    model: &'static str,
    /// How often each kind of fault struck.
    pub faults: BTreeMap<&'static str, u32>,
    views: u64,
    retries: u64,
    seconds: f64,
    /// Workers that were still there some seconds after the end, with their last words; they were killed.
    strays: Vec<String>,
    /// Guests that ended with another exit code than 0 or by a signal that nobody sent.
    guests_failed: usize,
}

impl fmt::Display for Survived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, model, views, retries, seconds, strays, guests_failed, .. } = self;
        write!(f, "seed {seed} ({model}): {}; ", by_kind(&self.faults))?;
        write!(f, "{views} views, {retries} retries, {seconds:.1} s, digest ok")?;
        if !strays.is_empty() {
            write!(f, "; outlived the run: {}", strays.join(", "))?;
        }
        if *guests_failed > 0 {
            write!(f, "; {guests_failed} guests failed")?;
        }
        Ok(())
    }
}

/// `3 kill, 1 stop`.
#[must_use]
pub fn by_kind(faults: &BTreeMap<&'static str, u32>) -> String {
    let parts: Vec<String> = faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if parts.is_empty() { "no faults".to_owned() } else { parts.join(", ") }
}

/// A run that was not survived, with all that is known of it.
#[derive(Debug)]
pub struct Failure {
    seed: u64,
    why: String,
    events: Vec<String>,
    said: String,
    folder: String,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} FAILED: {}", self.seed, self.why)?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        write!(f, "{}", self.said)?;
        if self.folder.is_empty() { Ok(()) } else { write!(f, "folder: {}", self.folder) }
    }
}

impl Failure {
    pub(super) fn before_strikes(seed: u64, why: &anyhow::Error) -> Box<Self> {
        let (events, said, folder) = (Vec::new(), String::new(), String::new());
        Box::new(Self { seed, why: format!("before any fault: {why:#}"), events, said, folder })
    }
}

/// What was begun and has to be ended later.
#[derive(Debug)]
enum Later {
    Continue { pid: u32 },
    Restart,
    Heal { guest: usize },
}

struct Storm<'a> {
    place: &'a mut Place,
    local_workers: String,
    coordinator: Option<Child>,
    proxies: Vec<Proxy>,
    later: Vec<(Instant, Later)>,
    began: Instant,
    events: Vec<String>,
    faults: BTreeMap<&'static str, u32>,
    struck: Vec<u32>,
    guests: usize,
    guests_failed: usize,
}

/// Runs a storm in a place and compares its digest with the quiet one.
pub(super) fn run(
    place: &mut Place,
    seed: u64,
    strikes: Duration,
    digest: &str,
) -> Result<Survived, Box<Failure>> {
    let mut random = Random::stream(seed, "real faults");
    let local_workers = random.between(2, 3).to_string();
    let mut storm = Storm {
        place,
        local_workers,
        coordinator: None,
        proxies: Vec::new(),
        later: Vec::new(),
        began: Instant::now(),
        events: Vec::new(),
        faults: BTreeMap::new(),
        struck: Vec::new(),
        guests: 0,
        guests_failed: 0,
    };
    let outcome = storm.ride(seed, &mut random, strikes, digest);
    outcome.map_err(|why| {
        let said = storm.place.tail(60);
        let folder = storm.place.path().display().to_string();
        Box::new(Failure {
            seed,
            why: format!("{why:#}"),
            events: std::mem::take(&mut storm.events),
            said,
            folder,
        })
    })
}

impl Storm<'_> {
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
        let record = self.place.record()?;
        ensure!(record["status"] == "completed", "run.json says status = {}", record["status"]);
        let own = place::digest(&record)?;
        ensure!(own == digest, "its digest is {own}, the quiet run's is {digest}");
        let strays = self.strays();
        Ok(Survived {
            seed,
            model: self.place.small.name(),
            faults: std::mem::take(&mut self.faults),
            views: record["views"].as_u64().unwrap_or(0),
            retries: record["retries"].as_u64().unwrap_or(0),
            seconds,
            strays,
            guests_failed: self.guests_failed,
        })
    }

    fn start(&mut self, resume: bool) -> anyhow::Result<()> {
        let workers = self.local_workers.clone();
        let mut arguments = vec!["--local-workers", &workers];
        if resume {
            arguments.push("--resume");
        }
        let child = self.place.coordinator(&arguments)?;
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
            for (pid, status) in self.place.bury() {
                if !status.success() && !self.struck.contains(&pid) {
                    self.guests_failed += 1;
                    self.tell(&format!("guest {pid} ended by itself with {status}"));
                }
            }
            self.due(healed)?;
            if let Some(child) = &mut self.coordinator
                && let Some(status) = child.try_wait().context("the coordinator can't be waited for")?
            {
                self.tell(&format!("coordinator ended with {status}"));
                return Ok(status);
            }
            // The first fault waits for a run that others can find.
            if next.is_none() && self.place.run_dir().join("address").exists() {
                next = Some(Instant::now() + Duration::from_millis(pause_ms));
            }
            if self.began.elapsed() > strikes {
                if !healed && self.later.is_empty() {
                    healed = true;
                    self.tell("the storm is over");
                    rescue = Instant::now();
                }
                // A worker that was told to leave may be the last one, and gone only now.
                if healed && Instant::now() >= rescue {
                    self.rescue()?;
                    rescue = Instant::now() + RESCUE_EVERY;
                }
            } else if next.is_some_and(|next| Instant::now() >= next) {
                self.strike(fault)?;
                (pause_ms, fault) = Fault::draw(random);
                next = Some(Instant::now() + Duration::from_millis(pause_ms));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends what was begun, when it is time.
    fn due(&mut self, all: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| all || *at <= now);
        self.later = later;
        for (_, what) in due {
            match what {
                Later::Continue { pid } => {
                    if processes::signal(self.place.path(), pid, Signal::CONT) {
                        self.tell(&format!("{pid} goes on"));
                    }
                }
                Later::Restart => self.start(true)?,
                Later::Heal { guest } => {
                    self.proxies[guest].heal();
                    self.tell(&format!("proxy {guest} is healed"));
                }
            }
        }
        Ok(())
    }

    /// A run that all workers have left waits for people to start others, so somebody does.
    fn rescue(&mut self) -> anyhow::Result<()> {
        if self.place.workers().is_empty() && self.place.run_dir().join("token").exists() {
            self.guest(false)?;
        }
        Ok(())
    }

    /// Does what a fault says, if there is somebody to do it to.
    fn strike(&mut self, fault: Fault) -> anyhow::Result<()> {
        let kind = fault.kind();
        let is_done = match fault {
            Fault::KillWorker { pick } => self.signal_worker(pick, Signal::KILL, kind).is_some(),
            Fault::TermWorker { pick } => self.signal_worker(pick, Signal::TERM, kind).is_some(),
            Fault::StopWorker { pick, pause_ms } => {
                let stopped = self.signal_worker(pick, Signal::STOP, kind);
                if let Some(pid) = stopped {
                    self.later(pause_ms, Later::Continue { pid });
                }
                stopped.is_some()
            }
            Fault::Guest { proxied } => self.place.guests() < GUESTS_MAX && self.guest(proxied)?,
            Fault::StopCoordinator { pause_ms } => match self.coordinator.as_ref().map(Child::id) {
                Some(pid) if processes::signal(self.place.path(), pid, Signal::STOP) => {
                    self.tell(&format!("coordinator {pid} stops for {pause_ms} ms"));
                    self.later(pause_ms, Later::Continue { pid });
                    true
                }
                _ => false,
            },
            Fault::KillCoordinator { pause_ms } => self.kill_coordinator(pause_ms)?,
            Fault::Partition { pick, lost, pause_ms } => {
                let is_done = !self.proxies.is_empty();
                if is_done {
                    let guest = pick % self.proxies.len();
                    self.proxies[guest].lose(lost);
                    self.tell(&format!("proxy {guest} loses {lost:?} for {pause_ms} ms"));
                    self.later(pause_ms, Later::Heal { guest });
                }
                is_done
            }
        };
        if is_done {
            *self.faults.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    fn signal_worker(&mut self, pick: usize, signal: Signal, kind: &str) -> Option<u32> {
        let workers = self.place.workers();
        let Found { pid, name, .. } = workers.get(pick % workers.len().max(1))?.clone();
        if !processes::signal(self.place.path(), pid, signal) {
            return None;
        }
        self.tell(&format!("{kind} {name} ({pid})"));
        self.struck.push(pid);
        Some(pid)
    }

    fn kill_coordinator(&mut self, pause_ms: u64) -> anyhow::Result<bool> {
        let Some(child) = &mut self.coordinator else { return Ok(false) };
        let ended = child.try_wait().context("the coordinator can't be waited for")?;
        // One that has ended is for the loop to look at.
        if ended.is_some() {
            return Ok(false);
        }
        let pid = child.id();
        child.kill().context("the coordinator can't be killed")?;
        child.wait().context("the coordinator can't be waited for")?;
        self.coordinator = None;
        self.tell(&format!("coordinator {pid} is killed; again in {pause_ms} ms"));
        self.later(pause_ms, Later::Restart);
        Ok(true)
    }

    fn guest(&mut self, proxied: bool) -> anyhow::Result<bool> {
        let address_file = self.place.run_dir().join("address");
        let name = format!("guest-{}", self.guests);
        self.guests += 1;
        let url = if proxied {
            self.proxies.push(Proxy::new(&address_file)?);
            self.proxies.last().map(Proxy::url)
        } else {
            std::fs::read_to_string(&address_file).ok().map(|text| text.trim().to_owned())
        };
        let Some(url) = url else { bail!("{} can't be read", address_file.display()) };
        let pid = self.place.guest(&name, &url)?;
        let way = if proxied { format!("proxy {}", self.proxies.len() - 1) } else { "no proxy".to_owned() };
        self.tell(&format!("{name} ({pid}) comes, by {way}"));
        Ok(true)
    }

    fn later(&mut self, pause_ms: u64, what: Later) {
        self.later.push((Instant::now() + Duration::from_millis(pause_ms), what));
    }

    /// Workers that are there some time after the run's end, when all faults are healed.
    fn strays(&mut self) -> Vec<String> {
        // Nothing is started any more.
        self.later.retain(|(_, what)| !matches!(what, Later::Restart));
        let end = Instant::now() + GRACE;
        loop {
            let _ = self.due(true);
            self.place.bury();
            let strays = self.place.workers();
            if strays.is_empty() || Instant::now() > end {
                return strays.iter().map(|worker| self.last_words(worker)).collect();
            }
            std::thread::sleep(LOOK);
        }
    }

    fn last_words(&self, worker: &Found) -> String {
        let Found { pid, name, .. } = worker;
        let logs = [format!("{name}.err"), format!("runs/chaos/logs/{name}.log")];
        let read = |log: &String| std::fs::read_to_string(self.place.path().join(log)).ok();
        let said = logs.iter().find_map(read).unwrap_or_default();
        format!("{name} ({pid}): {:?}", said.lines().last().unwrap_or("said nothing"))
    }

    fn tell(&mut self, what: &str) {
        self.events.push(format!("{:7.3} s  {what}", self.began.elapsed().as_secs_f64()));
    }
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        processes::kill_all(self.place.path());
        if let Some(child) = &mut self.coordinator {
            // Killed above, or ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
