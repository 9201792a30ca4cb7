//! `--resume`: which run it continues, what it reports, and the command line that it suggests.

mod support;

use std::process::Child;

use serde_json::Value;
use support::{Place, signal, steps_committed, until, wait};

/// A run's length may change on resume, unless the schedule depends on it.
const LONG: [&str; 6] =
    ["--set", "train.epochs=200000", "--set", "checkpoint.every=1h", "--set", "schedule.kind=warmup"];

fn interrupted(child: Child) -> String {
    signal(child.id(), "INT");
    let output = wait(child);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(130), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// The line after `go on with`.
fn line_to_type(out: &str) -> String {
    let line = out.lines().skip_while(|line| !line.ends_with("go on with")).nth(1);
    line.unwrap_or_else(|| panic!("no line to go on with in {out}")).trim().to_owned()
}

/// Executes a line in a shell in the test folder.
fn typed(place: &Place, line: &str) -> Child {
    place.program("sh").args(["-c", &format!("exec {line}")]).spawn().expect("a shell")
}

#[test]
fn a_resume_of_nothing_starts_and_says_so_first() {
    let place = Place::new();
    let out = place.complete(&["--resume"]);
    let first = out.lines().next().expect("a line");
    assert!(first.contains("nothing to resume") && first.contains("runs/small"), "{out}");
    let out = place.complete(&["--resume", "--set", "run.name=other", "--output", "json"]);
    let first: Value = serde_json::from_str(out.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["event"], &first["run"]), (&"nothing_to_resume".into(), &"other".into()), "{first}");
    // Now there is something to resume.
    let out = place.complete(&["--resume", "--output", "json"]);
    let only: Value = serde_json::from_str(out.trim()).expect("one line of JSON");
    assert_eq!(only["status"], "completed", "{only}");
}

/// The configuration's name, a value with spaces and quotes, and a run with only a number, next to another such run.
#[test]
fn the_line_at_an_interruption_goes_on_with_that_run_when_it_is_typed() {
    let place = Place::new();
    let text = std::fs::read_to_string(place.path().join("run.toml")).expect("the configuration");
    std::fs::write(place.path().join("my run.toml"), text.replace("name = \"small\"\n", ""))
        .expect("written");
    let first = place.path().join("runs").join("my run-1");
    let start = |more: &[&str]| {
        let arguments =
            [&["--config", "my run.toml", "--set", "model.hidden=[16, 8]"], &LONG[..], more].concat();
        place.command(&arguments).spawn().expect("started")
    };
    let commits = |run: &str| {
        let path = place.path().join("runs").join(run).join("metrics.jsonl");
        std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
    };
    let child = start(&[]);
    until("it commits steps", || commits("my run-1") > 20);
    let line = line_to_type(&interrupted(child));
    let other = start(&[]);
    until("it commits steps", || commits("my run-2") > 20);
    interrupted(other);

    let step = || {
        let text = std::fs::read_to_string(first.join("run.json")).expect("its record");
        serde_json::from_str::<Value>(&text).expect("JSON")["final"]["step"].as_u64().expect("a step")
    };
    let before = step();
    let (had, others) = (commits("my run-1"), commits("my run-2"));
    let again = typed(&place, &line);
    until("it goes on", || commits("my run-1") > had + 20);
    // It then suggests the same line.
    assert_eq!(line_to_type(&interrupted(again)), line);
    assert!(before > 0 && step() > before);
    assert_eq!(commits("my run-2"), others, "the newer run is left alone");
}

#[test]
fn an_interruption_before_the_first_step_has_a_line_that_works_too() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let child = place.coordinator(&["--local-workers", "0", "--listen", &listen]).spawn().expect("started");
    until("it has an address", || place.run_dir("small").join("address").is_file());
    let out = interrupted(child);
    let line = line_to_type(&out);
    let again = typed(&place, &line);
    let worker = place.guest("guest");
    let output = wait(again);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{line}\n{out}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(wait(worker).status.code(), Some(0));
}

/// A second Ctrl-C ends the run at once, and the line to resume it is printed all the same.
#[test]
fn two_interrupts_end_at_once_with_the_line() {
    let place = Place::new();
    let mut command = place.coordinator(&LONG);
    let mut child = command.stdout(place.log("out.log")).spawn().expect("started");
    until("it commits steps", || steps_committed(&place) > 20);
    let workers = support::workers_of(child.id());
    // Stopped, they finish no step.
    workers.iter().for_each(|pid| signal(*pid, "STOP"));
    signal(child.id(), "INT");
    until("it has heard the first", || place.said("out.log").contains("again: end at once"));
    // A signal right after the first counts as the same one.
    until("it ends", || {
        signal(child.id(), "INT");
        child.try_wait().expect("waited for").is_some()
    });
    assert_eq!(wait(child).status.code(), Some(130));
    let line = line_to_type(&place.said("out.log"));
    let had = steps_committed(&place);
    let again = typed(&place, &line);
    // Steps committed after the first checkpoint are repeated, and their metrics already exist.
    until("it goes on", || steps_committed(&place) > had);
    interrupted(again);
}

#[test]
fn the_configuration_in_a_runs_folder_goes_on_with_that_run() {
    let place = Place::new();
    let child = place.coordinator(&LONG).spawn().expect("started");
    until("it commits steps", || steps_committed(&place) > 4);
    interrupted(child);
    // Under another name, as people keep a run to continue it.
    std::fs::rename(place.run_dir("small"), place.path().join("runs/kept")).expect("renamed");
    let record = || std::fs::read_to_string(place.run_dir("kept").join("run.json")).expect("its record");
    let step = serde_json::from_str::<Value>(&record()).expect("JSON")["final"]["step"].as_u64();
    let more = format!("train.epochs={}", step.expect("a step") / 5 + 2);
    let arguments =
        ["--config", "runs/kept/config.toml", "--resume", "--set", &more, "--set", "checkpoint.every=1h"];
    let output = wait(place.command(&arguments).spawn().expect("started"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(record().contains("\"completed\""), "{}", record());
    assert!(!place.run_dir("small").exists(), "no other run is made");
}

#[test]
fn a_completed_run_with_other_trajectory_keys_is_refused_and_names_them() {
    let place = Place::new();
    place.complete(&[]);
    let resume = |more: &[&str]| place.finish(&[&["--resume"], more].concat());
    let (code, out, err) = resume(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("is completed") && out.contains("more steps take another run"), "{out}");
    let folder = wait(place.command(&["--config", "runs/small", "--resume"]).spawn().expect("started"));
    let said = String::from_utf8_lossy(&folder.stderr);
    assert!(folder.status.code() == Some(2) && said.contains("runs/small/config.toml"), "{said}");
    let other = ["--set", "model.dropout=0.2", "--set", "optimizer.learning_rate=0.5"];
    let (code, out, err) = resume(&other);
    assert_eq!(code, Some(2), "{out}\n{err}");
    for key in ["model.dropout: 0.1 in the run, now 0.2", "optimizer.learning_rate"] {
        assert!(err.contains(key), "{err}");
    }
    // Keys that don't affect the weights may change.
    let (code, _, err) = resume(&["--set", "checkpoint.every=1h", "--local-workers", "2"]);
    assert_eq!(code, Some(0), "{err}");
}
