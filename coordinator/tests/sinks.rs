//! Sinks of a run, tested without a worker: what is refused, and the cost of a tracker that hangs.

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use support::{Place, until, wait};

const SECRET: &str = "no-file-has-this-word";

/// Runs `coordinator tracker push` in this folder: returns the exit code and the error output.
fn push(place: &Place, run: &str, to: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = place.command(&["tracker", "push", run, "--to", to]);
    let output = wait(command.args(more).spawn().expect("started"));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_sink_that_is_nowhere_is_refused_before_a_folder_is_made() {
    let place = Place::new();
    let mlflow = ["--local-workers", "0", "--set", "tracker.sinks=[\"mlflow\"]"];
    let check = |address: Option<&str>, expected: &str| {
        let mut command = place.coordinator(&mlflow);
        command.env_remove("MLFLOW_TRACKING_URI");
        command.envs(address.map(|address| ("MLFLOW_TRACKING_URI", address)));
        let output = wait(command.spawn().expect("started"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && !said.contains(SECRET), "{said}");
        assert!(!place.run_dir("small").exists());
    };
    check(Some(&format!("postgresql://me:{SECRET}@db/mlflow")), "postgresql://...@db/mlflow");
    check(Some("./mlruns"), "./mlruns");
    check(None, "set tracker.mlflow_uri, or MLFLOW_TRACKING_URI");
}

#[test]
fn a_push_of_nothing_or_to_nowhere_has_the_codes_of_the_contract() {
    let place = Place::new();
    let (code, said) = push(&place, "absent", "wandb", &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("absent is no run: there is no such folder"), "{said}");
    let (code, said) = push(&place, "absent", "elsewhere", &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("elsewhere") && said.contains("tensorboard"), "{said}");
    let (code, said) = push(&place, "absent", "tensorboard", &["--experiment", "e"]);
    assert_eq!(code, Some(2), "{said}");
}

/// A failure of the run's tracker is reported, and costs the run nothing.
#[test]
fn a_damaged_tracker_file_is_said_and_harms_no_run() {
    let place = Place::new();
    let index = place.run_dir("small").with_file_name(".tracker").join("index.sqlite");
    std::fs::create_dir_all(index.parent().expect("a folder")).expect("made");
    std::fs::write(&index, [0x5a; 20_000]).expect("written");
    let said =
        place.complete(&["--set", "tracker.sinks=[\"embedded\"]", "--set", "tracker.listen=127.0.0.1:0"]);
    assert!(
        said.contains("tracker: ") && said.contains("made anew") && said.contains("index.sqlite.damaged"),
        "{said}"
    );
    assert_eq!(place.record("small")["status"], "completed");
    assert!(index.with_extension("sqlite.damaged").is_file());
}

/// The server accepts connections and never answers. The run ends all the same, and reports what is left and how to
/// send it; a second signal ends the wait.
#[test]
fn a_tracker_that_hangs_is_waited_for_a_while_and_no_longer() {
    let check = |is_signalled_again: bool| {
        let place = Place::new();
        let hangs = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = hangs.local_addr().expect("its address");
        let uri = format!("tracker.mlflow_uri=http://{address}");
        let sinks = "tracker.sinks=[\"mlflow\",\"tensorboard\"]";
        let mut command = place.coordinator(&["--local-workers", "0", "--set", sinks, "--set", &uri]);
        let mut run = command.env("MLFLOW_TRACKING_TOKEN", SECRET).spawn().expect("started");
        let record = place.run_dir("small").join("run.json");
        until("the sinks work", || place.run_dir("small").join("tracker/tensorboard.json").exists());
        hangs.accept().expect("a connection").0.set_nodelay(true).expect("a connection");
        let began = Instant::now();
        support::signal(run.id(), "INT");
        if is_signalled_again {
            let is_over =
                || std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"interrupted\""));
            until("the run is over", is_over);
            // The wait handles signals only from a moment after the record is written.
            until("the run is gone", || {
                let is_gone = run.try_wait().expect("asked").is_some();
                if !is_gone {
                    support::signal(run.id(), "INT");
                }
                is_gone
            });
        }
        let output = wait(run);
        let took = began.elapsed();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        let command = format!("coordinator tracker push runs/small --to http://{address} --experiment run");
        assert!(said.contains(&command) && !said.contains(SECRET), "{said}");
        assert_eq!(said.contains("what is left isn't waited for"), is_signalled_again, "{said}");
        // A run that nobody interrupts waits three times as long for its trackers.
        assert!(took < Duration::from_secs(14), "{took:?}");
    };
    check(false);
    check(true);
}
