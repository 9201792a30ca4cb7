//! Local workers: one process per slot, each in its own process group, so that Ctrl-C reaches only the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::event::DriverEvent;

/// How to start local workers.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The worker binary.
    pub(crate) binary: PathBuf,
    /// Control address for the workers to join.
    pub(crate) url: String,
    /// File with the run's token.
    pub(crate) token_file: PathBuf,
    /// Whether to pass `--insecure`: the run uses plain text even off loopback.
    pub(crate) insecure: bool,
    /// Folder for the workers' logs.
    pub(crate) logs: PathBuf,
    /// `--device` of each slot; the length is the number of slots.
    pub(crate) devices: Vec<String>,
}

/// The worker binary: `local.worker_binary`, else `worker` next to the coordinator.
pub(crate) fn worker_binary(configured: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = configured {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        bail!("local.worker_binary = {}: there is no such file", path.display());
    }
    let own = std::env::current_exe().context("the coordinator's own path can't be had")?;
    let beside = own.with_file_name("worker");
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "there is no worker program at {}: build it (cargo build --release), or name it with local.worker_binary, \
         or start workers yourself and pass --local-workers 0",
        beside.display()
    );
}

/// The device of each slot: from `local.devices`, else the GPUs in turn if there are any, else `cpu`.
///
/// The coordinator never links burn, so it asks the worker binary to list the devices.
pub(crate) async fn devices(setting: &str, slots: u32, worker: &Path) -> anyhow::Result<Vec<String>> {
    if slots == 0 {
        return Ok(Vec::new());
    }
    if setting != "auto" {
        let named: Vec<&str> = setting.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if named.is_empty() {
            bail!("local.devices = {setting:?} names no device");
        }
        return Ok((0..slots as usize).map(|slot| named[slot % named.len()].to_owned()).collect());
    }
    let asked = Command::new(worker).arg("--list-devices").stdin(Stdio::null()).kill_on_drop(true).output();
    let listed = tokio::time::timeout(LIST_DEVICES_DEADLINE, asked)
        .await
        .with_context(|| format!("{} --list-devices gave no answer in 60 s", worker.display()))?
        .with_context(|| format!("{} can't be run", worker.display()))?;
    let gpus = hardware_gpus(&String::from_utf8_lossy(&listed.stdout));
    Ok((0..slots as usize)
        .map(|slot| if gpus.is_empty() { "cpu".to_owned() } else { gpus[slot % gpus.len()].clone() })
        .collect())
}

const LIST_DEVICES_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// The names of the real GPUs in the output of `worker --list-devices`: the first word of each line. Lines that contain
/// `software` are emulated adapters.
fn hardware_gpus(listing: &str) -> Vec<String> {
    let gpus = |kind: &str| -> Vec<String> {
        listing
            .lines()
            .filter(|line| !line.contains("software"))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with(kind))
            .map(str::to_owned)
            .collect()
    };
    // One kind for all slots: kinds differ in their numerics.
    ["cuda", "vulkan", "wgpu"].into_iter().map(gpus).find(|found| !found.is_empty()).unwrap_or_default()
}

/// Maximum number of restarts in a row of a slot whose workers take part in no step. They span a quarter of a minute,
/// in which a transient cause may pass.
const RESTARTS_MAX: u32 = 5;
/// Pause before the first restart of a slot; it doubles each time.
const RESTART_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

pub(crate) struct LocalWorkerPool {
    launch: Launch,
    driver_events: mpsc::Sender<DriverEvent>,
    workers: Vec<LocalWorker>,
    /// Slots whose process was started here and has not exited yet.
    running: BTreeSet<u32>,
    /// Restarts of each slot since its worker last took part in a step.
    restarts: BTreeMap<u32, u32>,
    /// Slots that are not restarted any more.
    given_up: BTreeSet<u32>,
}

impl LocalWorkerPool {
    pub(crate) fn new(launch: Launch, driver_events: mpsc::Sender<DriverEvent>) -> Self {
        let (running, restarts, given_up) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { launch, driver_events, workers: Vec::new(), running, restarts, given_up }
    }

    pub(crate) fn slots(&self) -> std::ops::Range<u32> {
        0..self.launch.devices.len() as u32
    }

    /// Starts a worker in a slot. Its exit is reported as [`DriverEvent::WorkerExited`].
    pub(crate) fn start(&mut self, slot: u32) -> anyhow::Result<()> {
        let worker = self.launch.start(slot as usize, self.driver_events.clone())?;
        self.workers.retain(|worker| !worker.watcher.is_finished());
        self.workers.push(worker);
        self.running.insert(slot);
        Ok(())
    }

    /// Whether a process started here is running in the slot.
    pub(crate) fn runs(&self, slot: u32) -> bool {
        self.running.contains(&slot)
    }

    /// Records that the slot's process has exited.
    pub(crate) fn ended(&mut self, slot: u32) {
        self.running.remove(&slot);
    }

