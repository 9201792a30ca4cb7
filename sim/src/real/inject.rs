//! Injects faults into real processes and connections.

use std::process::Child;

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::chaos_run::{ChaosRun, PendingRepair};
use super::fault::Fault;
use super::growth::GUESTS_MAX;
use super::processes::{self, FoundProcess};
use super::proxy::Proxy;

impl ChaosRun<'_> {
    /// Injects a fault if there is a target for it.
    pub(super) fn inject(&mut self, fault: Fault) -> anyhow::Result<()> {
        let kind = fault.kind();
        let is_done = match fault {
            Fault::KillWorker { pick } => self.signal_worker(pick, Signal::KILL, kind).is_some(),
            Fault::TermWorker { pick } => self.signal_worker(pick, Signal::TERM, kind).is_some(),
            Fault::StopWorker { pick, pause_ms } => {
                let stopped = self.signal_worker(pick, Signal::STOP, kind);
                if let Some(pid) = stopped {
                    self.later(pause_ms, PendingRepair::Continue { pid });
                }
                stopped.is_some()
            }
            Fault::Guest { proxied } => self.guest(proxied)?.is_some(),
            Fault::Swarm { guests } => self.swarm(guests)?,
            Fault::JoinKill { donor, pause_ms } => self.kill_at_join(donor, pause_ms)?,
            Fault::StopCoordinator { pause_ms } => match self.coordinator.as_ref().map(Child::id) {
                Some(pid) if processes::signal(self.folder.path(), pid, Signal::STOP) => {
                    self.tell(&format!("coordinator {pid} stops for {pause_ms} ms"));
                    self.later(pause_ms, PendingRepair::Continue { pid });
                    true
                }
                _ => false,
            },
            Fault::KillCoordinator { pause_ms } => self.kill_coordinator(pause_ms)?,
            Fault::Partition { pick, plane, lost, pause_ms } => match self.proxied(pick) {
                Some(guest) => {
                    self.proxies[guest].lose(plane, lost);
                    self.tell(&format!("proxy {guest} loses {lost:?} of {plane:?} for {pause_ms} ms"));
                    self.later(pause_ms, PendingRepair::Heal { guest });
                    true
                }
                None => false,
            },
        };
        if is_done {
            *self.faults.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    fn signal_worker(&mut self, pick: usize, signal: Signal, kind: &str) -> Option<u32> {
        let workers = self.folder.workers();
        let FoundProcess { pid, name, .. } = workers.get(pick % workers.len().max(1))?.clone();
        if !processes::signal(self.folder.path(), pid, signal) {
            return None;
        }
        self.tell(&format!("{kind} {name} ({pid})"));
        self.struck.push(pid);
        Some(pid)
    }

    fn kill_coordinator(&mut self, pause_ms: u64) -> anyhow::Result<bool> {
        let Some(child) = &mut self.coordinator else { return Ok(false) };
        let ended = child.try_wait().context("the coordinator can't be waited for")?;
        // The main loop handles a coordinator that has ended.
        if ended.is_some() {
            return Ok(false);
        }
        let pid = child.id();
        child.kill().context("the coordinator can't be killed")?;
        child.wait().context("the coordinator can't be waited for")?;
        self.coordinator = None;
        self.tell(&format!("coordinator {pid} is killed; again in {pause_ms} ms"));
        self.later(pause_ms, PendingRepair::Restart);
        Ok(true)
    }

    /// The proxy of one of the living guests that have one.
    fn proxied(&self, pick: usize) -> Option<usize> {
        let workers = self.folder.workers();
        let is_alive = |pid: u32| workers.iter().any(|worker| worker.pid == pid);
        let alive: Vec<usize> =
            (0..self.proxied.len()).filter(|proxy| is_alive(self.proxied[*proxy])).collect();
        alive.get(pick % alive.len().max(1)).copied()
    }

    /// Starts another worker, if there is room for one: returns its process id.
    pub(super) fn guest(&mut self, proxied: bool) -> anyhow::Result<Option<u32>> {
        if self.folder.guests() >= GUESTS_MAX {
            return Ok(None);
        }
        let run_dir = self.folder.run_dir();
        let name = format!("guest-{}", self.guests);
        self.guests += 1;
        let url = if proxied {
            self.proxies.push(Proxy::new(&run_dir, self.proxies.len())?);
            self.proxies.last().map(Proxy::url)
        } else {
            std::fs::read_to_string(run_dir.join("address")).ok().map(|text| text.trim().to_owned())
        };
        let Some(url) = url else { bail!("{} has no address that can be read", run_dir.display()) };
        let pid = self.folder.guest(&name, &url)?;
        if proxied {
            self.proxied.push(pid);
        }
        let way = if proxied { format!("proxy {}", self.proxies.len() - 1) } else { "no proxy".to_owned() };
        self.tell(&format!("{name} ({pid}) comes, by {way}"));
        Ok(Some(pid))
    }

    /// Starts several guests at once; returns whether there was room for at least two.
    fn swarm(&mut self, guests: usize) -> anyhow::Result<bool> {
        let mut came = 0;
        for number in 0..guests {
            came += usize::from(self.guest(number % 2 == 0)?.is_some());
        }
        Ok(came > 1)
    }

    /// Starts a worker, and a moment later kills it, or the most likely donor of its state.
    fn kill_at_join(&mut self, donor: bool, pause_ms: u64) -> anyhow::Result<bool> {
        let Some(joiner) = self.guest(false)? else { return Ok(false) };
        // Donors are asked in rank order: local workers first.
        let first = self.folder.workers().into_iter().find(|worker| worker.name == "worker-0");
        let pid = if donor { first.map_or(joiner, |worker| worker.pid) } else { joiner };
        self.later(pause_ms, PendingRepair::Kill { pid });
        Ok(true)
    }
}
