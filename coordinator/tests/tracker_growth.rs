//! After ten thousand requests of all kinds a tracker is no larger than after the first thousand.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use support::{DEADLINE, Place, signal, steps_committed, until, wait, while_stopped, workers_of};

/// Filled caches, and memory that the allocator has not returned. A leak of 2.5 kB per request exceeds this.
const GROWN_KB_MAX: u64 = 24 << 10;
/// Files of connections that are just being closed.
const FILES_MORE_MAX: usize = 8;
/// The serving thread, those that wait for the disk, and the coordinator's own.
const THREADS_MAX: usize = 16 + 24;
/// Number of requests until the caches are full.
const WARM_UP: usize = 1_500;
const REQUESTS: usize = 10_000;

/// A process's resources.
#[derive(Clone, Copy, Debug)]
struct Held {
    memory_kb: u64,
    files: usize,
    threads: usize,
}

fn held(pid: u32) -> Held {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says it");
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("it lives").count();
    Held {
        memory_kb: line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number"),
        files: count("fd"),
        threads: count("task"),
    }
}

/// A client of a tracker, which opens a connection for each request.
struct Client<'a> {
    host: &'a str,
    runs: Vec<String>,
    own: String,
    asked: std::cell::Cell<usize>,
}

impl Client<'_> {
    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        self.asked.set(self.asked.get() + 1);
        let mut stream = TcpStream::connect(self.host).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let (host, length) = (self.host, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut answer = String::new();
        self.send(method, path, &body).read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    fn mlflow(&self, what: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/api/2.0/mlflow/{what}"), body)
    }

    /// One of the many kinds of requests that pages and clients make.
    fn turn(&mut self, number: usize) {
        let own = self.own.clone();
        let last = self.runs.last().cloned();
        match (number % 10, last) {
            (0, _) | (_, None) => {
                let run = self.mlflow("runs/create", &json!({ "experiment_id": "0", "start_time": "5" }));
                self.runs.push(run["run"]["info"]["run_id"].as_str().expect("an id").to_owned());
                if self.runs.len() > 20 {
                    let old = self.runs.remove(0);
                    self.mlflow("runs/delete", &json!({ "run_id": old }));
                }
            }
            (1, _) => drop(self.ask("GET", "/api/runs?limit=100&order_by=metrics.a", &Value::Null)),
            (2, _) => drop(self.ask("GET", &format!("/api/runs/{own}"), &Value::Null)),
            (3, _) => {
                drop(self.ask("GET", &format!("/api/runs/{own}/points?key=train%2Floss"), &Value::Null));
            }
            (4, Some(run)) => {
                let path = format!("/api/runs/{}/stream", if number.is_multiple_of(4) { own } else { run });
                let mut line = String::new();
                BufReader::new(self.send("GET", &path, "")).read_line(&mut line).expect("answered");
                assert!(line.contains("200"), "{line}");
            }
            (5, Some(run)) => {
                let metrics: Vec<Value> = (0..50)
                    .map(|i| json!({ "key": format!("m{i}"), "value": i, "step": number, "timestamp": 1 }))
                    .collect();
                self.mlflow("runs/log-batch", &json!({ "run_id": run, "metrics": metrics }));
            }
            (6, Some(run)) => {
                let metric =
                    json!({ "run_id": run, "key": "a", "value": number, "step": number, "timestamp": 1 });
                self.mlflow("runs/log-metric", &metric);
            }
            (7, _) => {
                // Each filter is another statement.
                let filter = format!("metrics.a < {number} and params.`p{number}` != 'x'");
                self.mlflow(
                    "runs/search",
                    &json!({ "experiment_ids": ["0"], "filter": filter, "max_results": 50 }),
                );
            }
            (8, Some(run)) => {
                let file = format!("/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/file");
                self.ask("PUT", &file, &json!("x".repeat(100_000)));
                self.ask("GET", &file, &Value::Null);
                self.mlflow(
                    "runs/set-tag",
                    &json!({ "run_id": run, "key": format!("t{number}"), "value": "v" }),
                );
            }
            (_, _) => {
                for path in ["/", "/main.js", "/api/keys", "/api/experiments", "/api/models"] {
                    self.ask("GET", path, &Value::Null);
                }
            }
        }
    }
}

/// Sends requests for a while, and then for much longer.
fn does_not_grow(pid: u32, host: &str, own: String) {
    let mut client = Client { host, runs: Vec::new(), own, asked: 0.into() };
    let mut turns = 0..;
    let mut ask_until = |most: usize| {
        while client.asked.get() < most {
            client.turn(turns.next().unwrap_or_default());
        }
    };
    ask_until(WARM_UP);
    let before = held(pid);
    ask_until(WARM_UP + REQUESTS);
    until("streams that were closed are over", || held(pid).files <= before.files + FILES_MORE_MAX);
    let after = held(pid);
    println!("{REQUESTS} requests: {before:?}, then {after:?}");
    assert!(after.memory_kb <= before.memory_kb + GROWN_KB_MAX, "{before:?}, then {after:?}");
    assert!(after.threads <= THREADS_MAX, "{before:?}, then {after:?}");
}

fn run_id(run_dir: &Path) -> String {
    let text = std::fs::read_to_string(run_dir.join("run.json")).expect("its record");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    record["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_tracker_by_itself_does_not_grow() {
    let place = Place::new();
    place.complete(&["--set", "tracker.listen=\"\""]);
    let mut child = place.command(&["tracker", "serve", "--listen", "127.0.0.1:0"]).spawn().expect("started");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its address");
    let host = line.split("http://").nth(1).and_then(|rest| rest.split(';').next()).expect("an address");
    does_not_grow(child.id(), host, run_id(&place.run_dir("small")));
    signal(child.id(), "INT");
    assert_eq!(wait(child).status.code(), Some(0));
}

#[test]
fn a_tracker_beside_a_run_does_not_grow() {
    let place = Place::new();
    let some = ["--set", "train.epochs=2000", "--set", "elastic.lease=10m"];
    let child = place.coordinator(&some).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let run_dir = place.run_dir("small");
    let url = std::fs::read_to_string(run_dir.join("tracker-address")).expect("its address");
    while_stopped(&workers_of(child.id()), || {
        does_not_grow(child.id(), url.trim().trim_start_matches("http://"), run_id(&run_dir));
    });
    signal(child.id(), "INT");
    let output = wait(child);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
}