    /// Schedules a start of the slots after a pause; slots that workers have joined by then are skipped.
    pub(crate) fn start_later(&self, slots: Vec<u32>, pause: std::time::Duration) {
        let driver_events = self.driver_events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // Fails only if the run is over, which needs no workers.
            let _ = driver_events.send(DriverEvent::StartLocal { slots }).await;
        });
    }

    /// How many of the slot's workers in a row have exited without taking part in a step.
    pub(crate) fn ends_in_a_row(&self, slot: u32) -> u32 {
        self.restarts.get(&slot).copied().unwrap_or_default()
    }

    /// Schedules a restart of a slot whose worker was lost; returns false and gives the slot up after too many
    /// restarts.
    pub(crate) fn start_again(&mut self, slot: u32) -> bool {
        let restarts = self.restarts.entry(slot).or_default();
        *restarts = restarts.saturating_add(1);
        let pause = RESTART_PAUSE * 2u32.saturating_pow(*restarts - 1);
        let makes_sense = *restarts <= RESTARTS_MAX;
        if makes_sense {
            self.start_later(vec![slot], pause);
        } else {
            self.give_up(slot);
        }
        makes_sense
    }

    /// Stops restarting the slot.
    pub(crate) fn give_up(&mut self, slot: u32) {
        self.given_up.insert(slot);
    }

    /// Whether no slot has a running process or will get one.
    pub(crate) fn are_all_given_up(&self) -> bool {
        self.running.is_empty() && self.slots().all(|slot| self.given_up.contains(&slot))
    }

    /// The slot's worker took part in a step: resets its restart count.
    pub(crate) fn took_part(&mut self, slot: u32) {
        self.restarts.remove(&slot);
        self.given_up.remove(&slot);
    }

    /// Sends SIGKILL to all workers.
    pub(crate) fn kill(&self) {
        self.workers.iter().for_each(LocalWorker::kill);
    }

    /// Waits until the deadline for the workers to exit, then kills them.
    pub(crate) async fn finish(self, deadline: tokio::time::Instant) {
        for worker in self.workers {
            worker.finish(deadline).await;
        }
    }
}

impl Launch {
    fn start(&self, slot: usize, driver_events: mpsc::Sender<DriverEvent>) -> anyhow::Result<LocalWorker> {
        let log_path = self.logs.join(format!("worker-{slot}.log"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("{} can't be opened", log_path.display()))?;
        let mut command = std::process::Command::new(&self.binary);
        command
            .arg("--coordinator")
            .arg(&self.url)
            .arg("--device")
            .arg(&self.devices[slot])
            .arg("--token-file")
            .arg(&self.token_file)
            .arg("--slot")
            .arg(slot.to_string())
            .arg("--name")
            .arg(format!("worker-{slot}"))
            .args(self.insecure.then_some("--insecure"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let mut child = Command::from(command)
            .spawn()
            .with_context(|| format!("{} can't be started", self.binary.display()))?;
        let pid = child.id();
        let watcher = tokio::spawn(async move {
            let status = watch(&mut child).await;
            // Fails only if the driver is gone, which needs no notice.
            let _ = driver_events
                .send(DriverEvent::WorkerExited { slot: slot as u32, status, log: log_path })
                .await;
        });
        Ok(LocalWorker { pid, watcher })
    }
}

async fn watch(child: &mut Child) -> Option<ExitStatus> {
    child.wait().await.ok()
}

/// A local worker process.
pub(crate) struct LocalWorker {
    pid: Option<u32>,
    watcher: tokio::task::JoinHandle<()>,
}

impl LocalWorker {
    /// Waits until the deadline for the worker to exit, then kills it.
    pub(crate) async fn finish(mut self, deadline: tokio::time::Instant) {
        if tokio::time::timeout_at(deadline, &mut self.watcher).await.is_ok() {
            return;
        }
        self.kill();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), &mut self.watcher).await;
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        if self.watcher.is_finished() {
            return;
        }
        if let Some(pid) = self.pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The end of a worker's log, for error messages.
pub(crate) fn last_lines(log: &Path) -> String {
    const LINES: usize = 6;
    let Ok(text) = std::fs::read_to_string(log) else { return String::new() };
    let lines: Vec<&str> = text.lines().rev().take(LINES).collect();
    if lines.is_empty() {
        return format!("; its log {} is empty", log.display());
    }
    let said: Vec<&str> = lines.into_iter().rev().collect();
    format!("; the end of {}:\n  {}", log.display(), said.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_of_one_kind_and_real() {
        let listing =
            "cpu      flex, 2 cores\nndarray  \nwgpu:0   NVIDIA H100\nwgpu:1   llvmpipe (software)\n";
        assert_eq!(hardware_gpus(listing), ["wgpu:0"]);
        assert_eq!(hardware_gpus("cpu\nwgpu:0 llvmpipe (software)\n"), Vec::<String>::new());
        assert_eq!(hardware_gpus("cpu\nvulkan:0 a\nvulkan:1 b\nwgpu:0 c"), ["vulkan:0", "vulkan:1"]);
    }

    #[tokio::test]
    async fn named_devices_are_dealt_in_turn() {
        let dealt = devices("cpu, ndarray", 3, Path::new("/nonexistent")).await.expect("no program is asked");
        assert_eq!(dealt, ["cpu", "ndarray", "cpu"]);
    }
}
