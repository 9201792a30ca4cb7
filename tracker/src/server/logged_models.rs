//! MLflow 3's logged models.

use axum::extract::{Path, State};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::experiments::no_experiment;
use super::request_fields::{
    RequestFields, check_name, check_param, check_tag, or_default, page, pairs_json, texts,
};
use super::{Failure, Tracker, now_ms, sql};
use crate::clients::documents::LoggedModel;
use crate::clients::events::{ModelEvent, Pair};
use crate::clients::{Int, new_id};
use crate::filter::{Clause, Entity, FieldValue, Filter};
use crate::index::{Amend, Item, Reader, document_in, experiment_in};

pub(super) fn routes() -> Router<Tracker> {
    let one = get(get_model).patch(finalize).delete(delete_model);
    Router::new()
        .route("/logged-models", post(create))
        .route("/logged-models/search", post(search))
        .route("/logged-models/{model_id}", one)
        .route("/logged-models/{model_id}/tags", patch(set_tags))
        .route("/logged-models/{model_id}/tags/{key}", delete(delete_tag))
        .route("/logged-models/{model_id}/params", post(log_params))
}

pub(super) fn artifact_uri(id: &str, model: &LoggedModel) -> String {
    format!("mlflow-artifacts:/{}/models/{id}/artifacts", model.experiment)
}

fn model_json(id: &str, model: &LoggedModel) -> Value {
    json!({
        "info": {
            "model_id": id, "experiment_id": model.experiment, "name": model.name,
            "creation_timestamp_ms": model.created_ms, "last_updated_timestamp_ms": model.updated_ms,
            "artifact_uri": artifact_uri(id, model), "status": model.status, "model_type": model.model_type,
            "source_run_id": model.run, "tags": pairs_json(&model.tags),
        },
        "data": { "params": pairs_json(&model.params), "metrics": [] },
    })
}

fn no_model(id: &str) -> Failure {
    Failure::absent(format!("Logged model with ID '{id}' not found."))
}

#[derive(Deserialize)]
struct Create {
    experiment_id: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    model_type: String,
    #[serde(default, deserialize_with = "or_default")]
    source_run_id: String,
    #[serde(default, deserialize_with = "or_default")]
    params: Vec<Pair>,
    #[serde(default, deserialize_with = "or_default")]
    tags: Vec<Pair>,
}

async fn create(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Create>,
) -> Result<Json<Value>, Failure> {
    let id = format!("m-{}", new_id());
    let name = if asked.name.is_empty() { format!("model-{}", &id[2..10]) } else { asked.name };
    check_name("model", &name)?;
    asked.params.iter().try_for_each(check_param)?;
    asked.tags.iter().try_for_each(check_tag)?;
    let (made, experiment) = (id.clone(), asked.experiment_id);
    let make = move |connection: &Connection| {
        if sql(experiment_in(connection, &experiment))?.is_none() {
            return Err(no_experiment(&experiment));
        }
        let item = Item::Model(experiment.clone(), made);
        let (model_type, run, time_ms) = (asked.model_type, asked.source_run_id, now_ms());
        let (params, tags) = (asked.params, asked.tags);
        let event = ModelEvent::Created { experiment, name, model_type, run, time_ms, params, tags };
        Ok((Some(Amend::of(item, event)), ()))
    };
    tracker.write(move |index| index.amend(make)).await?;
    tracker.read(move |reader| answer(reader, &id)).await
}

fn answer(reader: &Reader, id: &str) -> Result<Json<Value>, Failure> {
    let model = reader.document::<LoggedModel>(id)?.filter(|model| !model.is_deleted);
    let model = model.ok_or_else(|| no_model(id))?;
    Ok(Json(json!({ "model": model_json(id, &model) })))
}

async fn get_model(State(tracker): State<Tracker>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    tracker.read(move |reader| answer(reader, &id)).await
}

async fn change(tracker: &Tracker, id: String, event: ModelEvent) -> Result<Json<Value>, Failure> {
    let changed = id.clone();
    let make = move |connection: &Connection| {
        let model = sql(document_in::<LoggedModel>(connection, &changed))?.filter(|model| !model.is_deleted);
        let model = model.ok_or_else(|| no_model(&changed))?;
        Ok::<_, Failure>((Some(Amend::of(Item::Model(model.experiment, changed), event)), ()))
    };
    tracker.write(move |index| index.amend(make)).await?;
    tracker.read(move |reader| answer(reader, &id).or(Ok(Json(json!({}))))).await
}

#[derive(Deserialize)]
struct Finalize {
    status: String,
}

async fn finalize(
    State(tracker): State<Tracker>,
    Path(id): Path<String>,
    RequestFields(asked): RequestFields<Finalize>,
) -> Result<Json<Value>, Failure> {
    const STATES: [&str; 2] = ["LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED"];
    if !STATES.contains(&asked.status.as_str()) {
        return Err(Failure::invalid(format!(
            "status = {:?} is none of {}",
            asked.status,
            STATES.join(", ")
        )));
    }
    change(&tracker, id, ModelEvent::Status { status: asked.status, time_ms: now_ms() }).await
}

