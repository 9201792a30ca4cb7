//! Two simulated hosts: two network namespaces connected by a virtual cable, which tcpdump captures. Needs root, `ip`
//! and `tcpdump`; if they are missing it is skipped, with a message, unless `BONFIRE_REQUIRE_NETNS=1`.

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::{Place, signal, steps_committed, until, wait};
use wire::token::TokenLine;

/// Two network namespaces, removed after the test.
struct Hosts {
    names: [String; 2],
}

const ADDRESSES: [&str; 2] = ["10.213.7.1", "10.213.7.2"];

fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Hosts {
    /// `None` if this machine doesn't allow them.
    fn new(test: &str) -> Option<Self> {
        let names = ["a", "b"].map(|side| format!("bonfire-{test}-{}-{side}", std::process::id()));
        let cable = ["a", "b"].map(|side| format!("bf{}{side}", std::process::id()));
        let has_tcpdump = Command::new("tcpdump").arg("--version").output().is_ok();
        let own = Self { names };
        let is_made = has_tcpdump
            && own.names.iter().all(|name| ip(&["netns", "add", name]))
            && ip(&[
                "link",
                "add",
                &cable[0],
                "netns",
                &own.names[0],
                "type",
                "veth",
                "peer",
                "name",
                &cable[1],
                "netns",
                &own.names[1],
            ])
            && (0..2).all(|side| {
                let (name, end) = (&own.names[side], &cable[side]);
                ip(&["-n", name, "address", "add", &format!("{}/24", ADDRESSES[side]), "dev", end])
                    && ip(&["-n", name, "link", "set", end, "up"])
                    && ip(&["-n", name, "link", "set", "lo", "up"])
            });
        if is_made {
            return Some(own);
        }
        assert!(
            std::env::var_os("BONFIRE_REQUIRE_NETNS").is_none(),
            "network namespaces or tcpdump can't be had"
        );
        eprintln!("SKIPPED: two hosts need root, ip and tcpdump");
        None
    }

    /// The same command on one of the hosts.
    fn on(&self, side: usize, command: &Command) -> Command {
        let mut moved = Command::new("ip");
        moved.args(["netns", "exec", &self.names[side]]).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            moved.current_dir(folder);
        }
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => moved.env(key, value),
                None => moved.env_remove(key),
            };
        }
        moved.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        moved
    }

    /// Captures all traffic on the cable.
    fn listen(&self, place: &Place, name: &str) -> (Child, PathBuf) {
        let (path, log) = (place.path().join(name), format!("{name}.log"));
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", "any", "-U", "-s", "0", "-w"]).arg(&path).arg("tcp");
        let mut tcpdump = self.on(0, &tcpdump);
        let child = tcpdump.stderr(place.log(&log)).spawn().expect("tcpdump");
        until("tcpdump listens", || place.said(&log).contains("listening on"));
        (child, path)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&["netns", "delete", name]);
        }
    }
}

/// A run on one host with a worker on the other, which only knows the address and a copy of the token's line: returns
/// the captured traffic.
fn captured(hosts: &Hosts, place: &Place, flags: &[&str]) -> (Vec<u8>, TokenLine) {
    let listen = format!("{}:0", ADDRESSES[0]);
    let arguments = ["--local-workers", "0", "--listen", &listen, "--set", "train.epochs=100000"];
    let run = place.coordinator(&[&arguments[..], &["--set", "elastic.min_workers=2"], flags].concat());
    let (tcpdump, path) = hosts.listen(place, "cable.pcap");
    let run = hosts.on(0, &run).spawn().expect("started");
    let address = place.run_dir("small").join("address");
    until("the run's address", || address.exists());
    let address = std::fs::read_to_string(address).expect("read");
    let line = TokenLine::read(&place.run_dir("small").join("token")).expect("the token's line");
    let copy = place.path().join("copy");
    std::fs::write(&copy, line.to_line()).expect("pasted");
    let workers: Vec<Child> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let token = copy.display().to_string();
            let arguments = ["--coordinator", address.trim(), "--token-file", &token, "--name", name];
            let insecure: &[&str] = if flags.contains(&"--insecure") { flags } else { &[] };
            let worker = place.worker(&[&arguments[..], insecure, &["--device", "cpu"]].concat());
            hosts.on(1, &worker).stderr(place.log(name)).spawn().expect("started")
        })
        .collect();
    until("steps between two hosts", || steps_committed(place) > 20);
    let status = wait(hosts.on(0, &place.command(&["status", "--output", "json"])).spawn().expect("started"));
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    let stop = wait(hosts.on(0, &place.command(&["stop"])).spawn().expect("started"));
    assert_eq!(stop.status.code(), Some(0), "{}", String::from_utf8_lossy(&stop.stderr));
    assert_eq!(wait(run).status.code(), Some(130));
    for worker in workers {
        assert_eq!(wait(worker).status.code(), Some(130), "{}{}", place.said("one"), place.said("two"));
    }
    signal(tcpdump.id(), "INT");
    wait(tcpdump);
    (std::fs::read(path).expect("the capture"), line)
}

