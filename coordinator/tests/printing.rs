//! Names that would move a terminal's cursor, forge a log line or reverse one: the programs never print them raw,
//! neither on standard output and standard error nor in the workers' logs.

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{Place, until, wait, while_stopped, workers_of};
use tokio_stream::StreamExt;
use wire::auth::Bearer;
use wire::proto::bonfire_client::BonfireClient;
use wire::proto::{FromWorker, Join, Task, from_worker};
use wire::token::Token;

/// Clears a screen, sets a title, has a C1 control, reverses a line, ends one.
const HOSTILE: &str = "\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}\u{2028}\u{7f}";

fn assert_plain(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|why| panic!("{what}: {why}"));
    let is_raw = |character: char| printable::is_harmful(character) && !matches!(character, '\n' | '\t');
    let raw = text.lines().find(|line| line.contains(is_raw));
    assert_eq!(raw, None, "{what} has raw controls");
}

fn check(what: &str, output: &Output) -> String {
    assert_plain(&format!("standard output of {what}"), &output.stdout);
    assert_plain(&format!("standard error of {what}"), &output.stderr);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn logs_are_plain(run_dir: &Path) {
    let logs = std::fs::read_dir(run_dir.join("logs")).expect("the workers' logs");
    let files: Vec<_> = logs.map(|log| log.expect("an entry").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        assert_plain(&file.display().to_string(), &std::fs::read(&file).expect("read"));
    }
}

/// Writes the digits to a file, with such names for the file, its columns and labels.
fn hostile_data(place: &Place) -> String {
    let text = std::fs::read_to_string(place.path().join("rows.csv")).expect("the rows");
    let mut lines = text.lines();
    let header = lines.next().expect("a header");
    let mut columns: Vec<String> = header.split(',').map(str::to_owned).collect();
    let target = columns.iter().position(|column| column == "label").expect("the target");
    columns[target] = format!("label{HOSTILE}");
    columns[0] = format!("first{HOSTILE}");
    let mut out = columns.join(",") + "\n";
    for line in lines {
        let mut cells: Vec<String> = line.split(',').map(str::to_owned).collect();
        cells[target] = format!("class{HOSTILE}{}", cells[target]);
        out += &(cells.join(",") + "\n");
    }
    let name = format!("rows{HOSTILE}.csv");
    std::fs::write(place.path().join(&name), out).expect("written");
    let config = std::fs::read_to_string(place.path().join("run.toml")).expect("the configuration");
    let quoted = |text: &str| Value::from(text).to_string().replace('\u{7f}', "\\u007f");
    let config = config
        .replace("\"rows.csv\"", &quoted(&name))
        .replace("\"label\"", &quoted(&format!("label{HOSTILE}")));
    std::fs::write(place.path().join("run.toml"), config).expect("written");
    name
}

#[test]
fn names_in_the_data_never_reach_a_terminal_or_a_log_raw() {
    let place = Place::new();
    let name = hostile_data(&place);
    for form in ["text", "json"] {
        let run = format!("run.name={form}");
        let mut command = place.coordinator(&["--output", form, "--set", &run]);
        let output = wait(command.env("RUST_LOG", "debug").spawn().expect("started"));
        let said = check(form, &output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        if form == "json" {
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            let keys: Vec<String> = lines
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{line}: {why}")))
                .filter_map(|line| line["key"].as_str().map(str::to_owned))
                .collect();
            assert!(
                keys.iter().any(|key| key.contains(HOSTILE)),
                "JSON says the names as they are: {keys:?}"
            );
        }
        logs_are_plain(&place.run_dir(form));
    }
    let status = wait(place.command(&["status", "runs/text"]).spawn().expect("started"));
    check("status", &status);
    // Errors quote invalid input.
    std::fs::write(place.path().join(&name), format!("a{HOSTILE},label\n1,{HOSTILE}\n")).expect("written");
    let refused = wait(place.coordinator(&["--set", "run.name=again"]).spawn().expect("started"));
    let said = check("a refusal", &refused);
    assert!(refused.status.code() != Some(0) && said.contains("\\u{1b}"), "{said}");
    let refused =
        wait(place.coordinator(&["--set", &format!("train.{HOSTILE}=1")]).spawn().expect("started"));
    assert_eq!(refused.status.code(), Some(2));
    check("a refused key", &refused);
}

#[test]
fn a_workers_name_enters_the_run_printable() {
    let place = Place::new();
    let some = ["--set", "train.epochs=300", "--set", "elastic.lease=60s"];
    let mut command = place.coordinator(&some);
    let child = command.env("RUST_LOG", "info").spawn().expect("started");
    until("the run has an address", || place.has_member("worker-0"));
    let run_dir = place.run_dir("small");
    let read = |name: &str| std::fs::read_to_string(run_dir.join(name)).expect("read").trim().to_owned();
    while_stopped(&workers_of(child.id()), || {
        let arguments = ["--coordinator", &read("address"), "--device", "cpu", "--name", HOSTILE];
        let worker = wait(place.worker(&arguments).spawn().expect("started"));
        let said = check("a worker", &worker);
        assert!(worker.status.code() == Some(2) && said.contains("--name"), "{said}");
        join(&read("address"), &Token::read(&run_dir.join("token")).expect("a token"));
        let status = wait(place.command(&["status"]).spawn().expect("started"));
        let said = check("status", &status);
        assert!(said.contains("stranger\\u{1b}[2J"), "{said}");
    });
    support::signal(child.id(), "INT");
    let output = wait(child);
    let said = check("the coordinator", &output);
    assert!(said.contains("stranger\\u{1b}[2J"), "{said}");
    logs_are_plain(&run_dir);
    let record = read("run.json");
    assert_plain("run.json", record.as_bytes());
}

/// Joins as a foreign worker with arbitrary name, device and tasks.
fn join(url: &str, token: &Token) {
    let name = format!("stranger{HOSTILE}\nforged line");
    let task = Task { name: format!("task{HOSTILE}"), schema: 1 };
    let join = Join {
        protocol_version: protocol::PROTOCOL_VERSION,
        tasks: vec![task],
        fingerprint: vec![1; 32],
        device: HOSTILE.to_owned(),
        name,
        ..Join::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let channel = wire::transport::endpoint(url).expect("a URL").connect().await.expect("connected");
        let mut client = BonfireClient::with_interceptor(channel, Bearer::new(token));
        let said = FromWorker { message: Some(from_worker::Message::Join(join)) };
        let stream = tokio_stream::iter([said]).chain(tokio_stream::pending());
        let mut answers = client.session(stream).await.expect("a stream").into_inner();
        let answer = tokio::time::timeout(support::DEADLINE, answers.message()).await.expect("in time");
        assert!(answer.is_ok(), "refused with a message");
    });
}
