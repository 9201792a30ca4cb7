//! Registered models as JSON for our own page: [`crate::server`] documents the formats.

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{find, with};
use crate::clients::documents::{Registered, Registry, Version};
use crate::index::{COLUMNS, Reader};
use crate::server::{Failure, Tracker};

pub(in crate::server) fn routes() -> Router<Tracker> {
    Router::new().route("/api/models", get(models)).route("/api/models/{name}", get(model))
}

fn head(name: &str, model: &Registered) -> Value {
    json!({
        "name": name, "description": model.description, "created_ms": model.created_ms, "updated_ms": model.updated_ms,
        "tags": model.tags, "aliases": model.aliases, "versions": model.versions.len(),
        "newest": model.versions.last_key_value().map(|(number, _)| number),
    })
}

async fn models(State(tracker): State<Tracker>) -> Result<Json<Value>, Failure> {
    let answer = |registry: &Registry, _: &Reader| {
        let models: Vec<Value> = registry.models.iter().map(|(name, model)| head(name, model)).collect();
        Ok(Json(json!({ "models": models })))
    };
    with(&tracker, answer).await
}

async fn model(State(tracker): State<Tracker>, Path(name): Path<String>) -> Result<Json<Value>, Failure> {
    let answer = move |registry: &Registry, reader: &Reader| {
        let model = find(registry, &name)?;
        let newest_first = model.versions.iter().rev();
        let versions: Result<Vec<Value>, Failure> =
            newest_first.map(|(number, version)| version_json(reader, *number, version)).collect();
        let mut whole = head(&name, model);
        whole["versions"] = Value::Array(versions?);
        Ok(Json(whole))
    };
    with(&tracker, answer).await
}

fn version_json(reader: &Reader, number: u64, version: &Version) -> Result<Value, Failure> {
    Ok(json!({
        "version": number, "description": version.description, "created_ms": version.created_ms,
        "updated_ms": version.updated_ms, "source": version.source, "model_id": version.model, "run_id": version.run,
        "run": reader.listed(&version.run, &COLUMNS)?, "tags": version.tags,
    }))
}
