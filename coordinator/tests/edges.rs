//! Workers whose connectivity to the coordinator is incomplete.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sim::real::listening;
use support::{Place, signal, until, wait};

/// Other loopback addresses, one for each test, on which only forwarded ports of 127.0.0.1 are reachable: as through a
/// firewall in front of the coordinator's host.
const HOSTS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

/// Forwards a limited number of connections; later ones are closed.
#[derive(Clone)]
struct Door {
    port: u16,
    limit: Arc<AtomicU32>,
    passed: Arc<AtomicU32>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Door {
    /// Listens on any port (0), or on the same one.
    fn to(to: u16, host: &str, at: u16, limit: u32) -> Self {
        let listener = TcpListener::bind((host, at)).expect("another loopback address");
        let port = listener.local_addr().expect("an address").port();
        let door = Self {
            port,
            limit: Arc::new(AtomicU32::new(limit)),
            passed: Arc::default(),
            open: Arc::default(),
        };
        let own = door.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.passed.load(Ordering::Relaxed) >= own.limit.load(Ordering::Relaxed) {
                    continue;
                }
                own.passed.fetch_add(1, Ordering::Relaxed);
                let Ok(beyond) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                own.open.lock().expect("held by nobody").push(stream.try_clone().expect("cloned"));
                for (from, into) in [(&stream, &beyond), (&beyond, &stream)] {
                    pass(from.try_clone().expect("cloned"), into.try_clone().expect("cloned"));
                }
            }
        });
        door
    }
}

impl Door {
    /// Breaks all forwarded connections.
    fn cut(&self) {
        for stream in self.open.lock().expect("held by nobody").drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if into.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = into.shutdown(Shutdown::Both);
    });
}

fn control_port(place: &Place) -> u16 {
    let address = place.run_dir("small").join("address");
    let port =
        || -> Option<u16> { std::fs::read_to_string(&address).ok()?.trim().rsplit(':').next()?.parse().ok() };
    until("the run's address", || port().is_some());
    port().expect("a port")
}

/// A worker that joins the run through the other address.
fn guest(place: &Place, host: &str, port: u16) -> Child {
    guest_command(place, host, port).spawn().expect("started")
}

fn guest_command(place: &Place, host: &str, port: u16) -> Command {
    let token = place.run_dir("small").join("token").display().to_string();
    let url = format!("http://{host}:{port}");
    place.worker(&["--coordinator", &url, "--token-file", &token, "--insecure", "--name", "guest"])
}

/// Whether the run's record names the guest.
fn is_known(place: &Place) -> bool {
    let record = std::fs::read_to_string(place.run_dir("small").join("run.json")).unwrap_or_default();
    record.contains("\"guest\"")
}

/// The data plane is reachable when the worker proves it, not when the worker enters its first view, and again a moment
/// later: a transient failure must not end a worker.
#[test]
fn a_worker_whose_first_view_finds_the_data_plane_shut_comes_back() {
    let place = Place::new();
    let run = place
        .coordinator(&["--local-workers", "1", "--set", "train.epochs=100000"])
        .spawn()
        .expect("started");
    let control = control_port(&place);
    until("steps", || support::steps_committed(&place) > 20);
    let host = HOSTS[0];
    let doors: Vec<Door> = listening(run.id())
        .into_iter()
        .filter(|port| *port != control)
        .map(|port| Door::to(port, host, port, 1))
        .collect();
    let through = Door::to(control, host, 0, u32::MAX);
    let mut guest =
        guest_command(&place, host, through.port).stderr(place.log("guest.log")).spawn().expect("started");
    let passed = || doors.iter().map(|door| door.passed.load(Ordering::Relaxed)).sum::<u32>();
    until("the proof", || passed() > 0);
    until("its first Join", || is_known(&place));
    until("it has found the door shut", || place.said("guest.log").contains("can't be reached"));
    assert!(guest.try_wait().expect("looked at").is_none(), "{}", place.said("guest.log"));
    let before = passed();
    doors.iter().for_each(|door| door.limit.store(u32::MAX, Ordering::Relaxed));
    // The probe's connection and the view's own.
    until("its second view", || passed() >= before + 2);
    signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
    let output = wait(guest);
    assert_eq!(output.status.code(), Some(130), "{}", place.said("guest.log"));
}

