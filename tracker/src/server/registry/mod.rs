//! Registered models, their versions and aliases.

mod pages;
mod search;

use axum::extract::State;
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request_fields::{RequestFields, check_key, check_name, check_tag, or_default, pairs_json};
use super::{Failure, Tracker, now_ms, sql};
use crate::clients::documents::{LoggedModel, Registered, Registry, Version};
use crate::clients::events::{Pair, RegistryEvent};
use crate::index::{Amend, Item, Reader, document_in};

pub(super) use pages::routes as page_routes;

pub(super) fn routes() -> Router<Tracker> {
    let alias = get(get_by_alias).post(set_alias).delete(delete_alias);
    Router::new()
        .route("/registered-models/create", post(create))
        .route("/registered-models/get", get(get_model))
        .route("/registered-models/search", get(search::search_models))
        .route("/registered-models/rename", post(rename))
        .route("/registered-models/update", patch(update))
        .route("/registered-models/delete", delete(delete_model))
        .route("/registered-models/get-latest-versions", post(latest_versions).get(latest_versions))
        .route("/registered-models/set-tag", post(set_tag))
        .route("/registered-models/delete-tag", delete(delete_tag))
        .route("/registered-models/alias", alias)
        .route("/model-versions/create", post(create_version))
        .route("/model-versions/get", get(get_version))
        .route("/model-versions/get-download-uri", get(download_uri))
        .route("/model-versions/search", get(search::search_versions))
        .route("/model-versions/update", patch(update_version))
        .route("/model-versions/delete", delete(delete_version))
        .route("/model-versions/set-tag", post(set_tag))
        .route("/model-versions/delete-tag", delete(delete_tag))
}

fn model_json(name: &str, model: &Registered) -> Value {
    let latest =
        model.versions.last_key_value().map(|(number, version)| version_json(name, model, *number, version));
    let aliases: Vec<Value> = model
        .aliases
        .iter()
        .map(|(alias, version)| json!({ "alias": alias, "version": version.to_string() }))
        .collect();
    json!({
        "name": name, "description": model.description, "creation_timestamp": model.created_ms,
        "last_updated_timestamp": model.updated_ms, "tags": pairs_json(&model.tags),
        "latest_versions": latest.into_iter().collect::<Vec<_>>(), "aliases": aliases,
    })
}

fn version_json(name: &str, model: &Registered, number: u64, version: &Version) -> Value {
    let aliases: Vec<&String> =
        model.aliases.iter().filter(|(_, to)| **to == number).map(|(alias, _)| alias).collect();
    json!({
        "name": name, "version": number.to_string(), "creation_timestamp": version.created_ms,
        "last_updated_timestamp": version.updated_ms, "current_stage": "None", "description": version.description,
        "source": version.source, "run_id": version.run, "model_id": version.model, "status": "READY",
        "tags": pairs_json(&version.tags), "aliases": aliases,
    })
}

fn no_model(name: &str) -> Failure {
    Failure::absent(format!("Registered Model with name={name} not found"))
}

fn no_version(name: &str, version: impl std::fmt::Display) -> Failure {
    Failure::absent(format!("Model Version (name={name}, version={version}) not found"))
}

/// The fields of most requests.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
    new_name: String,
    description: Option<String>,
    #[serde(deserialize_with = "or_default")]
    tags: Vec<Pair>,
    #[serde(deserialize_with = "or_default")]
    key: String,
    #[serde(deserialize_with = "or_default")]
    value: String,
    #[serde(deserialize_with = "or_default")]
    version: String,
    #[serde(deserialize_with = "or_default")]
    alias: String,
    #[serde(deserialize_with = "or_default")]
    source: String,
    #[serde(deserialize_with = "or_default")]
    run_id: String,
    #[serde(deserialize_with = "or_default")]
    model_id: String,
}

impl Named {
    fn number(&self) -> Result<u64, Failure> {
        let is_number = |_| Failure::invalid(format!("version = {:?} is no whole number", self.version));
        self.version.parse().map_err(is_number)
    }
}

/// Decides on an event from the current registry, then appends it.
async fn change(
    tracker: &Tracker,
    name: String,
    decide: impl FnOnce(&mut Registry) -> Result<RegistryEvent, Failure> + Send + 'static,
) -> Result<(), Failure> {
    let make = move |connection: &Connection| {
        let mut registry = sql(document_in::<Registry>(connection, ""))?.unwrap_or_default();
        if !registry.models.contains_key(&name) {
            return Err(no_model(&name));
        }
        let event = decide(&mut registry)?;
        Ok((Some(Amend::of(Item::Registry, event)), ()))
    };
    tracker.write(move |index| index.amend(make)).await
}

