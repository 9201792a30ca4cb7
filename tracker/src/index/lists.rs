//! Lists to choose from: experiments, and keys of metrics and parameters.

use serde::Serialize;

use super::documents::DEFAULT_ID;
use super::{IndexError, Reader};
use crate::clients::documents::Experiment;

/// An experiment in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ExperimentRow {
    /// The experiment's id.
    pub id: String,
    /// The experiment's name.
    pub name: String,
    /// The number of its runs, without deleted ones.
    pub runs: i64,
}

/// A key and the number of runs that have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KeyCount {
    /// As logged: `train/loss`.
    pub key: String,
    /// The number of runs.
    pub runs: i64,
}

impl Reader {
    /// Experiments that are not deleted, each with its number of runs.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn experiments(&self) -> Result<Vec<ExperimentRow>, IndexError> {
        let mut rows = Vec::new();
        let default = self.experiment(DEFAULT_ID)?.map(|found| (DEFAULT_ID.to_owned(), found));
        let others = self.documents::<Experiment>()?.into_iter().filter(|(id, _)| id != DEFAULT_ID);
        for (id, experiment) in default.into_iter().chain(others) {
            if experiment.stage != "active" {
                continue;
            }
            let text = "SELECT count(*) FROM runs WHERE experiment = ? AND stage = 'active'";
            let runs = self.sql(self.connection.query_row(text, [&id], |row| row.get(0)))?;
            rows.push(ExperimentRow { id, name: experiment.name, runs });
        }
        Ok(rows)
    }

    /// All keys of metrics (`true`) or parameters (`false`), for choosing columns.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn keys(&self, metrics: bool) -> Result<Vec<KeyCount>, IndexError> {
        let text = if metrics {
            "SELECT k.name, count(*) FROM latest l JOIN keys k ON k.id = l.key GROUP BY l.key ORDER BY k.name"
        } else {
            "SELECT key, count(*) FROM params GROUP BY key ORDER BY key"
        };
        let read = || -> rusqlite::Result<Vec<KeyCount>> {
            let mut find = self.connection.prepare_cached(text)?;
            find.query_map([], |row| Ok(KeyCount { key: row.get(0)?, runs: row.get(1)? }))?.collect()
        };
        self.sql(read())
    }
}
