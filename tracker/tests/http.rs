//! The tracker over real sockets: misbehaving, concurrent and half-finished clients.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bounded_http::{Access, Visitor};
use serde_json::{Value, json};
use support::{DEADLINE, Server, until};

const TOKEN: &str = "0123456789abcdef-token";

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
        answer.contains(&format!("set-cookie: bonfire_tracker={TOKEN}; HttpOnly; SameSite=Lax")),
        "{answer}"
    );
    assert_eq!(get("/api/runs", &format!("Cookie: other=1; bonfire_tracker={TOKEN}\r\n")).0, 200);
    assert_eq!(get("/api/runs", &format!("{bearer}Origin: http://elsewhere.example\r\n")).0, 403);
    let (_, answer) = get(&format!("//elsewhere.example/?token={TOKEN}"), "");
    assert!(!answer.contains("location: //"), "{answer}");
}

/// A viewer and an administrator, and a log of reported deletions.
#[derive(Default)]
struct Roles(Mutex<Vec<String>>);

impl Access for Roles {
    fn visitor(&self, token: &str) -> Option<Visitor> {
        let visitor = |name: &str, may_change| Some(Visitor { name: name.into(), may_change });
        match token {
            "of-a-viewer" => visitor("ann", false),
            "of-an-operator" => visitor("bob", true),
            _ => None,
        }
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn changed(&self, event: &'static str, visitor: &Visitor, peer: Option<SocketAddr>, request: &str) {
        let peer = peer.expect("known").ip();
        self.0.lock().expect("held by nobody").push(format!("{event} {} {peer} {request}", visitor.name));
    }
}

#[test]
fn a_viewer_reads_and_changes_nothing_and_a_deletion_is_told() {
    let roles = Arc::new(Roles::default());
    let server = Server::guarded(roles.clone());
    let call = |token: &str, path: &str, body: &str| {
        let headers = format!("Authorization: Bearer of-{token}\r\nContent-Type: application/json\r\n");
        server.request("POST", &format!("/api/2.0/mlflow/{path}"), &headers, body)
    };
    assert_eq!(call("a-viewer", "runs/search", "{}").0, 200);
    assert_eq!(server.request("GET", "/api/runs", "Cookie: bonfire_tracker=of-a-viewer\r\n", "").0, 200);
    let (status, answer) = call("an-operator", "experiments/create", r#"{"name":"one"}"#);
    assert_eq!(status, 200, "{answer}");
    let id =
        answer.split("\"experiment_id\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("its id");
    let body = format!(r#"{{"experiment_id":"{id}"}}"#);
    for path in ["experiments/delete", "experiments/update", "runs/create", "runs/log-batch"] {
        let (status, answer) = call("a-viewer", path, &body);
        assert!(
            status == 403 && answer.contains("ann") && answer.contains("change nothing"),
            "{path}: {answer}"
        );
    }
    assert_eq!(call("a-stranger", "experiments/delete", &body).0, 401);
    assert_eq!(roles.0.lock().expect("held by nobody").len(), 0);
    assert_eq!(call("an-operator", "experiments/delete", &body).0, 200);
    let told = roles.0.lock().expect("held by nobody").clone();
    assert_eq!(told, [format!("deleted bob 127.0.0.1 /api/2.0/mlflow/experiments/delete {body}")]);
    let (_, answer) = server.request("GET", "/?token=of-a-viewer", "", "");
    assert!(answer.contains("; Secure\r\n"), "{answer}");
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
    // The server may close the connection in the middle of it.
    let _ = stream.write_all(long.as_bytes());
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[test]
fn registered_models_are_listed_for_the_page_with_the_runs_that_they_come_from() {
    let server = Server::start(None);
    let (run, _) = server.new_run();
    let post = |path: &str, body: Value| assert_eq!(server.mlflow(path, &body).0, 200, "{path}");
    assert_eq!(server.json("GET", "/api/models", &Value::Null), (200, json!({ "models": [] })));
    post("registered-models/create", json!({ "name": "a b", "description": "words" }));
    post(
        "runs/log-metric",
        json!({ "run_id": run, "key": "validation/loss", "value": 0.5, "timestamp": 1, "step": 1 }),
    );
    for source in [run.as_str(), "another"] {
        post("model-versions/create", json!({ "name": "a b", "source": "models:/m-1", "run_id": source }));
    }
    post("registered-models/alias", json!({ "name": "a b", "alias": "champion", "version": "1" }));
    let (status, found) = server.json("GET", "/api/models", &Value::Null);
    let listed = &found["models"][0];
    assert_eq!(
        (status, &listed["name"], &listed["newest"], &listed["versions"]),
        (200, &json!("a b"), &json!(2), &json!(2))
    );
    assert_eq!(listed["aliases"], json!({ "champion": 1 }));
    let (status, found) = server.json("GET", "/api/models/a%20b", &Value::Null);
    assert_eq!((status, &found["description"]), (200, &json!("words")));
    let versions = found["versions"].as_array().expect("versions");
    let told = |version: &Value| {
        (version["version"].clone(), version["run"]["id"].clone(), version["run_id"].clone())
    };
    assert_eq!(
        told(&versions[0]),
        (json!(2), Value::Null, json!("another")),
        "the newest first, its run unknown"
    );
    assert_eq!(told(&versions[1]), (json!(1), json!(run), json!(run)));
    assert_eq!(versions[1]["run"]["metrics"]["validation/loss"], 0.5);
    let (status, why) = server.json("GET", "/api/models/none", &Value::Null);
    assert!(status == 404 && why["message"].as_str().is_some_and(|why| why.contains("name=none")), "{why}");
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
