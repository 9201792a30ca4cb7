//! MLflow's experiments.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request_fields::{RequestFields, check_name, check_tag, or_default, page, pairs_json, texts};
use super::{Failure, Tracker, now_ms, sql};
use crate::clients::Int;
use crate::clients::documents::Experiment;
use crate::clients::events::{ExperimentEvent, Pair};
use crate::filter::{Clause, Entity, FieldValue, Filter, Order};
use crate::index::{
    Amend, DEFAULT_ID, DEFAULT_NAME, Item, experiment_by_name, experiment_in, free_experiment_id,
};

pub(super) fn routes() -> Router<Tracker> {
    Router::new()
        .route("/experiments/get-by-name", get(get_by_name))
        .route("/experiments/get", get(get_by_id))
        .route("/experiments/create", post(create))
        .route("/experiments/search", post(search).get(search))
        .route("/experiments/update", post(rename))
        .route("/experiments/delete", post(delete))
        .route("/experiments/restore", post(restore))
        .route("/experiments/set-experiment-tag", post(set_tag))
        .route("/experiments/delete-experiment-tag", post(delete_tag))
}

fn experiment_json(id: &str, experiment: &Experiment) -> Value {
    json!({
        "experiment_id": id,
        "name": experiment.name,
        "artifact_location": format!("mlflow-artifacts:/{id}"),
        "lifecycle_stage": experiment.stage,
        "creation_time": experiment.created_ms,
        "last_update_time": experiment.updated_ms,
        "tags": pairs_json(&experiment.tags),
    })
}

