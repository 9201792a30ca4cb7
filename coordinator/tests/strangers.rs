//! Clients that don't belong to the run: noise, floods, workers of other releases. The run goes on as if they weren't
//! there.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use protocol::ids::{MemberId, MemberKey, RunId};
use sim::real::listening;
use support::{DEADLINE, Place, steps_committed, until, wait, while_stopped, workers_of};
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use wire::auth::Bearer;
use wire::handshake;
use wire::proto::bonfire_client::BonfireClient;
use wire::proto::{
    FromWorker, Join, Prepared, Task, UploadBegin, UploadChunk, from_worker, to_worker, upload_chunk,
};
use wire::stream::DataStream;
use wire::token::Token;

/// Short enough to wait for, with workers that may be stopped while something is done to the run.
const SOME: [&str; 8] = [
    "--local-workers",
    "2",
    "--set",
    "train.epochs=300",
    "--set",
    "checkpoint.every=50 steps",
    "--set",
    "elastic.lease=60s",
];
/// The first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Completes a quiet run of [`SOME`], as `whole`, then starts another one.
fn run(place: &Place) -> Child {
    place.complete(&[&SOME[..], &["--set", "run.name=whole"]].concat());
    let child = place.coordinator(&SOME).spawn().expect("started");
    until("the run has committed steps", || steps_committed(place) > 20);
    child
}

/// The run ends like the quiet one, with nothing lost and no member gone.
fn is_unharmed(place: &Place, run: Child) {
    let output = wait(run);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let record = place.record("small");
    assert_eq!(record["retries"], 0, "{:#}", record["events"]);
    let mut events = record["events"].as_array().expect("events").iter();
    assert!(events.all(|event| event["event"] != "left"), "{:#}", record["events"]);
}

fn address(place: &Place) -> String {
    let text = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
    text.trim().to_owned()
}

fn control_port(place: &Place) -> u16 {
    address(place).rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

#[test]
fn noise_on_every_port_changes_nothing() {
    let place = Place::new();
    let child = run(&place);
    let ports = listening(child.id());
    assert!(ports.len() >= 2 && ports.contains(&control_port(&place)), "{ports:?}");
    let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let halves = [&b"GET / HTTP/1.1\r\n\r\n"[..], PREFACE, &noise, &[0xff; 4_096], b""];
    let mut open = Vec::new();
    while_stopped(&workers_of(child.id()), || {
        for (port, bytes) in ports.iter().flat_map(|port| halves.map(|bytes| (*port, bytes))) {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
            // The connection may be closed in the middle of it.
            let _ = stream.write_all(bytes);
            open.push(stream);
        }
    });
    is_unharmed(&place, child);
}

/// More connections than the coordinator accepts, each of which begins like a legitimate one.
#[test]
fn a_crowd_at_the_control_port_keeps_no_worker_out_and_no_person() {
    let place = Place::new();
    let child = run(&place);
    let port = control_port(&place);
    let (crowd, guest) = while_stopped(&workers_of(child.id()), || {
        let crowd: Vec<TcpStream> = (0..600)
            .map(|_| {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
                let _ = stream.write_all(PREFACE);
                stream
            })
            .collect();
        let status = wait(place.command(&["status"]).spawn().expect("started"));
        assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
        let guest = place.guest("guest");
        until("the guest is in", || place.has_member("guest"));
        (crowd, guest)
    });
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.record("small")["events"].to_string().contains("guest joined"));
    assert_eq!(place.digest("small"), place.digest("whole"));
    assert_eq!(wait(guest).status.code(), Some(0));
    drop(crowd);
}

