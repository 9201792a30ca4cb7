//! The index behind the server: single events, a concurrent process, and damage.

mod support;

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Server, until};

/// The index follows single events lazily, which readers never notice.
#[test]
fn what_is_logged_one_by_one_is_in_the_next_answer_and_on_the_disk() {
    let server = Server::start(None);
    let (run, _) = server.new_run();
    let log = |step: u64| {
        let metric =
            json!({ "run_id": run, "key": "loss", "value": 0.5, "timestamp": 1_000 + step, "step": step });
        assert_eq!(server.mlflow("runs/log-metric", &metric).0, 200);
    };
    let history = format!("/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss");
    let mut revision = json!(null);
    for step in 1..=20 {
        log(step);
        let file = server.runs().join(format!(".tracker/clients/0/{run}/events.jsonl"));
        assert_eq!(std::fs::read_to_string(file).expect("read").lines().count() as u64, step + 1);
        let (_, found) = server.json("GET", &history, &Value::Null);
        assert_eq!(found["metrics"].as_array().expect("points").len() as u64, step);
        let (_, found) = server.json("GET", &format!("/api/runs/{run}"), &Value::Null);
        assert_eq!((&found["latest"][0]["step"], found["revision"] != revision), (&json!(step), true));
        revision = found["revision"].clone();
    }
    // A deleted run accepts no metrics, nor does one that doesn't exist.
    log(21);
    assert_eq!(server.mlflow("runs/delete", &json!({ "run_id": run })).0, 200);
    let late = json!({ "run_id": run, "key": "loss", "value": 1, "timestamp": 1, "step": 22 });
    let (status, why) = server.mlflow("runs/log-metric", &late);
    assert!(
        status == 400 && why["message"].as_str().is_some_and(|why| why.contains("active")),
        "{status} {why}"
    );
    assert_eq!(server.mlflow("runs/log-metric", &json!({ "run_id": "x", "key": "k", "value": 1 })).0, 404);
    let (_, found) = server.json("GET", &history, &Value::Null);
    assert_eq!(found["metrics"].as_array().expect("points").len(), 21);
}

/// Another process writes to the index meanwhile: logging waits for it, and every request is answered.
#[test]
fn whoever_logs_while_another_process_writes_waits_and_loses_nothing() {
    let server = Server::start(None);
    let (run, _) = server.new_run();
    let log = |step: u64| {
        let metric = json!({ "run_id": run, "key": "loss", "value": 0.5, "timestamp": 1_000, "step": step });
        server.mlflow("runs/log-metric", &metric).0
    };
    assert_eq!(log(1), 200);
    let mut other = rusqlite::Connection::open(server.runs().join(".tracker/index.sqlite")).expect("opened");
    let immediate = rusqlite::TransactionBehavior::Immediate;
    let writes = other.transaction_with_behavior(immediate).expect("begun");
    std::thread::scope(|scope| {
        let late = scope.spawn(|| log(2));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!late.is_finished(), "it waits for the other's write");
        assert_eq!(server.request("GET", "/style.css", "", "").0, 200, "and nobody else for it");
        writes.commit().expect("ended");
        assert_eq!(late.join().expect("no panic"), 200);
    });
    let history = format!("/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss");
    let (_, found) = server.json("GET", &history, &Value::Null);
    assert_eq!(found["metrics"].as_array().expect("points").len(), 2);
}

/// The index is damaged while it is served: the server reports it, rebuilds it from the folders, and goes on.
#[test]
fn a_damaged_index_is_made_anew_while_it_is_served() {
    let (remarks, said) = std::sync::mpsc::channel();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = Server::over(dir, None, move |remark| remarks.send(remark.to_owned()).expect("kept"));
    let new_run = || {
        let (run, _) = server.new_run();
        let metrics: Vec<Value> =
            (0..1_000).map(|step| json!({ "key": "loss", "value": 1, "step": step })).collect();
        assert_eq!(server.mlflow("runs/log-batch", &json!({ "run_id": run, "metrics": metrics })).0, 200);
        run
    };
    let history = |run: &str| {
        let path = format!("/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss");
        let (status, found) = server.json("GET", &path, &Value::Null);
        // Requests during the rebuild are told to retry; none gets a wrong answer.
        assert!(
            status == 503 || found["metrics"].as_array().map(Vec::len) == Some(1_000),
            "{status} {found}"
        );
        status == 200
    };
    let path = server.runs().join(".tracker/index.sqlite");
    // From its beginning; from its first table on; and only pages that no scan of the folders reads.
    for (part, of) in [(0, 4), (1, 40), (3, 4)] {
        let run = new_run();
        assert_eq!(server.request("GET", &format!("/api/runs/{run}"), "", "").0, 200);
        let keeper = rusqlite::Connection::open(&path).expect("opened");
        keeper.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("written");
        drop(keeper);
        let mut bytes = std::fs::read(&path).expect("read");
        let from = bytes.len() * part / of;
        bytes[from..].fill(0x5a);
        let mut file = std::fs::File::options().write(true).open(&path).expect("opened");
        file.write_all(&bytes).expect("damaged");
        drop(file);
        let is_told =
            || said.try_iter().any(|said| said.contains("made anew") && said.contains("sqlite.damaged"));
        until("the damage is said", || {
            history(&run);
            is_told()
        });
        until("the whole history again", || history(&run));
        let log = json!({ "run_id": run, "key": "more", "value": 1, "timestamp": 1, "step": 5_000 });
        assert_eq!(server.mlflow("runs/log-metric", &log).0, 200);
    }
}
