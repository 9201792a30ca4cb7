//! A run's records about itself: its provenance, system metrics of its machines, metrics for Prometheus.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{DEADLINE, Place, wait, while_stopped, workers_of};

fn git(place: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(place)
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("git is there").success(), "git {arguments:?}");
}

/// A folder that is a git checkout with a changed file.
fn checkout() -> Place {
    let place = Place::new();
    std::fs::write(place.path().join(".gitignore"), "/runs\n").expect("written");
    git(place.path(), &["init", "-q", "-b", "trunk"]);
    git(place.path(), &["add", "run.toml", "rows.csv", ".gitignore"]);
    git(place.path(), &["commit", "-q", "-m", "first"]);
    let changed = support::CONFIG.replace("epochs = 2", "epochs = 3");
    std::fs::write(place.path().join("run.toml"), changed).expect("changed");
    place
}

/// Waits until `look` returns something.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_says_where_it_comes_from() {
    let place = checkout();
    place.complete(&["--set", "dataset.name=rows"]);
    let record = place.record("small");
    let start = &record["provenance"]["starts"][0];
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    assert_eq!(text(&start["git"]["commit"]).len(), 40, "{start}");
    assert_eq!(record["git_commit"], start["git"]["commit"]);
    assert_eq!(
        (&start["git"]["branch"], &start["git"]["dirty"]),
        (&Value::from("trunk"), &Value::from(true))
    );
    assert_eq!(start["git"]["diff"], "git.diff");
    let diff = std::fs::read_to_string(place.run_dir("small").join("git.diff")).expect("git.diff");
    assert!(diff.contains("+epochs = 3"), "{diff}");
    for name in ["coordinator", "worker", "cargo_lock"] {
        assert_eq!(text(&start["build"][name]).len(), 64, "{name}: {start}");
    }
    assert!(text(&start["build"]["rustc"]).starts_with("rustc "), "{start}");
    assert!(text(&start["command"][0]).ends_with("coordinator"), "{start}");
    assert!(start["machine"]["cores"].as_u64() > Some(0), "{start}");
    let input = &record["provenance"]["inputs"][0];
    assert_eq!(input["dataset"]["digest"], record["dataset"]["digest"]);
    assert_eq!(input["dataset"]["profile"], "{\"num_rows\":120,\"num_columns\":65}");
    let member = &record["members"][0]["machine"];
    assert_eq!(member["program"], start["build"]["worker"], "{member}");
    assert!(!text(&member["driver"]).is_empty() && member["cores"].as_u64() > Some(0), "{member}");
}

#[test]
fn a_resumed_run_adds_its_start_and_no_diff_where_none_is_wanted() {
    let place = checkout();
    let long = ["--set", "train.epochs=300", "--set", "tracker.git_diff=false"];
    let child = place.coordinator(&long).spawn().expect("started");
    until("steps", || (support::steps_committed(&place) > 0).then_some(()));
    let address = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
    let mut stop = place.command(&["stop", "--connect", address.trim()]);
    // Another length would change the schedule, so the run is a short one.
    let stop = while_stopped(&workers_of(child.id()), || stop.output().expect("asked"));
    assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
    assert_eq!(wait(child).status.code(), Some(130));
    place.complete(&[&long[..], &["--resume"]].concat());
    let record = place.record("small");
    let starts = record["provenance"]["starts"].as_array().expect("starts");
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts[1]["step"].as_u64() > Some(0), "{starts:?}");
    assert!(starts[0]["git"]["diff"].is_null() && starts[0]["git"]["dirty"] == true, "{starts:?}");
    assert!(!place.run_dir("small").join("git.diff").exists());
}

/// The keys and steps in a metrics file.
fn lines(path: &Path) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("JSON");
        (value["key"].as_str().expect("a key").to_owned(), value["step"].as_u64().expect("a step"))
    };
    whole.lines().map(line).collect()
}

const LONG: [&str; 4] = ["--set", "train.epochs=100000", "--set", "checkpoint.every=1h"];

fn stop(place: &Place, child: std::process::Child) {
    let address = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
    let asked = place.command(&["stop", "--connect", address.trim()]).output().expect("asked");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    assert_eq!(wait(child).status.code(), Some(130));
}