/// A worker behind a firewall that passes only the control port reports that and waits, while the others train.
#[test]
fn a_worker_that_cannot_reach_the_data_plane_is_in_nobodys_way() {
    let place = Place::new();
    let run = place
        .coordinator(&["--local-workers", "1", "--set", "train.epochs=100000"])
        .spawn()
        .expect("started");
    let host = HOSTS[1];
    let through = Door::to(control_port(&place), host, 0, u32::MAX);
    until("steps", || support::steps_committed(&place) > 20);
    let log = place.path().join("guest.log");
    let mut cut_off = guest_command(&place, host, through.port)
        .stderr(std::fs::File::create(&log).expect("its log"))
        .spawn()
        .expect("started");
    until("the other worker's Join", || is_known(&place));
    let at_join = support::steps_committed(&place);
    // Steps are faster than the timeout of a connection attempt.
    let warning = format!("the data plane of the coordinator at {host}:");
    until("its warning", || {
        let said = std::fs::read_to_string(&log).expect("its log");
        said.lines().any(|line| line.contains(&warning) && line.contains("trying again in 1 s"))
    });
    until("steps without it", || support::steps_committed(&place) > at_join + 100);
    assert!(cut_off.try_wait().expect("looked at").is_none(), "it waits");
    signal(run.id(), "INT");
    let output = wait(run);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    signal(cut_off.id(), "KILL");
    wait(cut_off);
    let record = place.record("small");
    assert_eq!(record["retries"], 0, "nobody paid for it: {record:#}");
}

/// Another coordinator has another data plane: a worker that still tries the old one must give up on it.
#[test]
fn a_worker_that_tries_a_data_plane_that_is_gone_turns_to_the_new_one() {
    let place = Place::new();
    let run = ["--local-workers", "1", "--set", "train.epochs=100000"];
    let mut first = place.coordinator(&run).spawn().expect("started");
    let (control, host) = (control_port(&place), HOSTS[2]);
    until("steps", || support::steps_committed(&place) > 20);
    let through = Door::to(control, host, 0, u32::MAX);
    let guest = guest(&place, host, through.port);
    until("its Join", || is_known(&place));
    first.kill().expect("killed");
    first.wait().expect("waited for");
    let second = place.coordinator(&[&run[..], &["--resume"]].concat()).spawn().expect("started");
    // From now on all ports of the coordinator are reachable.
    let ports = || listening(second.id()).into_iter().filter(|port| *port != control).collect::<Vec<_>>();
    let mut doors: Vec<Door> = Vec::new();
    until("a proof and a view's own connection", || {
        let known: Vec<u16> = doors.iter().map(|door| door.port).collect();
        let new = ports().into_iter().filter(|port| !known.contains(port));
        doors.extend(new.map(|port| Door::to(port, host, port, u32::MAX)));
        doors.iter().map(|door| door.passed.load(Ordering::Relaxed)).sum::<u32>() >= 2
    });
    signal(second.id(), "INT");
    assert_eq!(wait(second).status.code(), Some(130));
    assert_eq!(wait(guest).status.code(), Some(130));
}

/// A data connection that breaks in the middle of the run costs a retry, and the record names its member.
#[test]
fn a_data_connection_that_breaks_is_named_and_made_again() {
    let place = Place::new();
    let run = place
        .coordinator(&["--local-workers", "1", "--set", "train.epochs=100000"])
        .spawn()
        .expect("started");
    let (control, host) = (control_port(&place), HOSTS[3]);
    until("steps", || support::steps_committed(&place) > 20);
    let doors: Vec<Door> = listening(run.id())
        .into_iter()
        .filter(|port| *port != control)
        .map(|port| Door::to(port, host, port, u32::MAX))
        .collect();
    let through = Door::to(control, host, 0, u32::MAX);
    let guest = guest(&place, host, through.port);
    let passed = || doors.iter().map(|door| door.passed.load(Ordering::Relaxed)).sum::<u32>();
    // The probe's connection and the view's own.
    until("it is in the view", || passed() >= 2);
    let before = support::steps_committed(&place);
    until("steps with it", || support::steps_committed(&place) > before + 20);
    let connections = passed();
    doors.iter().for_each(Door::cut);
    until("another data connection of its own", || passed() > connections);
    let before = support::steps_committed(&place);
    until("steps with that", || support::steps_committed(&place) > before + 20);
    signal(run.id(), "INT");
    assert_eq!(wait(run).status.code(), Some(130));
    assert_eq!(wait(guest).status.code(), Some(130));
    let record = place.record("small");
    let events = record["events"].as_array().expect("events");
    let told = events.iter().filter_map(|event| event["text"].as_str());
    let broke = told.filter(|text| text.contains("guest's data connection broke")).count();
    assert!(broke > 0, "{events:#?}");
}
