//! A run's tags and dataset on MLflow's pages.

use serde_json::{Value, json};

use super::names;
use crate::{RunFolder, SinkError, origin};

/// MLflow's limit on a dataset's digest.
const DIGEST_CHARS_MAX: usize = 36;

/// A tag within MLflow's limits.
pub(super) fn tag(key: &str, value: &str) -> Value {
    json!({ "key": names::key(key), "value": names::value(value, names::TAG_CHARS_MAX) })
}

/// The user who started this process.
pub(super) fn user() -> String {
    let variable = |name| std::env::var(name).ok().filter(|user: &String| !user.is_empty());
    variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_default()
}

/// The tags that are known when the run is created, except for its name.
pub(super) fn origin(run: &RunFolder) -> Result<Vec<Value>, SinkError> {
    let record = run.record()?;
    let path = std::path::absolute(run.path()).unwrap_or_else(|_| run.path().to_owned());
    let known = [
        (super::RUN_ID_TAG, Some(record.id.clone())),
        ("mlflow.user", Some(user())),
        ("mlflow.source.name", Some("coordinator".to_owned())),
        ("mlflow.source.type", Some("LOCAL".to_owned())),
        ("bonfire.config_digest", Some(record.config_digest.clone())),
        ("bonfire.seed", Some(record.seed.to_string())),
        ("bonfire.dataset", Some(record.dataset.version.clone())),
        ("bonfire.run_dir", Some(path.display().to_string())),
    ];
    Ok(tags(known))
}

/// The tags that change while the run goes on, and its origin, which is known a moment after it began.
pub(super) fn standing(run: &RunFolder) -> Result<Vec<Value>, SinkError> {
    let record = run.record()?;
    let present = record.members.iter().filter(|member| member.left_step.is_none());
    let members: Vec<&str> = present.map(|member| member.name.as_str()).collect();
    let event = record.events.last().map(|event| format!("step {}: {}", event.step, event.text));
    let digest = &record.final_state.digest;
    let checkpoints = run.path().join("checkpoints");
    let newest = store::versions::list(&checkpoints).ok().and_then(|steps| steps.into_iter().max());
    let checkpoints = std::path::absolute(&checkpoints).unwrap_or(checkpoints);
    let known = [
        ("bonfire.step", Some(record.final_state.step.to_string())),
        ("bonfire.final_digest", Some(digest.clone())),
        ("bonfire.checkpoints", Some(checkpoints.display().to_string()).filter(|_| !digest.is_empty())),
        ("bonfire.checkpoint", newest.map(|step| step.to_string())),
        ("bonfire.members", Some(members.join(", "))),
        ("bonfire.views", Some(record.views.to_string())),
        ("bonfire.retries", Some(record.retries.to_string())),
        ("bonfire.exact", Some(record.exact.to_string())),
        ("bonfire.last_event", event),
        ("bonfire.message", Some(record.message.clone())),
    ];
    let mut standing = tags(known);
    for (name, value) in origin::origin(run, &record)? {
        let owner = if name.starts_with("git.") { "mlflow.source" } else { "bonfire" };
        standing.push(tag(&format!("{owner}.{name}"), &value));
    }
    Ok(standing)
}

fn tags<const N: usize>(known: [(&str, Option<String>); N]) -> Vec<Value> {
    let said = known.into_iter().filter_map(|(key, value)| Some((key, value?)));
    said.filter(|(_, value)| !value.is_empty()).map(|(key, value)| tag(key, &value)).collect()
}

/// The run's inputs, for `runs/log-inputs`: from its record, otherwise derived from its dataset.
pub(super) fn inputs(run: &RunFolder) -> Result<Vec<Value>, SinkError> {
    let inputs = run.raw_record()?["provenance"]["inputs"].take();
    if let Value::Array(inputs) = inputs
        && !inputs.is_empty()
    {
        return Ok(inputs);
    }
    let (dataset, config) = (run.record()?.dataset, run.config()?);
    let uri = config.get("dataset").and_then(|dataset| dataset.get("uri")).and_then(toml::Value::as_str);
    let digest: String = dataset.digest.chars().take(DIGEST_CHARS_MAX).collect();
    Ok(vec![json!({
        "tags": [{ "key": "mlflow.data.context", "value": "training" }],
        "dataset": {
            "name": dataset.name, "digest": digest, "source_type": "local",
            "source": json!({ "uri": uri.unwrap_or_default() }).to_string(),
        },
    })])
}
