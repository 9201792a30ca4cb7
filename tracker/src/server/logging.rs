//! Handlers that log clients' data to their runs, and metrics' histories.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::no_run;
use super::request_fields::{RequestFields, check_key, check_param, check_tag, or_default};
use super::runs::{ById, item, writable};
use super::{Failure, Tracker, now_ms, sql};
use crate::clients::events::{MetricLine, ModelUse, NoteEvent, Pair, RunEvent};
use crate::clients::{Durable, Float, Int};
use crate::index::{Amend, Index, Kind, Reader, RunRow, is_own_tag, notes_file, run_row};

/// MLflow's limits of a batch.
const METRICS_MAX: usize = 1_000;
const PARAMS_MAX: usize = 100;
const TAGS_MAX: usize = 100;

/// Metrics that are appended on the serving thread: for more, a handover to another thread costs less.
const AT_ONCE_MAX: usize = 50;

/// Maximum number of datasets per request.
const INPUTS_MAX: usize = 100;

/// Maximum number of points per response, as many as clients ask for.
const HISTORY_MAX: usize = 25_000;

pub(super) fn routes() -> Router<Tracker> {
    Router::new()
        .route("/runs/log-batch", post(log_batch))
        .route("/runs/log-metric", post(log_metric))
        .route("/runs/log-parameter", post(log_parameter))
        .route("/runs/set-tag", post(set_tag))
        .route("/runs/delete-tag", post(delete_tag))
        .route("/runs/log-inputs", post(log_inputs))
        .route("/runs/outputs", post(log_outputs))
        .route("/runs/log-model", post(log_model))
        .route("/metrics/get-history", get(history))
}

#[derive(Deserialize)]
struct MetricForm {
    key: String,
    value: Float,
    #[serde(default)]
    timestamp: Option<Int>,
    #[serde(default)]
    step: Option<Int>,
}

impl MetricForm {
    fn line(self) -> MetricLine {
        let time = self.timestamp.unwrap_or_else(|| Int(now_ms()));
        MetricLine(self.key, self.value, time, self.step.unwrap_or_default())
    }
}

/// Everything that one request logs.
#[derive(Default)]
struct Batch {
    metrics: Vec<MetricLine>,
    params: Vec<Pair>,
    tags: Vec<Pair>,
}

#[derive(Deserialize)]
struct LogBatch {
    #[serde(flatten)]
    run: ById,
    #[serde(default, deserialize_with = "or_default")]
    metrics: Vec<MetricForm>,
    #[serde(default, deserialize_with = "or_default")]
    params: Vec<Pair>,
    #[serde(default, deserialize_with = "or_default")]
    tags: Vec<Pair>,
}

async fn log_batch(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<LogBatch>,
) -> Result<Json<Value>, Failure> {
    let metrics = asked.metrics.into_iter().map(MetricForm::line).collect();
    log(&tracker, asked.run.id(), Batch { metrics, params: asked.params, tags: asked.tags }).await
}

#[derive(Deserialize)]
struct LogMetric {
    #[serde(flatten)]
    run: ById,
    #[serde(flatten)]
    metric: MetricForm,
}

async fn log_metric(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<LogMetric>,
) -> Result<Json<Value>, Failure> {
    log(&tracker, asked.run.id(), Batch { metrics: vec![asked.metric.line()], ..Batch::default() }).await
}

#[derive(Deserialize)]
struct OfKey {
    #[serde(flatten)]
    run: ById,
    key: String,
    #[serde(default, deserialize_with = "or_default")]
    value: String,
}

async fn log_parameter(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<OfKey>,
) -> Result<Json<Value>, Failure> {
    let params = vec![Pair { key: asked.key, value: asked.value }];
    log(&tracker, asked.run.id(), Batch { params, ..Batch::default() }).await
}

fn check(batch: &Batch) -> Result<(), Failure> {
    let total = batch.metrics.len() + batch.params.len() + batch.tags.len();
    let most = [
        ("metrics", batch.metrics.len(), METRICS_MAX),
        ("params", batch.params.len(), PARAMS_MAX),
        ("tags", batch.tags.len(), TAGS_MAX),
        ("metrics, params and tags", total, METRICS_MAX),
    ];
    if let Some((what, count, max)) = most.into_iter().find(|(_, count, max)| count > max) {
        return Err(Failure::invalid(format!(
            "A batch logging request can contain at most {max} {what}. Got {count}: please split it up and try again."
        )));
    }
    batch.metrics.iter().try_for_each(|metric| check_key("metric", &metric.0))?;
    batch.params.iter().try_for_each(check_param)?;
    batch.tags.iter().try_for_each(check_tag)
}

