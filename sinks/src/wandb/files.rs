//! A run's files: `wandb sync` uploads those in the folder `files` that a record names.

use std::path::Path;

use super::messages::{File, Files, Record};
use crate::folder::local;
use crate::{RunFolder, SinkError};

/// Names in the run's folder and on the server, which calls the diff of a checkout `diff.patch`.
const FILES: [(&str, &str); 3] =
    [("config.toml", "config.toml"), ("run.json", "run.json"), ("git.diff", "diff.patch")];
/// `FilesItem.PolicyType.END`.
const AT_END: i32 = 1;

/// Copies the existing files and returns the record that names them; the run's events are within `run.json`.
pub(super) fn copy(run: &RunFolder, to: &Path) -> Result<Record, SinkError> {
    let mut files = Vec::new();
    for (name, over_there) in FILES {
        let from = run.path().join(name);
        let bytes = match std::fs::read(&from) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(|why| local(&from, &why))?,
        };
        store::write_file(&to.join(over_there), &bytes).map_err(|why| SinkError::Retry(why.to_string()))?;
        files.push(File { path: over_there.to_owned(), policy: AT_END });
    }
    Ok(Record { files: Some(Files { files }), ..Record::default() })
}
