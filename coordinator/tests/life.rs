//! Everyday events: Ctrl-C, a killed worker, a second start, changed data, torn checkpoints, bad configurations.

mod support;

use std::process::Command;

use protocol::journal::{Record, decode, encode};
use support::{Place, alive, signal, steps_committed, until, wait, while_stopped, worker_of, workers_of};

/// Enough epochs for a run to be still working when it is interfered with.
const LONG: [&str; 2] = ["--set", "train.epochs=200000"];

#[test]
fn ctrl_c_finishes_the_step_writes_a_version_and_can_be_resumed() {
    let place = Place::new();
    let child =
        place.coordinator(&[&LONG[..], &["--set", "checkpoint.every=1h"]].concat()).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 0);
    signal(child.id(), "INT");
    let output = wait(child);
    assert_eq!(output.status.code(), Some(130));
    let record = place.record("small");
    assert_eq!(record["status"], "interrupted");
    let step = record["final"]["step"].as_u64().expect("a step");
    assert!(place.run_dir("small").join(format!("checkpoints/step-{step:08}/manifest.json")).is_file());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("--resume"), "{said}");

    // Another length would change the cosine schedule, and so the weights.
    let (code, out, err) = place.finish(&["--resume", "--set", "train.epochs=2"]);
    assert_eq!(code, Some(2), "{out}\n{err}");
    assert!(err.contains("schedule") || err.contains("train.epochs"), "{err}");
}

/// Long enough to interfere with, short enough to wait for.
const SOME: [&str; 4] = ["--set", "train.epochs=300", "--set", "checkpoint.every=50 steps"];

/// A quiet run of [`SOME`] with one worker, as `whole`.
fn quiet(place: &Place) {
    place.complete(&[&SOME[..], &["--set", "run.name=whole", "--local-workers", "1"]].concat());
}