async fn log(tracker: &Tracker, id: String, batch: Batch) -> Result<Json<Value>, Failure> {
    check(&batch)?;
    let Batch { metrics, mut params, tags } = batch;
    if params.is_empty() && tags.is_empty() && !metrics.is_empty() {
        let is_short = metrics.len() <= AT_ONCE_MAX;
        let event = RunEvent::Batch { metrics, params, tags };
        let append = move |index: &mut Index, wait| {
            let made = |connection: &Connection| {
                let item = item(&writable(connection, &id)?);
                Ok::<_, Failure>(Amend { durable: Durable::Written, ..Amend::of(item, &event) })
            };
            index.amend_later(wait, made)
        };
        tracker.append(is_short, append).await?;
        return Ok(Json(json!({})));
    }
    let make = move |connection: &Connection| {
        let row = writable(connection, &id)?;
        check_params(connection, &row, &mut params)?;
        let is_nothing = metrics.is_empty() && params.is_empty() && tags.is_empty();
        let event = RunEvent::Batch { metrics, params, tags };
        let amend = Amend { durable: Durable::Written, ..Amend::of(item(&row), event) };
        Ok::<_, Failure>(((!is_nothing).then_some(amend), Json(json!({}))))
    };
    tracker.write(move |index| index.amend(make)).await
}

/// A parameter is immutable: a repeated equal value is dropped, a different one refused.
fn check_params(connection: &Connection, row: &RunRow, params: &mut Vec<Pair>) -> Result<(), Failure> {
    let mut new: Vec<Pair> = Vec::new();
    for pair in params.drain(..) {
        let find = "SELECT value FROM params WHERE run = ? AND key = ?";
        let kept = connection.prepare_cached(find).and_then(|mut find| {
            find.query_row(params![row.row, pair.key], |found| found.get::<_, String>(0)).optional()
        });
        let kept = sql(kept)?.or_else(|| new.iter().find(|n| n.key == pair.key).map(|n| n.value.clone()));
        match kept {
            None => new.push(pair),
            Some(value) if value == pair.value => {}
            Some(value) => {
                return Err(Failure::invalid(format!(
                    "Changing param values is not allowed. Param with key='{}' was already logged with value='{value}' \
                     for run ID='{}'. Attempted logging new value '{}'.",
                    pair.key, row.uuid, pair.value
                )));
            }
        }
    }
    *params = new;
    Ok(())
}

async fn set_tag(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<OfKey>,
) -> Result<Json<Value>, Failure> {
    let tag = Pair { key: asked.key, value: asked.value };
    check_tag(&tag)?;
    let id = asked.run.id();
    let write = move |index: &mut Index| {
        if note(index, &id, &tag.key, NoteEvent::Tags { tags: vec![tag.clone()] })? {
            return Ok(Json(json!({})));
        }
        let event = RunEvent::Batch { metrics: Vec::new(), params: Vec::new(), tags: vec![tag] };
        index.amend(|connection| {
            let row = writable(connection, &id)?;
            Ok((Some(Amend::of(item(&row), event)), Json(json!({}))))
        })
    };
    tracker.write(write).await
}

async fn delete_tag(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<OfKey>,
) -> Result<Json<Value>, Failure> {
    let (id, key) = (asked.run.id(), asked.key);
    let write = move |index: &mut Index| {
        let known = |connection: &Connection| -> Result<RunRow, Failure> {
            let row = sql(run_row(connection, &id))?.ok_or_else(|| no_run(&id))?;
            let find = "SELECT EXISTS (SELECT 1 FROM tags WHERE run = ? AND key = ?)";
            let is_there: bool =
                sql(connection.query_row(find, params![row.row, key], |found| found.get(0)))?;
            if is_there {
                Ok(row)
            } else {
                Err(Failure::absent(format!("No tag with name: {key} in run with id {id}")))
            }
        };
        index.amend::<NoteEvent, Failure, _>(|connection| known(connection).map(|row| (None, row)))?;
        if note(index, &id, &key, NoteEvent::TagRemoved { key: key.clone() })? {
            return Ok(Json(json!({})));
        }
        index.amend(|connection| {
            let row = writable(connection, &id)?;
            let event = RunEvent::TagRemoved { key: key.clone() };
            Ok((Some(Amend::of(item(&row), event)), Json(json!({}))))
        })
    };
    tracker.write(write).await
}

