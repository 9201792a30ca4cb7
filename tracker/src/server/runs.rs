//! Handlers for MLflow's runs: create, update, search.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::no_run;
use super::experiments::{grounded, no_experiment};
use super::request_fields::{
    RequestFields, check_name, check_tag, or_default, page_start, pairs_json, texts,
};
use super::{Failure, Tracker, now_ms, sql};
use crate::clients::events::{ExperimentEvent, Pair, RunEvent};
use crate::clients::{Int, new_id};
use crate::filter::{Filter, Order};
use crate::index::{Amend, Item, Kind, Reader, RunRow, Select, Stage, experiment_in, run_row};

/// Maximum number of runs per response; MLflow's limit.
const RESULTS_MAX: usize = 50_000;

/// Default number of runs per response; MLflow's default.
const RESULTS: usize = 1_000;

pub(super) fn routes() -> Router<Tracker> {
    Router::new()
        .route("/runs/create", post(create))
        .route("/runs/get", get(get_run))
        .route("/runs/update", post(update))
        .route("/runs/delete", post(delete))
        .route("/runs/restore", post(restore))
        .route("/runs/search", post(search))
}

pub(super) fn artifact_uri(row: &RunRow) -> String {
    format!("mlflow-artifacts:/{}/{}/artifacts", row.experiment, row.uuid)
}

fn info(row: &RunRow) -> Value {
    json!({
        "run_id": row.uuid, "run_uuid": row.uuid, "run_name": row.name, "experiment_id": row.experiment,
        "user_id": row.user, "status": row.status, "start_time": row.start_ms, "end_time": row.end_ms,
        "artifact_uri": artifact_uri(row), "lifecycle_stage": row.stage,
    })
}

fn run_json(reader: &Reader, row: &RunRow) -> Result<Value, Failure> {
    let latest = reader.latest(row.row)?;
    let metric = |m: &crate::index::MetricNow| {
        let value = run_record::to_json(m.value);
        json!({ "key": m.key, "value": value, "timestamp": m.time_ms, "step": m.step })
    };
    let inputs: Vec<Value> =
        reader.models(row.row, false)?.into_iter().map(|(id, _)| json!({ "model_id": id })).collect();
    let outputs: Vec<Value> = reader
        .models(row.row, true)?
        .into_iter()
        .map(|(id, step)| json!({ "model_id": id, "step": step }))
        .collect();
    Ok(json!({
        "info": info(row),
        "data": {
            "metrics": latest.iter().map(metric).collect::<Vec<_>>(),
            "params": pairs_json(&reader.pairs("params", row.row)?),
            "tags": pairs_json(&reader.pairs("tags", row.row)?),
        },
        "inputs": { "dataset_inputs": reader.inputs(row.row)?, "model_inputs": inputs },
        "outputs": { "model_outputs": outputs },
    }))
}

/// A run that clients may change: it exists, belongs to a client, and is not deleted.
pub(super) fn writable(connection: &Connection, id: &str) -> Result<RunRow, Failure> {
    let row = sql(run_row(connection, id))?.ok_or_else(|| no_run(id))?;
    if row.kind == Kind::Bonfire {
        return Err(Failure::denied(format!(
            "run {} is Bonfire's: its coordinator writes it. Here it can be read, and tagged with keys of your own \
             (such as mlflow.note.content)",
            row.name
        )));
    }
    if row.stage != "active" {
        return Err(Failure::invalid(format!(
            "The run {id} must be in the 'active' state. Current state is {}.",
            row.stage
        )));
    }
    Ok(row)
}

