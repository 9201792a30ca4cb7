//! A run's folder that is removed or moved during the run: the run ends with code 4, and the model is saved.

mod support;

use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;
use support::{Place, steps_committed, until, wait, while_stopped, workers_of};

/// A run in progress.
struct Begun {
    coordinator: Child,
    workers: Vec<u32>,
}

fn begin(place: &Place, more: &[&str]) -> Begun {
    let long = ["--set", "train.epochs=200000", "--set", "schedule.kind=warmup", "--local-workers", "2"];
    let temporary = place.path().join("tmp");
    std::fs::create_dir_all(&temporary).expect("made");
    let mut command = place.coordinator(&[&long[..], more].concat());
    let coordinator = command.env("TMPDIR", &temporary).spawn().expect("started");
    until("it commits steps", || steps_committed(place) > 20);
    let workers = workers_of(coordinator.id());
    assert_eq!(workers.len(), 2);
    Begun { coordinator, workers }
}

/// Waits for the end, checks that no worker is left, and returns the error output.
fn end(Begun { coordinator, workers }: Begun) -> String {
    let output = wait(coordinator);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    until("its workers end", || workers.iter().all(|pid| !support::alive(*pid)));
    said
}

fn record(run_dir: &Path) -> Value {
    let text = std::fs::read_to_string(run_dir.join("run.json")).expect("its record");
    serde_json::from_str(&text).expect("JSON")
}

/// The saved checkpoint is complete, is the state with which the run ended, and a run that continues from it reaches
/// the same bits as an undisturbed one.
fn is_good(place: &Place, run_dir: &Path, config: &str) {
    let record = record(run_dir);
    assert_eq!(record["status"], "failed", "{record:#}");
    let step = record["final"]["step"].as_u64().expect("a step");
    let folder = run_dir.join(format!("checkpoints/step-{step:08}"));
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).expect("the version");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["digest"], record["final"]["digest"], "{manifest}");
    let epochs = format!("train.epochs={}", step / 5 + 2);
    let resumed = ["--config", config, "--resume", "--set", &epochs, "--set", "checkpoint.every=1h"];
    let output = wait(place.command(&resumed).spawn().expect("started"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = [
        "--set",
        &epochs,
        "--set",
        "schedule.kind=warmup",
        "--set",
        "checkpoint.every=1h",
        "--set",
        "run.name=whole",
    ];
    place.complete(&whole);
    let digest = serde_json::from_str::<Value>(
        &std::fs::read_to_string(run_dir.join("run.json")).expect("its record"),
    );
    assert_eq!(digest.expect("JSON")["final"]["digest"], place.digest("whole").as_str());
}

#[test]
fn a_folder_that_is_removed_is_said_at_once_and_the_model_saved_beside_it() {
    let place = Place::new();
    // A checkpoint with each step, and none for an hour.
    for (every, number) in [("1 steps", 1), ("1h", 2)] {
        let run = begin(&place, &["--set", &format!("checkpoint.every={every}")]);
        // The removal may race with files that are being created.
        until("the folder is removed", || {
            let _ = std::fs::remove_dir_all(place.run_dir("small"));
            !place.run_dir("small").exists()
        });
        let said = end(run);
        let rescued = place.run_dir(&format!("small-rescued-{number}"));
        assert!(said.contains("runs/small was removed") && said.contains("small-rescued"), "{said}");
        assert!(!place.run_dir("small").exists(), "nothing is made in its place");
        is_good(&place, &rescued, &format!("runs/small-rescued-{number}/config.toml"));
        std::fs::remove_dir_all(place.run_dir("whole")).expect("removed");
    }
}

#[test]
fn a_folder_that_is_moved_is_followed() {
    let place = Place::new();
    let run = begin(&place, &["--set", "checkpoint.every=1h"]);
    let moved = place.path().join("elsewhere");
    std::fs::rename(place.run_dir("small"), &moved).expect("moved");
    // A new folder of the same name is not the run's.
    std::fs::create_dir(place.run_dir("small")).expect("made");
    let said = end(run);
    assert!(said.contains("was moved to") && said.contains("elsewhere"), "{said}");
    let left: Vec<PathBuf> = std::fs::read_dir(place.run_dir("small"))
        .expect("listed")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    is_good(&place, &moved, "elsewhere/config.toml");
}

/// The state after an `rm -rf` that races with a file being created.
#[test]
fn a_folder_that_is_only_emptied_is_lost_too() {
    let place = Place::new();
    let run = begin(&place, &["--set", "checkpoint.every=1h"]);
    for entry in std::fs::read_dir(place.run_dir("small")).expect("listed").flatten() {
        let _ = if entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path())
        } else {
            std::fs::remove_file(entry.path())
        };
    }
    let said = end(run);
    assert!(said.contains("runs/small was removed"), "{said}");
    is_good(&place, &place.run_dir("small-rescued-1"), "runs/small-rescued-1/config.toml");
}

/// The whole runs folder is gone: the checkpoint is saved in the temporary folder.
#[test]
fn a_folder_whose_parent_is_gone_too_is_saved_in_the_temporary_folder() {
    let place = Place::new();
    let run = begin(&place, &[]);
    let runs = place.path().join("runs");
    // Otherwise the run would recreate the runs folder during the removal.
    while_stopped(&[run.coordinator.id()], || {
        std::fs::remove_dir_all(&runs).expect("removed");
        std::fs::write(&runs, "a file").expect("written");
    });
    let said = end(run);
    assert!(said.contains("small-rescued-1"), "{said}");
    let rescued = place.path().join("tmp/small-rescued-1");
    std::fs::remove_file(&runs).expect("removed");
    is_good(&place, &rescued, "tmp/small-rescued-1/config.toml");
}
