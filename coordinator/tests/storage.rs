//! A disk that fills up or refuses writes, and files that are torn or damaged: nothing is lost, no false claim is
//! made, and the run continues when it can.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command};

use protocol::journal::decode;
use serde_json::Value;
use support::{Place, signal, until, wait, while_stopped, workers_of};

const RUN: [&str; 6] =
    ["--set", "train.epochs=400", "--set", "checkpoint.every=20 steps", "--set", "checkpoint.keep=2"];

/// The steps and keys of the metrics among lines of JSON.
fn named(text: &str) -> BTreeSet<(u64, String)> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["key"].as_str()?.to_owned()))).collect()
}

fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    let why = match &tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(why) => why.to_string(),
    };
    eprintln!("SKIPPED: a mount of one's own is not permitted here: {why}");
    false
}

/// A coordinator with mounts of its own, so that no other process is short of disk space.
struct Mounted<'a> {
    place: &'a Place,
    child: Child,
}

impl<'a> Mounted<'a> {
    /// Starts `coordinator` with these arguments, after a command that mounts something in the test folder.
    fn start(place: &'a Place, mount: &str, arguments: &[&str]) -> Self {
        let script = format!("{mount} && exec \"$0\" \"$@\"");
        let child = place
            .program("unshare")
            .args(["-rm", "sh", "-c", &script, env!("CARGO_BIN_EXE_coordinator")])
            .args(["--config", "run.toml", "--output", "json"])
            .args(arguments)
            .spawn()
            .expect("started");
        Self { place, child }
    }

    /// The run's folder as the coordinator sees it.
    fn run_dir(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.child.id(), self.place.run_dir("small").display()))
    }

    fn length(&self, name: &str) -> u64 {
        std::fs::metadata(self.run_dir().join(name)).map_or(0, |meta| meta.len())
    }

    /// Runs a command in the coordinator's mount namespace.
    fn inside(&self, command: &[&str]) {
        let pid = self.child.id().to_string();
        let output = Command::new("nsenter")
            .args(["-U", "-m", "--preserve-credentials", "-t", &pid])
            .args(command)
            .output()
            .expect("nsenter runs");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The folder of checkpoints.
    fn checkpoints(&self) -> PathBuf {
        self.place.run_dir("small").join("checkpoints")
    }

    /// Makes writing checkpoints fail from now on.
    fn refuse_versions(&self) {
        let path = self.checkpoints();
        self.inside(&["mount", "-t", "tmpfs", "-o", "ro", "none", path.to_str().expect("a readable path")]);
    }

    /// Makes checkpoints writable again.
    fn take_versions(&self) {
        self.inside(&["umount", "-l", self.checkpoints().to_str().expect("a readable path")]);
    }

    /// Runs `coordinator status`, from outside.
    fn status(&self) -> Value {
        let run_dir = self.run_dir();
        let run_dir = run_dir.to_str().expect("a readable path");
        let command = self.place.command(&["status", run_dir, "--output", "json"]).spawn();
        let output = wait(command.expect("started"));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

/// Whether a status has an event of this kind with this text.
fn says(status: &Value, event: &str, text: &str) -> bool {
    let events = status["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().any(|one| one["event"] == event && one["text"].as_str().is_some_and(|t| t.contains(text)))
}

#[test]
fn a_full_disk_holds_the_run_up_and_nothing_is_lost() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.complete(&[&RUN[..], &["--set", "run.name=whole"]].concat());
    let run = Mounted::start(&place, "mount -t tmpfs -o size=6m none runs", &RUN);
    until("it commits steps", || run.length("metrics.jsonl") > 4_000);

    let filler = run.run_dir().join("filler");
    let mut file = std::fs::File::create(&filler).expect("made");
    until("the journal has no room, and the person hears why", || {
        // Fill the disk page by page; an abandoned checkpoint frees some space. The last page of the journal may have
        // room for a few more commits.
        while file.write_all(&[0; 4096]).is_ok() {}
        let status = run.status();
        let waits_for = status["waiting_for"].as_str().unwrap_or_default();
        status["state"] == "paused"
            && waits_for.contains("the journal")
            && says(&status, "warning", "No space left")
    });
    drop(file);
    std::fs::remove_file(&filler).expect("room again");

    let output = wait(run.child);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(err.contains("the journal can't be written"), "{err}");
    let end = out.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).expect("an end");
    assert_eq!(end["digest"].as_str(), Some(place.digest("whole").as_str()), "{end}");
    let whole = std::fs::read_to_string(place.run_dir("whole").join("metrics.jsonl")).expect("read");
    assert_eq!(named(&out), named(&whole));
}

#[test]
fn versions_that_cant_be_written_stop_no_training_and_the_next_one_is_tried() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let long = ["--set", "train.epochs=200000", "--set", "checkpoint.every=20 steps"];
    let run = Mounted::start(&place, "true", &long);
    until("there is a version", || run.status()["newest_version"].as_u64() > Some(0));
    run.refuse_versions();
    until("a version fails, and the person hears why", || {
        says(&run.status(), "warning", "Read-only file system")
    });
    let then = run.status();
    until("the training goes on", || run.status()["step"].as_u64() > then["step"].as_u64().map(|s| s + 50));
    assert_eq!(run.status()["state"], "running");
    let kept = then["newest_version"].as_u64().expect("a step");
    let is_there = |step: u64| run.checkpoints().join(format!("step-{step:08}/manifest.json")).is_file();
    assert!(is_there(kept), "the last good version stays");
    run.take_versions();
    until("the next version is written", || run.status()["newest_version"].as_u64() > Some(kept));
    signal(run.child.id(), "INT");
    let checkpoints = run.checkpoints();
    assert_eq!(wait(run.child).status.code(), Some(130));
    let record = place.record("small");
    let last = record["final"]["step"].as_u64().expect("a step");
    assert!(checkpoints.join(format!("step-{last:08}/manifest.json")).is_file());
    assert!(record["events"].to_string().contains("Read-only file system"), "{}", record["events"]);
}

