//! Which run of which experiment of which server.

use super::Address;
use crate::config::{Environment, SinkConfigError};

/// Where a run is sent.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(super) address: Address,
    pub(super) experiment: Experiment,
    /// Of a run that is there already, such as one that a scheduler made: MLFLOW_RUN_ID.
    pub(super) run: Option<String>,
    /// The run's name over there, if it isn't its own: MLFLOW_RUN_NAME.
    pub(super) run_name: Option<String>,
}

/// An experiment over there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Experiment {
    /// It is made if it isn't there.
    Named(String),
    /// MLFLOW_EXPERIMENT_ID: it must be there.
    Numbered(String),
    /// The environment has both, and they must mean the same one.
    Both { name: String, id: String },
}

impl Target {
    /// `experiment` goes before the environment's, and `stem` stands in.
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

    /// The server's address, without credentials.
    pub(crate) fn shown(&self) -> &str {
        self.address.shown()
    }

    /// What tells it from other places, without credentials.
    pub(crate) fn destination(&self) -> String {
        let run = self.run.as_ref().map(|run| format!(", run {run}")).unwrap_or_default();
        match &self.experiment {
            Experiment::Named(name) => format!("{}, experiment {name}{run}", self.shown()),
            Experiment::Both { name, id } => format!("{}, experiment {name}, number {id}{run}", self.shown()),
            Experiment::Numbered(id) => format!("{}, experiment number {id}{run}", self.shown()),
        }
    }

    /// The experiment for a command line, if it has a name.
    pub(crate) fn experiment_name(&self) -> Option<&str> {
        match &self.experiment {
            Experiment::Named(name) | Experiment::Both { name, .. } => Some(name),
            Experiment::Numbered(_) => None,
        }
    }

    /// What must be in the environment of a command that means the same place, as a POSIX shell has it before a command.
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
