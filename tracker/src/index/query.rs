//! Queries for runs: in a list, and with all details.

use std::collections::BTreeMap;
use std::path::Path;

use run_record::number;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use serde_json::Value;

use super::{IndexError, Kind, Page, Reader, Select};
use crate::clients::documents::{Experiment, Pairs};
use crate::index::documents::DEFAULT_ID;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RunRow {
    pub(crate) row: i64,
    pub(crate) uuid: String,
    pub(crate) kind: Kind,
    pub(crate) folder: String,
    pub(crate) experiment: String,
    pub(crate) name: String,
    pub(crate) user: String,
    /// MLflow's status word.
    pub(crate) status: String,
    /// `active` or `deleted`.
    pub(crate) stage: String,
    pub(crate) start_ms: Option<i64>,
    pub(crate) end_ms: Option<i64>,
    /// Increases with every change.
    pub(crate) changed: i64,
}

impl RunRow {
    pub(super) const COLUMNS: &str = "r.id, r.uuid, r.kind, r.folder, r.experiment, r.name, r.user, r.status, \
                                      r.stage, r.start_ms, r.end_ms, r.changed";

    pub(super) fn read(row: &Row) -> rusqlite::Result<Self> {
        Ok(Self {
            row: row.get(0)?,
            uuid: row.get(1)?,
            kind: Kind::of(row.get(2)?),
            folder: row.get(3)?,
            experiment: row.get(4)?,
            name: row.get(5)?,
            user: row.get(6)?,
            status: row.get(7)?,
            stage: row.get(8)?,
            start_ms: row.get(9)?,
            end_ms: row.get(10)?,
            changed: row.get(11)?,
        })
    }

    /// The run's status in the words of `run.json`.
    fn state(&self) -> &'static str {
        match self.status.as_str() {
            "FINISHED" => "completed",
            "KILLED" => "interrupted",
            "FAILED" => "failed",
            _ => "running",
        }
    }
}

/// A run in a list.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RunSummary {
    /// The run's id.
    pub id: String,
    /// The run's name.
    pub name: String,
    /// The program that wrote it.
    pub kind: Kind,
    /// The experiment's id.
    pub experiment_id: String,
    /// The experiment's name.
    pub experiment: String,
    /// `running`, `completed`, `interrupted` or `failed`.
    pub status: &'static str,
    /// `active` or `deleted`.
    pub stage: String,
    /// When it began, if known, in milliseconds since 1970.
    pub start_ms: Option<i64>,
    /// When it ended, if it has, in milliseconds since 1970.
    pub end_ms: Option<i64>,
    /// When its newest metric was recorded, in milliseconds since 1970.
    pub updated_ms: Option<i64>,
    /// The greatest step of its metrics, ignoring the readings of machines and workers.
    pub step: Option<i64>,
    /// Increases with every change of the run.
    pub revision: i64,
    /// Latest values of the requested metrics.
    #[serde(serialize_with = "serialize_values")]
    pub metrics: BTreeMap<String, f64>,
    /// The requested parameters.
    pub params: BTreeMap<String, String>,
    /// The requested tags.
    pub tags: BTreeMap<String, String>,
}

fn serialize_values<S: serde::Serializer>(values: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(values.iter().map(|(key, value)| (key, number::to_json(*value))))
}

/// A metric's newest value and the summary of its history.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MetricNow {
    /// The metric's key.
    pub key: String,
    /// The newest value.
    #[serde(serialize_with = "number::serialize")]
    pub value: f64,
    /// The newest value's step.
    pub step: i64,
    /// When it was recorded, in milliseconds since 1970.
    pub time_ms: i64,
    /// The number of values.
    pub count: i64,
    /// The least value, ignoring NaN.
    #[serde(serialize_with = "number::serialize_some")]
    pub minimum: Option<f64>,
    /// The greatest value, ignoring NaN.
    #[serde(serialize_with = "number::serialize_some")]
    pub maximum: Option<f64>,
}

/// A checkpoint in a run's folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Checkpoint {
    /// The step of the state.
    pub step: u64,
    /// When it was written, in seconds since 1970.
    pub created: u64,
    /// BLAKE3 of the model's tensors.
    pub digest: String,
    /// Size of its files in bytes.
    pub bytes: u64,
}