/// Requests a page from the other host, trusting the run's CA: prints the status, or the error.
const ASK: &str = r#"
import ssl, sys, urllib.error, urllib.request
method, url, authority, token = sys.argv[1:]
context = ssl.create_default_context(cafile=authority) if url.startswith("https") else None
request = urllib.request.Request(url, method=method, data=b"{}" if method == "POST" else None)
request.add_header("Content-Type", "application/json")
if token:
    request.add_header("Authorization", "Bearer " + token)
try:
    print(urllib.request.urlopen(request, timeout=20, context=context).status)
except urllib.error.HTTPError as error:
    print(error.code)
"#;

/// Off loopback, the tracker's pages and /metrics are encrypted and require a token; a viewer's token only permits
/// reading.
#[test]
fn pages_and_metrics_ask_other_hosts_for_a_token_under_tls() {
    let Some(hosts) = Hosts::new("pages") else { return };
    let place = Place::new();
    let at = |key: &str| format!("{key}={}:0", ADDRESSES[0]);
    let (pages, metrics) = (at("tracker.listen"), at("telemetry.metrics_listen"));
    let arguments =
        ["--local-workers", "1", "--set", "train.epochs=100000", "--set", &pages, "--set", &metrics];
    let (tcpdump, path) = hosts.listen(&place, "pages.pcap");
    let run = hosts.on(0, &place.coordinator(&arguments)).spawn().expect("started");
    until("steps", || steps_committed(&place) > 5);
    let read = |name: &str| std::fs::read_to_string(place.run_dir("small").join(name)).expect("read");
    let (pages, metrics) = (read("tracker-address"), read("metrics-address"));
    assert!(pages.starts_with("https://") && metrics.starts_with("https://"), "{pages}{metrics}");
    let create = ["token", "create", "--role", "viewer", "--name", "ann"];
    let line = wait(place.command(&create).spawn().expect("started"));
    let line = String::from_utf8(line.stdout).expect("text");
    let viewer = line.trim().split(':').next().expect("a token").to_owned();
    let authority = place.run_dir("small").join("tls/ca.pem").display().to_string();
    let ask = |method: &str, url: String, token: &str| {
        let mut python = Command::new("python3");
        python.args(["-c", ASK, method, &url, &authority, token]);
        let output = wait(hosts.on(1, &python).spawn().expect("python3"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let page = |path: &str| format!("{}{path}", pages.trim());
    assert_eq!(ask("GET", page("/api/runs"), ""), "401");
    assert_eq!(ask("GET", page("/api/runs"), &"0".repeat(64)), "401");
    assert_eq!(ask("GET", page("/api/runs"), &viewer), "200");
    assert_eq!(ask("GET", page("/api/runs"), line.trim()), "200");
    assert_eq!(ask("POST", page("/api/2.0/mlflow/experiments/create"), &viewer), "403");
    assert_eq!(ask("GET", metrics.trim().to_owned(), ""), "401");
    assert_eq!(ask("GET", metrics.trim().to_owned(), &viewer), "200");
    assert_eq!(ask("GET", page("/").replace("https", "http"), &viewer), "400");
    let revoke = wait(place.command(&["token", "revoke", "ann"]).spawn().expect("started"));
    assert_eq!(revoke.status.code(), Some(0));
    until("a revoked token opens nothing", || ask("GET", page("/api/runs"), &viewer) == "401");
    signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
    signal(tcpdump.id(), "INT");
    wait(tcpdump);
    let bytes = std::fs::read(path).expect("the capture");
    // The one plaintext request contained it: the port answered that https is required.
    let told = bytes.windows(viewer.len()).filter(|window| *window == viewer.as_bytes()).count();
    assert!(told <= 1 && contains(&bytes, b"use https://"), "the token went over the cable {told} times");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn between_hosts_nothing_is_read_and_the_token_file_is_all_that_a_worker_needs() {
    let Some(hosts) = Hosts::new("tls") else { return };
    let place = Place::new();
    let (bytes, line) = captured(&hosts, &place, &[]);
    assert!(line.fingerprint.is_some());
    assert!(bytes.len() > 10_000, "{} bytes", bytes.len());
    let hex = line.token.to_hex();
    let secrets: [(&str, &[u8]); 6] = [
        ("the token", hex.as_bytes()),
        ("the token's bytes", line.token.bytes()),
        ("a handshake of the data plane", b"BNFH"),
        ("frames of the data plane", b"BNF1"),
        ("the control plane", b"PRI * HTTP/2.0"),
        ("the configuration", b"microbatch_size"),
    ];
    for (what, part) in &secrets {
        assert!(!contains(&bytes, part), "{what} went over the cable in the open");
    }
    // Counter-check: without TLS the capture does contain them.
    drop(hosts);
    let Some(hosts) = Hosts::new("plain") else { return };
    let place = Place::new();
    let (bytes, line) = captured(&hosts, &place, &["--insecure"]);
    assert!(line.fingerprint.is_none());
    // The token itself is there in HTTP/2's Huffman code (RFC 7541).
    for part in [&b"BNFH"[..], b"BNF1", b"PRI * HTTP/2.0", b"microbatch_size"] {
        assert!(contains(&bytes, part), "{}", String::from_utf8_lossy(part));
    }
}
