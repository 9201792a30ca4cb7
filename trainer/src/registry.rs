//! Registers tasks by name.

use std::collections::BTreeMap;

use crate::device::OpenDevice;
use crate::engine::Engine;
use crate::error::TrainerError;
use crate::host::DataSpec;
use crate::models::{Cnn, Gpt, Mlp, Resnet};
use crate::task::{ModelConfig, Task};
use crate::task_engine::TaskEngine;

type Build = fn(&ModelConfig, &DataSpec, &OpenDevice) -> Result<Box<dyn Engine>, TrainerError>;

struct Entry {
    schema: u32,
    build: Build,
}

/// The tasks known to a binary. Users add theirs with [`Registry::with`].
#[derive(Default)]
pub struct Registry {
    entries: BTreeMap<String, Entry>,
}

impl Registry {
    /// The built-in models: `mlp`, `cnn`, `resnet` and `gpt`.
    #[must_use]
    pub fn builtin() -> Self {
        Self::default().with::<Mlp>("mlp").with::<Cnn>("cnn").with::<Resnet>("resnet").with::<Gpt>("gpt")
    }

    /// Adds a task, or replaces the one with this name.
    #[must_use]
    pub fn with<T: Task>(mut self, name: &str) -> Self {
        let build: Build = |config, data, device| Ok(Box::new(TaskEngine::<T>::new(config, data, device)?));
        self.entries.insert(name.to_owned(), Entry { schema: T::SCHEMA, build });
        self
    }

    /// Names and schemas, sorted by name.
    #[must_use]
    pub fn names(&self) -> Vec<(String, u32)> {
        self.entries.iter().map(|(name, entry)| (name.clone(), entry.schema)).collect()
    }

    /// Schema of a task, if it is registered.
    #[must_use]
    pub fn schema(&self, name: &str) -> Option<u32> {
        self.entries.get(name).map(|entry| entry.schema)
    }

    /// Builds the task `kind` on the device. Its parameters are undefined until [`Engine::initialise`] or
    /// [`Engine::write_parameters`].
    ///
    /// # Errors
    /// If the kind is unknown, the configuration is invalid, the data don't fit, the device doesn't support the data's
    /// precision, or the module has state that a retried step would update twice.
    pub fn build(
        &self,
        kind: &str,
        config: &ModelConfig,
        data: &DataSpec,
        device: &OpenDevice,
    ) -> Result<Box<dyn Engine>, TrainerError> {
        let Some(entry) = self.entries.get(kind) else {
            let known: Vec<&str> = self.entries.keys().map(String::as_str).collect();
            let near = configs::nearest(kind, known.iter().copied());
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            return Err(TrainerError::Config(format!(
                "model.kind = {kind:?} is not known to this binary; it has {}{hint}",
                known.join(", ")
            )));
        };
        device.check_precision(data.precision)?;
        (entry.build)(config, data, device)
    }
}