/// Nothing is lost yet, and a person is there: the run ends and reports the reason, whichever worker was to write it.
#[test]
fn a_first_version_that_cant_be_written_ends_the_run_in_words() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.complete(&["--set", "run.name=whole"]);
    let run = Mounted::start(&place, "true", &["--local-workers", "0"]);
    until("it has an address", || place.run_dir("small").join("address").is_file());
    run.refuse_versions();
    let worker = place.guest("guest");
    let output = wait(run.child);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("the first version could not be written"), "{said}");
    assert!(said.contains("Read-only file system") && said.contains("--resume"), "{said}");
    let events = place.record("small")["events"].to_string();
    assert!(events.contains("it is tried again") && events.contains("\"repeated\":1"), "{events}");
    assert_eq!(wait(worker).status.code(), Some(4), "it is told the end");
    place.complete(&["--resume"]);
    assert_eq!(place.digest("small"), place.digest("whole"));
}

/// All steps are done, and no checkpoint can be written: the members keep their state until it can.
#[test]
fn the_last_version_waits_for_a_disk_that_takes_it() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let some = ["--set", "train.epochs=600", "--set", "checkpoint.every=1h"];
    place.complete(&[&some[..], &["--set", "run.name=whole"]].concat());
    let run = Mounted::start(&place, "true", &some);
    until("there is a version", || run.run_dir().join("checkpoints/step-00000000/manifest.json").is_file());
    // No later checkpoint may exist before that.
    while_stopped(&workers_of(run.child.id()), || run.refuse_versions());
    until("it waits for room", || {
        run.status()["waiting_for"]
            .as_str()
            .is_some_and(|text| text.contains("another attempt at version 3000"))
    });
    run.take_versions();
    let output = wait(run.child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.digest("small"), place.digest("whole"));
}

