//! Artifacts: files of runs and logged models, listed, read, and written atomically.

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
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::api::no_run;
use super::artifact_location::{ArtifactLocation, parts};
use super::request_fields::{RequestFields, or_default};
use super::runs::{ById, artifact_uri};
use super::{Failure, Tracker};
use crate::clients::documents::LoggedModel;
use crate::clients::{self, FOLDER};
use crate::index::Reader;

/// Maximum file size: a larger one is a mistake, and would fill the disk.
const FILE_MAX: u64 = 256 << 30;

/// Maximum body size of a list request, whose path may also be in its URL.
const LIST_MAX: usize = 64 << 10;

/// Bytes per read.
const CHUNK: usize = 1 << 20;

/// Chunks buffered for a slow reader.
const WAITING: usize = 2;

const FILES: &str = "/api/2.0/mlflow-artifacts/artifacts";

pub(super) fn files() -> Router<Tracker> {
    let file = get(read_file).put(write_file).delete(delete_file);
    Router::new()
        .route(FILES, get(list_path).layer(DefaultBodyLimit::max(LIST_MAX)))
        .route(&format!("{FILES}/{{*path}}"), file)
}

pub(super) fn lists() -> Router<Tracker> {
    Router::new()
        .route("/artifacts/list", get(list_run))
        .route("/logged-models/{model_id}/artifacts/directories", get(list_model))
}

/// A list in MLflow's format; each name gets the prefix.
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
    RequestFields(asked): RequestFields<ListPath>,
) -> Result<Json<Value>, Failure> {
    let read = move |reader: &Reader| {
        let (place, inside) = ArtifactLocation::of_path(reader, &asked.path)?;
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
    RequestFields(asked): RequestFields<ListRun>,
) -> Result<Json<Value>, Failure> {
    let id = asked.run.id();
    let read = move |reader: &Reader| {
        let row = reader.row(&id)?.ok_or_else(|| no_run(&id))?;
        let place = ArtifactLocation::of_run(reader, &row.experiment, &id)?;
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
    RequestFields(asked): RequestFields<ListModel>,
) -> Result<Json<Value>, Failure> {
    let read = move |reader: &Reader| {
        let model = reader.document::<LoggedModel>(&id)?;
        let experiment = model.map(|model| model.experiment).unwrap_or_default();
        let place = ArtifactLocation::of_model(reader, &experiment, &id)?;
        let inside: Vec<String> =
            parts(&asked.artifact_directory_path)?.into_iter().map(str::to_owned).collect();
        let root = format!("mlflow-artifacts:/{experiment}/models/{id}/artifacts");
        Ok(Json(json!({ "root_uri": root, "files": list_json(&place.list(&inside)?, &inside) })))
    };
    tracker.read(read).await
}

/// Serves a file, always as a download: its content is never rendered as a page of this origin.
async fn read_file(
    State(tracker): State<Tracker>,
    UrlPath(path): UrlPath<String>,
) -> Result<Response, Failure> {
    let transfer = tracker.load().transfer()?;
    let asked = path.clone();
    let found = tracker
        .read(move |reader| {
            let (place, inside) = ArtifactLocation::of_path(reader, &asked)?;
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
    // No more than the announced length: a metrics file grows.
    Ok((headers, Body::from_stream(chunks(file, metadata.len(), transfer))).into_response())
}

fn chunks(
    mut file: tokio::fs::File,
    length: u64,
    transfer: OwnedSemaphorePermit,
) -> ReceiverStream<std::io::Result<Bytes>> {
    let (to, chunks) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _transfer = transfer;
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
    let _transfer = tracker.load().transfer()?;
    let asked = path.clone();
    let target = tracker
        .read(move |reader| {
            let (place, inside) = ArtifactLocation::of_path(reader, &asked)?;
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

/// A file being uploaded: deleted on drop unless it was renamed, even if the client disconnects.
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
        let (place, inside) = ArtifactLocation::of_path(reader, &path)?;
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
