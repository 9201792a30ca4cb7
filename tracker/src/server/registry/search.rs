//! Finding registered models and versions.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{model_json, version_json, with};
use crate::clients::Int;
use crate::clients::documents::{Registered, Registry, Version};
use crate::filter::{Clause, Entity, Filter, Found, Order};
use crate::index::Reader;
use crate::server::asked::{Asked, or_default, page, texts};
use crate::server::{Failure, Tracker};

/// The tag that tells prompts from models: clients ask for its being unequal to "true", and mean also what lacks it.
const IS_PROMPT: &str = "mlflow.prompt.is_prompt";

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Search {
    #[serde(deserialize_with = "or_default")]
    filter: String,
    max_results: Int,
    #[serde(deserialize_with = "texts")]
    order_by: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    page_token: String,
}

impl Search {
    fn max(&self) -> usize {
        usize::try_from(self.max_results.0).unwrap_or(0)
    }

    fn order(&self) -> Result<Option<Order>, Failure> {
        Ok(self.order_by.first().map(|order| Order::parse(order)).transpose()?)
    }
}

fn field<'a>(
    clause: &Clause,
    tags: &'a BTreeMap<String, String>,
    own: &[(&str, Found<'a>)],
) -> Result<Found<'a>, Failure> {
    let key = clause.field.key.as_str();
    if clause.field.entity == Entity::Tag {
        let absent = if key == IS_PROMPT { Found::Text("false") } else { Found::Nothing };
        return Ok(tags.get(key).map_or(absent, |value| Found::Text(value)));
    }
    let found = own.iter().find(|(name, _)| *name == key && clause.field.entity == Entity::Attribute);
    let known: Vec<&str> = own.iter().map(|(name, _)| *name).collect();
    let none = || Failure::invalid(format!("{key:?} is none of {}, tags.KEY", known.join(", ")));
    found.map(|(_, value)| *value).ok_or_else(none)
}

pub(super) async fn search_models(
    State(tracker): State<Tracker>,
    Asked(asked): Asked<Search>,
) -> Result<Json<Value>, Failure> {
    let (filter, order) = (Filter::parse(&asked.filter)?, asked.order()?);
    let answer = move |registry: &Registry, _: &Reader| {
        let mut found = Vec::new();
        for (name, model) in &registry.models {
            let own = [("name", Found::Text(name))];
            let mut is_it = true;
            for clause in &filter.clauses {
                is_it &= clause.holds(field(clause, &model.tags, &own)?);
            }
            if is_it {
                found.push((name, model));
            }
        }
        if let Some(order) = order {
            if order.field.key != "name" {
                found.sort_by_key(|(_, model)| model.updated_ms);
            }
            if order.descending {
                found.reverse();
            }
        }
        let (found, next) = page(found, &asked.page_token, asked.max())?;
        let models: Vec<Value> = found.iter().map(|(name, model)| model_json(name, model)).collect();
        Ok(Json(json!({ "registered_models": models, "next_page_token": next })))
    };
    with(&tracker, answer).await
}

pub(super) async fn search_versions(
    State(tracker): State<Tracker>,
    Asked(asked): Asked<Search>,
) -> Result<Json<Value>, Failure> {
    let (filter, order) = (Filter::parse(&asked.filter)?, asked.order()?);
    let answer = move |registry: &Registry, _: &Reader| {
        let mut found = Vec::new();
        for (name, model) in &registry.models {
            for (number, version) in &model.versions {
                let own = [
                    ("name", Found::Text(name)),
                    ("run_id", Found::Text(&version.run)),
                    ("model_id", Found::Text(&version.model)),
                    ("source_path", Found::Text(&version.source)),
                    ("version_number", Found::Number(*number as f64)),
                    ("creation_timestamp", Found::Number(version.created_ms as f64)),
                ];
                let mut is_it = true;
                for clause in &filter.clauses {
                    is_it &= clause.holds(field(clause, &version.tags, &own)?);
                }
                if is_it {
                    found.push((name, model, *number, version));
                }
            }
        }
        match order {
            Some(order) => {
                match order.field.key.as_str() {
                    "version_number" => found.sort_by_key(|(name, _, number, _)| (*number, *name)),
                    "name" => {}
                    "creation_timestamp" => found.sort_by_key(|(_, _, _, version)| version.created_ms),
                    _ => found.sort_by_key(|(_, _, _, version)| version.updated_ms),
                }
                if order.descending {
                    found.reverse();
                }
            }
            // The newest first, as MLflow does.
            None => {
                found.sort_by_key(|(name, _, number, v)| (Reverse(v.updated_ms), *name, Reverse(*number)));
            }
        }
        let (found, next) = page(found, &asked.page_token, asked.max())?;
        let json = |(name, model, number, version): &(&String, &Registered, u64, &Version)| {
            version_json(name, model, *number, version)
        };
        let versions: Vec<Value> = found.iter().map(json).collect();
        Ok(Json(json!({ "model_versions": versions, "next_page_token": next })))
    };
    with(&tracker, answer).await
}
