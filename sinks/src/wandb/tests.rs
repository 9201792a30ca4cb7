//! The file, read back chunk by chunk and message by message.

use std::collections::BTreeMap;
use std::io::Write;

use super::*;
use crate::testing::{Run, drain};

fn sink(run: &crate::testing::Run) -> Box<Wandb> {
    Box::new(Wandb::new(&run.folder(), "digits".into(), String::new()))
}

const FOLDER: &str = "wandb/offline-run-19700101_001640-0123abcd00000000";

fn file(run: &Run) -> PathBuf {
    run.path(FOLDER).join("run-0123abcd00000000.wandb")
}

fn records(run: &Run) -> Vec<Record> {
    let bytes = std::fs::read(file(run)).expect("a file");
    log::read(&bytes).iter().map(|data| Record::decode(&data[..]).expect("a record")).collect()
}

fn items(items: &[Item]) -> BTreeMap<String, String> {
    let key = |item: &Item| if item.key.is_empty() { item.nested_key.join("|") } else { item.key.clone() };
    items.iter().map(|item| (key(item), item.value_json.clone())).collect()
}

/// The history rows: step, and the metrics among the row's items.
fn rows(run: &Run) -> Vec<(i64, Vec<(String, String)>)> {
    let row = |history: History| {
        let step = history.step.expect("a step").num;
        let items = items(&history.item);
        assert_eq!(items["_step"], step.to_string());
        (step, items.into_iter().filter(|(key, _)| !key.starts_with('_')).collect())
    };
    records(run).into_iter().filter_map(|record| record.history).map(row).collect()
}