fn find<'a>(registry: &'a Registry, name: &str) -> Result<&'a Registered, Failure> {
    registry.models.get(name).ok_or_else(|| no_model(name))
}

fn find_version<'a>(registry: &'a Registry, name: &str, number: u64) -> Result<&'a Version, Failure> {
    find(registry, name)?.versions.get(&number).ok_or_else(|| no_version(name, number))
}

async fn with<T: Send + 'static>(
    tracker: &Tracker,
    what: impl FnOnce(&Registry, &Reader) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tracker.read(move |reader| what(&reader.document::<Registry>("")?.unwrap_or_default(), reader)).await
}

async fn model_answer(tracker: &Tracker, name: String) -> Result<Json<Value>, Failure> {
    let answer = move |registry: &Registry, _: &Reader| {
        Ok(Json(json!({ "registered_model": model_json(&name, find(registry, &name)?) })))
    };
    with(tracker, answer).await
}

async fn version_answer(tracker: &Tracker, name: String, number: u64) -> Result<Json<Value>, Failure> {
    let answer = move |registry: &Registry, _: &Reader| {
        let version = find_version(registry, &name, number)?;
        Ok(Json(json!({ "model_version": version_json(&name, find(registry, &name)?, number, version) })))
    };
    with(tracker, answer).await
}

async fn create(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    check_name("registered model", &asked.name)?;
    if asked.name.contains(['/', ':']) {
        let what = format!("Invalid registered model name: {:?} has a slash or a colon", asked.name);
        return Err(Failure::invalid(what));
    }
    asked.tags.iter().try_for_each(check_tag)?;
    let (name, description) = (asked.name.clone(), asked.description.unwrap_or_default());
    let make = move |connection: &Connection| {
        let registry = sql(document_in::<Registry>(connection, ""))?.unwrap_or_default();
        if registry.models.contains_key(&asked.name) {
            return Err(Failure::exists(format!("Registered Model (name={}) already exists.", asked.name)));
        }
        let event =
            RegistryEvent::Created { name: asked.name, description, time_ms: now_ms(), tags: asked.tags };
        Ok((Some(Amend::of(Item::Registry, event)), ()))
    };
    tracker.write(move |index| index.amend(make)).await?;
    model_answer(&tracker, name).await
}

async fn get_model(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    model_answer(&tracker, asked.name).await
}

async fn rename(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    check_name("registered model", &asked.new_name)?;
    let (name, new) = (asked.name.clone(), asked.new_name.clone());
    change(&tracker, asked.name, move |registry| {
        if registry.models.contains_key(&new) {
            return Err(Failure::exists(format!("Registered Model (name={new}) already exists.")));
        }
        Ok(RegistryEvent::Updated { name, new_name: Some(new), description: None, time_ms: now_ms() })
    })
    .await?;
    model_answer(&tracker, asked.new_name).await
}

async fn update(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let (name, description) = (asked.name.clone(), asked.description);
    let event = RegistryEvent::Updated { name, new_name: None, description, time_ms: now_ms() };
    change(&tracker, asked.name.clone(), move |_| Ok(event)).await?;
    model_answer(&tracker, asked.name).await
}

async fn delete_model(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let event = RegistryEvent::Deleted { name: asked.name.clone() };
    change(&tracker, asked.name, move |_| Ok(event)).await?;
    Ok(Json(json!({})))
}

async fn latest_versions(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let answer = move |registry: &Registry, _: &Reader| {
        let model = model_json(&asked.name, find(registry, &asked.name)?);
        Ok(Json(json!({ "model_versions": model["latest_versions"] })))
    };
    with(&tracker, answer).await
}

/// Sets a tag of a model, or of a version if one is named.
async fn set_tag(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let tag = Pair { key: asked.key.clone(), value: asked.value.clone() };
    check_tag(&tag)?;
    let number = if asked.version.is_empty() { None } else { Some(asked.number()?) };
    let name = asked.name.clone();
    change(&tracker, asked.name, move |registry| {
        number.map_or(Ok(()), |number| find_version(registry, &name, number).map(|_| ()))?;
        Ok(RegistryEvent::Tags { name, version: number, tags: vec![tag], time_ms: now_ms() })
    })
    .await?;
    Ok(Json(json!({})))
}

