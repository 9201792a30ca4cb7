//! The target of a run: server, experiment and run.

use super::Address;
use crate::config::{Environment, SinkConfigError};

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(super) address: Address,
    pub(super) experiment: Experiment,
    /// Id of an existing run, such as one that a scheduler created: MLFLOW_RUN_ID.
    pub(super) run: Option<String>,
    /// The run's name on the server, if it differs from its own: MLFLOW_RUN_NAME.
    pub(super) run_name: Option<String>,
}

/// An experiment on the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Experiment {
    /// Created if it doesn't exist.
    Named(String),
    /// MLFLOW_EXPERIMENT_ID: it must exist.
    Numbered(String),
    /// The environment gives both, and they must refer to the same one.
    Both { name: String, id: String },
}

impl Target {
    /// `experiment` overrides the environment's, and `stem` is the default.
    pub(crate) fn new(
        uri: &str,
        experiment: Option<&str>,
        stem: &str,
        environment: Environment<'_>,
    ) -> Result<Self, SinkConfigError> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let (name, id) = (set("MLFLOW_EXPERIMENT_NAME"), set("MLFLOW_EXPERIMENT_ID"));
        let experiment = match (experiment, name, id) {
            (Some(named), ..) => Experiment::Named(named.to_owned()),
            (None, Some(name), Some(id)) => Experiment::Both { name, id },
            (None, Some(name), None) => Experiment::Named(name),
            (None, None, Some(id)) => Experiment::Numbered(id),
            (None, None, None) => Experiment::Named(stem.to_owned()),
        };
        let (run, run_name) = (set("MLFLOW_RUN_ID"), set("MLFLOW_RUN_NAME"));
        Ok(Self { address: Address::new(uri, environment)?, experiment, run, run_name })
    }

    pub(crate) fn shown(&self) -> &str {
        self.address.shown()
    }

    /// Identifies the target among others, without credentials.
    pub(crate) fn destination(&self) -> String {
        let run = self.run.as_ref().map(|run| format!(", run {run}")).unwrap_or_default();
        match &self.experiment {
            Experiment::Named(name) => format!("{}, experiment {name}{run}", self.shown()),
            Experiment::Both { name, id } => format!("{}, experiment {name}, number {id}{run}", self.shown()),
            Experiment::Numbered(id) => format!("{}, experiment number {id}{run}", self.shown()),
        }
    }

    /// The experiment's name for a command line, if it has one.
    pub(crate) fn experiment_name(&self) -> Option<&str> {
        match &self.experiment {
            Experiment::Named(name) | Experiment::Both { name, .. } => Some(name),
            Experiment::Numbered(_) => None,
        }
    }

    /// Environment variables that a command needs to address the same target.
    pub(crate) fn variables(&self) -> Vec<(&'static str, &str)> {
        let mut variables = Vec::new();
        if let Experiment::Numbered(id) = &self.experiment {
            variables.push(("MLFLOW_EXPERIMENT_ID", id.as_str()));
        }
        variables.extend(self.run.as_deref().map(|run| ("MLFLOW_RUN_ID", run)));
        variables.extend(self.run_name.as_deref().map(|name| ("MLFLOW_RUN_NAME", name)));
        variables
    }
}
