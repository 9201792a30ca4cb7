//! Diagnosis for an operator: from `coordinator status`, and from run.json.

mod support;

use std::process::Child;

use serde_json::Value;
use support::{Place, signal, steps_committed, until, wait};

/// Longer than any of these tests.
const LONG: [&str; 6] =
    ["--local-workers", "0", "--set", "train.epochs=200000", "--set", "checkpoint.every=50 steps"];

/// Runs `coordinator status --output json`: returns its exit code and its output.
fn status(place: &Place) -> (Option<i32>, Value) {
    let command = place.command(&["status", "--output", "json"]).spawn();
    let output = wait(command.expect("started"));
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// The same in the format for people, including standard error.
fn said(place: &Place) -> (Option<i32>, String) {
    let output = wait(place.command(&["status"]).spawn().expect("started"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn begin(place: &Place, more: &[&str]) -> Child {
    let child = place.coordinator(&[&LONG[..], more].concat()).spawn().expect("started");
    until("the coordinator answers", || status(place).0 == Some(0));
    child
}

fn is(place: &Place, state: &str) -> bool {
    status(place).1["state"] == state
}

/// The events of one kind in a status or a record.
fn events<'a>(of: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = of["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|event| event["event"] == kind).collect()
}

fn interrupt(run: Child, workers: Vec<Child>) {
    signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
    workers.into_iter().for_each(|worker| drop(wait(worker)));
}

#[test]
fn a_run_below_its_fewest_workers_pauses_says_so_and_goes_on_by_itself() {
    let place = Place::new();
    let run = begin(&place, &["--set", "elastic.min_workers=2", "--set", "local.workers=2"]);
    let (_, before) = status(&place);
    assert_eq!((&before["state"], &before["term"]), (&"starting".into(), &1.into()), "{before:#}");
    let (code, text) = said(&place);
    let advises =
        text.contains("2 more workers to join") && text.contains("worker --coordinator http://127.0.0.1:");
    assert!(code == Some(0) && advises && !text.contains(" left\n"), "{text}");

    let [first, second] = ["first", "second"].map(|name| place.guest(name));
    until("the run trains", || steps_committed(&place) > 20);
    let (_, running) = status(&place);
    assert_eq!((&running["state"], &running["waiting_for"]), (&"running".into(), &"".into()), "{running:#}");
    let names: Vec<&Value> =
        running["members"].as_array().expect("members").iter().map(|m| &m["name"]).collect();
    assert!(
        names.len() == 2 && ["first", "second"].iter().all(|name| names.contains(&&Value::from(*name))),
        "{names:?}"
    );

    signal(second.id(), "KILL");
    until("the run pauses", || is(&place, "paused"));
    let paused_at = status(&place).1["step"].clone();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (_, paused) = status(&place);
    assert_eq!(paused["step"], paused_at, "it does no step alone");
    assert!(paused["waiting_seconds"].as_f64() > Some(0.4), "{paused:#}");
    assert!(paused["waiting_for"].as_str().expect("text").contains("1 more worker to join"), "{paused:#}");
    let lost = events(&paused, "left");
    assert!(
        lost.iter().any(|event| event["text"].as_str().expect("text").contains("second left")),
        "{lost:?}"
    );

    let third = place.guest("third");
    until("it goes on", || is(&place, "running") && status(&place).1["step"].as_u64() > paused_at.as_u64());
    interrupt(run, vec![first, second, third]);
    let record = place.record("small");
    let costs = |kind: &str| {
        events(&record, kind).iter().filter_map(|event| event["cost_seconds"].as_f64()).sum::<f64>()
    };
    assert!(costs("waiting") > 0.5 && costs("hold") > 0.5, "{:#}", record["events"]);
    assert!(record["timings"]["hold_seconds"].as_f64() > Some(0.5), "{}", record["timings"]);
}

#[test]
fn who_is_refused_again_and_again_takes_one_line_of_the_record() {
    let place = Place::new();
    let run = begin(&place, &["--set", "elastic.max_workers=1"]);
    let first = place.guest("first");
    until("the run trains", || steps_committed(&place) > 20);
    for _ in 0..2 {
        let output = wait(place.guest("surplus"));
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let (_, report) = status(&place);
    let refused = events(&report, "refused");
    assert_eq!(refused.len(), 1, "{report:#}");
    assert_eq!(refused[0]["repeated"], 1);
    assert!(refused[0]["text"].as_str().expect("text").contains("elastic.max_workers = 1"), "{refused:?}");
    assert!(said(&place).1.contains("[2 times]"));
    interrupt(run, vec![first]);
    assert_eq!(events(&place.record("small"), "refused").len(), 1);
}

#[test]
fn a_coordinator_that_is_gone_is_missed_and_its_successor_says_what_that_cost() {
    let place = Place::new();
    let mut run = begin(&place, &[]);
    let worker = place.guest("worker");
    until("the run trains", || steps_committed(&place) > 20);
    run.kill().expect("killed");
    run.wait().expect("waited for");
    let (code, report) = status(&place);
    assert_eq!((code, &report["state"]), (Some(4), &"lost".into()), "{report:#}");
    assert!(report["step"].is_u64() && report["members"].is_array(), "the same keys as ever: {report:#}");
    let (code, text) = said(&place);
    assert!(code == Some(4) && text.contains("the same command with --resume"), "{text}");

    let before = steps_committed(&place);
    let run = begin(&place, &["--resume"]);
    until("it goes on", || steps_committed(&place) > before + 20);
    let (_, report) = status(&place);
    assert_eq!(report["term"], 2, "{report:#}");
    let restarts = events(&report, "restart");
    assert!(restarts.len() == 1 && restarts[0]["cost_seconds"].as_f64() > Some(0.0), "{restarts:?}");
    interrupt(run, vec![worker]);
    let (code, report) = status(&place);
    assert_eq!(
        (code, &report["state"]),
        (Some(0), &"interrupted".into()),
        "a run that is over is no failure"
    );
    assert!(place.record("small")["timings"]["restart_seconds"].as_f64() > Some(0.0));
}

/// A worker hangs: long before its lease expires, status reports for whom the run waits.
#[test]
fn a_step_that_takes_long_says_whom_it_waits_for() {
    let place = Place::new();
    let run = begin(&place, &["--set", "elastic.min_workers=2"]);
    let [first, second] = ["first", "second"].map(|name| place.guest(name));
    until("the run trains", || steps_committed(&place) > 20);
    signal(second.id(), "STOP");
    let waits_for = |words: &str| status(&place).1["waiting_for"].as_str().is_some_and(|text| text == words);
    let says = |words: &str| said(&place).1.contains(words);
    let is_late = || {
        let waits_for = status(&place).1["waiting_for"].as_str().unwrap_or_default().to_owned();
        // Not the event of its start, when it took the first state.
        waits_for.starts_with("second to ") && waits_for.contains(" step ") && says(&waits_for)
    };
    until("it says whom it waits for", is_late);
    assert!(is(&place, "running"), "it is no pause: {:#}", status(&place).1);
    signal(second.id(), "CONT");
    until("it goes on", || waits_for(""));
    interrupt(run, vec![first, second]);
    let record = place.record("small");
    assert_eq!(events(&record, "left").len(), 0, "{:#}", record["events"]);
    // Before the first step it waited for the workers themselves.
    let late = events(&record, "waiting")
        .into_iter()
        .filter(|event| event["step"].as_u64() > Some(0) && event["cost_seconds"].as_f64() > Some(1.9));
    assert_eq!(late.count(), 1, "{:#}", record["events"]);
}
