//! `run.json`: a run's identity, status, history and result. Fields may be added, none renamed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use store::StoreError;

use crate::confusion::Confusion;
use crate::number;
use crate::provenance::{Machine, Provenance};

/// A run's status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// A coordinator works on it (or died without recording an end).
    Running,
    /// All steps are done.
    Completed,
    /// Stopped on request; resumable.
    Interrupted,
    /// Ended by an error; resumable once that is fixed.
    Failed,
}

/// The dataset that the run trains on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetRecord {
    /// The dataset's name.
    pub name: String,
    /// The dataset's version: `name@` and the digest's first 8 characters.
    pub version: String,
    /// The dataset's digest, in DVC's format.
    pub digest: String,
    /// Number of rows or images left out (`dataset.on_bad = "skip"`).
    pub skipped: u64,
}

/// The run's newest state.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FinalRecord {
    /// Committed steps.
    pub step: u64,
    /// Completed epochs.
    pub epoch: u64,
    /// Samples counted.
    pub samples: u64,
    /// BLAKE3 over the model's tensors, in hexadecimal; empty before version 0.
    pub digest: String,
    /// The newest value of each metric of the last evaluation. JSON has no NaN and no infinity: they are strings.
    #[serde(default, with = "number::by_name")]
    pub metrics: BTreeMap<String, f64>,
    /// Step of the best evaluation, whose checkpoint is kept, in a run that may end early (`train.patience`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
    /// Confusion matrix of the last evaluation, for a classification with few enough labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

/// A worker that took part.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The worker's name.
    pub name: String,
    /// The worker's device.
    pub device: String,
    /// The worker's numerics fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// The committed step when it joined.
    pub joined_step: u64,
    /// The committed step when it left, if it did.
    pub left_step: Option<u64>,
    /// Why it left, for people.
    pub reason: Option<String>,
    /// The machine that it runs on, as it reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MemberMachine>,
}

/// A member's machine and program.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberMachine {
    /// The device's backend and driver.
    pub driver: String,
    /// BLAKE3 of the worker program, in hexadecimal.
    pub program: String,
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
}

/// The total time that coordinators have worked on a run, excluding downtime.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ActiveRecord {
    /// Total seconds of all starts.
    pub seconds: f64,
    /// When the total was taken, in seconds since 1970. While the run goes on, add the seconds since then.
    pub until: f64,
}

/// An event in the run's membership or history.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    /// Seconds since 1970.
    pub time: f64,
    /// The last committed step.
    pub step: u64,
    /// The event's kind: joined, refused, left, view, retry, rewind, waiting, hold, restart, warning.
    pub event: String,
    /// A description for people.
    pub text: String,
    /// Seconds lost to it, if any and known.
    pub cost_seconds: Option<f64>,
    /// How many more times in a row the same event happened.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: u64,
}

// The signature is serde's.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The content of `run.json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's name.
    pub run: String,
    /// The run's UUID.
    #[serde(default)]
    pub id: String,
    /// The run's status.
    pub status: RunStatus,
    /// Why it ended, for people.
    #[serde(default)]
    pub message: String,
    /// `run.seed`.
    pub seed: u64,
    /// Digest of the config keys that affect the weights.
    pub config_digest: String,
    /// The git commit of the folder that the run was started in, if it is a checkout.
    pub git_commit: Option<String>,
    /// The training dataset.
    pub dataset: DatasetRecord,
    /// The newest state.
    #[serde(rename = "final")]
    pub final_state: FinalRecord,
    /// Members of the run: all current ones, and the newest of the former ones.
    pub members: Vec<MemberRecord>,
    /// The number of older former members that were left out.
    #[serde(default)]
    pub members_left_out: u64,
    /// The newest events, in order.
    #[serde(default)]
    pub events: Vec<EventRecord>,
    /// Number of views opened.
    pub views: u64,
    /// Number of step retries.
    pub retries: u64,
    /// Whether bit-exactness is claimed.
    pub exact: bool,
    /// Seconds spent, by activity.
    #[serde(default, with = "number::by_name")]
    pub timings: BTreeMap<String, f64>,
    /// The total time that was spent on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveRecord>,
    /// Provenance of the run.
    #[serde(default)]
    pub provenance: Provenance,
}

/// Why a run's record can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file system operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The file is not a run record.
    #[error("{} is no run record: {source}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The parse error, with its position.
        source: serde_json::Error,
    },
}

impl RunRecord {
    /// The file's name in a run's directory.
    pub const FILE: &str = "run.json";