/// A run with all details.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RunWhole {
    /// As in a list, but without metrics, params and tags.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// The run's folder on the tracker's machine.
    pub folder: String,
    /// Parameters: for a run of Bonfire its configuration, with dotted keys.
    pub config: Pairs,
    /// Tags and notes.
    pub all_tags: Pairs,
    /// Every metric's newest value.
    pub latest: Vec<MetricNow>,
    /// Input datasets, in MLflow's format.
    pub inputs: Vec<Value>,
    /// `run.json` verbatim; null for a client's run.
    pub record: Value,
    /// The run's checkpoints, newest first.
    pub checkpoints: Vec<Checkpoint>,
    /// The number of invalid lines in its files.
    pub damaged_lines: i64,
}

/// The columns of a list unless others are requested.
pub const COLUMNS: [&str; 3] =
    ["metrics.train/loss", "metrics.validation/loss", "metrics.validation/accuracy"];

impl Reader {
    /// Lists runs. `columns` names the values that come with each: `metrics.KEY`, `params.KEY`, `tags.KEY`.
    ///
    /// # Errors
    /// When the filter or order is invalid, or SQLite fails.
    pub fn runs(&self, select: &Select, columns: &[&str]) -> Result<Page<RunSummary>, IndexError> {
        let page = self.select(select)?;
        let experiments: BTreeMap<String, Experiment> = self.documents::<Experiment>()?.into_iter().collect();
        let mut items = Vec::new();
        for row in page.items {
            items.push(self.summary(&row, columns, &experiments)?);
        }
        Ok(Page { items, next: page.next })
    }

    pub(crate) fn row(&self, uuid: &str) -> Result<Option<RunRow>, IndexError> {
        self.sql(run_row(&self.connection, uuid))
    }

