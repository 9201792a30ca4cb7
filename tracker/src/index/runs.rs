//! Indexes runs of Bonfire from their folders.

use std::io::{BufRead, BufReader};
use std::path::Path;

use run_record::provenance::{DatasetInput, Input, Tag};
use run_record::{Metric, RunRecord, RunStatus};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::incremental_read::Follow;
use super::item::RUN_FILES;
use super::values::{self, Sample, Writer};
use super::{IndexError, Kind, documents};
use crate::clients::NOTES;
use crate::clients::events::{NoteEvent, Pair};

/// Maximum bytes of a metrics file's first line that are read for its time.
const FIRST_LINE_MAX: u64 = 4096;

/// Removes everything about a run except its row.
pub(super) fn empty(connection: &Connection, run: i64, folder: &str) -> rusqlite::Result<()> {
    for table in ["metrics", "latest", "params", "tags", "inputs", "models"] {
        connection.execute(&format!("DELETE FROM {table} WHERE run = ?"), [run])?;
    }
    // '0' follows '/' in ASCII: matches all paths inside the folder.
    connection.execute("DELETE FROM files WHERE path > ? || '/' AND path < ? || '0'", [folder, folder])?;
    Ok(())
}

impl Kind {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Bonfire => 0,
            Self::Client => 1,
        }
    }

    pub(super) fn of(number: i64) -> Self {
        if number == 0 { Self::Bonfire } else { Self::Client }
    }
}

fn status_word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "RUNNING",
        RunStatus::Completed => "FINISHED",
        RunStatus::Interrupted => "KILLED",
        RunStatus::Failed => "FAILED",
    }
}

