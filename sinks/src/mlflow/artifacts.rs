//! Uploads a run's files to an MLflow server.

use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::json;

use super::Mlflow;
use crate::{RunFolder, SinkError, SinkState};

/// Maximum depth of folders within the exports.
const DEPTH_MAX: usize = 8;
/// The run's events, written for display on MLflow's page.
const EVENTS: &str = "tracker/events.json";

/// A file to upload: its path in the run's folder, and its artifact path on the server.
pub(super) type Artifact = (String, String);

/// The files of a run in progress: people look at them meanwhile, and a lost machine never sends the final ones.
pub(super) fn meanwhile(run: &RunFolder) -> Vec<Artifact> {
    let mut files = present(run, &["config.toml", "run.json"]);
    files.extend(events(run));
    files.extend(diffs(run));
    files
}

/// The files of a finished run. Checkpoints stay in place: a tag gives their location.
pub(super) fn at_end(run: &RunFolder) -> Vec<Artifact> {
    let mut files = meanwhile(run);
    let mut exports = Vec::new();
    walk(run, "exports", DEPTH_MAX, &mut exports);
    exports.sort_unstable();
    files.extend(exports.into_iter().map(|path| (path.clone(), path)));
    files
}

/// The record's events as a separate file.
fn events(run: &RunFolder) -> Option<Artifact> {
    let bytes = serde_json::to_vec_pretty(&json!(run.record().ok()?.events)).ok()?;
    let path = run.path().join(EVENTS);
    if std::fs::read(&path).ok().is_none_or(|kept| kept != bytes) {
        store::write_file(&path, &bytes).ok()?;
    }
    Some((EVENTS.to_owned(), "events.json".to_owned()))
}

/// `git.diff`, and `git-2.diff` of a later start with other changes.
fn diffs(run: &RunFolder) -> Vec<Artifact> {
    let starts = run.record().map(|record| record.provenance.starts).unwrap_or_default();
    let mut names: Vec<String> = starts.into_iter().filter_map(|start| start.git?.diff).collect();
    names.sort_unstable();
    names.dedup();
    // Accept only names of files directly in the folder.
    names.retain(|name| !name.contains('/') && run.path().join(name).is_file());
    names.into_iter().map(|name| (name.clone(), name)).collect()
}

fn present(run: &RunFolder, names: &[&str]) -> Vec<Artifact> {
    let names = names.iter().filter(|name| run.path().join(name).is_file());
    names.map(|name| ((*name).to_owned(), (*name).to_owned())).collect()
}

fn walk(run: &RunFolder, folder: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(run.path().join(folder)) else { return };
    for entry in entries.flatten() {
        // A name that is not UTF-8 can't be an artifact path.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{folder}/{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(run, &path, depth - 1, found),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}

impl Mlflow {
    /// Uploads the files that changed since the last upload. Skipped if the server stores artifacts elsewhere.
    pub(super) fn artifacts(
        &mut self,
        run: &RunFolder,
        state: &mut SinkState,
        files: &[Artifact],
    ) -> Result<(), SinkError> {
        let Some(root) = state.text("artifacts").and_then(served) else {
            return Ok(());
        };
        for (path, name) in files {
            let (memo, mark) = (format!("artifact {name}"), mark(&run.path().join(path)));
            if state.text(&memo) == Some(&mark) {
                continue;
            }
            match self.client.put(&format!("{root}/{name}"), &run.path().join(path)) {
                // One refused file, such as one that is too large, must not keep the others back.
                Err(SinkError::Refused(why)) if self.told.insert(name.clone()) => {
                    self.remarks.push(format!("{why}; this file isn't sent, all else is"));
                }
                Ok(()) | Err(SinkError::Refused(_)) => {}
                Err(retry) => return Err(retry),
            }
            state.remember(&memo, mark);
        }
        Ok(())
    }
}

/// The path of a run's artifacts on the server, if it serves them: `mlflow-artifacts:/1/RUN/artifacts`.
fn served(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("mlflow-artifacts:")?;
    let path = match rest.strip_prefix("//") {
        Some(with_host) => with_host.split_once('/')?.1,
        None => rest.trim_start_matches('/'),
    };
    Some(path.trim_end_matches('/').to_owned())
}

/// A fingerprint from the file's size and modification time.
fn mark(path: &Path) -> String {
    let about = std::fs::metadata(path).ok();
    let time = about.as_ref().and_then(|about| about.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    format!("{}-{}", about.map_or(0, |about| about.len()), time.unwrap_or_default().as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_server_keeps_artifacts() {
        for (uri, path) in [
            ("mlflow-artifacts:/1/r/artifacts", Some("1/r/artifacts")),
            ("mlflow-artifacts://host:5000/1/r/artifacts/", Some("1/r/artifacts")),
            ("s3://bucket/1/r/artifacts", None),
            ("/mlruns/1/r/artifacts", None),
        ] {
            assert_eq!(served(uri).as_deref(), path, "{uri}");
        }
    }

    #[test]
    fn exports_are_found_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        for path in ["exports/b/model.safetensors", "exports/a.onnx", "config.toml"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "x").expect("written");
        }
        let run = RunFolder::new(dir.path());
        let names = |files: Vec<Artifact>| files.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(names(meanwhile(&run)), ["config.toml"]);
        assert_eq!(names(at_end(&run)), ["config.toml", "exports/a.onnx", "exports/b/model.safetensors"]);
    }
}