async fn delete_tag(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let number = if asked.version.is_empty() { None } else { Some(asked.number()?) };
    let (name, key) = (asked.name.clone(), asked.key);
    change(&tracker, asked.name, move |registry| {
        number.map_or(Ok(()), |number| find_version(registry, &name, number).map(|_| ()))?;
        Ok(RegistryEvent::TagRemoved { name, version: number, key, time_ms: now_ms() })
    })
    .await?;
    Ok(Json(json!({})))
}

async fn set_alias(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    check_key("alias", &asked.alias)?;
    let is_version =
        asked.alias.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    if asked.alias.eq_ignore_ascii_case("latest") || is_version {
        return Err(Failure::invalid(format!(
            "alias {:?} is reserved: it would be taken for a version",
            asked.alias
        )));
    }
    let (name, number, alias) = (asked.name.clone(), asked.number()?, asked.alias);
    change(&tracker, asked.name, move |registry| {
        find_version(registry, &name, number)?;
        Ok(RegistryEvent::Alias { name, alias, version: number, time_ms: now_ms() })
    })
    .await?;
    Ok(Json(json!({})))
}

async fn delete_alias(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let event =
        RegistryEvent::AliasRemoved { name: asked.name.clone(), alias: asked.alias, time_ms: now_ms() };
    change(&tracker, asked.name, move |_| Ok(event)).await?;
    Ok(Json(json!({})))
}

async fn get_by_alias(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let (name, alias) = (asked.name.clone(), asked.alias);
    let answer = move |registry: &Registry, _: &Reader| {
        let number = find(registry, &name)?.aliases.get(&alias).copied();
        // For this case MLflow's error code is not the one for absent resources.
        number.ok_or_else(|| Failure::invalid(format!("Registered model alias {alias} not found.")))
    };
    let number = with(&tracker, answer).await?;
    version_answer(&tracker, asked.name, number).await
}

async fn create_version(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    if asked.source.is_empty() {
        return Err(Failure::invalid(
            "a model version needs a source, such as models:/m-..., or a run's artifacts",
        ));
    }
    asked.tags.iter().try_for_each(check_tag)?;
    let named = asked.name.clone();
    let make = move |connection: &Connection| {
        let registry = sql(document_in::<Registry>(connection, ""))?.unwrap_or_default();
        let number = find(&registry, &asked.name)?.last_version + 1;
        let event = RegistryEvent::Version {
            name: asked.name,
            version: number,
            source: asked.source,
            run: asked.run_id,
            model: asked.model_id,
            description: asked.description.unwrap_or_default(),
            time_ms: now_ms(),
            tags: asked.tags,
        };
        Ok::<_, Failure>((Some(Amend::of(Item::Registry, event)), number))
    };
    let number = tracker.write(move |index| index.amend(make)).await?;
    version_answer(&tracker, named, number).await
}

async fn get_version(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let number = asked.number()?;
    version_answer(&tracker, asked.name, number).await
}

/// The artifact URI of a version; if its source is a logged model, that model's artifacts.
async fn download_uri(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let number = asked.number()?;
    let answer = move |registry: &Registry, reader: &Reader| {
        let version = find_version(registry, &asked.name, number)?;
        let model = version.source.strip_prefix("models:/");
        let uri =
            match model.map(|id| Ok::<_, Failure>((id, reader.document::<LoggedModel>(id)?))).transpose()? {
                Some((id, Some(model))) => super::logged_models::artifact_uri(id, &model),
                _ => version.source.clone(),
            };
        Ok(Json(json!({ "artifact_uri": uri })))
    };
    with(&tracker, answer).await
}

async fn update_version(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let (name, number, description) = (asked.name.clone(), asked.number()?, asked.description);
    change(&tracker, asked.name.clone(), move |registry| {
        find_version(registry, &name, number)?;
        Ok(RegistryEvent::VersionUpdated { name, version: number, description, time_ms: now_ms() })
    })
    .await?;
    version_answer(&tracker, asked.name, number).await
}

async fn delete_version(
    State(tracker): State<Tracker>,
    RequestFields(asked): RequestFields<Named>,
) -> Result<Json<Value>, Failure> {
    let (name, number) = (asked.name.clone(), asked.number()?);
    change(&tracker, asked.name, move |registry| {
        find_version(registry, &name, number)?;
        Ok(RegistryEvent::VersionDeleted { name, version: number, time_ms: now_ms() })
    })
    .await?;
    Ok(Json(json!({})))
}