fn row(step: i64, values: &[(&str, &str)]) -> (i64, Vec<(String, String)>) {
    (step, values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

#[test]
fn a_run_is_written_as_rows_with_a_summary_and_an_end() {
    let run = Run::new();
    run.row(1, &[("train/loss", 0.5), ("train/rate", 1e-8)]);
    run.row(2, &[("train/loss", f64::NAN), ("a.b", f64::NEG_INFINITY)]);
    run.measure_in("system.jsonl", "system/cpu", &[0.25]);
    let mut worker = run.worker(sink(&run));
    drain(&mut worker, false).expect("written");
    let first = row(1, &[("train/loss", "0.5"), ("train/rate", "1e-8")]);
    assert_eq!(rows(&run), std::slice::from_ref(&first), "the newest step may get more");
    run.row(2, &[("validation/loss", 0.25)]);
    run.status(RunStatus::Completed);
    drain(&mut worker, true).expect("written");

    let second = row(2, &[("a.b", "-Infinity"), ("train/loss", "NaN"), ("validation/loss", "0.25")]);
    assert_eq!(rows(&run), [first, second]);
    let records = records(&run);
    assert!(records.iter().map(|record| record.num).eq(1..=records.len() as i64), "numbered from 1");
    assert!(records[0].header.is_some(), "the header is the first");
    let about = records[1].run.as_ref().expect("the run is the second");
    assert_eq!((about.run_id.as_str(), about.project.as_str()), ("0123abcd00000000", "digits"));
    assert_eq!(about.display_name, "digits-1");
    let config = items(&about.config.as_ref().expect("a configuration").update);
    assert_eq!(
        (config["model"].as_str(), config["config_digest"].as_str()),
        ("{\"kind\":\"mlp\"}", "\"c0\"")
    );
    let stats = records.iter().find_map(|record| record.stats.as_ref()).expect("readings");
    assert_eq!(items(&stats.item), BTreeMap::from([("cpu".to_owned(), "0.25".to_owned())]));
    let summary = records.iter().find_map(|record| record.summary.as_ref()).expect("a summary");
    let summary = items(&summary.update);
    assert_eq!(
        (summary["bonfire/final_digest"].as_str(), summary["bonfire/views"].as_str()),
        ("\"d0\"", "1")
    );
    assert_eq!((summary["train/loss"].as_str(), summary["validation/loss"].as_str()), ("NaN", "0.25"));
    assert_eq!(summary["_step"], "2");
    assert_eq!(records[records.len() - 1].exit.expect("an end").exit_code, 0);
}

/// Facts that become known after the run began, and its files, are at the end.
#[test]
fn origin_and_files_go_with_the_run() {
    let run = Run::new();
    run.measure("k", &[1.0]);
    run.write("git.diff", "--- a\n+++ b\n");
    run.status(RunStatus::Completed);
    run.provenance(&serde_json::json!({ "starts": [
        { "git": { "commit": "c0ffee", "branch": "main", "dirty": true }, "build": { "cargo_lock": "10c4" } },
    ] }));
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let records = records(&run);
    let config = records.iter().find_map(|record| record.config.as_ref()).expect("a configuration");
    let known: Value = serde_json::from_str(&items(&config.update)["bonfire"]).expect("JSON");
    assert_eq!(known["git.commit"], "c0ffee");
    assert_eq!(known["cargo_lock"], "10c4");
    let commits: Vec<Option<&str>> = records
        .iter()
        .filter_map(|record| record.run.as_ref())
        .map(|about| about.git.as_ref().map(|git| git.commit.as_str()))
        .collect();
    assert_eq!(commits, [Some("c0ffee")], "known at once, said once");
    let named = records.iter().find_map(|record| record.files.as_ref()).expect("files");
    let names: Vec<&str> = named.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.toml", "run.json", "diff.patch"]);
    let patch = run.path(FOLDER).join("files/diff.patch");
    assert_eq!(std::fs::read_to_string(patch).expect("read"), "--- a\n+++ b\n");
}

#[test]
fn a_commit_that_git_names_late_is_said_at_the_end_and_after_a_resume() {
    let run = Run::new();
    let commits = || -> Vec<Option<String>> {
        let runs = records(&run).into_iter().filter_map(|record| record.run);
        runs.map(|about| about.git.map(|git| git.commit)).collect()
    };
    let known = serde_json::json!({ "starts": [{ "git": { "commit": "c0ffee" } }] });
    run.measure("k", &[1.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    for status in [RunStatus::Interrupted, RunStatus::Completed] {
        run.status(RunStatus::Running);
        run.measure("k", &[2.0]);
        drain(&mut run.worker(sink(&run)), false).expect("written");
        assert_eq!(commits(), [None]);
        run.status(status);
        run.provenance(&known);
        drain(&mut run.worker(sink(&run)), true).expect("written");
        assert_eq!(commits(), [None, Some("c0ffee".to_owned())]);
    }
}

#[test]
fn how_a_run_ended_is_its_exit_code() {
    for (status, expected) in [(RunStatus::Failed, 1), (RunStatus::Interrupted, 255)] {
        let run = Run::new();
        run.measure("k", &[1.0]);
        run.status(status);
        drain(&mut run.worker(sink(&run)), true).expect("written");
        assert_eq!(records(&run).last().and_then(|record| record.exit).expect("an end").exit_code, expected);
    }
}

#[test]
fn a_resumed_run_goes_on_where_its_end_was_and_is_synced_again() {
    let run = Run::new();
    run.measure("k", &[1.0, 2.0]);
    run.status(RunStatus::Interrupted);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let mark = run.path(FOLDER).join("run-0123abcd00000000.wandb.synced");
    std::fs::write(&mark, "").expect("written");

    run.status(RunStatus::Running);
    run.measure("k", &[3.0]);
    run.write("config.toml", "[train]\nepochs = 4\n");
    let mut worker = run.worker(sink(&run));
    drain(&mut worker, false).expect("written");
    assert!(!mark.exists());
    assert!(records(&run).iter().all(|record| record.exit.is_none() && record.summary.is_none()));
    run.status(RunStatus::Completed);
    drain(&mut worker, true).expect("written");
    let expected = [(1, "1.0"), (2, "2.0"), (3, "3.0")].map(|(step, value)| row(step, &[("k", value)]));
    assert_eq!(rows(&run), expected);
    let records = records(&run);
    assert!(records.iter().map(|record| record.num).eq(1..=records.len() as i64));
    let config = records.iter().find_map(|record| record.config.as_ref()).expect("the new configuration");
    assert_eq!(items(&config.update)["train"], "{\"epochs\":4}");
    assert_eq!(records.iter().filter(|record| record.exit.is_some()).count(), 1);
}

/// A crash between the file and the state, and one within a write: unknown data is truncated and written again.
#[test]
fn a_crash_loses_and_doubles_nothing() {
    let run = Run::new();
    run.measure("k", &[1.0, 2.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let state = std::fs::read(run.path("tracker/wandb.json")).expect("a state");
    run.measure("k", &[3.0, 4.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    std::fs::write(run.path("tracker/wandb.json"), state).expect("written");
    let mut torn = std::fs::File::options().append(true).open(file(&run)).expect("opened");
    torn.write_all(&[7; 100_000]).expect("written");

    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let steps: Vec<i64> = rows(&run).into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
}

#[test]
fn a_file_that_is_gone_or_cut_is_made_anew() {
    let run = Run::new();
    run.measure("k", &[1.0, 2.0, 3.0]);
    let mut expected = None;
    for _ in 0..2 {
        drain(&mut run.worker(sink(&run)), false).expect("written");
        assert_eq!(expected.get_or_insert(rows(&run)), &rows(&run));
        std::fs::write(file(&run), "cut").expect("written");
    }
    std::fs::remove_dir_all(run.path("wandb")).expect("removed");
    drain(&mut run.worker(sink(&run)), false).expect("written");
    assert_eq!(rows(&run), expected.expect("rows"));
}

/// A step that fills a batch by itself is written in pieces rather than never.
#[test]
fn a_step_of_more_metrics_than_a_batch_has_lines() {
    let run = Run::new();
    let keys: Vec<String> = (0..LINES_MAX + 500).map(|n| format!("k{n:04}")).collect();
    let values: Vec<(&str, f64)> = keys.iter().map(|key| (key.as_str(), 1.0)).collect();
    run.row(1, &values);
    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let rows = rows(&run);
    assert!(rows.iter().all(|(step, _)| *step == 1));
    let written: Vec<String> = rows.into_iter().flat_map(|(_, values)| values).map(|(key, _)| key).collect();
    assert_eq!(written, keys);
}

#[test]
fn a_run_keeps_its_file_when_its_start_becomes_known_later() {
    let run = Run::new();
    run.without_events();
    run.measure("k", &[1.0]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let files = std::fs::read_dir(run.path("wandb")).expect("a folder");
    assert_eq!(files.count(), 1);
}

#[test]
fn readings_of_a_run_that_waits_stay_apart() {
    let run = Run::new();
    let reading = |time: f64, key: &str| {
        let metric = Metric { step: 5, epoch: 0.0, samples: 5, time, key: key.into(), value: time };
        metric.to_json_line() + "\n"
    };
    let text = reading(10.0, "system/cpu") + &reading(10.0, "system/gpu") + &reading(20.5, "system/cpu");
    run.write("system.jsonl", &text);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    let stats: Vec<(i64, usize)> = records(&run)
        .into_iter()
        .filter_map(|record| record.stats)
        .map(|stats| (stats.timestamp.expect("a time").seconds, stats.item.len()))
        .collect();
    assert_eq!(stats, [(10, 2), (20, 1)]);
}

#[test]
fn lines_that_say_nothing_hold_no_numbers_back() {
    let run = Run::new();
    run.garbled();
    let mut worker = run.worker(sink(&run));
    drain(&mut worker, false).expect("written");
    run.check_garbled(&worker.remarks());
    run.mend_the_torn_line();
    run.status(RunStatus::Completed);
    drain(&mut worker, true).expect("written");
    let steps: Vec<u64> = rows(&run).into_iter().map(|(step, _)| step as u64).collect();
    assert_eq!(steps, Run::MENDED_STEPS);
}

/// W&B has no limit on names; its own JSON has words for values that aren't finite.
#[test]
fn names_and_numbers_that_are_out_of_bounds() {
    let run = Run::new();
    let long = "n".repeat(5_000);
    run.row(1, &[(&long, f64::NAN), ("a\"b\n", f64::INFINITY), ("huge", 1e300), ("tiny", 5e-324)]);
    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    let expected = [("a\"b\n", "Infinity"), ("huge", "1e+300"), (long.as_str(), "NaN"), ("tiny", "5e-324")];
    assert_eq!(rows(&run), [row(1, &expected)]);
}

#[test]
fn a_state_that_is_damaged_is_named_and_the_way_out_works() {
    let run = Run::new();
    run.row(1, &[("k", 1.0)]);
    run.row(2, &[("k", 2.0)]);
    drain(&mut run.worker(sink(&run)), false).expect("written");
    run.write("tracker/wandb.json", "{\"run\": 7}");
    let opened = crate::worker::Worker::open(sink(&run), run.folder());
    let why = opened.map(drop).map_err(|(_, why)| why).expect_err("refused");
    assert!(matches!(&why, SinkError::Refused(why) if why.contains("wandb.json")), "{why}");
    std::fs::remove_file(run.path("tracker/wandb.json")).expect("moved away");
    run.status(RunStatus::Completed);
    drain(&mut run.worker(sink(&run)), true).expect("written");
    assert_eq!(rows(&run), [row(1, &[("k", "1.0")]), row(2, &[("k", "2.0")])]);
}
