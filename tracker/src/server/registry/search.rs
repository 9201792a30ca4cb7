//! Searches for registered models and versions.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{model_json, version_json, with};
use crate::clients::Int;
use crate::clients::documents::{Registered, Registry, Version};
use crate::filter::{Clause, Entity, FieldValue, Filter, Order};
use crate::index::Reader;
use crate::server::request_fields::{RequestFields, or_default, page, texts};
use crate::server::{Failure, Tracker};

/// The tag that marks prompts: clients filter by `!= "true"` and expect models without the tag to match as well.
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
    own: &[(&str, FieldValue<'a>)],
) -> Result<FieldValue<'a>, Failure> {
    let key = clause.field.key.as_str();
    if clause.field.entity == Entity::Tag {
        let absent = if key == IS_PROMPT { FieldValue::Text("false") } else { FieldValue::Nothing };
        return Ok(tags.get(key).map_or(absent, |value| FieldValue::Text(value)));
    }
    let found = own.iter().find(|(name, _)| *name == key && clause.field.entity == Entity::Attribute);
    let known: Vec<&str> = own.iter().map(|(name, _)| *name).collect();
    let none = || Failure::invalid(format!("{key:?} is none of {}, tags.KEY", known.join(", ")));
    found.map(|(_, value)| *value).ok_or_else(none)
}

pub(super) async fn search_models(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Search>,
) -> Result<Json<Value>, Failure> {
    let (filter, order) = (Filter::parse(&asked.filter)?, asked.order()?);
    let answer = move |registry: &Registry, _: &Reader| {
        let mut found = Vec::new();
        for (name, model) in &registry.models {
            let own = [("name", FieldValue::Text(name))];
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
    RequestFields(asked): RequestFields<Search>,
) -> Result<Json<Value>, Failure> {
    let (filter, order) = (Filter::parse(&asked.filter)?, asked.order()?);
    let answer = move |registry: &Registry, _: &Reader| {
        let mut found = Vec::new();
        for (name, model) in &registry.models {
            for (number, version) in &model.versions {
                let own = [
                    ("name", FieldValue::Text(name)),
                    ("run_id", FieldValue::Text(&version.run)),
                    ("model_id", FieldValue::Text(&version.model)),
                    ("source_path", FieldValue::Text(&version.source)),
                    ("version_number", FieldValue::Number(*number as f64)),
                    ("creation_timestamp", FieldValue::Number(version.created_ms as f64)),
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
            // Newest first, as MLflow does.
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