async fn delete_model(
    State(tracker): State<Tracker>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    change(&tracker, id, ModelEvent::Deleted { time_ms: now_ms() }).await
}

#[derive(Deserialize)]
struct Added {
    #[serde(default, deserialize_with = "or_default")]
    tags: Vec<Pair>,
    #[serde(default, deserialize_with = "or_default")]
    params: Vec<Pair>,
}

async fn set_tags(
    State(tracker): State<Tracker>,
    Path(id): Path<String>,
    RequestFields(asked): RequestFields<Added>,
) -> Result<Json<Value>, Failure> {
    asked.tags.iter().try_for_each(check_tag)?;
    change(&tracker, id, ModelEvent::Tags { tags: asked.tags, time_ms: now_ms() }).await
}

async fn log_params(
    State(tracker): State<Tracker>,
    Path(id): Path<String>,
    RequestFields(asked): RequestFields<Added>,
) -> Result<Json<Value>, Failure> {
    asked.params.iter().try_for_each(check_param)?;
    change(&tracker, id, ModelEvent::Params { params: asked.params, time_ms: now_ms() }).await
}

async fn delete_tag(
    State(tracker): State<Tracker>,
    Path((id, key)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    change(&tracker, id, ModelEvent::TagRemoved { key, time_ms: now_ms() }).await
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Search {
    #[serde(deserialize_with = "texts")]
    experiment_ids: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    filter: String,
    max_results: Int,
    #[serde(deserialize_with = "or_default")]
    page_token: String,
    #[serde(deserialize_with = "or_default")]
    order_by: Vec<OrderBy>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OrderBy {
    field_name: String,
    ascending: Option<bool>,
}

async fn search(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Search>,
) -> Result<Json<Value>, Failure> {
    let filter = Filter::parse(&asked.filter)?;
    let read = move |reader: &Reader| {
        let mut found = Vec::new();
        for (id, model) in reader.documents::<LoggedModel>()? {
            let is_in = asked.experiment_ids.contains(&model.experiment) && !model.is_deleted;
            if is_in && holds(&filter.clauses, &id, &model)? {
                found.push((id, model));
            }
        }
        found.sort_by(|(a_id, a), (b_id, b)| {
            let by = |order: &OrderBy| {
                let by = match order.field_name.as_str() {
                    "name" => a.name.cmp(&b.name),
                    "last_updated_timestamp" | "last_updated_timestamp_ms" => a.updated_ms.cmp(&b.updated_ms),
                    "model_id" => a_id.cmp(b_id),
                    _ => a.created_ms.cmp(&b.created_ms),
                };
                if order.ascending == Some(false) { by.reverse() } else { by }
            };
            let first = asked.order_by.iter().map(by).find(|by| by.is_ne());
            first.unwrap_or_else(|| (b.created_ms, b_id).cmp(&(a.created_ms, a_id)))
        });
        let (found, next) =
            page(found, &asked.page_token, usize::try_from(asked.max_results.0).unwrap_or(0))?;
        let models: Vec<Value> = found.iter().map(|(id, model)| model_json(id, model)).collect();
        Ok(Json(json!({ "models": models, "next_page_token": next })))
    };
    tracker.read(read).await
}

fn holds(clauses: &[Clause], id: &str, model: &LoggedModel) -> Result<bool, Failure> {
    for clause in clauses {
        let field = &clause.field;
        let of = |pairs: &'_ crate::clients::documents::Pairs| pairs.get(&field.key).cloned();
        let text = match (field.entity, field.key.as_str()) {
            (Entity::Tag, _) => of(&model.tags),
            (Entity::Param, _) => of(&model.params),
            (Entity::Metric | Entity::Dataset, _) => None,
            (_, "name") => Some(model.name.clone()),
            (_, "model_id") => Some(id.to_owned()),
            (_, "status") => Some(model.status.trim_start_matches("LOGGED_MODEL_").to_owned()),
            (_, "model_type") => Some(model.model_type.clone()),
            (_, "source_run_id") => Some(model.run.clone()),
            (_, "creation_timestamp" | "creation_timestamp_ms") => {
                if !clause.holds(FieldValue::Number(model.created_ms as f64)) {
                    return Ok(false);
                }
                continue;
            }
            (_, key) => {
                let known =
                    "name, model_id, status, model_type, source_run_id, creation_timestamp, tags, params";
                return Err(Failure::invalid(format!("{key:?} is no field of a logged model: {known}")));
            }
        };
        if !clause.holds(text.as_deref().map_or(FieldValue::Nothing, FieldValue::Text)) {
            return Ok(false);
        }
    }
    Ok(true)
}