/// The experiment of a run of Bonfire: its name without the number that distinguishes runs of one preset, or `Default`
/// for a name without a number.
pub(crate) fn stem(name: &str) -> &str {
    let numbered = name.rsplit_once('-').filter(|(stem, number)| {
        !stem.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    numbered.map_or(documents::DEFAULT_NAME, |(stem, _)| stem)
}

pub(super) fn row_of(connection: &Connection, folder: &str) -> rusqlite::Result<Option<i64>> {
    let mut find = connection.prepare_cached("SELECT id FROM runs WHERE folder = ?")?;
    find.query_row([folder], |row| row.get(0)).optional()
}

pub(super) fn put_pairs(
    connection: &Connection,
    table: &str,
    run: i64,
    pairs: &[Pair],
) -> rusqlite::Result<()> {
    let text = format!("INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)");
    let mut put = connection.prepare_cached(&text)?;
    for pair in pairs {
        put.execute(params![run, pair.key, pair.value])?;
    }
    Ok(())
}

pub(super) fn remove_tag(connection: &Connection, run: i64, key: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM tags WHERE run = ? AND key = ?")?
        .execute(params![run, key])
        .map(|_| ())
}

impl Follow<'_> {
    pub(super) fn bonfire(&mut self, folder: &str) -> Result<(), IndexError> {
        let [record_file, config_file, notes_file, ..] = RUN_FILES.map(|file| format!("{folder}/{file}"));
        if let Some(run) = self.sql(row_of(self.connection, folder))?
            && !(self.bonfire_lines(run, folder)? && self.notes(run, &notes_file)?)
        {
            // A file was truncated or replaced: the whole run is read again.
            self.sql(empty(self.connection, run, folder))?;
        }
        let record = self.whole(&record_file)?;
        let is_new_record = record.is_some();
        if let Some(bytes) = record
            && let Err(why) = self.bonfire_record(folder, &bytes)?
        {
            let path = self.root.join(&record_file);
            self.remarks.push(format!("{} is no run record: {why}", path.display()));
        }
        let Some(run) = self.sql(row_of(self.connection, folder))? else { return Ok(()) };
        let config = self.whole(&config_file)?;
        if let Some(bytes) = &config {
            let pairs = flat_config(&String::from_utf8_lossy(bytes));
            self.sql(self.connection.execute("DELETE FROM params WHERE run = ?", [run]))?;
            self.sql(put_pairs(self.connection, "params", run, &pairs))?;
        }
        self.notes(run, &notes_file)?;
        self.bonfire_lines(run, folder)?;
        if is_new_record {
            self.bonfire_times(run, folder)?;
        }
        let changed = "UPDATE runs SET changed = changed + 1 WHERE id = ?";
        self.sql(self.connection.execute(changed, [run])).map(|_| ())
    }

    /// `false`: one of the files was truncated or replaced.
    fn bonfire_lines(&mut self, run: i64, folder: &str) -> Result<bool, IndexError> {
        for file in ["metrics.jsonl", "system.jsonl"] {
            let connection = self.connection;
            let mut writer = Writer::new(connection, run, true);
            let taken = self.lines(&format!("{folder}/{file}"), |line| {
                if let Some((key, sample)) = values::read_line(line) {
                    return writer.add(key, &sample).map(|()| true);
                }
                let Some(metric) = Metric::from_json_line(line) else { return Ok(false) };
                let sample = Sample {
                    step: i64::try_from(metric.step).unwrap_or(i64::MAX),
                    time_ms: values::milliseconds(metric.time),
                    value: metric.value,
                    epoch: Some(metric.epoch),
                    samples: i64::try_from(metric.samples).ok(),
                };
                writer.add(&metric.key, &sample).map(|()| true)
            })?;
            if taken.is_none() {
                return Ok(false);
            }
            self.sql(writer.close())?;
        }
        Ok(true)
    }

    /// `false`: the file was truncated or replaced.
    fn notes(&mut self, run: i64, file: &str) -> Result<bool, IndexError> {
        let connection = self.connection;
        let taken = self.lines(file, |line| match serde_json::from_str(line) {
            Ok(NoteEvent::Tags { tags }) => put_pairs(connection, "tags", run, &tags).map(|()| true),
            Ok(NoteEvent::TagRemoved { key }) => remove_tag(connection, run, &key).map(|()| true),
            Err(_) => Ok(false),
        })?;
        Ok(taken.is_some())
    }

    /// Upserts the run's row; `Ok(Err(why))` if the file is not a run record.
    fn bonfire_record(&mut self, folder: &str, bytes: &[u8]) -> Result<Result<(), String>, IndexError> {
        let record: RunRecord = match serde_json::from_slice(bytes) {
            Ok(record) => record,
            Err(why) => return Ok(Err(why.to_string())),
        };
        let body = String::from_utf8_lossy(bytes);
        let status = status_word(record.status);
        let write = || -> rusqlite::Result<()> {
            let connection = self.connection;
            let experiment = documents::derived_experiment(connection, stem(folder), 0)?;
            if row_of(connection, folder)?.is_none() {
                let uuid = free_uuid(connection, &record, folder)?;
                connection.execute(
                    "INSERT INTO runs(uuid, kind, folder, experiment, name, user, status, stage)
                     VALUES (?, 0, ?, ?, ?, '', ?, 'active')",
                    params![uuid, folder, experiment, folder, status],
                )?;
            }
            connection.execute(
                "UPDATE runs SET status = ?, body = ? WHERE folder = ?",
                params![status, body, folder],
            )?;
            let find = "SELECT id FROM runs WHERE folder = ?";
            let run: i64 = connection.query_row(find, [folder], |row| row.get(0))?;
            put_inputs(connection, run, &record)?;
            put_pairs(connection, "tags", run, &own_tags(&record, folder))
        };
        self.sql(write()).map(Ok)
    }

    /// Sets start and end from the folder's content alone, so that a rebuild gives the same times: the earlier of the
    /// first event and the first metric, and for an ended run the later of the last ones.
    fn bonfire_times(&mut self, run: i64, folder: &str) -> Result<(), IndexError> {
        let first = first_time(&self.root.join(folder).join("metrics.jsonl"));
        let write = || -> rusqlite::Result<()> {
            let find =
                "SELECT status, body, (SELECT max(time) FROM latest WHERE run = ?1) FROM runs WHERE id = ?1";
            let read = |row: &rusqlite::Row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<i64>>(2)?))
            };
            let (status, body, last_metric) = self.connection.query_row(find, [run], read)?;
            let body: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
            let event =
                |event: Option<&Value>| event.and_then(|e| e["time"].as_f64()).map(values::milliseconds);
            let events = body["events"].as_array();
            let start = [first, event(events.and_then(|events| events.first()))].into_iter().flatten().min();
            let last = event(events.and_then(|events| events.last())).max(last_metric);
            let end = last.filter(|_| status != "RUNNING");
            let text = "UPDATE runs SET start_ms = ?, end_ms = ? WHERE id = ?";
            self.connection.execute(text, params![start, end, run]).map(|_| ())
        };
        self.sql(write())
    }
}

