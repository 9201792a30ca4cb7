//! Peers that don't belong to the run: each gets the reason, with a documented exit code, and the run loses nothing.

mod support;

use std::net::TcpListener;
use std::process::Child;

use support::{Place, steps_committed, until, wait};

/// A run without local workers, long enough to outlast the test, and its URL.
fn waiting(place: &Place) -> (Child, String) {
    let arguments = ["--local-workers", "0", "--set", "train.epochs=200000"];
    let child = place.coordinator(&arguments).spawn().expect("started");
    let address = place.run_dir("small").join("address");
    until("the coordinator says where it is", || address.exists());
    let url = std::fs::read_to_string(&address).expect("its address");
    (child, url.trim().to_owned())
}

fn interrupt(child: Child) {
    support::signal(child.id(), "INT");
    assert_eq!(wait(child).status.code(), Some(130));
}

#[test]
fn an_address_in_use_is_named_with_code_2() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("its address").to_string();
    let (code, _, said) = place.finish(&["--listen", &listen]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&listen) && said.contains("in use"), "{said}");
}

#[test]
fn a_worker_with_another_runs_token_is_refused_and_the_run_goes_on() {
    let (here, elsewhere) = (Place::new(), Place::new());
    let (other, _) = waiting(&elsewhere);
    let (run, url) = waiting(&here);
    let wrong = elsewhere.run_dir("small").join("token");
    let wrong = wrong.to_str().expect("a path of this test");
    let stranger = ["--coordinator", &url, "--token-file", wrong, "--join-timeout", "1s"];
    let output = wait(here.worker(&stranger).spawn().expect("started"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("token") && said.contains(&url), "{said}");

    let member = here.worker(&["--coordinator", &url]).spawn().expect("started");
    until("the run trains", || steps_committed(&here) > 20);
    interrupt(run);
    assert_eq!(wait(member).status.code(), Some(130));
    interrupt(other);
}

/// The port is the same, the run another: the worker's state is of no use there, so it starts as a newcomer.
#[test]
fn a_worker_whose_port_has_another_run_now_enters_that_with_nothing_of_the_first() {
    let (first, second) = (Place::new(), Place::new());
    let (mut run, url) = waiting(&first);
    // Both coordinators write their tokens to the folder that this worker searches.
    let worker = first.worker(&["--coordinator", &url, "--device", "cpu"]).spawn().expect("started");
    until("the first run trains", || steps_committed(&first) > 20);
    run.kill().expect("killed");
    run.wait().expect("waited for");

    let quiet = ["--set", "run.seed=8", "--set", "train.epochs=4"];
    second.complete(&[&quiet[..], &["--set", "run.name=whole"]].concat());
    let listen = url.trim_start_matches("http://");
    let here = ["--local-workers", "0", "--listen", listen];
    let mut another = second.coordinator(&[&quiet[..], &here].concat());
    another.env("XDG_RUNTIME_DIR", first.path());
    let output = wait(another.spawn().expect("started"));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(second.digest("small"), second.digest("whole"));
    assert_eq!(wait(worker).status.code(), Some(0));
}
