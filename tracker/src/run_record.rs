//! `run.json`: what a run was, where it stands, how it ended. Fields may be added, none renamed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// A coordinator works on it (or died without a word).
    Running,
    /// All steps are done.
    Completed,
    /// Stopped on request; resumable.
    Interrupted,
    /// Ended by an error; resumable once that is mended.
    Failed,
}

/// The dataset that the run trains on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// Its name.
    pub name: String,
    /// Its version: `name@` and the digest's first 8 characters.
    pub version: String,
    /// Its digest, in DVC's form.
    pub digest: String,
}

/// The newest state.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FinalRecord {
    /// Committed steps.
    pub step: u64,
    /// Epochs that are complete.
    pub epoch: u64,
    /// Samples counted.
    pub samples: u64,
    /// BLAKE3 over the model's tensors, in hexadecimal; empty before version 0.
    pub digest: String,
    /// The newest value of each metric of the last evaluation.
    pub metrics: BTreeMap<String, f64>,
}

/// A worker that took part.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: String,
    /// Its numerics fingerprint in hexadecimal.
    pub fingerprint: String,
    /// The committed step when it joined.
    pub joined_step: u64,
    /// The committed step when it left, if it did.
    pub left_step: Option<u64>,
    /// Why it left.
    pub reason: Option<String>,
}

/// The whole file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's name.
    pub run: String,
    /// Its UUID.
    pub id: String,
    /// Where it stands.
    pub status: RunStatus,
    /// Why it ended, for people.
    pub message: String,
    /// `run.seed`.
    pub seed: u64,
    /// Digest of the keys that change the weights.
    pub config_digest: String,
    /// Commit of the folder that the run was started in, if it is a git checkout.
    pub git_commit: Option<String>,
    /// What it trains on.
    pub dataset: DatasetRecord,
    /// The newest state.
    #[serde(rename = "final")]
    pub final_state: FinalRecord,
    /// Everybody who took part.
    pub members: Vec<MemberRecord>,
    /// Views opened.
    pub views: u64,
    /// Steps that were tried again.
    pub retries: u64,
    /// Whether bit-exactness is claimed.
    pub exact: bool,
    /// Seconds spent, by what on.
    pub timings: BTreeMap<String, f64>,
}

impl RunRecord {
    /// Reads a run's record.
    ///
    /// # Errors
    /// When the file can't be read or is no run record.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = std::fs::read(path)?;
        serde_json::from_slice(&text).map_err(|why| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
        })
    }

    /// The file's bytes: indented JSON with a newline at the end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
