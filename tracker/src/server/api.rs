//! The JSON API for the web page; [`super`] documents its formats.

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Failure, Tracker};
use crate::filter::{Filter, Order};
use crate::index::{COLUMNS, Comparison, RunWhole, Select, Stage};

/// Maximum number of runs per page.
const LIMIT_MAX: usize = 5_000;

/// Default number of runs per page.
const LIMIT: usize = 200;

/// Maximum number of metrics per request for points, and of runs to compare.
const KEYS_MAX: usize = 64;

/// Default number of points per metric.
const POINTS: usize = 1_000;

/// Maximum number of columns in a list.
const COLUMNS_MAX: usize = 200;

/// Query parameters, including repeated ones.
type Asked = Query<Vec<(String, String)>>;

pub(super) fn routes() -> Router<Tracker> {
    Router::new()
        .route("/api/experiments", get(experiments))
        .route("/api/keys", get(keys))
        .route("/api/runs", get(runs))
        .route("/api/runs/{id}", get(run))
        .route("/api/runs/{id}/points", get(points))
        .route("/api/compare", get(compare))
}

fn one<'a>(asked: &'a [(String, String)], name: &str) -> Option<&'a str> {
    asked.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

fn each<'a>(asked: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    asked
        .iter()
        .filter(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| value.as_str())
        .collect()
}

fn number(asked: &[(String, String)], name: &str, otherwise: usize) -> Result<usize, Failure> {
    let Some(text) = one(asked, name) else { return Ok(otherwise) };
    text.parse().map_err(|_| Failure::invalid(format!("{name} = {text:?} is no whole number")))
}

/// The failure for an unknown run.
pub(super) fn no_run(id: &str) -> Failure {
    Failure::absent(format!("Run '{id}' not found"))
}

async fn experiments(State(tracker): State<Tracker>) -> Result<Json<Value>, Failure> {
    tracker.read(|reader| Ok(Json(json!({ "experiments": reader.experiments()? })))).await
}

async fn keys(State(tracker): State<Tracker>) -> Result<Json<Value>, Failure> {
    let keys = |reader: &crate::index::Reader| {
        Ok(Json(json!({ "metrics": reader.keys(true)?, "params": reader.keys(false)? })))
    };
    tracker.read(keys).await
}

async fn runs(State(tracker): State<Tracker>, Query(asked): Asked) -> Result<Json<Value>, Failure> {
    let experiments = each(&asked, "experiment");
    let order: Result<Vec<Order>, _> = each(&asked, "order_by").into_iter().map(Order::parse).collect();
    let stage = match one(&asked, "stage") {
        None | Some("active") => Stage::Active,
        Some("deleted") => Stage::Deleted,
        Some("all") => Stage::All,
        Some(other) => {
            return Err(Failure::invalid(format!("stage = {other:?} is none of active, deleted, all")));
        }
    };
    let select = Select {
        experiments: (!experiments.is_empty()).then(|| experiments.into_iter().map(str::to_owned).collect()),
        filter: Filter::parse(one(&asked, "filter").unwrap_or_default())?,
        order: order?,
        stage,
        limit: number(&asked, "limit", LIMIT)?.clamp(1, LIMIT_MAX),
        offset: number(&asked, "page", 0)?,
    };
    tracker
        .read(move |reader| {
            let mut columns = each(&asked, "column");
            columns.truncate(COLUMNS_MAX);
            if columns.is_empty() {
                columns = COLUMNS.to_vec();
            }
            let page = reader.runs(&select, &columns)?;
            let next = page.next.map(|next| next.to_string());
            Ok(Json(json!({ "runs": page.items, "next_page": next })))
        })
        .await
}

async fn run(State(tracker): State<Tracker>, Path(id): Path<String>) -> Result<Json<RunWhole>, Failure> {
    tracker.read(move |reader| reader.run(&id)?.map(Json).ok_or_else(|| no_run(&id))).await
}

async fn points(
    State(tracker): State<Tracker>,
    Path(id): Path<String>,
    Query(asked): Asked,
) -> Result<Json<Value>, Failure> {
    let max = number(&asked, "max", POINTS)?;
    tracker
        .read(move |reader| {
            let keys = each(&asked, "key");
            if keys.is_empty() || keys.len() > KEYS_MAX {
                return Err(Failure::invalid(format!(
                    "{} keys are asked for: name 1 to {KEYS_MAX}",
                    keys.len()
                )));
            }
            let row = reader.row(&id)?.ok_or_else(|| no_run(&id))?;
            let mut series = Vec::new();
            for key in keys {
                series.push(reader.points(&id, key, max)?);
            }
            Ok(Json(json!({ "id": id, "revision": row.changed, "series": series })))
        })
        .await
}

async fn compare(State(tracker): State<Tracker>, Query(asked): Asked) -> Result<Json<Comparison>, Failure> {
    tracker
        .read(move |reader| {
            let ids: Vec<&str> = each(&asked, "ids").into_iter().flat_map(|ids| ids.split(',')).collect();
            if ids.is_empty() || ids.len() > KEYS_MAX {
                return Err(Failure::invalid(format!(
                    "{} runs are asked for: name 1 to {KEYS_MAX}",
                    ids.len()
                )));
            }
            Ok(Json(reader.compare(&ids)?))
        })
        .await
}
