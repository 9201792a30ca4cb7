//! Frozen keys that differ between two configurations: what a resume would change.

use std::collections::{BTreeMap, BTreeSet};

use toml::Value;

use crate::error::shown;
use crate::keys::{KEYS, Role};
use crate::types::{Config, ScheduleKind};

/// The frozen keys that are set, with their values as TOML. The run's length is frozen only if the schedule depends on
/// it; otherwise it may be extended later.
pub(crate) fn frozen(config: &Config) -> BTreeMap<String, String> {
    let length_is_frozen = config.schedule.kind == ScheduleKind::Cosine;
    let is_frozen = |path: &str| {
        path.starts_with("model.")
            || KEYS.iter().any(|key| {
                key.path == path
                    && match key.role {
                        Role::Trajectory => true,
                        Role::Length => length_is_frozen,
                        Role::Operational => false,
                    }
            })
    };
    let mut values = BTreeMap::new();
    for (section, keys) in config.to_table() {
        for (name, value) in keys.as_table().into_iter().flatten() {
            let path = format!("{section}.{name}");
            if is_frozen(&path) {
                values.insert(path, sorted(value).to_string());
            }
        }
    }
    // Compare the effective value, not how it was configured.
    values.insert("train.microbatch_size".to_owned(), config.train.microbatch().to_string());
    values
}

/// Sorts the keys of all tables: their order in a file doesn't matter.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Table(table) => {
            let keys: BTreeMap<&String, &Value> = table.iter().collect();
            Value::Table(keys.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        _ => value.clone(),
    }
}

/// One line per frozen key that differs: the key, its value in `old` (the run's), and in `new`.
#[must_use]
pub fn difference(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (frozen(old), frozen(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let said = |value: Option<&String>| value.map_or_else(|| "not set".to_owned(), |value| shown(value));
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let is_length = KEYS.iter().any(|known| known.path == *key && known.role == Role::Length);
            let why = if is_length { " (a cosine schedule depends on the length)" } else { "" };
            format!("{key}: {} in the run, now {}{why}", said(old.get(key)), said(new.get(key)))
        })
        .collect()
}
