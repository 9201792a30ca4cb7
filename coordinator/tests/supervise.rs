//! `--supervise`: a process that restarts the coordinator, and forwards signals to it.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{Place, signal, steps_committed, until, wait};

/// Longer than any of these tests.
const LONG: [&str; 5] = ["--supervise", "--set", "train.epochs=200000", "--set", "checkpoint.every=50 steps"];

/// The processes that work in this folder and run the given program.
fn processes(place: &Place, program: &str) -> Vec<u32> {
    let here = place.path().canonicalize().expect("the folder is there");
    let is_one = |pid: u32| {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
        link("cwd").is_some_and(|cwd| cwd == here)
            && link("exe").is_some_and(|exe| exe.file_name().is_some_and(|name| name == program))
            && support::alive(pid)
    };
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| is_one(*pid)).collect()
}

/// The coordinator that holds the run, according to its lock.
fn coordinator(place: &Place) -> Option<u32> {
    std::fs::read_to_string(place.run_dir("small").join("lock")).ok()?.trim().parse().ok()
}

#[test]
fn a_signal_to_the_supervisor_alone_ends_the_run_in_order() {
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let supervisor = place.coordinator(&LONG).spawn().expect("started");
        until("the run has committed steps", || steps_committed(&place) > 20);
        signal(supervisor.id(), name);
        let output = wait(supervisor);
        assert_eq!(output.status.code(), Some(130), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(place.record("small")["status"], "interrupted", "{name}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.trim_end().ends_with("--supervise --resume"), "{name}: {said}");
        until("its worker has ended", || processes(&place, "worker").is_empty());
        assert!(processes(&place, "coordinator").is_empty(), "{name}");
    }
}

/// A terminal sends Ctrl-C to both processes.
#[test]
fn one_signal_that_comes_twice_finishes_the_step_all_the_same() {
    let place = Place::new();
    let supervisor = place.coordinator(&LONG).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let both = [coordinator(&place).expect("a coordinator"), supervisor.id()].map(|pid| pid.to_string());
    // One command, so that they arrive as close together as from a terminal.
    let sent = Command::new("kill").arg("-INT").args(both).status().expect("kill runs");
    assert!(sent.success());
    assert_eq!(wait(supervisor).status.code(), Some(130));
    let record = place.record("small");
    let message = record["message"].as_str().expect("a message");
    assert!(!message.contains("at once"), "{message}");
}

#[test]
fn whenever_it_is_told_to_end_no_coordinator_stays_behind() {
    for pause_ms in [0, 5, 20, 80, 300] {
        let place = Place::new();
        let supervisor = place.coordinator(&LONG).spawn().expect("started");
        // Earlier, the signal would end a process that has done nothing yet.
        until("it has started", || !processes(&place, "coordinator").is_empty());
        std::thread::sleep(Duration::from_millis(pause_ms));
        signal(supervisor.id(), "TERM");
        wait(supervisor);
        until("all have ended", || processes(&place, "coordinator").is_empty());
    }
}

#[test]
fn told_to_end_while_the_coordinator_is_dead_it_starts_no_other() {
    let place = Place::new();
    let supervisor = place.coordinator(&LONG).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    // The supervisor sees both at once.
    signal(supervisor.id(), "STOP");
    signal(coordinator(&place).expect("a coordinator"), "KILL");
    signal(supervisor.id(), "TERM");
    signal(supervisor.id(), "CONT");
    let output = wait(supervisor);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(130) && said.contains("--resume"), "{:?}: {said}", output.status);
    assert!(processes(&place, "coordinator").is_empty());
    for worker in processes(&place, "worker") {
        signal(worker, "KILL");
    }
}

/// At its start, while workers join, at checkpoint 0, between two steps: the next one continues, to the same bits.
#[test]
fn a_coordinator_may_be_killed_at_any_point_again_and_again() {
    let place = Place::new();
    let some = ["--set", "train.epochs=60", "--set", "checkpoint.every=7 steps"];
    place.complete(&[&some[..], &["--set", "run.name=whole"]].concat());
    let run = [&some[..], &["--local-workers", "2", "--resume"]].concat();
    for pause_ms in [0, 10, 30, 60, 100, 200, 300, 450, 700] {
        let mut child = place.coordinator(&run).spawn().expect("started");
        std::thread::sleep(Duration::from_millis(pause_ms));
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = place.complete(&run);
    assert_eq!(place.digest("small"), place.digest("whole"), "{said}");
    // A worker that no coordinator lived long enough to admit belongs to none, and retries for minutes.
    for worker in processes(&place, "worker") {
        // It may be about to end by itself.
        let _ = Command::new("kill").arg("-TERM").arg(worker.to_string()).output();
    }
    until("its workers have ended", || processes(&place, "worker").is_empty());
}

/// Two unnamed runs of one configuration: the supervisor restarts the one that died, whatever became of the other.
#[test]
fn a_supervisor_starts_its_own_run_again() {
    let place = Place::new();
    let config = std::fs::read_to_string(place.path().join("run.toml")).expect("its configuration");
    let unnamed = config.replace("name = \"small\"", "");
    std::fs::write(place.path().join("run.toml"), unnamed).expect("written");
    let start = |number: u32| {
        let child = place.coordinator(&LONG).spawn().expect("started");
        let dir = place.path().join(format!("runs/run-{number}"));
        let metrics = dir.join("metrics.jsonl");
        until("it trains", || std::fs::metadata(&metrics).is_ok_and(|metrics| metrics.len() > 0));
        (child, dir)
    };
    // Empty while it is being written.
    let held_by = |dir: &std::path::Path| -> Option<u32> {
        std::fs::read_to_string(dir.join("lock")).expect("its lock").trim().parse().ok()
    };
    let (first, own) = start(1);
    let (second, other) = start(2);
    signal(second.id(), "INT");
    assert_eq!(wait(second).status.code(), Some(130));
    let (before, others) = (held_by(&own), held_by(&other));
    signal(before.expect("a process id"), "KILL");
    until("it is started again", || held_by(&own).is_some_and(|now| Some(now) != before));
    assert_eq!(held_by(&other), others, "nobody touches the other run");
    signal(first.id(), "INT");
    let output = wait(first);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(130) && said.contains("starting it again"), "{said}");
    assert!(!place.path().join("runs/run-3").exists(), "no third one was begun");
}