/// Only the metrics' disk is full: the metrics wait, and nothing else does.
#[test]
fn metrics_that_cant_be_written_stop_no_training_and_come_later() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    // It goes on for seconds after the disk of its metrics is full; with few evaluations, as nobody reads its output
    // until it ends.
    let some = [
        "--set",
        "train.epochs=2000",
        "--set",
        "train.evaluate_every=10",
        "--set",
        "checkpoint.every=100 steps",
    ];
    place.complete(&[&some[..], &["--set", "run.name=whole"]].concat());
    let begun = place.coordinator(&[&some[..], &["--output", "json"]].concat()).spawn().expect("started");
    until("it commits steps", || support::steps_committed(&place) > 50);
    signal(begun.id(), "INT");
    let begun = wait(begun);
    std::fs::create_dir(place.path().join("metrics")).expect("made");
    let mount = "mount -t tmpfs -o size=64k none metrics && mv runs/small/metrics.jsonl metrics \
                 && ln -s \"$PWD/metrics/metrics.jsonl\" runs/small";
    let run = Mounted::start(&place, mount, &[&some[..], &["--resume"]].concat());
    until("a person hears why", || says(&run.status(), "warning", "metrics.jsonl: No space left"));
    let then = run.status();
    until("the training goes on", || run.status()["step"].as_u64() > then["step"].as_u64().map(|s| s + 50));
    run.inside(&["mount", "-o", "remount,size=64m", place.path().join("metrics").to_str().expect("a path")]);

    let output = wait(run.child);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert_eq!(place.digest("small"), place.digest("whole"));
    let whole = std::fs::read_to_string(place.run_dir("whole").join("metrics.jsonl")).expect("read");
    let mut all = named(&String::from_utf8_lossy(&begun.stdout));
    all.extend(named(&out));
    assert_eq!(all, named(&whole));
}

#[test]
fn a_run_on_a_read_only_disk_is_refused_in_words() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.complete(&["--set", "run.name=done"]);
    let mount = "mount --bind runs runs && mount -o remount,bind,ro runs";
    for arguments in [&["--resume", "--set", "run.name=done"][..], &[]] {
        let output = wait(Mounted::start(&place, mount, arguments).child);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("runs/") && said.contains("Read-only file system"), "{said}");
        assert!(said.contains("run.dir"), "{said}");
    }
}

#[test]
fn a_torn_journal_goes_on_and_a_damaged_one_is_named() {
    let place = Place::new();
    place.complete(&["--set", "run.name=whole"]);
    place.complete(&[]);
    let dir = place.run_dir("small");
    let interrupted = || {
        let record = std::fs::read_to_string(dir.join("run.json")).expect("run.json");
        let record = record.replace("\"completed\"", "\"interrupted\"");
        std::fs::write(dir.join("run.json"), record).expect("written");
    };
    interrupted();
    let journal = dir.join("journal");
    let bytes = std::fs::read(&journal).expect("the journal");
    // The end, the last checkpoint and a part of the record before.
    let mut torn = bytes.len() - bytes.len() / 8;
    if decode(&bytes[..torn]).expect("a journal").torn.is_none() {
        // That was the end of a record.
        torn -= 1;
    }
    std::fs::write(&journal, &bytes[..torn]).expect("torn");
    let said = place.complete(&["--resume"]);
    assert!(said.contains("journal") && said.contains("cut off"), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"));

    interrupted();
    let mut bytes = std::fs::read(&journal).expect("the journal");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&journal, &bytes).expect("damaged");
    let (code, out, err) = place.finish(&["--resume"]);
    assert_eq!(code, Some(3), "{out}\n{err}");
    assert!(err.contains("small/journal") && err.contains("init.from"), "{err}");
    assert_eq!(std::fs::read(&journal).expect("the journal"), bytes, "nothing is cut off");
}

/// The record of a completed run can't be written: the run must not be reported as over before it is.
#[test]
fn a_run_is_over_when_its_record_says_so() {
    let place = Place::new();
    let mut child = place
        .coordinator(&["--set", "train.epochs=60", "--set", "checkpoint.every=1h"])
        .stderr(place.log("coordinator.log"))
        .spawn()
        .expect("started");
    let record = place.run_dir("small").join("run.json");
    until("a record", || record.is_file());
    // Nothing can be renamed onto a folder; the record may be rewritten before the folder exists.
    until("a folder in its place", || {
        let _ = std::fs::remove_file(&record);
        let _ = std::fs::create_dir(&record);
        record.is_dir()
    });
    let export = place.run_dir("small").join("exports/safetensors/model.safetensors");
    until("the export, which comes last", || export.is_file());
    let why = "the run is over, but run.json can't be written";
    until("it says why it goes on", || place.said("coordinator.log").contains(why));
    assert!(child.try_wait().expect("looked at").is_none(), "it waits until it can say that it is over");
    std::fs::remove_dir(&record).expect("removed");
    let output = wait(child);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), place.said("coordinator.log"));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert_eq!(err.matches(why).count(), 1, "once: {err}");
    assert_eq!(place.record("small")["status"], "completed");
}
