//! Data that external MLflow clients logged, stored as files: the source of truth that the index only follows.
//!
//! ```text
//! <run.dir>/.tracker/
//!   index.sqlite                                     the index; may be deleted at any time
//!   models.jsonl                                     registered models, their versions and aliases
//!   clients/<experiment>/experiment.jsonl            its name, tags, stage
//!   clients/<experiment>/<run>/events.jsonl          what the client logged, a request a line
//!   clients/<experiment>/<run>/artifacts/            files
//!   clients/<experiment>/models/<model>/events.jsonl, artifacts/
//! <run.dir>/<run>/notes.jsonl                        tags that people set on a run of Bonfire
//! ```
//!
//! A line is one JSON object with one event ([`events`]), appended in one write: after a crash it is either whole, or
//! torn and skipped. A run's start and end are fsynced; the lines in between are left to the operating system.

pub(crate) mod documents;
pub(crate) mod events;
mod exact;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub(crate) use exact::{Float, Int, exact_numbers};

/// The tracker's own folder within the runs folder.
pub(crate) const FOLDER: &str = ".tracker";

/// Tags on a run of Bonfire.
pub(crate) const NOTES: &str = "notes.jsonl";

/// The registered models' file, relative to the runs folder.
pub(crate) const REGISTRY: &str = ".tracker/models.jsonl";

/// An experiment's file, relative to the runs folder.
pub(crate) fn experiment_file(experiment: &str) -> String {
    format!("{FOLDER}/clients/{experiment}/experiment.jsonl")
}

/// The folder of a client's run, relative to the runs folder.
pub(crate) fn run_folder(experiment: &str, run: &str) -> String {
    format!("{FOLDER}/clients/{experiment}/{run}")
}

/// A logged model's folder, relative to the runs folder.
pub(crate) fn model_folder(experiment: &str, model: &str) -> String {
    format!("{FOLDER}/clients/{experiment}/models/{model}")
}

/// The event file in the folder of a run or model.
pub(crate) const EVENTS: &str = "events.jsonl";

/// Whether an append must be on the disk before the request is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durable {
    /// For rare events that can't be reproduced.
    Synced,
    /// For frequent events: they survive a crash of this process, but not a power loss.
    Written,
}

/// Appends an event as one line, in one write. A line that a crash left torn is terminated first.
pub(crate) fn append(path: &Path, event: &impl Serialize, durable: Durable) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut file = match open(path) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            open(path)?
        }
        other => other?,
    };
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            line.push(b'\n');
        }
    }
    serde_json::to_writer(&mut line, event)?;
    line.push(b'\n');
    file.write_all(&line)?;
    if durable == Durable::Synced {
        file.sync_data()?;
    }
    Ok(())
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).append(true).create(true).open(path)
}

/// The artifacts folder in the folder of a run or model.
pub(crate) fn artifacts(folder: &Path) -> PathBuf {
    folder.join("artifacts")
}

/// A unique name of 32 hexadecimal digits: two values of the standard library's hasher, which is keyed from the
/// operating system's randomness. It is not a secret.
pub(crate) fn new_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a/b/events.jsonl");
        append(&path, &"one", Durable::Written).expect("written");
        let mut file = File::options().append(true).open(&path).expect("opened");
        file.write_all(b"\"tor").expect("torn");
        append(&path, &"two", Durable::Synced).expect("written");
        append(&path, &"three", Durable::Synced).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text, "\"one\"\n\"tor\n\"two\"\n\"three\"\n");
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