/// The failure for an unknown experiment.
pub(super) fn no_experiment(id: &str) -> Failure {
    Failure::absent(format!("No Experiment with id={id} exists"))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ById {
    experiment_id: String,
    experiment_name: String,
    new_name: String,
    #[serde(deserialize_with = "or_default")]
    key: String,
    #[serde(deserialize_with = "or_default")]
    value: String,
}

async fn get_by_name(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let name = asked.experiment_name;
    let read = move |reader: &crate::index::Reader| match reader.experiment_by_name(&name)? {
        Some((id, found)) => Ok(Json(json!({ "experiment": experiment_json(&id, &found) }))),
        None => Err(Failure::absent(format!("Could not find experiment with name '{name}'"))),
    };
    tracker.read(read).await
}

async fn get_by_id(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let id = asked.experiment_id;
    let read = move |reader: &crate::index::Reader| match reader.experiment(&id)? {
        Some(found) => Ok(Json(json!({ "experiment": experiment_json(&id, &found) }))),
        None => Err(no_experiment(&id)),
    };
    tracker.read(read).await
}

#[derive(Deserialize)]
struct Create {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    tags: Vec<Pair>,
}

async fn create(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Create>,
) -> Result<Json<Value>, Failure> {
    check_name("experiment", &asked.name)?;
    asked.tags.iter().try_for_each(check_tag)?;
    let make = move |connection: &Connection| {
        if let Some((_, found)) = sql(experiment_by_name(connection, &asked.name))? {
            let stage = if found.stage == "deleted" {
                " in deleted state. Restore it, or choose another name"
            } else {
                ""
            };
            return Err(Failure::exists(format!("Experiment '{}' already exists{stage}.", asked.name)));
        }
        let id = sql(free_experiment_id(connection, &asked.name))?;
        let event = ExperimentEvent::Created { name: asked.name, time_ms: now_ms(), tags: asked.tags };
        Ok((Some(Amend::of(Item::Experiment(id.clone()), event)), Json(json!({ "experiment_id": id }))))
    };
    tracker.write(move |index| index.amend(make)).await
}

/// The event that turns a derived experiment into a stored one, before other events on it are appended.
pub(super) fn grounded(experiment: &Experiment) -> Option<ExperimentEvent> {
    let event =
        || ExperimentEvent::Created { name: experiment.name.clone(), time_ms: now_ms(), tags: Vec::new() };
    experiment.is_derived.then(event)
}

async fn change(
    tracker: &Tracker,
    id: String,
    decide: impl FnOnce(&Connection, &Experiment) -> Result<ExperimentEvent, Failure> + Send + 'static,
) -> Result<Json<Value>, Failure> {
    let make = move |connection: &Connection| {
        let found = sql(experiment_in(connection, &id))?.ok_or_else(|| no_experiment(&id))?;
        let event = decide(connection, &found)?;
        let mut amend = Amend::of(Item::Experiment(id), event);
        if let Some(first) = grounded(&found) {
            amend.events.insert(0, first);
        }
        Ok::<_, Failure>((Some(amend), Json(json!({}))))
    };
    tracker.write(move |index| index.amend(make)).await
}

/// Runs of Bonfire belong to the experiment that their names imply: it keeps its name and can't be deleted.
fn check_movable(connection: &Connection, id: &str) -> Result<(), Failure> {
    let held = "SELECT EXISTS (SELECT 1 FROM runs WHERE experiment = ? AND kind = 0)";
    let is_held: bool = sql(connection.query_row(held, [id], |row| row.get(0)))?;
    if is_held || id == DEFAULT_ID {
        return Err(Failure::invalid(format!(
            "experiment {id} holds runs of Bonfire (or is \"Default\"): it keeps its name and can't be deleted"
        )));
    }
    Ok(())
}

async fn rename(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    check_name("experiment", &asked.new_name)?;
    let (id, name) = (asked.experiment_id.clone(), asked.new_name);
    change(&tracker, asked.experiment_id, move |connection, _| {
        check_movable(connection, &id)?;
        if sql(experiment_by_name(connection, &name))?.is_some() {
            return Err(Failure::exists(format!("Experiment '{name}' already exists.")));
        }
        Ok(ExperimentEvent::Renamed { name, time_ms: now_ms() })
    })
    .await
}

async fn delete(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let id = asked.experiment_id.clone();
    change(&tracker, asked.experiment_id, move |connection, _| {
        check_movable(connection, &id)?;
        Ok(ExperimentEvent::Stage { stage: "deleted".into(), time_ms: now_ms() })
    })
    .await
}

async fn restore(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let event = ExperimentEvent::Stage { stage: "active".into(), time_ms: now_ms() };
    change(&tracker, asked.experiment_id, move |_, _| Ok(event)).await
}

async fn set_tag(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let tag = Pair { key: asked.key, value: asked.value };
    check_tag(&tag)?;
    let event = ExperimentEvent::Tags { tags: vec![tag], time_ms: now_ms() };
    change(&tracker, asked.experiment_id, move |_, _| Ok(event)).await
}

async fn delete_tag(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<ById>,
) -> Result<Json<Value>, Failure> {
    let event = ExperimentEvent::TagRemoved { key: asked.key, time_ms: now_ms() };
    change(&tracker, asked.experiment_id, move |_, _| Ok(event)).await
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Search {
    #[serde(deserialize_with = "or_default")]
    filter: String,
    max_results: Int,
    #[serde(deserialize_with = "texts")]
    order_by: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    page_token: String,
    view_type: String,
}

async fn search(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Search>,
) -> Result<Json<Value>, Failure> {
    let filter = Filter::parse(&asked.filter)?;
    let order: Vec<Order> =
        asked.order_by.iter().map(|order| Order::parse(order)).collect::<Result<_, _>>()?;
    let read = move |reader: &crate::index::Reader| {
        let default = reader.experiment(DEFAULT_ID)?.map(|found| (DEFAULT_ID.to_owned(), found));
        let mut found = reader.documents::<Experiment>()?;
        found.retain(|(id, _)| id != DEFAULT_ID);
        found.extend(default);
        found.retain(|(_, experiment)| match asked.view_type.as_str() {
            "ALL" => true,
            "DELETED_ONLY" => experiment.stage == "deleted",
            _ => experiment.stage == "active",
        });
        let mut kept = Vec::new();
        for (id, experiment) in found {
            if holds(&filter.clauses, &id, &experiment)? {
                kept.push((id, experiment));
            }
        }
        sort(&mut kept, &order);
        let max = usize::try_from(asked.max_results.0).unwrap_or(0);
        let (kept, next) = page(kept, &asked.page_token, max)?;
        let list: Vec<Value> = kept.iter().map(|(id, experiment)| experiment_json(id, experiment)).collect();
        Ok(Json(json!({ "experiments": list, "next_page_token": next })))
    };
    tracker.read(read).await
}

fn holds(clauses: &[Clause], id: &str, experiment: &Experiment) -> Result<bool, Failure> {
    for clause in clauses {
        let field = &clause.field;
        let found = match (field.entity, field.key.as_str()) {
            (Entity::Tag, key) => {
                experiment.tags.get(key).map_or(FieldValue::Nothing, |value| FieldValue::Text(value))
            }
            (Entity::Attribute, "name") => FieldValue::Text(&experiment.name),
            (Entity::Attribute, "experiment_id") => FieldValue::Text(id),
            (Entity::Attribute, "creation_time") => FieldValue::Number(experiment.created_ms as f64),
            (Entity::Attribute, "last_update_time") => FieldValue::Number(experiment.updated_ms as f64),
            _ => {
                let known = "name, experiment_id, creation_time, last_update_time, tags.KEY";
                return Err(Failure::invalid(format!(
                    "{:?} is no field of an experiment: {known}",
                    field.key
                )));
            }
        };
        if !clause.holds(found) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sorts by the requested keys, else the last changed first, as MLflow does.
fn sort(found: &mut [(String, Experiment)], order: &[Order]) {
    found.sort_by(|(a_id, a), (b_id, b)| {
        for key in order {
            let by = match key.field.key.as_str() {
                "name" => a.name.cmp(&b.name),
                "creation_time" => a.created_ms.cmp(&b.created_ms),
                "last_update_time" => a.updated_ms.cmp(&b.updated_ms),
                _ => a_id.cmp(b_id),
            };
            let by = if key.descending { by.reverse() } else { by };
            if by.is_ne() {
                return by;
            }
        }
        (b.updated_ms, a.name == DEFAULT_NAME, &a.name).cmp(&(a.updated_ms, b.name == DEFAULT_NAME, &b.name))
    });
}
