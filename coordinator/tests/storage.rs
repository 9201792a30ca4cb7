//! A disk that fills up under a run: nothing is lost, nothing is claimed, and the run goes on when there is room again.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Place, until, wait};

const RUN: [&str; 6] =
    ["--set", "train.epochs=400", "--set", "checkpoint.every=20 steps", "--set", "checkpoint.keep=2"];

/// A mount that only the run sees, so that nothing else is short of room.
const MOUNT: &str = "mount -t tmpfs -o size=6m none runs && exec \"$0\" \"$@\"";

/// The keys and steps of metrics among lines of JSON.
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

#[test]
fn a_full_disk_holds_the_run_up_and_nothing_is_lost() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.complete(&[&RUN[..], &["--set", "run.name=whole"]].concat());
    let child = Command::new("unshare")
        .args(["-rm", "sh", "-c", MOUNT, env!("CARGO_BIN_EXE_coordinator")])
        .args(["--config", "run.toml", "--output", "json"])
        .args(RUN)
        .current_dir(place.path())
        .env("XDG_RUNTIME_DIR", place.path())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let inside = PathBuf::from(format!("/proc/{}/root{}/runs", child.id(), place.path().display()));
    let length = |name: &str| std::fs::metadata(inside.join("small").join(name)).map_or(0, |meta| meta.len());
    until("it commits steps", || length("metrics.jsonl") > 4_000);

    let filler = inside.join("filler");
    let mut file = std::fs::File::create(&filler).expect("made");
    // Page by page, until there is none.
    while file.write_all(&[0; 4096]).is_ok() {}
    let held = || {
        let before = length("journal");
        std::thread::sleep(Duration::from_millis(1_500));
        // The last page of the journal may have had room for some more commits.
        length("journal") == before
    };
    until("the journal has no room", held);
    drop(file);
    std::fs::remove_file(&filler).expect("room again");

    let output = wait(child);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(err.contains("the journal can't be written"), "{err}");
    let end = out.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).expect("an end");
    assert_eq!(end["digest"].as_str(), Some(place.digest("whole").as_str()), "{end}");
    let whole = std::fs::read_to_string(place.run_dir("whole").join("metrics.jsonl")).expect("read");
    assert_eq!(named(&out), named(&whole));
}

/// The record of a run that is over can't be written: it is not claimed to be over before it is.
#[test]
fn a_run_is_over_when_its_record_says_so() {
    let place = Place::new();
    let mut child = place
        .coordinator(&["--set", "train.epochs=60", "--set", "checkpoint.every=1h"])
        .spawn()
        .expect("started");
    let record = place.run_dir("small").join("run.json");
    until("a record", || record.is_file());
    // Nothing can be renamed to a folder's name; the record may be written again before there is one.
    until("a folder in its place", || {
        let _ = std::fs::remove_file(&record);
        let _ = std::fs::create_dir(&record);
        record.is_dir()
    });
    let export = place.run_dir("small").join("exports/safetensors/model.safetensors");
    until("the export, which comes last", || export.is_file());
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(child.try_wait().expect("looked at").is_none(), "it waits until it can say that it is over");
    std::fs::remove_dir(&record).expect("removed");
    let output = wait(child);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    assert!(err.contains("the run is over, but run.json can't be written"), "{err}");
    assert_eq!(place.record("small")["status"], "completed");
}
