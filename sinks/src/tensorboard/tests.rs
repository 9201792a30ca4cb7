//! The event file, read back record by record, checksums included.

use std::io::Write;

use super::*;
use crate::testing::{Run, drain};

fn sink(run: &Run) -> Box<TensorBoard> {
    Box::new(TensorBoard::new(&run.folder()))
}

fn file(run: &Run) -> PathBuf {
    run.path("tensorboard/events.out.tfevents.0000001000.digits-1")
}

fn events(run: &Run) -> Vec<Event> {
    let bytes = std::fs::read(file(run)).expect("a file");
    record::read(&bytes).iter().map(|data| Event::decode(&data[..]).expect("an event")).collect()
}

fn scalars(run: &Run) -> Vec<(i64, String, f32)> {
    let of_event = |event: Event| {
        let values = event.summary.unwrap_or_default().value;
        let scalar = move |value: Value| value.simple_value.map(|number| (event.step, value.tag, number));
        values.into_iter().filter_map(scalar)
    };
    events(run).into_iter().flat_map(of_event).collect()
}

#[test]
fn a_run_is_a_version_its_configuration_and_scalars() {
    let run = Run::new();
    run.row(1, &[("train/loss", 0.5), ("train/rate", 0.25)]);
    run.row(2, &[("train/loss", f64::NAN), ("big", f64::INFINITY)]);
    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let events = events(&run);
    assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
    assert_eq!(events[0].wall_time, 1_000.5);
    let text = &events[1].summary.as_ref().expect("the configuration").value[0];
    let tensor = text.tensor.as_ref().expect("a text");
    assert_eq!(tensor.string_val, [b"    model.kind = mlp\n    train.epochs = 2\n".to_vec()]);
    assert_eq!(events[2].wall_time, 2_000.125);
    let scalars = scalars(&run);
    let shown: Vec<String> =
        scalars.iter().map(|(step, tag, value)| format!("{step} {tag} {value}")).collect();
    assert_eq!(shown, ["1 train/loss 0.5", "1 train/rate 0.25", "2 train/loss NaN", "2 big inf"]);
}