    /// A run as in a list; `None` if no run has this id.
    ///
    /// # Errors
    /// When SQLite fails.
    pub(crate) fn listed(&self, id: &str, columns: &[&str]) -> Result<Option<RunSummary>, IndexError> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let experiment = self.experiment(&row.experiment)?.map(|found| (row.experiment.clone(), found));
        self.summary(&row, columns, &experiment.into_iter().collect()).map(Some)
    }

    /// A run with all details; `None` if no run has this id.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn run(&self, id: &str) -> Result<Option<RunWhole>, IndexError> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let Some(summary) = self.listed(id, &[])? else { return Ok(None) };
        let body: String =
            self.sql(
                self.connection.query_row("SELECT body FROM runs WHERE id = ?", [row.row], |r| r.get(0)),
            )?;
        let damaged =
            "SELECT coalesce(sum(damaged), 0) FROM files WHERE path > ?1 || '/' AND path < ?1 || '0'";
        let folder = self.root().join(&row.folder);
        Ok(Some(RunWhole {
            summary,
            folder: folder.canonicalize().unwrap_or_else(|_| folder.clone()).display().to_string(),
            config: self.pairs("params", row.row)?,
            all_tags: self.pairs("tags", row.row)?,
            latest: self.latest(row.row)?,
            inputs: self.inputs(row.row)?,
            record: serde_json::from_str(&body).unwrap_or(Value::Null),
            checkpoints: checkpoints(&folder),
            damaged_lines: self.sql(self.connection.query_row(damaged, [&row.folder], |r| r.get(0)))?,
        }))
    }

    fn summary(
        &self,
        row: &RunRow,
        columns: &[&str],
        experiments: &BTreeMap<String, Experiment>,
    ) -> Result<RunSummary, IndexError> {
        // Readings of machines count readings, not steps.
        let times =
            "SELECT max(l.time), max(CASE WHEN k.name GLOB 'system/*' OR k.name GLOB 'workers/*' THEN NULL
                     ELSE l.step END) FROM latest l JOIN keys k ON k.id = l.key WHERE l.run = ?";
        let times = self.connection.prepare_cached(times);
        let times = times.and_then(|mut t| t.query_row([row.row], |r| Ok((r.get(0)?, r.get(1)?))));
        let (updated_ms, step) = self.sql(times)?;
        let experiment = match experiments.get(&row.experiment) {
            Some(found) => found.name.clone(),
            None if row.experiment == DEFAULT_ID => super::documents::DEFAULT_NAME.to_owned(),
            None => String::new(),
        };
        let mut summary = RunSummary {
            id: row.uuid.clone(),
            name: row.name.clone(),
            kind: row.kind,
            experiment_id: row.experiment.clone(),
            experiment,
            status: row.state(),
            stage: row.stage.clone(),
            start_ms: row.start_ms,
            end_ms: row.end_ms,
            updated_ms,
            step,
            revision: row.changed,
            metrics: BTreeMap::new(),
            params: BTreeMap::new(),
            tags: BTreeMap::new(),
        };
        for column in columns {
            self.column(row.row, column, &mut summary)?;
        }
        Ok(summary)
    }

    fn column(&self, run: i64, column: &str, summary: &mut RunSummary) -> Result<(), IndexError> {
        let Some((kind, key)) = column.split_once('.') else { return Ok(()) };
        if kind == "metrics" {
            let text =
                "SELECT value FROM latest WHERE run = ? AND key = (SELECT id FROM keys WHERE name = ?)";
            let value = self.connection.prepare_cached(text).and_then(|mut find| {
                find.query_row(rusqlite::params![run, key], |row| row.get::<_, Option<f64>>(0)).optional()
            });
            if let Some(value) = self.sql(value)? {
                summary.metrics.insert(key.to_owned(), value.unwrap_or(f64::NAN));
            }
            return Ok(());
        }
        let (table, into) = match kind {
            "params" => ("params", &mut summary.params),
            "tags" => ("tags", &mut summary.tags),
            _ => return Ok(()),
        };
        let text = format!("SELECT value FROM {table} WHERE run = ? AND key = ?");
        let value = self
            .connection
            .prepare_cached(&text)
            .and_then(|mut find| find.query_row(rusqlite::params![run, key], |row| row.get(0)).optional());
        if let Some(value) = self.sql(value)? {
            into.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// A run's parameters or tags; `table` is never user input.
    pub(crate) fn pairs(&self, table: &'static str, run: i64) -> Result<Pairs, IndexError> {
        let read = || -> rusqlite::Result<Pairs> {
            let text = format!("SELECT key, value FROM {table} WHERE run = ?");
            let mut find = self.connection.prepare_cached(&text)?;
            find.query_map([run], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        self.sql(read())
    }

    pub(crate) fn latest(&self, run: i64) -> Result<Vec<MetricNow>, IndexError> {
        let text = "SELECT k.name, l.value, l.step, l.time, l.count, l.minimum, l.maximum
                    FROM latest l JOIN keys k ON k.id = l.key WHERE l.run = ? ORDER BY k.name";
        let read = || -> rusqlite::Result<Vec<MetricNow>> {
            let mut find = self.connection.prepare_cached(text)?;
            let metric = |row: &Row| {
                Ok(MetricNow {
                    key: row.get(0)?,
                    value: row.get::<_, Option<f64>>(1)?.unwrap_or(f64::NAN),
                    step: row.get(2)?,
                    time_ms: row.get(3)?,
                    count: row.get(4)?,
                    minimum: row.get(5)?,
                    maximum: row.get(6)?,
                })
            };
            find.query_map([run], metric)?.collect()
        };
        self.sql(read())
    }

    pub(crate) fn inputs(&self, run: i64) -> Result<Vec<Value>, IndexError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut find = self.connection.prepare_cached("SELECT body FROM inputs WHERE run = ?")?;
            find.query_map([run], |row| row.get(0))?.collect()
        };
        let bodies = self.sql(read())?;
        Ok(bodies.iter().filter_map(|body| serde_json::from_str(body).ok()).collect())
    }

    /// A run's input models (`false`) or output models (`true`), each with its step.
    pub(crate) fn models(&self, run: i64, is_output: bool) -> Result<Vec<(String, i64)>, IndexError> {
        let read = || -> rusqlite::Result<Vec<(String, i64)>> {
            let text = "SELECT model, step FROM models WHERE run = ? AND is_output = ?";
            let mut find = self.connection.prepare_cached(text)?;
            find.query_map(rusqlite::params![run, is_output], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        self.sql(read())
    }
}

pub(crate) fn run_row(connection: &Connection, uuid: &str) -> rusqlite::Result<Option<RunRow>> {
    let text = format!("SELECT {} FROM runs r WHERE r.uuid = ?", RunRow::COLUMNS);
    connection.prepare_cached(&text)?.query_row([uuid], RunRow::read).optional()
}

/// A run's checkpoints by their manifests; a folder without a valid manifest is no checkpoint.
fn checkpoints(run: &Path) -> Vec<Checkpoint> {
    let folder = run.join("checkpoints");
    let steps = store::versions::list(&folder).unwrap_or_default();
    let read = |step: u64| {
        let path = store::versions::folder(&folder, step).join(store::versions::MANIFEST);
        let manifest = store::versions::Manifest::from_bytes(&std::fs::read(path).ok()?).ok()?;
        let bytes = manifest.files.iter().map(|file| file.size).sum();
        Some(Checkpoint { step, created: manifest.created, digest: manifest.digest, bytes })
    };
    steps.into_iter().filter_map(read).collect()
}
