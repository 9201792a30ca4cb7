//! Floods of connections, half-sent requests and clients that read nothing: they are disconnected, and others are
//! served.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bounded_http::Limits;
use serde_json::json;
use support::{DEADLINE, Server, until};

/// Long enough for any well-behaved client, even on a busy machine.
const PATIENT: Duration = Duration::from_secs(60);
/// For connections that the server must close.
const SHORT: Duration = Duration::from_millis(300);

fn limits() -> Limits {
    Limits { connections: 8, head: PATIENT, stall: PATIENT, end: SHORT }
}

fn connect(server: &Server, words: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream.write_all(words.as_bytes()).expect("sent");
    stream
}

/// Whether the server closes the connection, with or without a response.
fn is_hung_up(mut stream: &TcpStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(why) => why.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_silent_crowd_keeps_nobody_out() {
    let server = Server::bounded(limits());
    let crowd: Vec<TcpStream> = (0..100).map(|_| connect(&server, "")).collect();
    for _ in 0..20 {
        assert_eq!(server.json("GET", "/api/runs", &json!(null)).0, 200);
    }
    assert!(is_hung_up(&crowd[0]), "the first of the crowd has made room");
}

#[test]
fn a_request_that_never_becomes_whole_is_hung_up_on() {
    let server = Server::bounded(Limits { head: SHORT, ..limits() });
    assert!(is_hung_up(&connect(&server, "")));
    assert!(is_hung_up(&connect(&server, "GET / HTTP/1.1\r\nHost: lo")));
    let host = server.address;
    let whole = format!("GET /icon.svg HTTP/1.1\r\nHost: {host}\r\n\r\n");
    assert!(is_hung_up(&connect(&server, &whole)), "whoever has its answer and asks nothing further");
    // Slowly, but steadily. The pause is the client's pace, and waits for nothing: `until` has the deadline.
    let slow = connect(&server, "GET / HTTP/1.1\r\n");
    until("whoever sends a header now and then is hung up on", || {
        std::thread::sleep(SHORT / 10);
        (&slow).write_all(b"X: y\r\n").is_err()
    });
}

#[test]
fn a_body_that_stops_is_given_up() {
    let server = Server::bounded(Limits { stall: SHORT, ..limits() });
    let (_, files) = server.new_run();
    let host = server.address;
    for (method, path) in [("POST", "/api/2.0/mlflow/runs/create"), ("PUT", &format!("{files}/a"))] {
        let half = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n\r\n{{");
        let mut stream = connect(&server, &half);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered, and closed");
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("slow"), "{answer}");
    }
    let uploads = server.runs().join(".tracker/uploads");
    assert_eq!(std::fs::read_dir(uploads).expect("the folder").count(), 0, "half a file is left");
}

#[test]
fn who_takes_nothing_of_an_answer_is_hung_up_on() {
    let server = Server::bounded(Limits { stall: SHORT, ..limits() });
    let (run, files) = server.new_run();
    let large = server.runs().join(format!(".tracker/clients/0/{run}/artifacts/large"));
    std::fs::create_dir_all(large.parent().expect("a folder")).expect("made");
    std::fs::File::create(&large).and_then(|file| file.set_len(1 << 30)).expect("made");
    let host = server.address;
    let get = format!("GET {files}/large HTTP/1.1\r\nHost: {host}\r\n\r\n");
    // As many as may be open at once.
    let held: Vec<TcpStream> = (0..8).map(|_| connect(&server, &get)).collect();
    until("those that take nothing make room", || {
        let stream = TcpStream::connect(server.address).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let ask = format!("GET /icon.svg HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let asked = (&stream).write_all(ask.as_bytes()).and_then(|()| (&stream).read_to_string(&mut answer));
        asked.is_ok() && answer.starts_with("HTTP/1.1 200")
    });
    drop(held);
}

#[test]
fn streams_that_nobody_reads_end_and_make_room_for_others() {
    let server = Server::bounded(Limits { stall: SHORT, ..limits() });
    let (run, _) = server.new_run();
    // Each change sends all latest values: long names fill the system's buffers.
    let metric =
        |number: usize| json!({ "key": format!("{number:0>240}"), "value": 1.0, "step": 0, "timestamp": 1 });
    let batch: Vec<_> = (0..1_000).map(metric).collect();
    assert_eq!(server.mlflow("runs/log-batch", &json!({ "run_id": run, "metrics": batch })).0, 200);
    let host = server.address;
    let ask = format!("GET /api/runs/{run}/stream HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let head = |stream: &TcpStream| {
        let mut head = [0; 12];
        (&*stream).read_exact(&mut head).expect("answered");
        String::from_utf8_lossy(&head).into_owned()
    };
    // Half of the connections may be streams.
    let streams: Vec<TcpStream> = (0..4).map(|_| connect(&server, &ask)).collect();
    assert!(streams.iter().all(|stream| head(stream).ends_with("200")));
    assert!(head(&connect(&server, &ask)).ends_with("503"), "no more than four");
    let mut value = 0;
    let begun = std::time::Instant::now();
    while !head(&connect(&server, &ask)).ends_with("200") {
        assert!(begun.elapsed() < 3 * DEADLINE, "streams that take nothing are never hung up on");
        value += 1;
        let metric = json!({ "run_id": run, "key": "a", "value": value, "step": value, "timestamp": 1 });
        assert_eq!(server.mlflow("runs/log-metric", &metric).0, 200);
        // No event reports that the server gave a stream up: ask again until it has, or the deadline is over.
        std::thread::sleep(SHORT / 10);
    }
}

#[test]
fn metrics_are_scraped_beside_a_crowd() {
    let mut registry = telemetry::prometheus::Registry::new();
    registry.counter("steps_total", "Steps.", &[]).increment();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let served = std::sync::Arc::new(registry).serve(listener, bounded_http::plain, None).expect("a thread");
    let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).expect("connected")).collect();
    let mut scrape = TcpStream::connect(address).expect("connected");
    scrape.set_read_timeout(Some(DEADLINE)).expect("set");
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    scrape.read_to_string(&mut answer).expect("answered");
    assert!(answer.contains("steps_total 1"), "{answer}");
    crowd[0].set_read_timeout(Some(DEADLINE)).expect("set");
    assert!(is_hung_up(&crowd[0]));
    drop(served);
    until("the port is free again", || TcpStream::connect(address).is_err());
}
