//! A disk that hangs under the journal: the run waits for it, and status reports that.

mod support;

use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;
use support::{Place, signal, steps_committed, until, wait};

/// Writes to the journal neither return nor fail while the file that `HANGS` names exists.
const HANGS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_journal(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 8) return 0;
    path[length] = 0;
    return strcmp(path + length - 8, "/journal") == 0;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    const char *switched = getenv("HANGS");
    while (switched && is_journal(fd) && access(switched, F_OK) == 0) usleep(5000);
    return next(fd, bytes, count);
}
"#;

/// Long enough to interfere with; a worker that is silent for two seconds is evicted.
const SOME: [&str; 6] =
    ["--set", "train.epochs=300", "--set", "checkpoint.every=50 steps", "--set", "elastic.lease=2s"];

struct Hanging {
    place: Place,
    child: Child,
    switch: PathBuf,
}

impl Hanging {
    /// Starts a run that has committed steps, and whose journal can be made to hang.
    fn start() -> Self {
        let place = Place::new();
        let (source, library) = (place.path().join("hangs.c"), place.path().join("hangs.so"));
        std::fs::write(&source, HANGS).expect("written");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler");
        assert!(built.success());
        let switch = place.path().join("hang");
        let child = place
            .coordinator(&[&SOME[..], &["--local-workers", "2"]].concat())
            .env("LD_PRELOAD", &library)
            .env("HANGS", &switch)
            .stdout(place.log("coordinator.log"))
            .spawn()
            .expect("started");
        until("the run has committed steps", || steps_committed(&place) > 20);
        Self { place, child, switch }
    }

    fn hang(&self) {
        std::fs::write(&self.switch, "").expect("written");
    }

    fn status(&self) -> Value {
        let output = wait(self.place.command(&["status", "--output", "json"]).spawn().expect("started"));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn waits_for_its_disk(&self) -> bool {
        let status = self.status();
        let waits_for = status["waiting_for"].as_str().unwrap_or_default();
        status["state"] == "paused" && waits_for.contains("the journal, whose disk neither takes a record")
    }
}

#[test]
fn a_journal_that_hangs_keeps_nobody_from_an_answer_and_puts_nobody_out() {
    let run = Hanging::start();
    run.place.complete(&[&SOME[..], &["--set", "run.name=whole"]].concat());
    run.hang();
    until("status says what the run waits for", || run.waits_for_its_disk());
    let step = run.status()["step"].as_u64().expect("a step");
    until("it waits for longer than two leases", || {
        run.status()["waiting_seconds"].as_f64().is_some_and(|seconds| seconds > 4.0)
    });
    let status = run.status();
    assert_eq!(status["step"].as_u64(), Some(step), "no commit is told that the journal doesn't hold");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2), "{status}");

    std::fs::remove_file(&run.switch).expect("removed");
    let Hanging { place, child, .. } = run;
    let output = wait(child);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"));
    let events = place.record("small")["events"].to_string();
    assert!(!events.contains("\"left\""), "{events}");
}

#[test]
fn a_second_signal_ends_a_run_whose_journal_hangs() {
    let run = Hanging::start();
    run.hang();
    until("it waits for its disk", || run.waits_for_its_disk());
    signal(run.child.id(), "INT");
    until("it has heard", || run.place.said("coordinator.log").contains("finishing the step"));
    let Hanging { place, mut child, .. } = run;
    until("it ends", || {
        // Signals in quick succession count as one.
        signal(child.id(), "INT");
        child.try_wait().expect("looked at").is_some()
    });
    assert_eq!(wait(child).status.code(), Some(130));
    place.complete(&[&SOME[..], &["--resume"]].concat());
    place.complete(&[&SOME[..], &["--set", "run.name=whole"]].concat());
    assert_eq!(place.digest("small"), place.digest("whole"));
}
