//! A run's folder for the tests of sinks.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use run_record::{Metric, RunStatus};

use super::worker::{TurnOutcome, Worker};
use super::{RunFolder, Sink, SinkError, SinkState};

/// More turns than any test needs.
const TURNS_MAX: usize = 1_000;

/// A folder with a record, a configuration and metrics.
pub(super) struct Run {
    dir: tempfile::TempDir,
    written: AtomicUsize,
}

impl Run {
    pub(super) fn new() -> Self {
        let run = Self { dir: tempfile::tempdir().expect("a folder"), written: AtomicUsize::new(0) };
        run.write("config.toml", "[train]\nepochs = 2\n[model]\nkind = \"mlp\"\n");
        run.status(RunStatus::Running);
        run
    }

    pub(super) fn folder(&self) -> RunFolder {
        RunFolder::new(self.dir.path())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    pub(super) fn status(&self, status: RunStatus) {
        let status = serde_json::to_value(status).expect("a word");
        let record = serde_json::json!({
            "run": "digits-1", "id": "0123abcd-0000-0000-0000-00000000beef", "status": status, "seed": 7,
            "config_digest": "c0", "git_commit": null,
            "dataset": { "name": "digits", "version": "digits@12345678", "digest": "12345678" },
            "final": { "step": 1, "digest": "d0" }, "members": [], "views": 1, "retries": 0, "exact": true,
            "events": [{ "time": 1_000.5, "step": 0, "event": "joined", "text": "w joined", "cost_seconds": null }],
            "timings": {},
        });
        self.write("run.json", &record.to_string());
    }

    /// Removes the record's events.
    pub(super) fn without_events(&self) {
        self.record("events", &serde_json::json!([]));
    }

    /// Sets the record's provenance.
    pub(super) fn provenance(&self, provenance: &serde_json::Value) {
        self.record("provenance", provenance);
    }

    /// Sets a field of the record.
    pub(super) fn record(&self, field: &str, value: &serde_json::Value) {
        let text = std::fs::read_to_string(self.path("run.json")).expect("a record");
        let mut record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        record[field] = value.clone();
        self.write("run.json", &record.to_string());
    }

    /// Appends a metric for each value, at consecutive steps.
    pub(super) fn measure(&self, key: &str, values: &[f64]) {
        self.measure_in("metrics.jsonl", key, values);
    }

    pub(super) fn measure_in(&self, name: &str, key: &str, values: &[f64]) {
        let mut file =
            std::fs::File::options().create(true).append(true).open(self.path(name)).expect("opened");
        for value in values {
            let step = self.written.fetch_add(1, Ordering::Relaxed) as u64 + 1;
            writeln!(file, "{}", metric(step, key, *value).to_json_line()).expect("written");
        }
    }

    pub(super) fn row(&self, step: u64, values: &[(&str, f64)]) {
        let path = self.path("metrics.jsonl");
        let mut file = std::fs::File::options().create(true).append(true).open(path).expect("opened");
        for (key, value) in values {
            writeln!(file, "{}", metric(step, key, *value).to_json_line()).expect("written");
        }
    }

    /// The valid steps in the output of [`Run::garbled`], and those after [`Run::mend_the_torn_line`].
    pub(super) const GARBLED_STEPS: [u64; 3] = [1, 2, 3];
    pub(super) const MENDED_STEPS: [u64; 4] = [1, 2, 3, 4];

    /// A metrics file as a bad disk or a bad editor leaves it: words, half a line in the middle, bytes that are not
    /// UTF-8, an empty line, and an unfinished line at its end.
    pub(super) fn garbled(&self) {
        let line = |step: u64| metric(step, "k", step as f64).to_json_line();
        let mut bytes = format!("{}\nnot a metric\n{}\n", line(1), &line(9)[..20]).into_bytes();
        bytes.extend([0xff, 0xfe, 0, b'\n']);
        bytes.extend(format!("{}\n\n{}\n{}", line(2), line(3), &line(4)[..25]).into_bytes());
        std::fs::write(self.path("metrics.jsonl"), bytes).expect("written");
    }

    /// Completes the unfinished line.
    pub(super) fn mend_the_torn_line(&self) {
        let rest = metric(4, "k", 4.0).to_json_line()[25..].to_owned();
        let path = self.path("metrics.jsonl");
        let mut file = std::fs::File::options().append(true).open(path).expect("opened");
        writeln!(file, "{rest}").expect("written");
    }

    /// Checks that each bad line was reported with its file and offset.
    pub(super) fn check_garbled(&self, remarks: &[String]) {
        assert_eq!(remarks.len(), 4, "{remarks:?}");
        let named =
            |remark: &String| remark.contains("metrics.jsonl, offset ") && remark.contains("not a metric");
        assert!(remarks.iter().all(named), "{remarks:?}");
        assert!(remarks[0].contains("\"not a metric\""), "{remarks:?}");
    }

    /// A sink over this folder, as after a restart of the process.
    pub(super) fn worker(&self, sink: Box<dyn Sink>) -> Worker {
        Worker::open(sink, self.folder()).unwrap_or_else(|(_, why)| panic!("{why}"))
    }

    /// The state on the disk.
    pub(super) fn state(&self, sink: &str) -> SinkState {
        let bytes = std::fs::read(self.path(&format!("tracker/{sink}.json"))).expect("a state");
        serde_json::from_slice(&bytes).expect("a state")
    }
}

fn metric(step: u64, key: &str, value: f64) -> Metric {
    let time = 2_000.0 + step as f64 / 8.0;
    Metric { step, epoch: 0.0, samples: step, time, key: key.into(), value }
}

/// Runs turns until nothing is left to send; returns the first failure.
pub(super) fn drain(worker: &mut Worker, ending: bool) -> Result<(), SinkError> {
    for _ in 0..TURNS_MAX {
        if worker.turn(ending)? != TurnOutcome::More {
            return Ok(());
        }
    }
    panic!("no end after {TURNS_MAX} turns");
}
