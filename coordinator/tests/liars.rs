//! Members that violate the protocol, and token holders that try to exhaust the coordinator's machine: the run evicts
//! them by name, or bounds the resources that they take, and ends as if they had never joined.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use protocol::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use sim::real::Usage;
use support::{Place, steps_committed, until, wait, while_stopped, workers_of};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use wire::auth::Bearer;
use wire::frames::{HEADER_BYTES, Header, Kind};
use wire::handshake;
use wire::proto::bonfire_client::BonfireClient;
use wire::proto::from_worker::Message as Said;
use wire::proto::to_worker::Message as Told;
use wire::proto::{
    DownloadRequest, FromWorker, Join, Loaded, Prepared, ShownState, Task, ToWorker, View, Welcome,
    download_request,
};
use wire::stream::DataStream;
use wire::token::Token;

/// Long enough for somebody to join in the middle, with workers that may be stopped meanwhile.
const SOME: [&str; 8] = [
    "--local-workers",
    "2",
    "--set",
    "train.epochs=600",
    "--set",
    "checkpoint.every=500 steps",
    "--set",
    "elastic.lease=60s",
];
/// Elements of the small model: 64 pixels, 16 hidden, 10 digits, and the biases.
const ELEMENTS: u64 = 64 * 16 + 16 + 16 * 10 + 10;
const PATIENCE: Duration = Duration::from_secs(60);

fn run(place: &Place) -> Child {
    place.complete(&[&SOME[..], &["--set", "run.name=whole"]].concat());
    let child = place.coordinator(&SOME).spawn().expect("started");
    until("the run has committed steps", || steps_committed(place) > 20);
    child
}

fn token(place: &Place) -> Token {
    Token::read(&place.run_dir("small").join("token")).expect("the run's token")
}

/// A member without a model.
struct Liar {
    runtime: tokio::runtime::Runtime,
    client: BonfireClient<InterceptedService<Channel, Bearer>>,
    stream: mpsc::Sender<FromWorker>,
    answers: Streaming<ToWorker>,
    token: Token,
}

