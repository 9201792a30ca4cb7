//! Workers that leave a run, and workers that come back when it is over.

mod support;

use std::process::Child;

use serde_json::Value;
use support::{Place, signal, steps_committed, until, wait, while_stopped, worker_of};

const RUN: [&str; 4] = ["--set", "train.epochs=300", "--set", "checkpoint.every=1h"];

fn begin(place: &Place, more: &[&str]) -> Child {
    let child = place.coordinator(&[&RUN[..], &["--local-workers", "0"], more].concat()).spawn();
    let child = child.expect("started");
    until("the coordinator has its address", || place.run_dir("small").join("address").is_file());
    child
}

fn status(place: &Place) -> Value {
    let output = wait(place.command(&["status", "--output", "json"]).spawn().expect("started"));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The only worker is told to leave: its state becomes a checkpoint first, from which another one continues.
#[test]
fn the_last_worker_hands_its_state_over_before_it_goes() {
    let place = Place::new();
    place.complete(&[&RUN[..], &["--set", "run.name=whole"]].concat());
    let run = begin(&place, &["--set", "elastic.lease=60s"]);
    let first = place.guest("first");
    until("the run has committed steps", || steps_committed(&place) > 20);
    while_stopped(&[first.id()], || {
        assert_eq!(status(&place)["newest_version"], 0, "no version is due for an hour");
        // It sees the signal when it continues.
        signal(first.id(), "TERM");
    });
    let output = wait(first);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let paused = status(&place);
    assert_eq!(paused["state"], "paused", "{paused:#}");
    assert!(paused["step"].as_u64() > Some(0) && paused["newest_version"] == paused["step"], "{paused:#}");

    let second = place.guest("second");
    assert_eq!(wait(run).status.code(), Some(0));
    assert_eq!(wait(second).status.code(), Some(0));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let record = place.record("small");
    let events = record["events"].as_array().expect("events");
    assert!(events.iter().all(|event| event["event"] != "rewind" && event["event"] != "retry"), "{events:?}");
}

/// A laptop that slept through the end of the run: it learns of the end when it wakes up a moment later.
#[test]
fn a_worker_that_comes_back_when_the_run_is_over_hears_of_it() {
    let place = Place::new();
    // A lease that running workers keep even on a busy machine.
    let run = begin(&place, &["--set", "elastic.lease=2s", "--set", "elastic.min_workers=2"]);
    let [first, second] = ["first", "second"].map(|name| place.guest(name));
    until("the run has committed steps", || steps_committed(&place) > 20);
    signal(second.id(), "STOP");
    until("it is missed", || status(&place)["state"] == "paused");
    let third = place.guest("third");
    let export = place.run_dir("small").join("exports/safetensors/model.safetensors");
    until("the export, which comes last", || export.is_file());
    signal(second.id(), "CONT");
    for worker in [first, second, third] {
        let output = wait(worker);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(wait(run).status.code(), Some(0));
}

/// A local worker that doesn't exit keeps the coordinator alive for a while: late workers learn of the end, too.
#[test]
fn a_worker_that_comes_when_the_run_is_over_is_told_at_once() {
    let place = Place::new();
    // Long enough for another worker to enter it.
    let long = ["--local-workers", "1", "--set", "elastic.lease=2s", "--set", "train.epochs=3000"];
    let run = place.coordinator(&[&RUN[..], &long].concat()).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let local = worker_of(run.id());
    let first = place.guest("first");
    let is_at_work = |member: &Value| member["state"] == "in the view";
    until("it works", || {
        let status = status(&place);
        let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.len() == 2 && members.iter().all(is_at_work)
    });
    signal(local, "STOP");
    let export = place.run_dir("small").join("exports/safetensors/model.safetensors");
    until("the export, which comes last", || export.is_file());
    // By then the coordinator has waited for lost workers, and is waiting for the process that doesn't exit.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let late = wait(place.guest("late"));
    let said = String::from_utf8_lossy(&late.stderr);
    assert_eq!(late.status.code(), Some(0), "{said}");
    assert!(said.contains("steps are done"), "{said}");
    signal(local, "KILL");
    assert_eq!(wait(first).status.code(), Some(0));
    assert_eq!(wait(run).status.code(), Some(0));
}