/// The response that a browser gets.
fn page(url: &str, path: &str) -> String {
    let host = url.trim().trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

/// A process with few file descriptors: clients on all its ports send nothing, or half a message.
#[test]
fn a_crowd_at_every_port_leaves_the_run_the_files_that_it_needs() {
    // This process holds all of the clients' sockets.
    assert!(store::raise_open_files() > 8_000, "raise the hard limit of open files (ulimit -Hn)");
    let place = Place::new();
    let more = ["--set", "telemetry.metrics_listen=127.0.0.1:0"];
    place.complete(&[&SOME[..], &["--set", "run.name=whole"]].concat());
    let mut limited = place.through(&["sh", "-c", "ulimit -n 1024; exec \"$0\" \"$@\""]);
    let child = limited.args(["--config", "run.toml"]).args(SOME).args(more).spawn().expect("started");
    until("the run has committed steps", || steps_committed(&place) > 20);
    let read = |name: &str| std::fs::read_to_string(place.run_dir("small").join(name)).expect("its address");
    let (tracker, metrics) = (read("tracker-address"), read("metrics-address"));
    let ports = listening(child.id());
    assert_eq!(ports.len(), 4, "control, data, tracker, metrics: {ports:?}");
    let open = || std::fs::read_dir(format!("/proc/{}/fd", child.id())).expect("it lives").count();
    let crowd = while_stopped(&workers_of(child.id()), || {
        let come = |number: usize| {
            let mut stream = TcpStream::connect(("127.0.0.1", ports[number % 4])).expect("connected");
            let words = [
                &b""[..],
                b"GET / HT",
                b"POST /api/2.0/mlflow/runs/create HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
            ];
            let _ = stream.write_all(words[number % 3]);
            stream
        };
        let crowd: Vec<TcpStream> = (0..4 * 1_500).map(come).collect();
        assert!(open() < 1_024 - 200, "{} files are open", open());
        let status = wait(place.command(&["status"]).spawn().expect("started"));
        assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
        let runs = page(&tracker, "/api/runs");
        assert!(runs.starts_with("HTTP/1.1 200") && runs.contains("small"), "{runs}");
        assert!(page(&tracker, "/").contains("<!doctype html>"));
        let host = metrics.trim().trim_end_matches("/metrics");
        assert!(page(host, "/metrics").contains("bonfire_steps_total"));
        crowd
    });
    is_unharmed(&place, child);
    let step = place.record("small")["final"]["step"].as_u64().expect("its last step");
    let last = place.run_dir("small").join(format!("checkpoints/step-{step:08}"));
    assert!(last.is_dir(), "the last of the versions that were made among the crowd: {}", last.display());
    drop(crowd);
}

type Client = BonfireClient<InterceptedService<Channel, Bearer>>;

/// Calls the coordinator with the run's token.
fn calling<T>(place: &Place, ask: impl AsyncFnOnce(Client) -> T) -> T {
    let token = Token::read(&place.run_dir("small").join("token")).expect("the run's token");
    let url = address(place);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let asked = async {
        let channel = wire::transport::endpoint(&url).expect("a URL").connect().await.expect("connected");
        ask(BonfireClient::with_interceptor(channel, Bearer::new(&token))).await
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(40), asked).await.expect("in time") })
}

/// The coordinator's answer to a stream with this first message, or `None` if the stream just ends.
fn answer(place: &Place, first: from_worker::Message) -> Option<to_worker::Message> {
    calling(place, async |mut client| {
        let said = FromWorker { message: Some(first) };
        let stream = tokio_stream::iter([said]).chain(tokio_stream::pending());
        let mut answers = client.session(stream).await.expect("a stream").into_inner();
        answers.message().await.ok().flatten().and_then(|answer| answer.message)
    })
}

fn refusal(place: &Place, join: Join) -> String {
    match answer(place, from_worker::Message::Join(join)) {
        Some(to_worker::Message::Refused(failure)) => {
            assert_eq!(failure.code, 2);
            failure.message
        }
        other => panic!("{other:?}"),
    }
}

/// Opens data connections with the run's token but without a member's key, on the run's data port: returns the
/// refusals.
fn claims(place: &Place, coordinator: u32, ids: std::ops::Range<u64>) -> Vec<String> {
    let token = Token::read(&place.run_dir("small").join("token")).expect("the run's token");
    let uuid = place.record("small")["id"].as_str().expect("an id").replace('-', "");
    let run = RunId(u128::from_str_radix(&uuid, 16).expect("a UUID").to_be_bytes());
    let claim = |port: u16, id| {
        let mut stream = DataStream::plain(TcpStream::connect(("127.0.0.1", port)).expect("connected"));
        let (member, key) = (MemberId(1 << 32 | id), MemberKey([7; 32]));
        handshake::connect(&mut stream, &token, run, (member, &key)).expect_err("refused")
    };
    let is_data = |port: &u16| {
        let mut magic = [0; 4];
        let mut stream = TcpStream::connect(("127.0.0.1", *port)).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
        stream.read_exact(&mut magic).is_ok() && magic == *b"BNFH"
    };
    let port = listening(coordinator).into_iter().find(is_data).expect("a data port");
    ids.map(|id| claim(port, id).to_string()).collect()
}

