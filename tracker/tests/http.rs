//! The tracker over real sockets: what clients do wrong, at once, or half.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracker::server::{AccessToken, Tracker};

/// Everything on loopback is quicker than this by far.
const DEADLINE: Duration = Duration::from_secs(20);

const TOKEN: &str = "0123456789abcdef-token";

/// A tracker on a port of its own, ended with the value.
struct Server {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Server {
    fn start(token: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let token = token.map(|token| AccessToken::parse(token).expect("a token"));
        let tracker = Tracker::open(dir.path(), token, |remark| panic!("{remark}")).expect("opened");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel::<()>();
        runtime.spawn(tracker::server::serve(listener, tracker, async move { drop(ended.await) }));
        Self { address, end: Some(end), runtime, dir }
    }

    fn runs(&self) -> &Path {
        self.dir.path()
    }

    /// Sends bytes and reads to the end of the answer.
    fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream.write_all(request).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer)
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let host = self.address;
        let length = body.len();
        self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\
                 {body}"
            )
            .as_bytes(),
        )
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.request(method, path, "", &body);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn mlflow(&self, path: &str, body: &Value) -> (u16, Value) {
        self.json("POST", &format!("/api/2.0/mlflow/{path}"), body)
    }

    fn new_run(&self) -> (String, String) {
        let (status, run) = self.mlflow("runs/create", &json!({ "experiment_id": "0", "start_time": "5" }));
        assert_eq!(status, 200, "{run}");
        let id = run["run"]["info"]["run_id"].as_str().expect("an id").to_owned();
        let files = format!("/api/2.0/mlflow-artifacts/artifacts/0/{id}/artifacts");
        (id, files)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        // Nothing may wait for what was left open.
        let _ = &self.runtime;
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

/// The index takes in what comes one by one when it is asked for: nobody can tell.
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
    // A run that is deleted meanwhile takes none, nor does one that isn't there.
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

#[test]
fn an_upload_that_breaks_off_leaves_nothing_and_a_whole_one_replaces_the_old() {
    let server = Server::start(None);
    let (run, files) = server.new_run();
    let folder = server.runs().join(format!(".tracker/clients/0/{run}/artifacts"));
    assert_eq!(server.request("PUT", &format!("{files}/a/b%20c.txt"), "", "old").0, 200);
    let mut stream = TcpStream::connect(server.address).expect("connected");
    let head = format!(
        "PUT {files}/a/b%20c.txt HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\nhalf",
        server.address
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let uploads = server.runs().join(".tracker/uploads");
    let waiting = || std::fs::read_dir(&uploads).map_or(0, Iterator::count);
    until("the upload has begun", || waiting() == 1);
    stream.shutdown(Shutdown::Both).expect("broken off");
    until("the upload is swept", || waiting() == 0);
    assert_eq!(std::fs::read_to_string(folder.join("a/b c.txt")).expect("read"), "old");
    assert_eq!(server.request("PUT", &format!("{files}/a/b%20c.txt"), "", "new").0, 200);
    assert_eq!(std::fs::read_to_string(folder.join("a/b c.txt")).expect("read"), "new");
    let (status, answer) = server.request("GET", &format!("{files}/a/b%20c.txt"), "", "");
    assert!(status == 200 && answer.ends_with("\r\n\r\nnew"), "{answer}");
    assert!(answer.contains("content-disposition: attachment") && answer.contains("nosniff"), "{answer}");
    assert_eq!(server.request("DELETE", &format!("{files}/a"), "", "").0, 200);
    assert_eq!(server.request("GET", &format!("{files}/a/b%20c.txt"), "", "").0, 404);
}

#[test]
fn paths_never_lead_out_of_a_runs_artifacts() {
    let server = Server::start(None);
    let (run, files) = server.new_run();
    std::fs::write(server.runs().join("secret"), "do not show").expect("written");
    for path in [
        format!("{files}/../../../../secret"),
        format!("{files}/..%2f..%2f..%2f..%2fsecret"),
        format!("{files}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret"),
        format!("{files}/..%5c..%5csecret"),
        format!("{files}/%2fetc%2fpasswd"),
        format!("{files}/../events.jsonl"),
        format!("/api/2.0/mlflow-artifacts/artifacts/0/..%2f..%2f{run}/artifacts/x"),
        "/api/2.0/mlflow-artifacts/artifacts?path=../../secret".to_owned(),
        format!("/api/2.0/mlflow/artifacts/list?run_id={run}&path=../.."),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let (status, answer) = server.request(method, &path, "", "");
            assert!((400..500).contains(&status), "{method} {path}: {answer}");
            assert!(!answer.contains("do not show"), "{method} {path}");
        }
    }
    assert_eq!(std::fs::read_to_string(server.runs().join("secret")).expect("there"), "do not show");
}

#[test]
fn with_a_token_nothing_is_answered_without_it() {
    let server = Server::start(Some(TOKEN));
    let get = |path: &str, headers: &str| server.request("GET", path, headers, "");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(get("/api/runs", "").0, 401);
    assert_eq!(get("/api/runs", "Authorization: Bearer 0123456789abcdef-tokem\r\n").0, 401);
    assert_eq!(get("/api/runs", "Cookie: bonfire_tracker=0123456789abcdef\r\n").0, 401);
    assert_eq!(get("/api/runs?token=wrong", "").0, 401);
    assert_eq!(get("/api/runs", &bearer).0, 200);
    let (status, answer) = get(&format!("/api/runs?limit=3&token={TOKEN}"), "");
    assert_eq!(status, 303, "{answer}");
    assert!(answer.contains("location: /api/runs?limit=3\r\n"), "{answer}");
    assert!(
        answer.contains(&format!("set-cookie: bonfire_tracker={TOKEN}; HttpOnly; SameSite=Strict")),
        "{answer}"
    );
    assert_eq!(get("/api/runs", &format!("Cookie: other=1; bonfire_tracker={TOKEN}\r\n")).0, 200);
    assert_eq!(get("/api/runs", &format!("{bearer}Origin: http://elsewhere.example\r\n")).0, 403);
    let (_, answer) = get(&format!("//elsewhere.example/?token={TOKEN}"), "");
    assert!(!answer.contains("location: //"), "{answer}");
}

#[test]
fn many_clients_at_once_lose_and_double_nothing() {
    let server = Server::start(None);
    let (run, _) = server.new_run();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (server, run) = (&server, &run);
            scope.spawn(move || {
                for step in 0..30 {
                    let metric = json!({ "key": format!("m{}", client % 3), "value": client, "timestamp": 1, "step": step });
                    let batch = json!({ "run_id": run, "metrics": [metric], "params": [{ "key": "p", "value": "same" }] });
                    let (status, answer) = server.mlflow("runs/log-batch", &batch);
                    assert_eq!(status, 200, "{answer}");
                }
            });
        }
    });
    for key in ["m0", "m1", "m2"] {
        let path = format!("/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key={key}&max_results=7");
        let (mut token, mut count) = (String::new(), 0);
        loop {
            let (status, page) = server.json("GET", &format!("{path}&page_token={token}"), &Value::Null);
            assert_eq!(status, 200, "{page}");
            count += page["metrics"].as_array().expect("metrics").len();
            match page["next_page_token"].as_str() {
                Some(next) => token = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(count, 60, "two clients of thirty steps each");
    }
}

#[test]
fn what_is_wrong_is_said_with_mlflows_codes() {
    let server = Server::start(None);
    let (run, _) = server.new_run();
    let metrics: Vec<Value> = (0..1001).map(|step| json!({ "key": "m", "value": 1, "step": step })).collect();
    for (path, body, status, code) in [
        ("runs/log-batch", json!({ "run_id": run, "metrics": metrics }), 400, "INVALID_PARAMETER_VALUE"),
        ("runs/log-metric", json!({ "run_id": run, "key": "", "value": 1 }), 400, "INVALID_PARAMETER_VALUE"),
        (
            "runs/log-metric",
            json!({ "run_id": run, "key": "m", "value": "x" }),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        (
            "runs/log-metric",
            json!({ "run_id": "none", "key": "m", "value": 1 }),
            404,
            "RESOURCE_DOES_NOT_EXIST",
        ),
        ("runs/update", json!({ "run_id": run, "status": "DONE" }), 400, "INVALID_PARAMETER_VALUE"),
        ("runs/create", json!({ "experiment_id": "12" }), 404, "RESOURCE_DOES_NOT_EXIST"),
        (
            "runs/search",
            json!({ "experiment_ids": ["0"], "filter": "x ~ 1" }),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        ("experiments/create", json!({ "name": "Default" }), 400, "RESOURCE_ALREADY_EXISTS"),
        ("registered-models/create", json!({ "name": "a/b" }), 400, "INVALID_PARAMETER_VALUE"),
        ("model-versions/create", json!({ "name": "none", "source": "s" }), 404, "RESOURCE_DOES_NOT_EXIST"),
        ("nowhere", json!({}), 404, "ENDPOINT_NOT_FOUND"),
    ] {
        let (got, answer) = server.mlflow(path, &body);
        assert_eq!((got, &answer["error_code"]), (status, &json!(code)), "{path}: {answer}");
    }
    let (status, answer) = server.request("POST", "/api/2.0/mlflow/runs/search", "", "{\"filter\": ");
    assert!(status == 400 && answer.contains("fields"), "{answer}");
    let long = format!("{{\"filter\": \"{}\"}}", "x".repeat(9 << 20));
    let mut stream = TcpStream::connect(server.address).expect("connected");
    let head = format!(
        "POST /api/2.0/mlflow/runs/search HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        long.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    // It may hang up in the middle of it.
    let _ = stream.write_all(long.as_bytes());
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[test]
fn a_browser_gets_a_page_and_everybody_else_json() {
    let server = Server::start(Some(TOKEN));
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    let (status, page) = server.request("GET", "/", browser, "");
    assert!(status == 401 && page.contains("name=\"token\"") && !page.contains(TOKEN), "{page}");
    let (status, page) = server.request("GET", "/?token=wrong-but-long-enough", browser, "");
    assert!(
        status == 401 && page.contains("this token is wrong") && !page.contains("wrong-but-long"),
        "{page}"
    );
    let with_cookie = format!("{browser}Cookie: bonfire_tracker={TOKEN}\r\n");
    let (status, page) = server.request("GET", "/nowhere/%3Cb%3E", &with_cookie, "");
    assert!(status == 404 && page.contains("<a href=\"/\">") && !page.contains("<b>"), "{page}");
    let (status, answer) = server.request("GET", "/", "Accept: */*\r\n", "");
    assert!(status == 401 && answer.contains("\"error_code\":\"UNAUTHENTICATED\""), "{answer}");
}

#[test]
fn a_stream_tells_of_points_and_of_the_end_of_its_run() {
    let server = Server::start(None);
    let (run, _) = server.new_run();
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let head = format!("GET /api/runs/{run}/stream HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    stream.write_all(head.as_bytes()).expect("sent");
    let mut seen = String::new();
    let mut wait = |what: &str| {
        let begun = Instant::now();
        while !seen.contains(what) {
            assert!(begun.elapsed() < DEADLINE, "{what} in {seen}");
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).expect("read");
            assert!(count > 0, "the stream ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    };
    wait("event: run");
    let metric = json!({ "run_id": run, "key": "m", "value": "NaN", "timestamp": 9, "step": 4 });
    assert_eq!(server.mlflow("runs/log-metric", &metric).0, 200);
    wait("event: points");
    wait("\"step\":[4],\"time_ms\":[9],\"value\":[\"NaN\"]");
    std::fs::remove_dir_all(server.runs().join(format!(".tracker/clients/0/{run}"))).expect("removed");
    wait("event: gone");
}