/// Stores a tag on a run of Bonfire as a note in its folder; `false` if the run is a client's.
fn note(index: &mut Index, id: &str, key: &str, event: NoteEvent) -> Result<bool, Failure> {
    index.amend(|connection| {
        let row = sql(run_row(connection, id))?.ok_or_else(|| no_run(id))?;
        if row.kind == Kind::Client {
            return Ok((None, false));
        }
        if is_own_tag(key) {
            return Err(Failure::denied(format!(
                "tag {key} of run {} is its own: choose another key",
                row.name
            )));
        }
        let file = notes_file(&row.folder);
        Ok((Some(Amend { item: item(&row), file, events: vec![event], durable: Durable::Synced }), true))
    })
}

#[derive(Deserialize)]
struct LogInputs {
    #[serde(flatten)]
    run: ById,
    #[serde(default, deserialize_with = "or_default")]
    datasets: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    models: Vec<ModelUse>,
}

async fn add(tracker: &Tracker, id: String, event: RunEvent) -> Result<Json<Value>, Failure> {
    let make = move |connection: &Connection| {
        let row = writable(connection, &id)?;
        Ok::<_, Failure>((Some(Amend::of(item(&row), event)), Json(json!({}))))
    };
    tracker.write(move |index| index.amend(make)).await
}

async fn log_inputs(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<LogInputs>,
) -> Result<Json<Value>, Failure> {
    let has_name = |input: &Value| ["name", "digest"].iter().all(|name| input["dataset"][name].is_string());
    if asked.datasets.len() > INPUTS_MAX || !asked.datasets.iter().all(has_name) {
        return Err(Failure::invalid(format!(
            "at most {INPUTS_MAX} datasets come at once, each with name and digest"
        )));
    }
    add(&tracker, asked.run.id(), RunEvent::Inputs { datasets: asked.datasets, models: asked.models }).await
}

async fn log_outputs(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<LogInputs>,
) -> Result<Json<Value>, Failure> {
    add(&tracker, asked.run.id(), RunEvent::Outputs { models: asked.models }).await
}

#[derive(Deserialize)]
struct LogModel {
    #[serde(flatten)]
    run: ById,
    model_json: String,
}

/// Clients before MLflow 3 keep the list of a run's models in a tag.
async fn log_model(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<LogModel>,
) -> Result<Json<Value>, Failure> {
    const TAG: &str = "mlflow.log-model.history";
    let model: Value = serde_json::from_str(&asked.model_json)
        .map_err(|why| Failure::invalid(format!("model_json is no JSON: {why}")))?;
    let id = asked.run.id();
    let make = move |connection: &Connection| {
        let row = writable(connection, &id)?;
        let find = "SELECT value FROM tags WHERE run = ? AND key = ?";
        let kept =
            sql(connection.query_row(find, params![row.row, TAG], |r| r.get::<_, String>(0)).optional())?;
        let mut list: Vec<Value> = kept.and_then(|kept| serde_json::from_str(&kept).ok()).unwrap_or_default();
        list.push(model);
        let tags = vec![Pair { key: TAG.into(), value: Value::from(list).to_string() }];
        let event = RunEvent::Batch { metrics: Vec::new(), params: Vec::new(), tags };
        Ok::<_, Failure>((Some(Amend::of(item(&row), event)), Json(json!({}))))
    };
    tracker.write(move |index| index.amend(make)).await
}

#[derive(Deserialize)]
struct History {
    #[serde(flatten)]
    run: ById,
    metric_key: String,
    #[serde(default, deserialize_with = "or_default")]
    page_token: String,
    #[serde(default)]
    max_results: Option<Int>,
}

async fn history(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<History>,
) -> Result<Json<Value>, Failure> {
    let id = asked.run.id();
    let read = move |reader: &Reader| {
        reader.row(&id)?.ok_or_else(|| no_run(&id))?;
        let wanted = asked.max_results.and_then(|max| usize::try_from(max.0).ok()).filter(|max| *max > 0);
        let limit = wanted.unwrap_or(HISTORY_MAX).min(HISTORY_MAX);
        let page = reader.history(&id, &asked.metric_key, limit, &asked.page_token)?;
        let page = page.ok_or_else(|| Failure::invalid("page_token is none of ours"))?;
        let metric = |point: &crate::index::Point| {
            json!({
                "key": asked.metric_key, "value": run_record::to_json(point.value), "timestamp": point.time_ms,
                "step": point.step,
            })
        };
        let metrics: Vec<Value> = page.points.iter().map(metric).collect();
        Ok(Json(json!({ "metrics": metrics, "next_page_token": page.next })))
    };
    tracker.read(read).await
}
