//! Documents folded from a file's events: experiments, logged models, registered models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::events::{ExperimentEvent, ModelEvent, Pair, RegistryEvent};

/// The state that a file's events fold into.
pub(crate) trait Document: Serialize + DeserializeOwned + Default {
    type Event: DeserializeOwned;
    /// The document's kind in the index.
    const KIND: &'static str;
    fn apply(&mut self, event: Self::Event);
}

/// Tags or parameters by key.
pub(crate) type Pairs = BTreeMap<String, String>;

fn put(into: &mut Pairs, pairs: Vec<Pair>) {
    into.extend(pairs.into_iter().map(|pair| (pair.key, pair.value)));
}

/// An experiment: a named folder of runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Experiment {
    pub(crate) name: String,
    /// `active` or `deleted`.
    pub(crate) stage: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) tags: Pairs,
    /// Derived from runs of Bonfire; no client created it.
    #[serde(default)]
    pub(crate) is_derived: bool,
}

impl Document for Experiment {
    type Event = ExperimentEvent;
    const KIND: &'static str = "experiment";

    fn apply(&mut self, event: ExperimentEvent) {
        let at = match event {
            ExperimentEvent::Created { name, time_ms, tags } => {
                *self = Self { name, stage: "active".into(), created_ms: time_ms, ..Self::default() };
                put(&mut self.tags, tags);
                time_ms
            }
            ExperimentEvent::Renamed { name, time_ms } => {
                self.name = name;
                time_ms
            }
            ExperimentEvent::Tags { tags, time_ms } => {
                put(&mut self.tags, tags);
                time_ms
            }
            ExperimentEvent::TagRemoved { key, time_ms } => {
                self.tags.remove(&key);
                time_ms
            }
            ExperimentEvent::Stage { stage, time_ms } => {
                self.stage = stage;
                time_ms
            }
        };
        self.updated_ms = at;
    }
}

/// A model that a client logged.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct LoggedModel {
    pub(crate) experiment: String,
    pub(crate) name: String,
    pub(crate) model_type: String,
    pub(crate) run: String,
    pub(crate) status: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) params: Pairs,
    pub(crate) tags: Pairs,
    pub(crate) is_deleted: bool,
}

impl Document for LoggedModel {
    type Event = ModelEvent;
    const KIND: &'static str = "model";

    fn apply(&mut self, event: ModelEvent) {
        let at = match event {
            ModelEvent::Created { experiment, name, model_type, run, time_ms, params, tags } => {
                let status = "LOGGED_MODEL_PENDING".into();
                let created_ms = time_ms;
                *self = Self { experiment, name, model_type, run, status, created_ms, ..Self::default() };
                put(&mut self.params, params);
                put(&mut self.tags, tags);
                time_ms
            }
            ModelEvent::Status { status, time_ms } => {
                self.status = status;
                time_ms
            }
            ModelEvent::Params { params, time_ms } => {
                put(&mut self.params, params);
                time_ms
            }
            ModelEvent::Tags { tags, time_ms } => {
                put(&mut self.tags, tags);
                time_ms
            }
            ModelEvent::TagRemoved { key, time_ms } => {
                self.tags.remove(&key);
                time_ms
            }
            ModelEvent::Deleted { time_ms } => {
                self.is_deleted = true;
                time_ms
            }
        };
        self.updated_ms = at;
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) source: String,
    pub(crate) run: String,
    pub(crate) model: String,
    pub(crate) description: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) tags: Pairs,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub(crate) description: String,
    pub(crate) created_ms: i64,
    pub(crate) updated_ms: i64,
    pub(crate) tags: Pairs,
    pub(crate) versions: BTreeMap<u64, Version>,
    /// The greatest version number ever assigned.
    pub(crate) last_version: u64,
    pub(crate) aliases: BTreeMap<String, u64>,
}

/// All registered models by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Registry {
    pub(crate) models: BTreeMap<String, Registered>,
}

impl Registered {
    fn tags_of(&mut self, version: Option<u64>, time_ms: i64) -> Option<&mut Pairs> {
        self.updated_ms = time_ms;
        let Some(number) = version else { return Some(&mut self.tags) };
        let version = self.versions.get_mut(&number)?;
        version.updated_ms = time_ms;
        Some(&mut version.tags)
    }
}

impl Registry {
    fn change(&mut self, name: &str, time_ms: i64, how: impl FnOnce(&mut Registered)) {
        if let Some(model) = self.models.get_mut(name) {
            model.updated_ms = time_ms;
            how(model);
        }
    }

    fn update(&mut self, name: &str, new_name: Option<String>, description: Option<String>, time_ms: i64) {
        let Some(mut model) = self.models.remove(name) else { return };
        model.updated_ms = time_ms;
        model.description = description.unwrap_or(model.description);
        self.models.insert(new_name.unwrap_or_else(|| name.to_owned()), model);
    }
}

impl Document for Registry {
    type Event = RegistryEvent;
    const KIND: &'static str = "registry";

    fn apply(&mut self, event: RegistryEvent) {
        match event {
            RegistryEvent::Created { name, description, time_ms, tags } => {
                let (created_ms, updated_ms) = (time_ms, time_ms);
                let mut model = Registered { description, created_ms, updated_ms, ..Registered::default() };
                put(&mut model.tags, tags);
                self.models.insert(name, model);
            }
            RegistryEvent::Updated { name, new_name, description, time_ms } => {
                self.update(&name, new_name, description, time_ms);
            }
            RegistryEvent::Deleted { name } => {
                self.models.remove(&name);
            }
            RegistryEvent::Tags { name, version, tags, time_ms } => {
                if let Some(into) = self.models.get_mut(&name).and_then(|m| m.tags_of(version, time_ms)) {
                    put(into, tags);
                }
            }
            RegistryEvent::TagRemoved { name, version, key, time_ms } => {
                if let Some(from) = self.models.get_mut(&name).and_then(|m| m.tags_of(version, time_ms)) {
                    from.remove(&key);
                }
            }
            RegistryEvent::Version { name, version, source, run, model, description, time_ms, tags } => {
                let (created_ms, updated_ms) = (time_ms, time_ms);
                let mut new =
                    Version { source, run, model, description, created_ms, updated_ms, tags: Pairs::new() };
                put(&mut new.tags, tags);
                self.change(&name, time_ms, |model| {
                    model.last_version = model.last_version.max(version);
                    model.versions.insert(version, new);
                });
            }
            RegistryEvent::VersionUpdated { name, version, description, time_ms } => {
                self.change(&name, time_ms, |model| {
                    if let Some(version) = model.versions.get_mut(&version) {
                        version.updated_ms = time_ms;
                        version.description = description.unwrap_or_default();
                    }
                });
            }
            RegistryEvent::VersionDeleted { name, version, time_ms } => {
                self.change(&name, time_ms, |model| {
                    model.versions.remove(&version);
                    model.aliases.retain(|_, to| *to != version);
                });
            }
            RegistryEvent::Alias { name, alias, version, time_ms } => {
                self.change(&name, time_ms, |model| {
                    model.aliases.insert(alias, version);
                });
            }
            RegistryEvent::AliasRemoved { name, alias, time_ms } => {
                self.change(&name, time_ms, |model| {
                    model.aliases.remove(&alias);
                });
            }
        }
    }
}