/// Ids count from one, and eleven sockets that claimed a few of them used to end the run without naming anybody.
#[test]
fn whoever_knows_the_token_can_claim_no_members_id() {
    let place = Place::new();
    let child = run(&place);
    let said = while_stopped(&workers_of(child.id()), || claims(&place, child.id(), 1..12));
    for why in &said {
        assert!(why.contains("not the key of the member") || why.contains("no member of the run"), "{why}");
    }
    let members = said.iter().filter(|why| why.contains("not the key")).count();
    assert!(members >= 2, "both workers' ids are among the eleven: {said:?}");
    is_unharmed(&place, child);
    let warned: u64 = place.record("small")["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| {
            event["text"].as_str().is_some_and(|text| text.contains("127.0.0.1 was refused: it knows"))
        })
        .map(|event| event["repeated"].as_u64().unwrap_or(0) + 1)
        .sum();
    assert_eq!(warned, 11, "{:#}", place.record("small")["events"]);
}

#[test]
fn an_upload_in_a_members_name_is_refused() {
    let place = Place::new();
    let child = run(&place);
    let uuid = place.record("small")["id"].as_str().expect("an id").replace('-', "");
    let run = u128::from_str_radix(&uuid, 16).expect("a UUID").to_be_bytes().to_vec();
    let begin = UploadBegin { run, member: 1 << 32 | 1, kind: 1, step: 50, proof: vec![0; 32] };
    let refused = while_stopped(&workers_of(child.id()), || {
        calling(&place, async |mut client| {
            let chunk = UploadChunk { part: Some(upload_chunk::Part::Begin(begin.clone())) };
            client.upload(tokio_stream::iter([chunk])).await.expect_err("refused")
        })
    });
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused:?}");
    is_unharmed(&place, child);
}

/// A stream that never joined announces a gradient length: no slices of that length are ever summed.
#[test]
fn what_a_stream_says_that_never_joined_changes_nothing() {
    let place = Place::new();
    let child = run(&place);
    let said = while_stopped(&workers_of(child.id()), || {
        answer(&place, from_worker::Message::Prepared(Prepared { elements: 5 }))
    });
    assert!(!matches!(said, Some(to_worker::Message::View(_))), "{said:?}");
    is_unharmed(&place, child);
}

#[test]
fn workers_of_other_releases_and_other_tasks_are_told_so() {
    let place = Place::new();
    let child = run(&place);
    let join = Join {
        protocol_version: protocol::PROTOCOL_VERSION,
        tasks: vec![Task { name: "mlp".to_owned(), schema: 999 }],
        fingerprint: vec![1; 32],
        name: "stranger".to_owned(),
        device: "cpu".to_owned(),
        ..Join::default()
    };
    let release = Join { protocol_version: protocol::PROTOCOL_VERSION + 1, ..join.clone() };
    let task = Join { tasks: vec![Task { name: "own".to_owned(), schema: 1 }], ..join.clone() };
    let joins = [release, task, join];
    let said = while_stopped(&workers_of(child.id()), || joins.map(|join| refusal(&place, join)));
    let [release, task, schema] = &said;
    assert!(release.contains("protocol version") && release.contains("one release"), "{said:?}");
    assert!(task.contains("doesn't know the task") && task.contains("it knows own"), "{said:?}");
    let says = |words: &&str| schema.contains(words);
    assert!(["schema", "999", "one build"].iter().all(says), "{said:?}");
    is_unharmed(&place, child);
    let events = place.record("small")["events"].to_string();
    assert_eq!(events.matches("stranger was refused").count(), 3, "{events}");
}

/// Somebody edits the file during a run: members that have loaded it continue, a newcomer reports the mismatch.
#[test]
fn data_that_changed_under_a_run_is_named_by_who_comes_and_the_others_go_on() {
    let place = Place::new();
    let child = run(&place);
    let rows = place.path().join("rows.csv");
    let text = std::fs::read_to_string(&rows).expect("the rows");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.swap(3, 4);
    std::fs::write(&rows, lines.join("\n") + "\n").expect("written");
    let output = while_stopped(&workers_of(child.id()), || wait(place.guest("guest")));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("rows.csv") || said.contains("digest"), "{said}");
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.digest("small"), place.digest("whole"));
}