pub(super) fn item(row: &RunRow) -> Item {
    Item::of_run(row.kind, &row.folder, &row.experiment, &row.uuid)
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ById {
    #[serde(deserialize_with = "or_default")]
    run_id: String,
    #[serde(deserialize_with = "or_default")]
    run_uuid: String,
}

impl ById {
    /// Clients send the id under both names; old ones only as `run_uuid`.
    pub(super) fn id(self) -> String {
        if self.run_id.is_empty() { self.run_uuid } else { self.run_id }
    }
}

async fn get_run(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let id = asked.id();
    tracker.read(move |reader| answer(reader, &id)).await
}

fn answer(reader: &Reader, id: &str) -> Result<Json<Value>, Failure> {
    let row = reader.row(id)?.ok_or_else(|| no_run(id))?;
    Ok(Json(json!({ "run": run_json(reader, &row)? })))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Create {
    experiment_id: String,
    #[serde(deserialize_with = "or_default")]
    user_id: String,
    #[serde(deserialize_with = "or_default")]
    run_name: String,
    start_time: Option<Int>,
    #[serde(deserialize_with = "or_default")]
    tags: Vec<Pair>,
}

async fn create(
    State(tracker): State<Tracker>,
    RequestFields(mut asked): RequestFields<Create>,
) -> Result<Json<Value>, Failure> {
    asked.tags.iter().try_for_each(check_tag)?;
    let id = new_id();
    let tagged = asked.tags.iter().find(|tag| tag.key == "mlflow.runName").map(|tag| tag.value.clone());
    if asked.run_name.is_empty() {
        asked.run_name = tagged.unwrap_or_else(|| format!("run-{}", &id[..8]));
    }
    check_name("run", &asked.run_name)?;
    let made = id.clone();
    let write = move |index: &mut crate::index::Index| {
        let experiment = asked.experiment_id.clone();
        // First its experiment: a derived one becomes a stored one.
        index.amend(|connection| {
            let found =
                sql(experiment_in(connection, &experiment))?.ok_or_else(|| no_experiment(&experiment))?;
            if found.stage != "active" {
                return Err(Failure::invalid(format!(
                    "experiment {experiment} is deleted: restore it first"
                )));
            }
            let ground = |event: ExperimentEvent| Amend::of(Item::Experiment(experiment.clone()), event);
            Ok((grounded(&found).map(ground), ()))
        })?;
        let start_ms = asked.start_time.map_or_else(now_ms, |start| start.0);
        let event =
            RunEvent::Created { user: asked.user_id, name: asked.run_name, start_ms, tags: asked.tags };
        index.amend(|_| Ok::<_, Failure>((Some(Amend::of(Item::Client(experiment, made), event)), ())))
    };
    tracker.write(write).await?;
    tracker.read(move |reader| answer(reader, &id)).await
}

#[derive(Deserialize)]
struct Update {
    #[serde(flatten)]
    run: ById,
    status: Option<String>,
    end_time: Option<Int>,
    run_name: Option<String>,
}

async fn update(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Update>,
) -> Result<Json<Value>, Failure> {
    const STATES: [&str; 5] = ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"];
    if let Some(status) = asked.status.as_deref().filter(|status| !STATES.contains(status)) {
        return Err(Failure::invalid(format!("status = {status:?} is none of {}", STATES.join(", "))));
    }
    let name = asked.run_name.filter(|name| !name.is_empty());
    name.iter().try_for_each(|name| check_name("run", name))?;
    let id = asked.run.id();
    let (changed, end_ms) = (id.clone(), asked.end_time.map(|end| end.0));
    let make = move |connection: &Connection| {
        let row = writable(connection, &changed)?;
        let event = RunEvent::Updated { status: asked.status, end_ms, name };
        Ok::<_, Failure>((Some(Amend::of(item(&row), event)), ()))
    };
    tracker.write(move |index| index.amend(make)).await?;
    let read = move |reader: &Reader| {
        let row = reader.row(&id)?.ok_or_else(|| no_run(&id))?;
        Ok(Json(json!({ "run_info": info(&row) })))
    };
    tracker.read(read).await
}

async fn delete(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    stage(&tracker, asked.id(), "deleted").await
}

async fn restore(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    stage(&tracker, asked.id(), "active").await
}

/// Sets a run's stage; a deleted run's files stay in place.
async fn stage(tracker: &Tracker, id: String, stage: &'static str) -> Result<Json<Value>, Failure> {
    let make = move |connection: &Connection| {
        let row = match writable(connection, &id) {
            Err(_) if stage == "active" => {
                sql(run_row(connection, &id))?.filter(|row| row.kind == Kind::Client)
            }
            other => Some(other?),
        };
        let row = row.ok_or_else(|| no_run(&id))?;
        let event = RunEvent::Stage { stage: stage.to_owned() };
        Ok::<_, Failure>((Some(Amend::of(item(&row), event)), Json(json!({}))))
    };
    tracker.write(move |index| index.amend(make)).await
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Search {
    #[serde(deserialize_with = "texts")]
    experiment_ids: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    filter: String,
    run_view_type: String,
    max_results: Option<Int>,
    #[serde(deserialize_with = "texts")]
    order_by: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    page_token: String,
}

async fn search(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Search>,
) -> Result<Json<Value>, Failure> {
    let max = asked.max_results.map_or(Ok(RESULTS), |max| usize::try_from(max.0)).unwrap_or(usize::MAX);
    if max > RESULTS_MAX || max == 0 {
        return Err(Failure::invalid(format!(
            "max_results = {max}: 1 to {RESULTS_MAX} runs come in one answer"
        )));
    }
    let select = Select {
        experiments: Some(asked.experiment_ids),
        filter: Filter::parse(&asked.filter)?,
        order: asked.order_by.iter().map(|order| Order::parse(order)).collect::<Result<_, _>>()?,
        stage: match asked.run_view_type.as_str() {
            "ALL" => Stage::All,
            "DELETED_ONLY" => Stage::Deleted,
            _ => Stage::Active,
        },
        limit: max,
        offset: page_start(&asked.page_token)?,
    };
    let read = move |reader: &Reader| {
        let page = reader.select(&select)?;
        let runs: Vec<Value> =
            page.items.iter().map(|row| run_json(reader, row)).collect::<Result<_, Failure>>()?;
        Ok(Json(json!({ "runs": runs, "next_page_token": page.next.map(|next| next.to_string()) })))
    };
    tracker.read(read).await
}