/// A crash between the file and the state, one within a write, and a resume: each value is there once.
#[test]
fn a_crash_loses_and_doubles_nothing() {
    let run = Run::new();
    run.measure("k", &[1.0, 2.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let state = std::fs::read(run.path("tracker/tensorboard.json")).expect("a state");
    run.measure("k", &[3.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    std::fs::write(run.path("tracker/tensorboard.json"), state).expect("written");
    let mut torn = std::fs::File::options().append(true).open(file(&run)).expect("opened");
    torn.write_all(&[7; 100_000]).expect("written");
    run.status(RunStatus::Interrupted);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    run.status(RunStatus::Running);
    run.measure("k", &[4.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let values: Vec<f32> = scalars(&run).into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, [1.0, 2.0, 3.0, 4.0]);
}

/// Tag, step and text of each text except the configuration.
fn texts(run: &Run) -> Vec<(String, i64, String)> {
    let of_event = |event: Event| {
        let text = |value: Value| {
            let text = value.tensor?.string_val.remove(0);
            Some((value.tag, event.step, String::from_utf8(text).expect("a text")))
        };
        event.summary.unwrap_or_default().value.into_iter().filter_map(text).collect::<Vec<_>>()
    };
    events(run).into_iter().flat_map(of_event).filter(|(tag, ..)| tag != "config").collect()
}

#[test]
fn what_happened_is_said_once_and_how_it_ended() {
    let run = Run::new();
    let event =
        |time: f64, text: &str| serde_json::json!({ "time": time, "step": 3, "event": "view", "text": text });
    run.measure("k", &[1.0]);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    drain(&mut run.worker(sink(&run)), true).expect("written");
    assert_eq!(texts(&run), [("events".to_owned(), 0, "joined: w joined".to_owned())]);
    run.status(RunStatus::Completed);
    run.record("events", &serde_json::json!([event(1_000.5, "old"), event(1_001.0, "two members")]));
    run.provenance(&serde_json::json!({ "starts": [{ "git": { "commit": "c0ffee" } }] }));
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let said = texts(&run);
    assert_eq!(said[1], ("events".to_owned(), 3, "view: two members".to_owned()));
    assert_eq!((said.len(), said[2].0.as_str()), (3, "run"));
    assert!(
        said[2].2.contains("final_digest = d0\n") && said[2].2.contains("git.commit = c0ffee\n"),
        "{said:?}"
    );
}

/// An event's cost and its number of repetitions are known only some time after it began.
#[test]
fn an_event_is_said_when_it_is_as_it_stays() {
    let run = Run::new();
    let happened = |events: serde_json::Value, expected: &[&str]| {
        run.record("events", &events);
        // A new worker reads the record at once.
        drain(&mut run.worker(sink(&run)), false).expect("written");
        let said: Vec<String> = texts(&run).into_iter().map(|(_, _, text)| text).collect();
        assert_eq!(said, expected);
    };
    let event = |time: f64, event: &str, more: serde_json::Value| {
        let mut record =
            serde_json::json!({ "time": time, "step": 3, "event": event, "text": "t", "cost_seconds": null });
        record.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        record
    };
    let none = serde_json::json!({});
    let (joined, waits) = (event(1_000.5, "joined", none.clone()), event(1_002.0, "waiting", none.clone()));
    happened(serde_json::json!([joined, waits]), &["joined: t"]);
    let view = event(1_003.0, "view", none.clone());
    happened(serde_json::json!([joined, waits, view]), &["joined: t"]);
    let waited = event(1_002.0, "waiting", serde_json::json!({ "cost_seconds": 7.25 }));
    let told = ["joined: t", "waiting: t (7.2 s)", "view: t"];
    happened(serde_json::json!([joined, waited, view]), &told);
    let warned = event(1_004.0, "warning", none);
    happened(serde_json::json!([joined, waited, view, warned]), &told);
    let again = event(1_005.0, "warning", serde_json::json!({ "repeated": 3 }));
    happened(serde_json::json!([joined, waited, view, again]), &told);
    run.status(RunStatus::Completed);
    run.record("events", &serde_json::json!([joined, waited, view, again]));
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let said: Vec<String> = texts(&run).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(said[3], "warning: t (and 3 times more)");
    assert!(said.len() == 5 && said[4].contains("status = completed"), "{said:?}");
}

#[test]
fn a_file_that_is_gone_is_made_anew() {
    let run = Run::new();
    run.measure("k", &[1.0, 2.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let before = std::fs::read(file(&run)).expect("a file");
    std::fs::remove_file(file(&run)).expect("removed");
    drain(&mut run.worker(sink(&run)), false).expect("written");
    assert_eq!(std::fs::read(file(&run)).expect("a file"), before);
}

/// Values recomputed after metrics.jsonl lost its end were sent before; only new ones are sent.
#[test]
fn metrics_that_a_machine_lost_and_computed_again_are_there_once() {
    let run = Run::new();
    for step in 1..=4 {
        run.row(step, &[("k", step as f64)]);
    }
    let mut worker = run.worker(sink(&run));
    drain(&mut worker, false).expect("written");
    let text = std::fs::read_to_string(run.path("metrics.jsonl")).expect("read");
    let kept: String = text.split_inclusive('\n').take(2).collect();
    run.write("metrics.jsonl", &kept);
    drain(&mut worker, false).expect("written");
    assert!(worker.remarks().iter().any(|remark| remark.contains("was cut")), "people are told");
    for step in 3..=5 {
        run.row(step, &[("k", step as f64)]);
    }
    drain(&mut worker, false).expect("written");
    let steps: Vec<i64> = scalars(&run).into_iter().map(|(step, _, _)| step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
}

#[test]
fn a_run_keeps_its_file_when_its_start_becomes_known_later() {
    let run = Run::new();
    run.without_events();
    run.measure("k", &[1.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let files = std::fs::read_dir(run.path("tensorboard")).expect("a folder");
    assert_eq!(files.count(), 1);
}

#[test]
fn lines_that_say_nothing_hold_no_numbers_back() {
    let run = Run::new();
    run.garbled();
    let mut worker = run.worker(sink(&run));
    drain(&mut worker, false).expect("written");
    let steps = || scalars(&run).into_iter().map(|(step, ..)| step as u64).collect::<Vec<_>>();
    assert_eq!(steps(), Run::GARBLED_STEPS);
    run.check_garbled(&worker.remarks());
    run.mend_the_torn_line();
    drain(&mut worker, false).expect("written");
    assert_eq!(steps(), Run::MENDED_STEPS);
}

/// TensorBoard has no limit on names; values beyond 32 bits are rounded to the nearest f32.
#[test]
fn names_and_numbers_that_are_out_of_bounds() {
    let run = Run::new();
    let long = "n".repeat(5_000);
    run.row(1, &[(&long, 1.0), ("huge", 1e300), ("tiny", 1e-300), ("é\u{1F525}/ x", f64::NEG_INFINITY)]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let found: Vec<(String, f32)> = scalars(&run).into_iter().map(|(_, tag, value)| (tag, value)).collect();
    let expected = [
        (long, 1.0),
        ("huge".to_owned(), f32::INFINITY),
        ("tiny".to_owned(), 0.0),
        ("é\u{1F525}/ x".to_owned(), f32::NEG_INFINITY),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_state_that_is_damaged_is_named_and_nothing_is_overwritten() {
    let run = Run::new();
    run.measure("k", &[1.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let before = std::fs::read(file(&run)).expect("a file");
    run.write("tracker/tensorboard.json", "{\"sink\": \"tensorb");
    let opened = crate::worker::Worker::open(sink(&run), run.folder());
    let why = opened.map(drop).map_err(|(_, why)| why).expect_err("refused");
    assert!(
        matches!(&why, SinkError::Refused(why) if why.contains("tensorboard.json") && why.contains("move it away")),
        "{why}"
    );
    assert_eq!(std::fs::read(file(&run)).expect("a file"), before);
    // As the message says: the file is rebuilt from the beginning.
    std::fs::remove_file(run.path("tracker/tensorboard.json")).expect("moved away");
    run.measure("k", &[2.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    assert_eq!(scalars(&run).len(), 2);
}
