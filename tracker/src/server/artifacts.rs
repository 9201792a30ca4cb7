//! Artifacts: files of runs and logged models, listed, read, written whole or not at all.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::api::no_run;
use super::asked::{Asked, or_default};
use super::runs::{ById, artifact_uri};
use super::{Failure, Tracker};
use crate::RunRecord;
use crate::clients::documents::LoggedModel;
use crate::clients::{self, FOLDER};
use crate::index::{Kind, Reader};

/// What of a run of ours is shown: neither its token nor its logs.
const SHOWN: [&str; 7] =
    [RunRecord::FILE, "config.toml", "data.json", "metrics.jsonl", "system.jsonl", "exports", "checkpoints"];

/// A file's greatest size: more is a mistake, and would fill the disk.
const FILE_MAX: u64 = 256 << 30;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Chunks that wait for a slow reader.
const WAITING: usize = 4;

const FILES: &str = "/api/2.0/mlflow-artifacts/artifacts";

pub(super) fn files() -> Router<Tracker> {
    let file = get(read_file).put(write_file).delete(delete_file);
    Router::new()
        .route(FILES, get(list_path))
        .route(&format!("{FILES}/{{*path}}"), file.layer(DefaultBodyLimit::disable()))
}

pub(super) fn lists() -> Router<Tracker> {
    Router::new()
        .route("/artifacts/list", get(list_run))
        .route("/logged-models/{model_id}/artifacts/directories", get(list_model))
}