#[test]
fn machines_are_watched_in_a_file_apart() {
    let place = Place::new();
    let often = ["--set", "tracker.system_every=100ms", "--set", "elastic.lease=1s"];
    let child = place.coordinator(&[&LONG[..], &often].concat()).spawn().expect("started");
    let file = place.run_dir("small").join("system.jsonl");
    until("two readings of each machine", || {
        let found = lines(&file);
        let twice = |key: &str| found.iter().filter(|(name, _)| name == key).count() >= 2;
        let all = [
            "system/cpu_utilization_percentage",
            "system/system_memory_usage_megabytes",
            "system/system_memory_usage_percentage",
            "system/network_receive_megabytes",
            "system/network_transmit_megabytes",
            "system/worker-0/cpu_utilization_percentage",
            "workers/worker-0/samples_per_second",
            "workers/worker-0/share",
        ];
        all.into_iter().all(twice).then_some(())
    });
    stop(&place, child);
    let found = lines(&file);
    let unique: std::collections::BTreeSet<_> = found.iter().collect();
    assert_eq!(unique.len(), found.len(), "each key has one value at each step");
    let metrics = lines(&place.run_dir("small").join("metrics.jsonl"));
    assert!(metrics.iter().all(|(key, _)| !key.starts_with("system/") && !key.starts_with("workers/")));
}

#[test]
fn machines_that_are_not_to_be_watched_are_not() {
    let place = Place::new();
    place.complete(&["--set", "tracker.system_every=0s"]);
    assert!(!place.run_dir("small").join("system.jsonl").exists());
}

/// The body of `http://ADDRESS/metrics`.
fn scrape(url: &str) -> Option<String> {
    let address = url.trim().strip_prefix("http://")?.strip_suffix("/metrics")?;
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    Some(body.to_owned())
}

fn value(scrape: &str, series: &str) -> f64 {
    let line = scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{scrape}")).parse().expect("a number")
}

#[test]
fn prometheus_finds_what_the_coordinator_and_a_worker_do() {
    let place = Place::new();
    let listen = ["--local-workers", "1", "--set", "telemetry.metrics_listen=127.0.0.1:0"];
    let child = place.coordinator(&[&LONG[..], &listen].concat()).spawn().expect("started");
    let file = |name: &str| std::fs::read_to_string(place.run_dir("small").join(name)).ok();
    let address = until("the run's address", || file("address"));
    let guest = place
        .worker(&["--coordinator", address.trim(), "--name", "guest", "--metrics", "127.0.0.1:0"])
        .stderr(place.log("guest.log"))
        .spawn()
        .expect("started");
    let own = until("the worker's own address", || {
        let said = place.said("guest.log");
        let (_, url) = said.split_once("metrics at ")?;
        Some(url.lines().next()?.to_owned()).filter(|url| url.ends_with("/metrics"))
    });
    let url = until("the scrape's address", || file("metrics-address"));
    let seen = until("two members and steps", || {
        let seen = scrape(&url)?;
        // A view opens before its members exchange anything.
        let sent = value(&seen, "bonfire_bytes_total{direction=\"sent\",plane=\"data\"}");
        let steps = value(&seen, "bonfire_step_seconds_count{phase=\"exchange\"}");
        (value(&seen, "bonfire_members") == 2.0 && sent > 0.0 && steps > 20.0).then_some(seen)
    });
    assert!(value(&seen, "bonfire_steps_total") > 20.0);
    assert!(value(&seen, "bonfire_samples_total") > value(&seen, "bonfire_steps_total"));
    assert!(value(&seen, "bonfire_train_loss").is_finite());
    for plane in ["data", "control"] {
        for direction in ["received", "sent"] {
            let series = format!("bonfire_bytes_total{{direction=\"{direction}\",plane=\"{plane}\"}}");
            assert!(value(&seen, &series) > 0.0, "{series}");
        }
    }
    assert!(value(&seen, "bonfire_step_seconds_sum{phase=\"compute\"}") > 0.0);
    assert_eq!(value(&seen, "bonfire_evictions_total"), 0.0);
    assert_eq!(value(&seen, "bonfire_paused"), 0.0);
    let worker = until("the worker's figures", || {
        let seen = scrape(&own)?;
        (value(&seen, "bonfire_worker_microbatches_total") > 20.0).then_some(seen)
    });
    assert!(value(&worker, "bonfire_worker_step") > 0.0);
    assert!(value(&worker, "bonfire_worker_compute_seconds_total") > 0.0);
    assert!(value(&worker, "bonfire_worker_bytes_total{direction=\"sent\",plane=\"data\"}") > 0.0);
    stop(&place, child);
    wait(guest);
}

/// Pages and scripts read run.json during a run: members, events and the last evaluation are there before the next
/// checkpoint.
#[test]
fn the_record_follows_a_run_between_its_versions() {
    let place = Place::new();
    let child = place.coordinator(&LONG).spawn().expect("started");
    let path = place.run_dir("small").join("run.json");
    let record = until("what happened and the last evaluation", || {
        let record: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        let is_known = record["events"].as_array().is_some_and(|events| !events.is_empty());
        (is_known && record["final"]["metrics"]["validation/loss"].is_number()).then_some(record)
    });
    assert_eq!(record["status"], "running");
    assert!(record["members"].as_array().is_some_and(|members| !members.is_empty()), "{record}");
    stop(&place, child);
}
