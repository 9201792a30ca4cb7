//! What foreign MLflow clients wrote, kept as files: the truth that the index only follows.
//!
//! ```text
//! <run.dir>/.tracker/
//!   index.sqlite                                     the index; may be deleted at any time
//!   models.jsonl                                     registered models, their versions and aliases
//!   clients/<experiment>/experiment.jsonl            its name, tags, stage
//!   clients/<experiment>/<run>/events.jsonl          what the client logged, a request a line
//!   clients/<experiment>/<run>/artifacts/            files
//!   clients/<experiment>/models/<model>/events.jsonl, artifacts/
//! <run.dir>/<run>/notes.jsonl                        tags that people set on a run of Bonfire's
//! ```
//!
//! A line is one JSON object with one event ([`events`]), appended in one write: a crash leaves it whole, or torn and
//! passed over. A run's start and end are synced to the disk; what it logs between is the operating system's to write.

pub(crate) mod documents;
pub(crate) mod events;
mod exact;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub(crate) use exact::{Float, Int, exact_numbers};

/// The tracker's own folder in a folder of runs.
pub(crate) const FOLDER: &str = ".tracker";

/// The file of tags on a run of ours.
pub(crate) const NOTES: &str = "notes.jsonl";

/// The file of registered models, below the folder of runs.
pub(crate) const REGISTRY: &str = ".tracker/models.jsonl";

/// An experiment's file, below the folder of runs.
pub(crate) fn experiment_file(experiment: &str) -> String {
    format!("{FOLDER}/clients/{experiment}/experiment.jsonl")
}

/// A client's run's folder, below the folder of runs.
pub(crate) fn run_folder(experiment: &str, run: &str) -> String {
    format!("{FOLDER}/clients/{experiment}/{run}")
}

/// A logged model's folder, below the folder of runs.
pub(crate) fn model_folder(experiment: &str, model: &str) -> String {
    format!("{FOLDER}/clients/{experiment}/models/{model}")
}

/// The file of events in a run's or model's folder.
pub(crate) const EVENTS: &str = "events.jsonl";

/// Whether an append must be on the disk before it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durable {
    /// What can't be made again, and is rare.
    Synced,
    /// What comes often: it survives the end of this program, not the loss of power.
    Written,
}

/// Appends an event as a line, in one write. A line that a crash left torn is ended first.
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

/// An artifact's place below a run's or model's folder of artifacts.
pub(crate) fn artifacts(folder: &Path) -> PathBuf {
    folder.join("artifacts")
}

/// A name of 32 hexadecimal digits that nobody else has: two values of the standard library's hasher, which is keyed
/// from the operating system's randomness. It is no secret.
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
