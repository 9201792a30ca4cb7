//! Local workers that die repeatedly.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::{Place, signal, steps_committed, until, wait, workers_of};

/// A worker program that works until a file exists, and from then on dies as soon as it starts.
fn dying_worker(place: &Place, dies: &str) -> String {
    let worker = std::path::Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
    let script =
        format!("#!/bin/sh\n{dies} && {{ echo 'no luck today' >&2; kill -9 $$; }}\nexec {worker:?} \"$@\"\n");
    let path = place.path().join("dying-worker");
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permitted");
    format!("local.worker_binary={:?}", path.display().to_string())
}

const LONG: [&str; 4] = ["--set", "train.epochs=200000", "--set", "checkpoint.every=1h"];

/// A slot whose workers keep dying is abandoned with a message, however many steps the others commit meanwhile.
#[test]
fn a_slot_whose_workers_die_again_and_again_is_given_up_and_the_run_goes_on() {
    let place = Place::new();
    let set = dying_worker(&place, "[ -e cursed ] && case \"$*\" in *worker-1*) true;; *) false;; esac");
    let arguments = [&LONG[..], &["--local-workers", "2", "--set", &set]].concat();
    let mut run = place.coordinator(&arguments);
    let run = run.stdout(place.log("out.log")).spawn().expect("started");
    until("both work", || steps_committed(&place) > 20 && place.has_member("worker-1"));
    std::fs::write(place.path().join("cursed"), "").expect("written");
    let second = worker_named(run.id(), "worker-1");
    signal(second, "KILL");
    until("it is given up", || place.said("out.log").contains("it is not started any more"));
    let said = place.said("out.log");
    assert!(said.contains("worker-1 ended 6 times in a row") && said.contains("no luck today"), "{said}");
    let steps = steps_committed(&place);
    until("the run goes on", || steps_committed(&place) > steps + 20);
    signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
}

#[test]
fn a_run_whose_workers_are_all_given_up_ends_with_4() {
    let place = Place::new();
    let set = dying_worker(&place, "[ -e cursed ]");
    let run = place.coordinator(&[&LONG[..], &["--set", &set]].concat()).spawn().expect("started");
    until("it works", || steps_committed(&place) > 20);
    std::fs::write(place.path().join("cursed"), "").expect("written");
    signal(workers_of(run.id())[0], "KILL");
    let output = wait(run);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("no local worker can be kept alive") && said.contains("--resume"), "{said}");
    // The run is as good as before.
    std::fs::remove_file(place.path().join("cursed")).expect("removed");
    let had = steps_committed(&place);
    let again =
        place.coordinator(&[&LONG[..], &["--set", &set, "--resume"]].concat()).spawn().expect("started");
    until("it goes on", || steps_committed(&place) > had);
    signal(again.id(), "INT");
    assert_eq!(wait(again).status.code(), Some(130));
}

fn worker_named(coordinator: u32, name: &str) -> u32 {
    let is_it = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(name))
    };
    workers_of(coordinator).into_iter().find(is_it).expect("the worker of this name")
}