/// `git.diff`, and `git-2.diff` of a later start with other changes.
fn is_diff(name: &str) -> bool {
    let number = name.strip_prefix("git").and_then(|rest| rest.strip_suffix(".diff"));
    number.is_some_and(|number| {
        number.is_empty()
            || number
                .strip_prefix('-')
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// A path's parts, if none of them leads out of its folder.
fn parts(path: &str) -> Result<Vec<&str>, Failure> {
    let is_bad = |part: &str| matches!(part, "" | "." | "..") || part.contains(['\\', '\0']);
    let parts: Vec<&str> = match path.strip_suffix('/').unwrap_or(path) {
        "" => Vec::new(),
        path => path.split('/').collect(),
    };
    if path.starts_with('/') || parts.iter().any(|part| is_bad(part)) {
        return Err(Failure::invalid(format!(
            "Invalid path: {path:?} leads out of its folder, or is no path"
        )));
    }
    Ok(parts)
}

/// Where artifacts of a run or a model lie.
struct Place {
    folder: PathBuf,
    kind: Kind,
}

impl Place {
    fn of_run(reader: &Reader, experiment: &str, id: &str) -> Result<Self, Failure> {
        let row = reader.row(id)?.filter(|row| row.experiment == experiment).ok_or_else(|| no_run(id))?;
        let folder = reader.root().join(&row.folder);
        match row.kind {
            Kind::Bonfire => Ok(Self { folder, kind: row.kind }),
            Kind::Client => Ok(Self { folder: clients::artifacts(&folder), kind: row.kind }),
        }
    }

    fn of_model(reader: &Reader, experiment: &str, id: &str) -> Result<Self, Failure> {
        let found = reader.document::<LoggedModel>(id)?.filter(|model| model.experiment == experiment);
        if found.is_none() {
            return Err(Failure::absent(format!("Logged model with ID '{id}' not found.")));
        }
        let folder = clients::artifacts(&reader.root().join(clients::model_folder(experiment, id)));
        Ok(Self { folder, kind: Kind::Client })
    }

    /// Of a path such as `EXPERIMENT/RUN/artifacts/a/b`: whose it is, and the rest.
    fn of_path(reader: &Reader, path: &str) -> Result<(Self, Vec<String>), Failure> {
        let rest = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
        match parts(path)?.as_slice() {
            [experiment, "models", model, "artifacts", inside @ ..] => {
                Ok((Self::of_model(reader, experiment, model)?, rest(inside)))
            }
            [experiment, run, "artifacts", inside @ ..] => {
                Ok((Self::of_run(reader, experiment, run)?, rest(inside)))
            }
            _ => Err(Failure::invalid(format!(
                "{path:?} is no artifact's path: EXPERIMENT/RUN/artifacts/.. or EXPERIMENT/models/MODEL/artifacts/.."
            ))),
        }
    }

    fn is_shown(&self, name: &str) -> bool {
        self.kind == Kind::Client || SHOWN.contains(&name) || is_diff(name)
    }

    fn at(&self, inside: &[String]) -> Result<PathBuf, Failure> {
        if inside.first().is_some_and(|first| !self.is_shown(first)) {
            return Err(Failure::absent(format!("there is no artifact {:?}", inside.join("/"))));
        }
        Ok(inside.iter().fold(self.folder.clone(), |path, part| path.join(part)))
    }

    fn writable(&self, inside: &[String]) -> Result<PathBuf, Failure> {
        if self.kind == Kind::Bonfire {
            return Err(Failure::denied(
                "the files of a run of Bonfire are its coordinator's: they can be read only",
            ));
        }
        if inside.is_empty() {
            return Err(Failure::invalid("a file's name is missing"));
        }
        self.at(inside)
    }

    /// Names, whether they are folders, and sizes, in the order of names; nothing for what is no folder.
    fn list(&self, inside: &[String]) -> Result<Vec<(String, Metadata)>, Failure> {
        let mut found = Vec::new();
        let Ok(entries) = std::fs::read_dir(self.at(inside)?) else { return Ok(found) };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string();
            if let (Ok(name), Ok(metadata)) = (name, std::fs::metadata(entry.path()))
                && (!inside.is_empty() || self.is_shown(&name))
            {
                found.push((name, metadata));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

/// MLflow's form of a list; `prefix` stands before each name.
fn list_json(found: &[(String, Metadata)], prefix: &[String]) -> Vec<Value> {
    let path = |name: &String| prefix.iter().chain([name]).cloned().collect::<Vec<_>>().join("/");
    let file = |(name, metadata): &(String, Metadata)| {
        if metadata.is_dir() {
            json!({ "path": path(name), "is_dir": true })
        } else {
            json!({ "path": path(name), "is_dir": false, "file_size": metadata.len() })
        }
    };
    found.iter().map(file).collect()
}

#[derive(Deserialize)]
struct ListPath {
    #[serde(default, deserialize_with = "or_default")]
    path: String,
}

async fn list_path(
    State(tracker): State<Tracker>,
    Asked(asked): Asked<ListPath>,
) -> Result<Json<Value>, Failure> {
    let read = move |reader: &Reader| {
        let (place, inside) = Place::of_path(reader, &asked.path)?;
        Ok(Json(json!({ "files": list_json(&place.list(&inside)?, &[]) })))
    };
    tracker.read(read).await
}

#[derive(Deserialize)]
struct ListRun {
    #[serde(flatten)]
    run: ById,
    #[serde(default, deserialize_with = "or_default")]
    path: String,
}

async fn list_run(
    State(tracker): State<Tracker>,
    Asked(asked): Asked<ListRun>,
) -> Result<Json<Value>, Failure> {
    let id = asked.run.id();
    let read = move |reader: &Reader| {
        let row = reader.row(&id)?.ok_or_else(|| no_run(&id))?;
        let place = Place::of_run(reader, &row.experiment, &id)?;
        let inside: Vec<String> = parts(&asked.path)?.into_iter().map(str::to_owned).collect();
        let files = list_json(&place.list(&inside)?, &inside);
        Ok(Json(json!({ "root_uri": artifact_uri(&row), "files": files })))
    };
    tracker.read(read).await
}

#[derive(Deserialize)]
struct ListModel {
    #[serde(default, deserialize_with = "or_default")]
    artifact_directory_path: String,
}

async fn list_model(
    State(tracker): State<Tracker>,
    UrlPath(id): UrlPath<String>,
    Asked(asked): Asked<ListModel>,
) -> Result<Json<Value>, Failure> {
    let read = move |reader: &Reader| {
        let model = reader.document::<LoggedModel>(&id)?;
        let experiment = model.map(|model| model.experiment).unwrap_or_default();
        let place = Place::of_model(reader, &experiment, &id)?;
        let inside: Vec<String> =
            parts(&asked.artifact_directory_path)?.into_iter().map(str::to_owned).collect();
        let root = format!("mlflow-artifacts:/{experiment}/models/{id}/artifacts");
        Ok(Json(json!({ "root_uri": root, "files": list_json(&place.list(&inside)?, &inside) })))
    };
    tracker.read(read).await
}

/// A file, always as a download: what it holds is never shown as a page of this origin.
async fn read_file(
    State(tracker): State<Tracker>,
    UrlPath(path): UrlPath<String>,
) -> Result<Response, Failure> {
    let asked = path.clone();
    let found = tracker
        .read(move |reader| {
            let (place, inside) = Place::of_path(reader, &asked)?;
            place.at(&inside)
        })
        .await?;
    let absent = || Failure::absent(format!("there is no artifact {path:?}"));
    let metadata = tokio::fs::metadata(&found).await.map_err(|_| absent())?;
    if !metadata.is_file() {
        return Err(Failure::invalid(format!("artifact {path:?} is a folder: list it")));
    }
    let file =
        tokio::fs::File::open(&found).await.map_err(|why| Failure::internal(format!("{path}: {why}")))?;
    let headers = [
        (CONTENT_LENGTH, metadata.len().to_string()),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_DISPOSITION, "attachment".to_owned()),
        (CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    // No more than was there when the length was said: a file of metrics grows.
    Ok((headers, Body::from_stream(chunks(file, metadata.len()))).into_response())
}

fn chunks(mut file: tokio::fs::File, length: u64) -> ReceiverStream<std::io::Result<Bytes>> {
    let (to, chunks) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut left = length;
        while left > 0 {
            let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            let read = match file.read(&mut chunk).await {
                Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                other => other,
            };
            let is_end = read.is_err();
            let sent = read.map(|count| {
                chunk.truncate(count);
                left -= count as u64;
                Bytes::from(chunk)
            });
            if to.send(sent).await.is_err() || is_end {
                return;
            }
        }
    });
    ReceiverStream::new(chunks)
}

async fn write_file(
    State(tracker): State<Tracker>,
    UrlPath(path): UrlPath<String>,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let asked = path.clone();
    let target = tracker
        .read(move |reader| {
            let (place, inside) = Place::of_path(reader, &asked)?;
            place.writable(&inside)
        })
        .await?;
    if target.is_dir() {
        return Err(Failure::invalid(format!("artifact {path:?} is a folder")));
    }
    let uploads = tracker.root().join(FOLDER).join("uploads");
    let upload = Upload(uploads.join(clients::new_id()));
    let io = |why: std::io::Error| Failure::internal(format!("artifact {path:?} can't be written: {why}"));
    tokio::fs::create_dir_all(&uploads).await.map_err(io)?;
    receive(&upload.0, body).await?;
    if let Some(folder) = target.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(io)?;
    }
    tokio::fs::rename(&upload.0, &target).await.map_err(io)?;
    Ok(Json(json!({})))
}

/// A file on its way: what isn't renamed is removed, also if the client goes away.
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn receive(to: &Path, body: Body) -> Result<(), Failure> {
    let io = |why: std::io::Error| Failure::internal(format!("the upload can't be written: {why}"));
    let mut file = tokio::fs::File::create_new(to).await.map_err(io)?;
    let (mut body, mut length) = (body.into_data_stream(), 0u64);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|why| Failure::invalid(format!("the upload broke off: {why}")))?;
        length += chunk.len() as u64;
        if length > FILE_MAX {
            return Err(Failure::invalid(format!("an artifact has at most {FILE_MAX} bytes")));
        }
        file.write_all(&chunk).await.map_err(io)?;
    }
    file.flush().await.map_err(io)?;
    file.sync_all().await.map_err(io)
}

async fn delete_file(
    State(tracker): State<Tracker>,
    UrlPath(path): UrlPath<String>,
) -> Result<Json<Value>, Failure> {
    let read = move |reader: &Reader| {
        let (place, inside) = Place::of_path(reader, &path)?;
        let target = place.writable(&inside)?;
        let io =
            |why: std::io::Error| Failure::internal(format!("artifact {path:?} can't be deleted: {why}"));
        match std::fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&target).map_err(io)?,
            Ok(_) => std::fs::remove_file(&target).map_err(io)?,
            Err(_) => return Err(Failure::absent(format!("there is no artifact {path:?}"))),
        }
        Ok(Json(json!({})))
    };
    tracker.read(read).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diffs_are_shown_and_what_only_looks_like_one_is_not() {
        assert!(["git.diff", "git-2.diff", "git-10.diff"].into_iter().all(is_diff));
        assert!(
            !["git-.diff", "git-token.diff", "token", "git.diff.bak", "git2.diff"].into_iter().any(is_diff)
        );
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for bad in
            ["../x", "a/../../x", "/etc/passwd", "a/./b", "a\\..\\b", "a/\0", "..", "a//b", "a//", "//"]
        {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parts("a/b c/").ok(), Some(vec!["a", "b c"]));
        assert_eq!(parts("").ok(), Some(vec![]));
    }
}
