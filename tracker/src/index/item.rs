//! What is followed: experiments, runs, logged models and registered models, each with its files.

use run_record::RunRecord;

use super::Kind;
use crate::clients::{self, EVENTS, NOTES, REGISTRY};

/// The followed files of a run of Bonfire.
pub(super) const RUN_FILES: [&str; 5] =
    [RunRecord::FILE, "config.toml", NOTES, "metrics.jsonl", "system.jsonl"];

/// A unit of following: its files are read in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    Experiment(String),
    /// A client's run: experiment and run.
    Client(String, String),
    /// A logged model: experiment and model.
    Model(String, String),
    Registry,
    /// A run of Bonfire, by its folder.
    Bonfire(String),
}

impl Item {
    /// The item that a run's row belongs to.
    pub(crate) fn of_run(kind: Kind, folder: &str, experiment: &str, uuid: &str) -> Self {
        match kind {
            Kind::Bonfire => Self::Bonfire(folder.to_owned()),
            Kind::Client => Self::Client(experiment.to_owned(), uuid.to_owned()),
        }
    }

    /// The run's folder relative to the runs folder, if the item is a run.
    pub(super) fn run_folder(&self) -> Option<String> {
        match self {
            Self::Bonfire(folder) => Some(folder.clone()),
            Self::Client(experiment, run) => Some(clients::run_folder(experiment, run)),
            _ => None,
        }
    }

    /// The item's files, relative to the runs folder.
    pub(super) fn files(&self) -> Vec<String> {
        match self {
            Self::Experiment(experiment) => vec![clients::experiment_file(experiment)],
            Self::Client(experiment, run) => {
                vec![format!("{}/{EVENTS}", clients::run_folder(experiment, run))]
            }
            Self::Model(experiment, model) => {
                vec![format!("{}/{EVENTS}", clients::model_folder(experiment, model))]
            }
            Self::Registry => vec![REGISTRY.to_owned()],
            Self::Bonfire(folder) => RUN_FILES.iter().map(|file| format!("{folder}/{file}")).collect(),
        }
    }
}
