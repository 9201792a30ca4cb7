//! Compares a run's provenance with this machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use configs::Config;
use datasets::{DataError, DataPlan};
use run_record::RunRecord;
use run_record::provenance::{Start, StartInfo};

use crate::local::launch::worker_binary;
use crate::record::origin;

/// A line for each difference, or one line that says that there is none.
pub(super) fn differences(
    run_dir: &Path,
    (record, then): (&RunRecord, &Start),
    config: &Config,
    plan: Result<&DataPlan, &DataError>,
) -> Vec<String> {
    let mut lines = Vec::new();
    match plan {
        Ok(plan) if plan.digest == record.dataset.digest => {}
        Ok(plan) => lines.push(format!(
            "the data: {} has the digest {}, the run's had {}",
            plan.path, plan.digest, record.dataset.digest
        )),
        Err(why) => lines.push(format!("the data: {why}")),
    }
    if record.provenance.starts.is_empty() {
        lines.push("what ran is not known: run.json has no provenance".to_owned());
        return lines;
    }
    let worker = worker_binary(config.local.worker_binary.as_deref()).ok();
    let asked = StartInfo {
        directory: std::env::current_dir().unwrap_or_default(),
        git_diff: true,
        build: origin::build(worker.as_deref()),
        ..StartInfo::default()
    };
    let (now, diff) = asked.gather(0.0);
    programs(then, &now, &mut lines);
    checkout(then, &now, &mut lines);
    if let Some((now_diff, then_diff)) =
        diff.as_ref().zip(then.git.as_ref().and_then(|git| git.diff.as_ref()))
    {
        let kept = run_dir.join(then_diff);
        if std::fs::read(kept).is_ok_and(|kept| kept != now_diff.0) {
            lines.push("the checkout: its changes are others than the run's".to_owned());
        }
    }
    machines(record, &now, &mut lines);
    devices(record, worker.as_deref(), &mut lines);
    if lines.is_empty() {
        lines.push("nothing that is known of".to_owned());
    }
    lines
}

fn differ(what: &str, then: Option<&str>, now: Option<&str>, lines: &mut Vec<String>) {
    let (then, now) = (then.unwrap_or("not known"), now.unwrap_or("not known"));
    if then != now {
        lines.push(format!("{what}: {now} here, {then} then"));
    }
}

fn programs(then: &Start, now: &Start, lines: &mut Vec<String>) {
    let (then, now) = (&then.build, &now.build);
    differ("Bonfire's version", Some(&then.version), Some(&now.version), lines);
    differ("the compiler", then.rustc.as_deref(), now.rustc.as_deref(), lines);
    differ("Cargo.lock", then.cargo_lock.as_deref(), now.cargo_lock.as_deref(), lines);
    differ("the coordinator program", then.coordinator.as_deref(), now.coordinator.as_deref(), lines);
    if then.worker.is_some() {
        differ("the worker program", then.worker.as_deref(), now.worker.as_deref(), lines);
    }
}

fn checkout(then: &Start, now: &Start, lines: &mut Vec<String>) {
    let Some(git) = &then.git else { return };
    let commit = now.git.as_ref().map(|git| git.commit.as_str());
    differ("the commit", Some(&git.commit), commit, lines);
    let state = |dirty: Option<bool>| match dirty {
        Some(true) => Some("with changes"),
        Some(false) => Some("without changes"),
        None => None,
    };
    differ("the checkout", state(git.dirty), state(now.git.as_ref().and_then(|git| git.dirty)), lines);
}

/// Compares the machines that took part with this one, once per distinct CPU.
fn machines(record: &RunRecord, now: &Start, lines: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for member in record.members.iter().filter_map(|member| member.machine.as_ref()) {
        let (then, now) = (&member.machine, &now.machine);
        if !seen.insert((then.architecture.clone(), then.cpu.clone(), then.cpu_features.clone())) {
            continue;
        }
        differ("the architecture", Some(&then.architecture), Some(&now.architecture), lines);
        differ("the CPU", Some(&then.cpu), Some(&now.cpu), lines);
        let features = |features: &[String]| features.join(" ");
        let (then, now) = (features(&then.cpu_features), features(&now.cpu_features));
        differ("the CPU's features", Some(&then), Some(&now), lines);
    }
}

/// Reports device kinds that took part in the run and are missing here.
fn devices(record: &RunRecord, worker: Option<&Path>, lines: &mut Vec<String>) {
    let kind = |device: &str| {
        let end = device.find([',', ':', ' ']).unwrap_or(device.len());
        device[..end].to_owned()
    };
    let wanted: BTreeSet<String> = record.members.iter().map(|member| kind(&member.device)).collect();
    let Some(worker) = worker else {
        return lines.push(format!("devices: no worker program here to ask; the run had {wanted:?}"));
    };
    let Ok(listed) = Command::new(worker).arg("--list-devices").output() else {
        return lines.push(format!("devices: {} can't be asked", worker.display()));
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let here: BTreeSet<String> = listed.lines().map(kind).collect();
    for absent in wanted.difference(&here) {
        lines.push(format!("devices: there is no {absent} here"));
    }
}