fn events(place: &Place, kind: &str) -> Vec<String> {
    let record = place.record("small");
    let events = record["events"].as_array().expect("events").iter().filter(|event| event["event"] == kind);
    events.map(|event| event["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn a_killed_worker_is_done_without_and_comes_back_and_the_digest_is_the_same() {
    let place = Place::new();
    quiet(&place);
    let child = place.coordinator(&[&SOME[..], &["--local-workers", "3"]].concat()).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    signal(worker_of(child.id()), "KILL");
    let output = wait(child);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"));
    let left = events(&place, "left");
    assert!(left.iter().any(|text| text.contains("worker-") && text.contains("control stream")), "{left:?}");
    assert!(said.contains("it is started again"), "{said}");
    assert_eq!(place.record("small")["exact"], true);
}

#[test]
fn a_worker_that_is_stopped_and_goes_on_later_is_put_out_and_comes_back() {
    let place = Place::new();
    quiet(&place);
    let lease = ["--local-workers", "2", "--set", "elastic.lease=500ms"];
    let child = place.coordinator(&[&SOME[..], &lease].concat()).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let worker = worker_of(child.id());
    signal(worker, "STOP");
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    signal(worker, "CONT");
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let left = events(&place, "left");
    assert!(left.iter().any(|text| text.contains("lease 500 ms")), "{left:?}");
}

#[test]
fn a_worker_that_is_told_to_leave_finishes_its_step_and_goes() {
    let place = Place::new();
    quiet(&place);
    let child = place.coordinator(&[&SOME[..], &["--local-workers", "2"]].concat()).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    signal(worker_of(child.id()), "TERM");
    assert_eq!(wait(child).status.code(), Some(0));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let left = events(&place, "left");
    assert!(left.iter().any(|text| text.contains("it leaves: SIGTERM")), "{left:?}");
    assert_eq!(place.record("small")["retries"], 0);
}

#[test]
fn a_worker_from_elsewhere_enters_a_run_that_is_under_way() {
    let place = Place::new();
    quiet(&place);
    let lease = ["--local-workers", "1", "--set", "elastic.lease=60s"];
    let child = place.coordinator(&[&SOME[..], &lease].concat()).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let address = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
    let joiner = while_stopped(&workers_of(child.id()), || {
        let mut joiner = place.worker(&["--coordinator", address.trim(), "--name", "guest"]);
        let joiner = joiner.stderr(place.log("guest.log")).spawn().expect("started");
        // From then on it may enter between any two steps, of which there are many.
        until("it is ready", || place.said("guest.log").contains("every shape is compiled"));
        joiner
    });
    assert_eq!(wait(child).status.code(), Some(0));
    assert_eq!(wait(joiner).status.code(), Some(0));
    assert_eq!(place.digest("small"), place.digest("whole"));
    assert!(events(&place, "joined").iter().any(|text| text.starts_with("guest joined")));
    assert!(place.record("small")["views"].as_u64() >= Some(2));
}

#[test]
fn a_coordinator_killed_with_9_is_started_again_and_its_workers_go_on() {
    let place = Place::new();
    quiet(&place);
    let run = [&SOME[..], &["--local-workers", "2"]].concat();
    let mut child = place.coordinator(&run).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let worker = worker_of(child.id());
    child.kill().expect("killed");
    child.wait().expect("waited for");
    assert!(alive(worker), "workers wait for another coordinator");
    let said = place.complete(&[&run[..], &["--resume"]].concat());
    assert_eq!(place.digest("small"), place.digest("whole"), "{said}");
    assert!(events(&place, "rewind").is_empty(), "nothing was computed again: {said}");
    until("its worker has ended", || !alive(worker));
}

#[test]
fn a_worker_of_an_earlier_coordinator_that_is_lost_gets_a_successor() {
    let place = Place::new();
    let run = [&LONG[..], &["--set", "checkpoint.every=50 steps"]].concat();
    let mut child = place.coordinator(&run).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let orphan = worker_of(child.id());
    child.kill().expect("killed");
    child.wait().expect("waited for");
    let before = steps_committed(&place);
    let child = place.coordinator(&[&run[..], &["--resume"]].concat()).spawn().expect("started");
    until("the worker is back", || steps_committed(&place) > before + 20);
    // This process has no parent that waits for it: only its stream shows that it is gone.
    signal(orphan, "KILL");
    let at = steps_committed(&place);
    until("another worker goes on", || steps_committed(&place) > at + 40);
    signal(child.id(), "INT");
    assert_eq!(wait(child).status.code(), Some(130));
}

#[test]
fn a_supervised_coordinator_starts_itself_again() {
    let place = Place::new();
    quiet(&place);
    let run = [&SOME[..], &["--local-workers", "2", "--supervise"]].concat();
    let supervisor = place.coordinator(&run).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let lock =
        std::fs::read_to_string(place.run_dir("small").join("lock")).expect("the lock names its holder");
    let coordinator: u32 = lock.trim().parse().expect("a process id");
    assert_ne!(coordinator, supervisor.id());
    signal(coordinator, "KILL");
    let output = wait(supervisor);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"), "{said}");
}

#[test]
fn a_named_run_that_exists_needs_resume_and_a_completed_one_says_so() {
    let place = Place::new();
    place.complete(&[]);
    let before = place.digest("small");
    let (code, _, err) = place.finish(&[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--resume") && err.contains("small"), "{err}");
    let said = place.complete(&["--resume"]);
    assert!(said.contains("completed"), "{said}");
    assert_eq!(place.digest("small"), before);
}

#[test]
fn a_second_coordinator_on_a_run_is_refused_and_names_the_holder() {
    let place = Place::new();
    let child = place.coordinator(&LONG).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 0);
    let (code, _, err) = place.finish(&[&LONG[..], &["--resume"]].concat());
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains(&child.id().to_string()), "{err}");
    signal(child.id(), "INT");
    assert_eq!(wait(child).status.code(), Some(130));
}

#[test]
fn a_torn_version_is_named_and_the_one_before_is_used() {
    let place = Place::new();
    place.complete(&["--set", "run.name=whole"]);
    place.complete(&[]);
    let dir = place.run_dir("small");
    let record = std::fs::read_to_string(dir.join("run.json")).expect("run.json");
    std::fs::write(dir.join("run.json"), record.replace("\"completed\"", "\"interrupted\""))
        .expect("written");
    let newest = dir.join("checkpoints/step-00000010/model.safetensors");
    let mut bytes = std::fs::read(&newest).expect("the newest version");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).expect("damaged");

    let child = place.coordinator(&["--resume"]).spawn().expect("started");
    let output = wait(child);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("step-00000010") && said.contains("model.safetensors"), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"));
}

/// The disk damages a checkpoint during the run, and then all workers are lost: the previous checkpoint is used.
#[test]
fn a_version_that_is_damaged_under_a_run_is_passed_over() {
    let place = Place::new();
    let some = ["--set", "train.epochs=300", "--set", "checkpoint.every=400 steps"];
    place.complete(&[&some[..], &["--set", "run.name=whole"]].concat());
    let child = place.coordinator(&[&some[..], &["--local-workers", "2"]].concat()).spawn().expect("started");
    let checkpoints = place.run_dir("small").join("checkpoints");
    until("a version", || checkpoints.join("step-00000400/manifest.json").is_file());
    let workers = workers_of(child.id());
    workers.iter().for_each(|pid| signal(*pid, "STOP"));
    for step in [400, 800, 1_200] {
        let model = checkpoints.join(format!("step-{step:08}/model.safetensors"));
        let Ok(mut bytes) = std::fs::read(&model) else { continue };
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&model, bytes).expect("damaged");
    }
    workers.iter().for_each(|pid| signal(*pid, "KILL"));
    let output = wait(child);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(place.digest("small"), place.digest("whole"), "{said}");
    let warned = events(&place, "warning");
    assert!(warned.iter().any(|text| text.contains("version 400 can't be used")), "{warned:?}");
}