impl Liar {
    /// Opens a control stream with this Join.
    fn saying(place: &Place, join: Join) -> Self {
        let token = token(place);
        let url = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (client, stream, answers) = runtime.block_on(async {
            let channel =
                wire::transport::endpoint(url.trim()).expect("a URL").connect().await.expect("connected");
            let mut client = BonfireClient::with_interceptor(channel, Bearer::new(&token));
            let (stream, outgoing) = mpsc::channel(8);
            stream.send(FromWorker { message: Some(Said::Join(join)) }).await.expect("room");
            let answers = client.session(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
            (client, stream, answers)
        });
        Self { runtime, client, stream, answers, token }
    }

    /// Joins and is admitted, since it presents the same fingerprint and schema as the others.
    fn join(place: &Place) -> (Self, Welcome) {
        let (fingerprint, schema) = (fingerprint(place), schema(place));
        let mut own = Self::saying(place, join("liar", fingerprint, schema));
        match own.hear() {
            Told::Welcome(welcome) => (own, welcome),
            other => panic!("{other:?}"),
        }
    }

    fn say(&self, message: Said) {
        self.stream.blocking_send(FromWorker { message: Some(message) }).expect("the stream is open");
    }

    fn hear(&mut self) -> Told {
        let Self { runtime, answers, .. } = self;
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answers.message()).await });
        let answer = answer.expect("in time").expect("no error").expect("an answer");
        answer.message.expect("a message")
    }

    /// Fetches the state from the donor, and enters the next view.
    fn enter(&mut self) -> View {
        loop {
            match self.hear() {
                Told::FetchState(take) => {
                    let what = Some(download_request::What::State(ShownState { step: take.step }));
                    let Self { runtime, client, .. } = &mut *self;
                    let state = runtime.block_on(async {
                        let request = DownloadRequest { what };
                        let mut chunks = client.download(request).await.expect("the state").into_inner();
                        let mut hash = blake3::Hasher::new();
                        while let Some(chunk) = chunks.message().await.expect("no error") {
                            hash.update(&chunk.bytes);
                        }
                        hash.finalize().as_bytes().to_vec()
                    });
                    self.say(Said::Loaded(Loaded { step: take.step, digest: state }));
                }
                Told::View(view) => return view,
                Told::Alive(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// An authenticated data connection of this member.
    fn data_connection(&self, welcome: &Welcome) -> DataStream {
        let socket = TcpStream::connect(("127.0.0.1", welcome.data_port as u16)).expect("connected");
        let mut stream = DataStream::plain(socket);
        let run = RunId(welcome.run.as_slice().try_into().expect("16 bytes"));
        let key = MemberKey(welcome.key.as_slice().try_into().expect("32 bytes"));
        handshake::connect(&mut stream, &self.token, run, (MemberId(welcome.member), &key))
            .expect("a member");
        stream
    }
}

fn join(name: &str, fingerprint: Vec<u8>, schema: u32) -> Join {
    Join {
        protocol_version: protocol::PROTOCOL_VERSION,
        tasks: vec![Task { name: "mlp".to_owned(), schema }],
        fingerprint,
        name: name.to_owned(),
        device: "cpu".to_owned(),
        build: protocol::BUILD.to_owned(),
        instance: 4_711,
        ..Join::default()
    }
}

/// The fingerprint of the run's own workers.
fn fingerprint(place: &Place) -> Vec<u8> {
    let text = place.record("small")["members"][0]["fingerprint"].as_str().expect("a fingerprint").to_owned();
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("a byte"))
        .collect()
}

/// The schema, which the coordinator names when it refuses another one.
fn schema(place: &Place) -> u32 {
    let mut other = Liar::saying(place, join("other", vec![0; 32], u32::MAX));
    let Told::Refused(why) = other.hear() else { panic!("it has another schema") };
    let words: Vec<&str> = why.message.split_whitespace().collect();
    let is = words.windows(2).find(|pair| pair[0] == "is" && pair[1].ends_with(';'));
    is.and_then(|pair| pair[1].trim_end_matches(';').parse().ok())
        .unwrap_or_else(|| panic!("{}", why.message))
}

fn sums_header(key: StepKey, tail_bytes: u32) -> Header {
    Header { kind: Kind::PartialSums, key, node_level: 0, node_index: 0, slice: 0, tail_bytes, floats: 0 }
}

/// A part of a step that hasn't begun used to replace the current step, and the run stalled until its deadline.
#[test]
fn a_member_that_is_ahead_of_the_run_is_put_out_by_name() {
    let place = Place::new();
    let child = run(&place);
    let (mut liar, welcome) = while_stopped(&workers_of(child.id()), || {
        let (liar, welcome) = Liar::join(&place);
        liar.say(Said::Prepared(Prepared { elements: ELEMENTS }));
        (liar, welcome)
    });
    let view = liar.enter();
    let mut data = liar.data_connection(&welcome);
    let key = StepKey { view: ViewId(view.id), step: view.step + 1_000, phase: Phase::Train };
    let tail = [0; 4];
    data.write_all(&sums_header(key, 4).encode(&tail)).expect("sent");
    data.write_all(&tail).expect("sent");
    let Told::Refused(why) = liar.hear() else { panic!("it is put out") };
    let ahead = format!("step {} of view", key.step);
    assert!(why.message.contains(&ahead) && why.message.contains("is due"), "{}", why.message);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let record = place.record("small");
    let left: Vec<&str> = record["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["event"] == "left")
        .filter_map(|event| event["text"].as_str())
        .collect();
    let [left] = left[..] else { panic!("one is put out: {left:?}") };
    assert!(left.starts_with("liar left") && left.contains("broke the protocol"), "{left}");
}

/// The additional resources that a token holder may take from the coordinator.
const TAKEN_MAX: Usage = Usage { resident_bytes: 48 << 20, files: 8, threads: 8 };

/// They used to hold 1.1 GB and 3,011 threads: a member has one data connection, and announced bytes take no memory.
#[test]
fn a_hundred_data_connections_that_promise_nine_megabytes_each_take_nothing() {
    let place = Place::new();
    let child = run(&place);
    let before = Usage::of(child.id()).expect("it lives");
    while_stopped(&workers_of(child.id()), || {
        let (liar, welcome) = Liar::join(&place);
        let key = StepKey { view: ViewId(u64::from(u32::MAX) << 32), step: 1, phase: Phase::Train };
        let promise = |bytes: u32| {
            let mut header = sums_header(key, 0).encode(&[]);
            header[32..36].copy_from_slice(&bytes.to_le_bytes());
            header
        };
        let open = (0..120).map(|number| {
            let mut data = liar.data_connection(&welcome);
            // Half of them announce more than a tail of this run can have, and half exactly that.
            let bytes = if number % 2 == 0 { 9 << 20 } else { 512 << 10 };
            // The connection may be closed already.
            let _ = data.write_all(&promise(bytes)).and_then(|()| data.write_all(&[0; 8 * HEADER_BYTES]));
            data
        });
        let open: Vec<DataStream> = open.collect();
        until("a member's older connections are closed", || {
            Usage::of(child.id()).is_some_and(|now| now.excess(before, TAKEN_MAX).is_empty())
        });
        drop(open);
    });
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.digest("small"), place.digest("whole"));
}

/// 492 of them used to make run.json and the log 478 MB each, and status returned OUT_OF_RANGE.
#[test]
fn refused_workers_with_long_words_fill_neither_record_nor_log_and_status_answers() {
    let place = Place::new();
    let child = run(&place);
    let before = Usage::of(child.id()).expect("it lives");
    let status = while_stopped(&workers_of(child.id()), || {
        for number in 0..120 {
            let long = |what: &str| format!("{what}{number}{}", "x".repeat(50_000));
            let tasks = (0..16).map(|_| Task { name: long("task"), schema: 1 }).collect();
            let words =
                Join { name: long("name"), device: long("device"), build: long("build"), ..Join::default() };
            let join = Join { tasks, ..join("", vec![0; 32], 1) };
            let join = Join { name: words.name, device: words.device, build: words.build, ..join };
            let mut refused = Liar::saying(&place, join);
            assert!(matches!(refused.hear(), Told::Refused(why) if why.message.len() < 4_096));
        }
        let status = wait(place.command(&["status"]).spawn().expect("started"));
        let held = Usage::of(child.id()).expect("it lives").excess(before, TAKEN_MAX);
        assert!(held.is_empty(), "the coordinator holds {held}");
        status
    });
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    assert!(status.stdout.len() < 64 << 10, "{} bytes of status", status.stdout.len());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.digest("small"), place.digest("whole"));
    let size = std::fs::metadata(place.run_dir("small").join("run.json")).expect("run.json").len();
    assert!(size < 1 << 20, "run.json has {size} bytes");
    assert!(output.stdout.len() < 4 << 20, "{} bytes are shown", output.stdout.len());
    let refused = String::from_utf8_lossy(&output.stdout).matches("was refused").count();
    assert!(refused < 60, "{refused} refusals are shown one by one");
}
