//! A run's provenance: the build, the command, the machine and the data of each start.
//!
//! Collected once at each start: git runs in child processes, each with a deadline, and information that can't be
//! obtained is left out. Nothing here changes a run.

pub mod child;
mod command_line;
mod git;
mod machine;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use command_line::without_secrets;
pub use git::{Git, GitDiff, without_credentials};
pub use machine::{Machine, cpu_features};

/// Maximum number of recorded starts: the first, and the newest of the others.
const STARTS_MAX: usize = 32;

/// A run's provenance as recorded in `run.json`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The starts of the run: the first and the newest ones. A resumed run has several.
    pub starts: Vec<Start>,
    /// Its training data, in the structure of MLflow's dataset inputs.
    pub inputs: Vec<Input>,
}

impl Provenance {
    /// Records another start.
    pub fn push(&mut self, start: Start) {
        if self.starts.len() >= STARTS_MAX {
            self.starts.remove(1);
        }
        self.starts.push(start);
    }
}

/// One start of a coordinator on a run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// Seconds since 1970.
    pub time: f64,
    /// The committed step that it started from.
    pub step: u64,
    /// The command line, secrets redacted.
    pub command: Vec<String>,
    /// The working directory.
    pub directory: String,
    /// The git checkout around that folder, if there is one.
    pub git: Option<Git>,
    /// The build.
    pub build: Build,
    /// The coordinator's machine.
    pub machine: Machine,
}

/// The build that a start ran.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// Bonfire's version.
    pub version: String,
    /// `rustc --version` of the build.
    pub rustc: Option<String>,
    /// BLAKE3 of the Cargo.lock that it was built with, in hexadecimal.
    pub cargo_lock: Option<String>,
    /// BLAKE3 of the coordinator program.
    pub coordinator: Option<String>,
    /// BLAKE3 of the worker program that it starts, if any.
    pub worker: Option<String>,
}

/// A dataset that a run reads, in the format of MLflow's `runs/log-inputs`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Input {
    /// Its purpose: `mlflow.data.context`.
    pub tags: Vec<Tag>,
    /// The dataset.
    pub dataset: DatasetInput,
}

/// A tag of an input.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tag {
    /// The tag's key.
    pub key: String,
    /// The tag's value.
    pub value: String,
}

/// A dataset in MLflow's structure; `source` and `profile` are JSON in a string, as there.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetInput {
    /// The dataset's name.
    pub name: String,
    /// The dataset's digest, in DVC's format.
    pub digest: String,
    /// `dvc`: the digest is in DVC's format.
    pub source_type: String,
    /// The origin: URI and version.
    pub source: String,
    /// The numbers of rows and columns.
    pub profile: String,
}

impl Input {
    /// An input for training data.
    #[must_use]
    pub fn training(name: &str, version: &str, digest: &str, uri: &str, (rows, columns): (u64, u64)) -> Self {
        let source = serde_json::json!({ "uri": without_credentials(uri), "version": version }).to_string();
        let profile = serde_json::json!({ "num_rows": rows, "num_columns": columns }).to_string();
        Self {
            tags: vec![Tag { key: "mlflow.data.context".to_owned(), value: "training".to_owned() }],
            dataset: DatasetInput {
                name: name.to_owned(),
                digest: digest.to_owned(),
                source_type: "dvc".to_owned(),
                source,
                profile,
            },
        }
    }
}

/// The caller's part of a start's provenance; [`StartInfo::gather`] adds the rest.
#[derive(Clone, Debug, Default)]
pub struct StartInfo {
    /// The command line as given.
    pub command: Vec<String>,
    /// The working directory.
    pub directory: PathBuf,
    /// Whether to collect the diff of tracked files.
    pub git_diff: bool,
    /// The build, without the programs' digests.
    pub build: Build,
}

impl StartInfo {
    /// Queries git and the machine. Takes a few seconds at most, usually under a tenth of one; never fails.
    #[must_use]
    pub fn gather(self, time: f64) -> (Start, Option<GitDiff>) {
        let (git, diff) =
            git::ask(&self.directory, self.git_diff).map_or((None, None), |(g, d)| (Some(g), d));
        let start = Start {
            time,
            step: 0,
            command: without_secrets(&self.command),
            directory: self.directory.display().to_string(),
            git,
            build: self.build,
            machine: Machine::here(),
        };
        (start, diff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_and_the_newest_are_kept() {
        let mut provenance = Provenance::default();
        for step in 0..100 {
            provenance.push(Start { step, ..Start::default() });
        }
        let steps: Vec<u64> = provenance.starts.iter().map(|start| start.step).collect();
        assert_eq!(steps.len(), STARTS_MAX);
        assert_eq!((steps[0], steps[1], steps[31]), (0, 69, 99));
    }

    #[test]
    fn an_input_is_as_mlflow_has_it() {
        let input = Input::training("digits", "digits@0a", "0a.dir", "https://me:secret@host/x", (1_797, 65));
        let json = serde_json::to_value(&input).expect("JSON");
        assert_eq!(json["tags"][0]["key"], "mlflow.data.context");
        assert_eq!(json["dataset"]["profile"], "{\"num_rows\":1797,\"num_columns\":65}");
        assert!(!json.to_string().contains("secret"), "{json}");
    }
}