    /// Reads a run's record. Unknown fields are ignored.
    ///
    /// # Errors
    /// When the file can't be read or is not a run record.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = std::fs::read(path).map_err(|source| RecordError::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&text).map_err(|source| RecordError::Form { path: path.to_owned(), source })
    }

    /// Parses a record from the file's bytes.
    ///
    /// # Errors
    /// When they are not a run record; the error gives the position.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Writes the record atomically.
    ///
    /// # Errors
    /// When the file system fails; the old record is then still there.
    pub fn write(&self, path: &Path) -> Result<(), StoreError> {
        store::write_file(path, &self.to_bytes())
    }

    /// The file's bytes: indented JSON with a newline at the end, escaped for display on a terminal.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        printable::json(&json).into_owned().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RunRecord {
        let metrics = BTreeMap::from([
            ("validation/accuracy".to_owned(), 0.5),
            ("validation/loss".to_owned(), f64::NAN),
            ("validation/worst".to_owned(), f64::NEG_INFINITY),
        ]);
        RunRecord {
            run: "digits-1".into(),
            id: "u".into(),
            status: RunStatus::Interrupted,
            message: String::new(),
            seed: 42,
            config_digest: "c".into(),
            git_commit: None,
            dataset: DatasetRecord {
                name: "d".into(),
                version: "d@0".into(),
                digest: "0".into(),
                skipped: 0,
            },
            final_state: FinalRecord {
                step: 4,
                epoch: 1,
                samples: 256,
                digest: "f".into(),
                metrics,
                best_step: None,
                confusion: None,
            },
            members: vec![MemberRecord {
                name: "w".into(),
                device: "cpu".into(),
                fingerprint: "p".into(),
                joined_step: 0,
                left_step: None,
                reason: None,
                machine: None,
            }],
            events: Vec::new(),
            members_left_out: 0,
            views: 1,
            retries: 0,
            exact: true,
            timings: BTreeMap::from([("compute".to_owned(), 1.5)]),
            active: None,
            provenance: Provenance::default(),
        }
    }

    #[test]
    fn the_fields_are_those_that_scripts_rely_on() {
        let json: serde_json::Value = serde_json::from_slice(&record().to_bytes()).expect("JSON");
        let names = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().expect("a table").keys().cloned().collect()
        };
        let top = names(&json);
        for name in [
            "run",
            "status",
            "seed",
            "config_digest",
            "git_commit",
            "dataset",
            "final",
            "members",
            "views",
            "retries",
            "exact",
            "timings",
        ] {
            assert!(top.iter().any(|known| known == name), "{name} is missing");
        }
        assert_eq!(names(&json["dataset"]), ["name", "version", "digest", "skipped"]);
        assert_eq!(names(&json["final"]), ["step", "epoch", "samples", "digest", "metrics"]);
        let mut watched = record();
        watched.final_state.best_step = Some(3);
        let watched: serde_json::Value = serde_json::from_slice(&watched.to_bytes()).expect("JSON");
        assert_eq!(watched["final"]["best_step"], 3);
        assert_eq!(
            names(&json["members"][0]),
            ["name", "device", "fingerprint", "joined_step", "left_step", "reason"]
        );
        assert_eq!(json["status"], "interrupted");
        assert_eq!(json["final"]["metrics"]["validation/loss"], "NaN");
        assert_eq!(json["final"]["metrics"]["validation/accuracy"], 0.5);
    }

    #[test]
    fn a_record_is_read_back_whatever_its_numbers() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(RunRecord::FILE);
        record().write(&path).expect("written");
        let back = RunRecord::read(&path).expect("read");
        assert!(back.final_state.metrics["validation/loss"].is_nan());
        assert_eq!(format!("{back:?}"), format!("{:?}", record()));
    }

    #[test]
    fn a_record_of_a_later_version_is_read_and_nonsense_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(RunRecord::FILE);
        let mut json: serde_json::Value = serde_json::from_slice(&record().to_bytes()).expect("JSON");
        json["added"] = serde_json::json!({ "later": [1, 2] });
        json["final"]["added"] = serde_json::json!(1);
        json.as_object_mut().expect("a table").remove("message");
        std::fs::write(&path, json.to_string()).expect("written");
        assert_eq!(RunRecord::read(&path).expect("read").run, "digits-1");

        std::fs::write(&path, "{\"run\": 3").expect("written");
        let said = RunRecord::read(&path).expect_err("no record").to_string();
        assert!(said.contains("run.json") && said.contains("no run record"), "{said}");
        assert!(RunRecord::read(&dir.path().join("absent")).is_err());
    }
}
