//! TLS on loopback, on request: the bits are the same, and every kind of misconfiguration ends at once with a helpful
//! message. Between two hosts: tests/two_hosts.rs.

mod support;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use support::{DEADLINE, Place, steps_committed, until, wait};
use wire::tls::Fingerprint;
use wire::token::{Token, TokenLine};

/// A run that goes on until it is stopped.
const LONG: [&str; 4] = ["--set", "train.epochs=100000", "--set", "checkpoint.every=1000 steps"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn address(place: &Place) -> String {
    let path = place.run_dir("small").join("address");
    until("the run's address", || path.exists());
    std::fs::read_to_string(path).expect("read").trim().to_owned()
}

fn token_file(place: &Place) -> String {
    place.run_dir("small").join("token").display().to_string()
}

fn stop(place: &Place, run: Child) {
    let output = wait(place.command(&["stop"]).spawn().expect("started"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = wait(run);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
}

/// A worker that can't join: it reports that at once, not only after its join timeout.
fn refused(place: &Place, arguments: &[&str], words: &[&str]) {
    let began = Instant::now();
    let timeout = format!("{}s", 10 * DEADLINE.as_secs());
    let worker = place.worker(&[arguments, &["--device", "cpu", "--join-timeout", &timeout]].concat());
    refused_by(arguments, &worker_output(worker), words);
    assert!(began.elapsed() < DEADLINE);
}

fn worker_output(mut worker: std::process::Command) -> Output {
    wait(worker.spawn().expect("started"))
}

fn refused_by(arguments: &[&str], output: &Output, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?}: {word:?} is not in\n{said}");
    }
}

#[test]
fn a_run_under_tls_comes_to_the_same_bits_and_keeps_its_authority_over_a_resume() {
    let place = Place::new();
    // With this schedule the length may change on resume.
    let kind =
        ["--set", "schedule.kind=constant", "--set", "schedule.warmup_steps=0", "--local-workers", "2"];
    place.complete(&[&kind[..], &["--set", "run.name=plain"]].concat());
    assert!(!place.run_dir("plain").join("tls").exists(), "loopback pays nothing");
    place.complete(&[&kind[..], &["--tls"]].concat());
    assert_eq!(place.digest("small"), place.digest("plain"));
    let line = TokenLine::read(Path::new(&token_file(&place))).expect("the token's line");
    assert!(line.fingerprint.is_some() && address(&place).starts_with("https://127.0.0.1:"));

    let run =
        place.coordinator(&[&LONG[..], &kind, &["--resume", "--tls"]].concat()).spawn().expect("started");
    let before = steps_committed(&place);
    until("steps after the resume", || steps_committed(&place) > before);
    assert_eq!(TokenLine::read(Path::new(&token_file(&place))).expect("the line"), line);
    let status = wait(place.command(&["status", "--output", "json"]).spawn().expect("started"));
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    let checkpoint = wait(place.command(&["checkpoint"]).spawn().expect("started"));
    assert_eq!(checkpoint.status.code(), Some(0), "{}", text(&checkpoint.stderr));
    let by_name = ["status", "--connect", &address(&place), "--token-file", &token_file(&place)];
    let status = wait(place.command(&by_name).spawn().expect("started"));
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    stop(&place, run);
}

#[test]
fn misunderstandings_about_tls_end_at_once_with_a_way_out() {
    let place = Place::new();
    let run = place
        .coordinator(&[&LONG[..], &["--local-workers", "1", "--tls"]].concat())
        .spawn()
        .expect("started");
    let url = address(&place);
    until("steps", || steps_committed(&place) > 0);
    let file = token_file(&place);
    // The same address and token file are enough.
    let mut guest = place.guest("guest");
    until("the guest is in", || place.has_member("guest"));
    guest.kill().expect("killed");
    guest.wait().expect("waited for");

    let plain = url.replace("https://", "http://");
    refused(&place, &["--coordinator", &plain, "--token-file", &file], &["speaks TLS: use https://"]);
    let output = place.command(&["status", "--connect", &plain, "--token-file", &file]).output();
    refused_by(&["status"], &output.expect("run"), &["speaks TLS: use https://"]);

    let own = TokenLine::read(Path::new(&file)).expect("the line");
    let write = |name: &str, line: TokenLine| {
        let path = place.path().join(name);
        line.write(&path).expect("written");
        path.display().to_string()
    };
    let other = Fingerprint::parse(&format!("sha256-{}", "0".repeat(64)));
    let other = write("other", TokenLine { fingerprint: other, ..own.clone() });
    let both = [own.fingerprint.expect("TLS").to_string(), format!("sha256-{}", "0".repeat(64))];
    let words = [&both[0][..], &both[1], "copy the line"];
    refused(&place, &["--coordinator", &url, "--token-file", &other], &words);
    let output = place.command(&["status", "--connect", &url, "--token-file", &other]).output();
    refused_by(&["status"], &output.expect("run"), &words);
    let bare = write("bare", TokenLine { fingerprint: None, ..own.clone() });
    refused(&place, &["--coordinator", &url, "--token-file", &bare], &["TOKEN:sha256-", "--tls-ca"]);

    // The run's CA, used like an organisation's: with names and dates checked.
    let ca = place.run_dir("small").join("tls/ca.pem").display().to_string();
    let status =
        place.command(&["status", "--connect", &url, "--token-file", &bare, "--tls-ca", &ca]).output();
    assert_eq!(status.expect("run").status.code(), Some(0));
    let nowhere = ["--coordinator", &url, "--token-file", &bare, "--tls-ca", "nowhere.pem"];
    refused(&place, &nowhere, &["--tls-ca nowhere.pem", "No such file"]);
    let empty = place.path().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    let empty = empty.display().to_string();
    let keys = ["--coordinator", &url, "--token-file", &file, "--tls-cert", &ca, "--tls-key", &empty];
    refused(&place, &keys, &["--tls-key", "no private key"]);
    stop(&place, run);
}

#[test]
fn tls_where_none_is_spoken_ends_at_once() {
    let place = Place::new();
    let run = place.coordinator(&[&LONG[..], &["--local-workers", "1"]].concat()).spawn().expect("started");
    let url = address(&place).replace("http://", "https://");
    until("steps", || steps_committed(&place) > 0);
    let token = Token::read(Path::new(&token_file(&place))).expect("the token");
    let file = place.path().join("line");
    let fingerprint = Fingerprint::parse(&format!("sha256-{}", "1".repeat(64)));
    TokenLine { token, fingerprint }.write(&file).expect("written");
    let file = file.display().to_string();
    refused(&place, &["--coordinator", &url, "--token-file", &file], &["doesn't encrypt", "http://"]);
    let output = place.command(&["status", "--connect", &url, "--token-file", &file]).output();
    refused_by(&["status"], &output.expect("run"), &["doesn't encrypt"]);
    stop(&place, run);
}

/// An organisation's own certificates, on both sides.
#[test]
fn a_run_with_an_authority_of_its_own_asks_workers_for_certificates() {
    let place = Place::new();
    let write = |name: &str, text: String| {
        let path = place.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = write("ca.pem", params.self_signed(&key).expect("signed").pem());
    let issuer = rcgen::Issuer::new(params, key);
    let signed = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        let certificate = params.signed_by(&key, &issuer).expect("signed").pem();
        (write(&format!("{name}.pem"), certificate), write(&format!("{name}.key"), key.serialize_pem()))
    };
    let (own, worker) = (signed("coordinator"), signed("worker"));
    let security = ["--tls-cert", &own.0, "--tls-key", &own.1, "--tls-ca", &ca];
    let (code, _, said) = place.finish(&[&security[..], &["--local-workers", "1"]].concat());
    assert!(code == Some(2) && said.contains("--local-workers 0"), "{code:?}\n{said}");
    let mixed = ["--tls-cert", &own.0, "--tls-key", &worker.1];
    let (code, _, said) = place.finish(&mixed);
    assert!(code == Some(2) && said.contains("not the key of the certificate"), "{code:?}\n{said}");
    assert!(!place.run_dir("small").exists(), "a start that is refused leaves no run");

    let run = place
        .coordinator(&[&security[..], &LONG, &["--local-workers", "0"]].concat())
        .spawn()
        .expect("started");
    let (url, file) = (address(&place), token_file(&place));
    let bare = ["--coordinator", &url, "--token-file", &file];
    refused(&place, &bare, &["--tls-cert"]);
    let shown = ["--tls-cert", &worker.0, "--tls-key", &worker.1];
    let joins = [&bare[..], &shown, &["--tls-ca", &ca, "--device", "cpu", "--name", "guest"]].concat();
    let worker = place.worker(&joins).spawn().expect("started");
    until("steps", || steps_committed(&place) > 5);
    let output = wait(place.command(&[&["stop"], &shown[..]].concat()).spawn().expect("started"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(wait(run).status.code(), Some(130));
    assert_eq!(wait(worker).status.code(), Some(130));
}

/// Clients that send nothing, or nonsense, to a TLS port are disconnected and affect nobody else.
#[test]
fn strangers_at_ports_under_tls_change_nothing() {
    let place = Place::new();
    let run = place
        .coordinator(&[&LONG[..], &["--local-workers", "1", "--tls"]].concat())
        .spawn()
        .expect("started");
    address(&place);
    until("steps", || steps_committed(&place) > 0);
    let ports = sim::real::listening(run.id());
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut open = Vec::new();
    for port in ports.iter().flat_map(|port| [port; 40]) {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &hello, &[0xff; 512], b""] {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", *port)).expect("connected");
            let _ = std::io::Write::write_all(&mut stream, bytes);
            open.push(stream);
        }
    }
    let before = steps_committed(&place);
    let guest = place.guest("guest");
    until("the guest is in", || place.has_member("guest"));
    until("steps among strangers", || steps_committed(&place) > before + 20);
    // A plain HTTP client gets a hint.
    let url = address(&place).replace("https://", "");
    let mut stream = std::net::TcpStream::connect(url).expect("connected");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer and an end");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("use https://"), "{answer}");
    stop(&place, run);
    assert_eq!(wait(guest).status.code(), Some(130));
}

/// HTTP/2 begins with the server's message, which under TLS waits for the handshake: clients that never began it used
/// to stay connected, and 520 of them kept every worker and every person out.
#[test]
fn a_crowd_that_never_begins_tls_keeps_no_worker_out_and_no_person() {
    let place = Place::new();
    let run = place
        .coordinator(&[&LONG[..], &["--local-workers", "1", "--tls"]].concat())
        .spawn()
        .expect("started");
    until("steps", || steps_committed(&place) > 5);
    let address = address(&place);
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let connect = |_| TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let mut crowd: Vec<TcpStream> = (0..600).map(connect).collect();
    // The first clients are disconnected long before their timeout: newer ones take their slots.
    let first = &mut crowd[0];
    first.set_read_timeout(Some(DEADLINE)).expect("set");
    let end = first.read(&mut [0]);
    assert!(
        matches!(&end, Ok(0)) || end.as_ref().is_err_and(|why| why.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
    let status = wait(place.command(&["status"]).spawn().expect("started"));
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    let token = token_file(&place);
    let arguments = ["--coordinator", &address, "--token-file", &token, "--name", "guest", "--device", "cpu"];
    let worker = place.worker(&arguments).spawn().expect("started");
    until("the guest is in", || place.has_member("guest"));
    drop(crowd);
    stop(&place, run);
    assert_eq!(wait(worker).status.code(), Some(130));
}