/// No checkpoint is left, and the only worker has trained: state 0 must be that of a worker that has not.
#[test]
fn a_run_that_begins_anew_in_a_worker_that_has_trained_has_the_same_bits() {
    let place = Place::new();
    quiet(&place);
    let mut child = place.coordinator(&SOME).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let worker = worker_of(child.id());
    child.kill().expect("killed");
    child.wait().expect("waited for");
    // All its work is void: the state that the worker holds counts for nothing.
    let journal = place.run_dir("small").join("journal");
    let records = decode(&std::fs::read(&journal).expect("the journal")).expect("a journal").records;
    let begins = records.iter().filter(|record| matches!(record, Record::Term(_) | Record::View(_))).take(2);
    let void = Record::Rewind { to_step: 0, void: true, reason: "a deviant".to_owned() };
    let bytes: Vec<u8> = begins.chain([&void]).flat_map(encode).collect();
    std::fs::write(&journal, bytes).expect("written");
    std::fs::remove_dir_all(place.run_dir("small").join("checkpoints")).expect("removed");
    assert!(alive(worker), "workers wait for another coordinator");
    let said = place.complete(&[&SOME[..], &["--resume"]].concat());
    assert_eq!(place.digest("small"), place.digest("whole"), "{said}");
}

#[test]
fn changed_data_is_refused_on_resume_and_the_file_named() {
    let place = Place::new();
    place.complete(&[]);
    let dir = place.run_dir("small");
    let record = std::fs::read_to_string(dir.join("run.json")).expect("run.json");
    std::fs::write(dir.join("run.json"), record.replace("\"completed\"", "\"interrupted\""))
        .expect("written");
    let rows = place.path().join("rows.csv");
    let text = std::fs::read_to_string(&rows).expect("rows");
    std::fs::write(&rows, text.replacen(",9,", ",8,", 1)).expect("changed");
    let (code, _, err) = place.finish(&["--resume"]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("rows.csv"), "{err}");
}

#[test]
fn a_typo_in_the_configuration_is_found_before_anything_starts() {
    let place = Place::new();
    let (code, _, err) = place.finish(&["--set", "train.batchsize=3"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("train.batchsize") && err.contains("batch_size"), "{err}");
    assert!(!place.run_dir("small").exists(), "nothing was started");
}

#[test]
fn a_run_that_fails_says_why_on_standard_error_and_once() {
    let place = Place::new();
    let (code, out, err) = place.finish(&["--set", "optimizer.learning_rate=1e30"]);
    assert_eq!(code, Some(4), "{out}\n{err}");
    let why = err.lines().find(|line| line.starts_with("coordinator: failed at step")).expect("a reason");
    assert!(why.contains("not finite") && why.contains("optimizer.learning_rate"), "{why}");
    assert_eq!(why.matches("--resume").count(), 1, "{why}");
    assert!(out.lines().any(|line| line == &why["coordinator: ".len()..]), "{out}");
    assert!(!err.contains('\u{1b}'), "colours in a pipe: {err:?}");
    assert_eq!(place.record("small")["status"], "failed");
}

#[test]
fn a_worker_without_a_coordinator_gives_up_at_its_join_timeout() {
    let worker = std::path::Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
    let output = Command::new(worker)
        .args(["--coordinator", "http://127.0.0.1:9", "--join-timeout", "1s", "--device", "cpu"])
        .output()
        .expect("the worker starts");
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("127.0.0.1:9"), "{said}");
}

/// A terminal halted by Ctrl-S, or a pager that nobody scrolls: the training goes on, and omitted output is reported.
#[test]
fn a_reader_that_reads_nothing_holds_up_no_training() {
    let place = Place::new();
    let some = ["--set", "train.epochs=600", "--set", "checkpoint.every=1h", "--output", "json"];
    place.complete(&[&some[..], &["--set", "run.name=whole"]].concat());
    // Every frame on the wire is logged, too.
    let mut child = place.coordinator(&some).env("RUST_LOG", "h2=debug").spawn().expect("started");
    // Nobody reads its pipes, which hold 64 KiB each, until its output would be far larger than that.
    until("the run is over", || {
        let text = std::fs::read_to_string(place.run_dir("small").join("run.json")).unwrap_or_default();
        text.contains("\"completed\"")
    });
    assert!(child.try_wait().expect("looked at").is_none(), "its last words wait for a reader a while");
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.lines().count() > 1_000 && said.contains("\"event\":\"end\""), "{}", said.lines().count());
    assert!(output.stderr.len() > 1 << 17, "{} bytes in the log", output.stderr.len());
}
