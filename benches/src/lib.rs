//! Side-by-side benchmarks: both sides alternate within one run, and ratios compare adjacent measurements, since
//! machines are noisy.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Cost of a run through the framework.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Milliseconds per step, averaged between two late steps of the run.
    pub step_ms: f64,
    /// Peak resident memory of a worker, in MiB.
    pub worker_mib: f64,
    /// Peak resident memory of the coordinator, in MiB.
    pub coordinator_mib: f64,
    /// CPU time of the coordinator per step, in milliseconds.
    pub coordinator_cpu_ms: f64,
}

/// The median, or NaN if there are no values; of an even number, the upper one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Path of a program of this workspace, in the folder above the bench executable's.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let release = own.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    release.join(name)
}

/// Runs `coordinator` in `dir` with this configuration and number of workers, and measures from step `from` to the end.
///
/// # Errors
/// If the run fails, or has too few steps to measure.
pub fn through_the_framework(dir: &Path, config: &Path, workers: u32, from: u64) -> Result<Cost, String> {
    let runs = dir.join("runs");
    let _ = std::fs::remove_dir_all(&runs);
    let mut coordinator = Command::new(program("coordinator"))
        .arg("--config")
        .arg(config)
        .args(["--local-workers", &workers.to_string(), "--set", "run.name=bench"])
        .arg("--set")
        .arg(format!("run.dir={}", runs.display()))
        .current_dir(dir)
        .env("XDG_RUNTIME_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|why| format!("{}: {why}", program("coordinator").display()))?;
    let mut cost = Cost::default();
    let mut cpu_ms = 0.0;
    let status = loop {
        if let Some(status) = coordinator.try_wait().map_err(|why| why.to_string())? {
            break status;
        }
        watch(&coordinator, &mut cost, &mut cpu_ms);
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        return Err(format!("the run ended with {status}"));
    }
    let times = times(&runs.join("bench/metrics.jsonl"))?;
    let (Some(first), Some(last)) = (times.iter().find(|(step, _)| *step >= from), times.last()) else {
        return Err("the run has too few steps".to_owned());
    };
    cost.step_ms = (last.1 - first.1) * 1_000.0 / (last.0 - first.0) as f64;
    cost.coordinator_cpu_ms = cpu_ms / last.0 as f64;
    Ok(cost)
}

/// (step, seconds) of every recorded training loss.
fn times(path: &Path) -> Result<Vec<(u64, f64)>, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("{}: {why}", path.display()))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(lines
        .filter(|metric| metric["key"] == "train/loss")
        .filter_map(|metric| Some((metric["step"].as_u64()?, metric["time"].as_f64()?)))
        .collect())
}

fn watch(coordinator: &Child, cost: &mut Cost, cpu_ms: &mut f64) {
    let own = coordinator.id();
    cost.coordinator_mib = cost.coordinator_mib.max(peak_mib(own));
    *cpu_ms = cpu_ms.max(cpu_of(own));
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for pid in processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if after_name.split(' ').nth(1).and_then(|parent| parent.parse().ok()) == Some(own) {
            cost.worker_mib = cost.worker_mib.max(peak_mib(pid));
        }
    }
}

/// Peak resident memory of a process (VmHWM), in MiB.
#[must_use]
pub fn peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}

/// User and system time in milliseconds; the kernel counts in hundredths of a second.
fn cpu_of(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10.0
}
