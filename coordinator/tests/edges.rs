//! Workers whose way to the coordinator is not whole.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use support::{Place, signal, until, wait};

/// Passes a port of another loopback address on to one of 127.0.0.1, and nothing else of it: the data plane, whose port a worker
/// looks for at the same host, is not there.
fn control_alone(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.2:0").expect("another loopback address");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(beyond) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (from, into) in [(&stream, &beyond), (&beyond, &stream)] {
                let (mut from, mut into) =
                    (from.try_clone().expect("cloned"), into.try_clone().expect("cloned"));
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
        }
    });
    port
}

/// A worker behind a firewall that lets the control port through alone says so and waits, and the others train.
#[test]
fn a_worker_that_cannot_reach_the_data_plane_is_in_nobodys_way() {
    let place = Place::new();
    let run =
        place.coordinator(&["--local-workers", "1", "--set", "train.epochs=200"]).spawn().expect("started");
    let address = place.run_dir("small").join("address");
    let port = || -> Option<u16> {
        let text = std::fs::read_to_string(&address).ok()?;
        text.trim().rsplit(':').next()?.parse().ok()
    };
    until("the run's address", || port().is_some());
    let through = control_alone(port().expect("a port"));
    until("steps", || support::steps_committed(&place) > 20);
    let url = format!("http://127.0.0.2:{through}");
    let token = place.run_dir("small").join("token").display().to_string();
    let cut_off = place
        .worker(&["--coordinator", &url, "--token-file", &token, "--insecure", "--name", "cut-off"])
        .spawn()
        .expect("started");
    let joined = || {
        let record = std::fs::read_to_string(place.run_dir("small").join("run.json")).unwrap_or_default();
        record.contains("\"cut-off\"")
    };
    until("the other worker's Join", joined);
    let at_join = support::steps_committed(&place);
    until("steps without it", || support::steps_committed(&place) > at_join + 100);
    signal(run.id(), "INT");
    let output = wait(run);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    signal(cut_off.id(), "KILL");
    let said = String::from_utf8_lossy(&wait(cut_off).stderr).into_owned();
    let warned = said.contains("the data plane of the coordinator at 127.0.0.2:")
        && said.contains("trying again in 1 s");
    assert!(warned, "{said}");
    let record = place.record("small");
    assert_eq!(record["retries"], 0, "nobody paid for it: {record:#}");
}
