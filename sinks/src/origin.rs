//! A run's origin in a few lines that any tracker can show: sources, programs, devices, drivers.

use std::collections::{BTreeMap, BTreeSet};

use run_record::{MemberMachine, RunRecord};

use super::{RunFolder, SinkError};

/// Names and values of the known facts, which become known a moment after the run began.
pub(crate) fn origin(run: &RunFolder, record: &RunRecord) -> Result<Vec<(&'static str, String)>, SinkError> {
    let git = run.checkout()?;
    let build = record.provenance.starts.last().map(|start| start.build.clone()).unwrap_or_default();
    let known = [
        ("git.commit", git.commit),
        ("git.branch", git.branch),
        ("git.repoURL", git.repository),
        ("git.dirty", git.dirty.map(|dirty| dirty.to_string())),
        ("version", Some(build.version)),
        ("cargo_lock", build.cargo_lock),
        ("program.coordinator", build.coordinator),
        ("program.worker", build.worker.or_else(|| Some(each(record, |machine| &machine.program)))),
        ("devices", Some(devices(record))),
        ("drivers", Some(each(record, |machine| &machine.driver))),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Ok(known.filter(|(_, value)| !value.is_empty()).collect())
}

/// The distinct values of a property over the members' machines.
fn each(record: &RunRecord, what: impl Fn(&MemberMachine) -> &str) -> String {
    let machines = record.members.iter().filter_map(|member| member.machine.as_ref());
    let found: BTreeSet<&str> = machines.map(what).filter(|text| !text.is_empty()).collect();
    found.into_iter().collect::<Vec<_>>().join(", ")
}

/// The kinds of devices, with the number of members of each: `2 x cpu`.
fn devices(record: &RunRecord) -> String {
    let mut counted = BTreeMap::new();
    for member in &record.members {
        *counted.entry(member.device.as_str()).or_insert(0) += 1;
    }
    let parts: Vec<String> =
        counted.into_iter().map(|(device, count)| format!("{count} x {device}")).collect();
    parts.join(", ")
}
