//! Which trajectory keys differ between two configurations: what a resume would change.

use std::collections::BTreeMap;

use crate::keys::KEYS;
use crate::types::Config;

/// The trajectory keys that have a value, with it, as TOML. `train.steps` and `train.epochs` count only where the
/// schedule depends on the run's length: else more of either may be added later.
pub(crate) fn trajectory(config: &Config) -> BTreeMap<String, String> {
    let depends_on_length = config.schedule.kind == crate::ScheduleKind::Cosine;
    let mut values = BTreeMap::new();
    for (section, keys) in toml::Table::try_from(config).unwrap_or_default() {
        for (name, value) in keys.as_table().into_iter().flatten() {
            let path = format!("{section}.{name}");
            let is_length = path == "train.steps" || path == "train.epochs";
            let is_trajectory =
                section == "model" || KEYS.iter().any(|key| key.path == path && key.trajectory);
            if is_trajectory && (depends_on_length || !is_length) && path != "dataset.uri" {
                values.insert(path, value.to_string());
            }
        }
    }
    // What the default works out to is what counts.
    values.insert("train.microbatch_size".to_owned(), config.train.microbatch().to_string());
    values
}

/// A line for each trajectory key that differs: the key, then its value in `old` and in `new`.
#[must_use]
pub fn difference(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (trajectory(old), trajectory(new));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let said = |value: Option<&String>| value.cloned().unwrap_or_else(|| "not set".to_owned());
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| format!("{key}: {} in the run, now {}", said(old.get(key)), said(new.get(key))))
        .collect()
}
