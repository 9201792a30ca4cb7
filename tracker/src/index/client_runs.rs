//! Indexes clients' runs from their events.

use rusqlite::{Connection, params};
use serde_json::Value;

use super::incremental_read::Follow;
use super::runs::{empty, put_pairs, remove_tag, row_of};
use super::values::{Sample, Writer};
use super::{IndexError, Kind};
use crate::clients::events::{ModelUse, Pair, RunEvent};
use crate::clients::{self, EVENTS, exact_numbers};

/// The tag that also sets a run's name.
const RUN_NAME: &str = "mlflow.runName";

impl Follow<'_> {
    pub(super) fn client(&mut self, experiment: &str, uuid: &str) -> Result<(), IndexError> {
        let folder = clients::run_folder(experiment, uuid);
        let file = format!("{folder}/{EVENTS}");
        if self.root.join(&file).is_file() {
            let make = "INSERT OR IGNORE INTO runs(uuid, kind, folder, experiment, name, user, status, stage)
                        VALUES (?, ?, ?, ?, ?, '', 'RUNNING', 'active')";
            let make = self.connection.prepare_cached(make).and_then(|mut make| {
                make.execute(params![uuid, Kind::Client.number(), folder, experiment, uuid])
            });
            self.sql(make)?;
        }
        let Some(run) = self.sql(row_of(self.connection, &folder))? else { return Ok(()) };
        if !self.client_lines(run, &file)? {
            self.sql(empty(self.connection, run, &folder))?;
            self.client_lines(run, &file)?;
        }
        Ok(())
    }

    fn client_lines(&mut self, run: i64, file: &str) -> Result<bool, IndexError> {
        let connection = self.connection;
        let mut writer = Writer::new(connection, run, false);
        let taken = self.lines(file, |line| {
            let event = if line.starts_with("{\"batch\"") {
                serde_json::from_str(&exact_numbers(line))
            } else {
                serde_json::from_str(line)
            };
            match event {
                Ok(event) => apply(connection, run, event, &mut writer).map(|()| true),
                Err(_) => Ok(false),
            }
        })?;
        let Some(is_new) = taken else { return Ok(false) };
        self.sql(writer.close())?;
        if is_new {
            let changed = "UPDATE runs SET changed = changed + 1 WHERE id = ?";
            self.sql(connection.prepare_cached(changed).and_then(|mut changed| changed.execute([run])))?;
        }
        Ok(true)
    }
}

fn apply(connection: &Connection, run: i64, event: RunEvent, writer: &mut Writer) -> rusqlite::Result<()> {
    match event {
        RunEvent::Created { user, name, start_ms, mut tags } => {
            if !tags.iter().any(|tag| tag.key == RUN_NAME) {
                tags.push(Pair { key: RUN_NAME.into(), value: name.clone() });
            }
            let text =
                "UPDATE runs SET user = ?, name = ?, start_ms = ?, status = 'RUNNING', stage = 'active',
                        end_ms = NULL WHERE id = ?";
            connection.prepare_cached(text)?.execute(params![user, name, start_ms, run])?;
            put_pairs(connection, "tags", run, &tags)
        }
        RunEvent::Batch { metrics, params, tags } => {
            for metric in metrics {
                let (value, time_ms, step) = (metric.1.0, metric.2.0, metric.3.0);
                let sample = Sample { step, time_ms, value, epoch: None, samples: None };
                writer.add(&metric.0, &sample)?;
            }
            put_pairs(connection, "params", run, &params)?;
            if let Some(name) = tags.iter().rfind(|tag| tag.key == RUN_NAME) {
                connection.execute("UPDATE runs SET name = ? WHERE id = ?", params![name.value, run])?;
            }
            put_pairs(connection, "tags", run, &tags)
        }
        RunEvent::Updated { status, end_ms, name } => {
            if let Some(value) = name.clone() {
                put_pairs(connection, "tags", run, &[Pair { key: RUN_NAME.into(), value }])?;
            }
            let text = "UPDATE runs SET status = coalesce(?, status), end_ms = coalesce(?, end_ms),
                        name = coalesce(?, name) WHERE id = ?";
            connection.execute(text, params![status, end_ms, name, run]).map(|_| ())
        }
        RunEvent::TagRemoved { key } => remove_tag(connection, run, &key),
        RunEvent::Stage { stage } => {
            connection.execute("UPDATE runs SET stage = ? WHERE id = ?", params![stage, run]).map(|_| ())
        }
        RunEvent::Inputs { datasets, models } => {
            for input in &datasets {
                put_input(connection, run, input)?;
            }
            put_models(connection, run, false, &models)
        }
        RunEvent::Outputs { models } => put_models(connection, run, true, &models),
    }
}

fn put_input(connection: &Connection, run: i64, input: &Value) -> rusqlite::Result<()> {
    let tags = input["tags"].as_array();
    let context = tags.and_then(|tags| tags.iter().find(|tag| tag["key"] == "mlflow.data.context"));
    let context = context.and_then(|tag| tag["value"].as_str()).unwrap_or_default();
    let field = |name: &str| input["dataset"][name].as_str().unwrap_or_default();
    connection
        .prepare_cached("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?)")?
        .execute(params![run, field("name"), field("digest"), context, input.to_string()])
        .map(|_| ())
}

fn put_models(
    connection: &Connection,
    run: i64,
    is_output: bool,
    models: &[ModelUse],
) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)")?;
    for model in models {
        put.execute(params![run, is_output, model.model_id, model.step.0])?;
    }
    Ok(())
}