/// The run's inputs, as its record gives them with source and profile; otherwise derived from its dataset.
fn put_inputs(connection: &Connection, run: i64, record: &RunRecord) -> rusqlite::Result<()> {
    let data = &record.dataset;
    let made = || Input {
        tags: vec![Tag { key: "mlflow.data.context".to_owned(), value: "training".to_owned() }],
        dataset: DatasetInput {
            name: data.name.clone(),
            digest: data.digest.clone(),
            source_type: "dvc".to_owned(),
            source: serde_json::json!({ "version": data.version }).to_string(),
            ..DatasetInput::default()
        },
    };
    let known = &record.provenance.inputs;
    let inputs = if known.is_empty() { vec![made()] } else { known.clone() };
    connection.execute("DELETE FROM inputs WHERE run = ?", [run])?;
    for input in inputs {
        let body = serde_json::to_string(&input).unwrap_or_default();
        connection.execute(
            "INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, 'training', ?)",
            params![run, input.dataset.name, input.dataset.digest, body],
        )?;
    }
    Ok(())
}

/// Tags by which MLflow's clients recognise a run of Bonfire. Notes can't set them.
fn own_tags(record: &RunRecord, folder: &str) -> Vec<Pair> {
    let status = serde_json::to_value(record.status).ok();
    let status = status.as_ref().and_then(Value::as_str).unwrap_or_default();
    let tags = [
        ("mlflow.runName", folder),
        ("mlflow.source.name", "bonfire"),
        ("mlflow.source.type", "LOCAL"),
        ("mlflow.source.git.commit", record.git_commit.as_deref().unwrap_or_default()),
        ("bonfire.status", status),
        ("bonfire.message", &record.message),
        ("bonfire.digest", &record.final_state.digest),
        ("bonfire.config_digest", &record.config_digest),
    ];
    let pair = |(key, value): (&str, &str)| Pair { key: key.to_owned(), value: value.to_owned() };
    tags.into_iter().filter(|(_, value)| !value.is_empty()).map(pair).collect()
}

/// Whether a tag of a run of Bonfire is reserved for the run itself.
pub(crate) fn is_own_tag(key: &str) -> bool {
    key.starts_with("bonfire.") || key == "mlflow.runName" || key.starts_with("mlflow.source.")
}

/// The record's id; a copy of a run's folder gets another id, derived from its name.
fn free_uuid(connection: &Connection, record: &RunRecord, folder: &str) -> rusqlite::Result<String> {
    let is_id = |id: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !id.is_empty() && id.len() <= 64 && id.bytes().all(is_plain)
    };
    let own = if is_id(&record.id) { record.id.clone() } else { documents::experiment_id(folder) };
    let taken = connection.prepare_cached("SELECT 1 FROM runs WHERE uuid = ?")?.exists([&own])?;
    Ok(if taken { format!("{own}-{}", documents::experiment_id(folder)) } else { own })
}

/// The time of a file's first metric, in milliseconds since 1970.
fn first_time(path: &Path) -> Option<i64> {
    use std::io::Read;
    let file = std::fs::File::open(path).ok()?;
    let mut line = String::new();
    BufReader::new(file.take(FIRST_LINE_MAX)).read_line(&mut line).ok()?;
    Metric::from_json_line(line.trim_end()).map(|metric| values::milliseconds(metric.time))
}

/// A configuration as parameters such as `model.kind`, with lists as JSON. Invalid TOML gives none.
pub(super) fn flat_config(text: &str) -> Vec<Pair> {
    let mut pairs = Vec::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        flatten("", &table, &mut pairs);
    }
    pairs
}

fn flatten(prefix: &str, table: &toml::Table, pairs: &mut Vec<Pair>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, pairs),
            toml::Value::String(text) => pairs.push(Pair { key, value: text.clone() }),
            toml::Value::Array(list) => {
                let value = serde_json::to_string(list).unwrap_or_else(|_| value.to_string());
                pairs.push(Pair { key, value });
            }
            other => pairs.push(Pair { key, value: other.to_string() }),
        }
    }
}

/// The notes file of a run of Bonfire, relative to the runs folder.
pub(crate) fn notes_file(folder: &str) -> String {
    format!("{folder}/{NOTES}")
}
