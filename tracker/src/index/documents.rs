//! Experiments, logged models and registered models: event files, each indexed as one document.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::incremental_read::Follow;
use super::item::Item;
use super::{IndexError, Reader};
use crate::clients::documents::{Document, Experiment};

/// The experiment that always exists.
pub(crate) const DEFAULT_ID: &str = "0";

pub(crate) const DEFAULT_NAME: &str = "Default";

impl Follow<'_> {
    /// Applies a file's new events; a file that was replaced is read from its beginning.
    pub(super) fn document<D: Document>(&mut self, id: &str, item: &Item) -> Result<(), IndexError> {
        for file in item.files() {
            let mut document: D = self.sql(read(self.connection, id))?.unwrap_or_default();
            let apply = |document: &mut D, line: &str| {
                let event = serde_json::from_str(line);
                Ok(event.map(|event| document.apply(event)).is_ok())
            };
            let mut is_new = self.lines(&file, |line| apply(&mut document, line))?;
            if is_new.is_none() {
                document = D::default();
                self.sql(self.connection.execute("DELETE FROM files WHERE path = ?", [&file]))?;
                is_new = self.lines(&file, |line| apply(&mut document, line))?.map(|_| true);
            }
            if is_new == Some(true) {
                self.sql(write(self.connection, id, &document))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn read<D: Document>(connection: &Connection, id: &str) -> rusqlite::Result<Option<D>> {
    let mut find = connection.prepare_cached("SELECT body FROM docs WHERE kind = ? AND id = ?")?;
    let body: Option<String> = find.query_row([D::KIND, id], |row| row.get(0)).optional()?;
    // This program can read its own documents; an index of another schema holds none.
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

/// All documents of a kind, with their ids.
pub(crate) fn all<D: Document>(connection: &Connection) -> rusqlite::Result<Vec<(String, D)>> {
    let mut find = connection.prepare_cached("SELECT id, body FROM docs WHERE kind = ? ORDER BY id")?;
    let rows = find.query_map([D::KIND], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut documents = Vec::new();
    for row in rows {
        let (id, body) = row?;
        if let Ok(document) = serde_json::from_str(&body) {
            documents.push((id, document));
        }
    }
    Ok(documents)
}

fn write<D: Document>(connection: &Connection, id: &str, document: &D) -> rusqlite::Result<()> {
    let body = serde_json::to_string(document).unwrap_or_default();
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO docs VALUES (?, ?, ?)")?;
    put.execute(params![D::KIND, id, body]).map(|_| ())
}

/// The id that an experiment of this name gets unless it is taken: the same after every rebuild, 18 digits long
/// (FNV-1a).
pub(crate) fn experiment_id(name: &str) -> String {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    (100_000_000_000_000_000 + hash % 900_000_000_000_000_000).to_string()
}

/// The id of the experiment of this name, which is created if there is none.
pub(super) fn derived_experiment(
    connection: &Connection,
    name: &str,
    time_ms: i64,
) -> rusqlite::Result<String> {
    if name == DEFAULT_NAME {
        return Ok(DEFAULT_ID.to_owned());
    }
    if let Some((id, _)) = experiment_by_name(connection, name)? {
        return Ok(id);
    }
    let id = free_experiment_id(connection, name)?;
    let (created_ms, updated_ms) = (time_ms, time_ms);
    let (name, stage) = (name.to_owned(), "active".to_owned());
    let made = Experiment { name, stage, created_ms, updated_ms, is_derived: true, ..Experiment::default() };
    write(connection, &id, &made)?;
    Ok(id)
}

/// An unused id for a new experiment of this name.
pub(crate) fn free_experiment_id(connection: &Connection, name: &str) -> rusqlite::Result<String> {
    let mut seed = name.to_owned();
    loop {
        let id = experiment_id(&seed);
        if read::<Experiment>(connection, &id)?.is_none() {
            return Ok(id);
        }
        seed.push('\0');
    }
}

/// An experiment by name, including deleted ones.
pub(crate) fn experiment_by_name(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<Option<(String, Experiment)>> {
    if name == DEFAULT_NAME {
        return Ok(Some((DEFAULT_ID.to_owned(), experiment(connection, DEFAULT_ID)?.unwrap_or_default())));
    }
    let text = "SELECT id FROM docs WHERE kind = 'experiment' AND json_extract(body, '$.name') = ?";
    let id: Option<String> =
        connection.prepare_cached(text)?.query_row([name], |row| row.get(0)).optional()?;
    let Some(id) = id else { return Ok(None) };
    Ok(experiment(connection, &id)?.map(|found| (id, found)))
}

pub(crate) fn experiment(connection: &Connection, id: &str) -> rusqlite::Result<Option<Experiment>> {
    let found = read::<Experiment>(connection, id)?;
    if id != DEFAULT_ID {
        return Ok(found);
    }
    let mut default = found.unwrap_or_default();
    default.name = DEFAULT_NAME.to_owned();
    default.stage = "active".to_owned();
    Ok(Some(default))
}

/// Documents whose files no longer exist: kind, id and experiment.
pub(super) fn gone(
    connection: &Connection,
    items: &[Item],
) -> rusqlite::Result<Vec<(String, String, String)>> {
    let mut there = HashSet::new();
    for item in items {
        let kind_and_id = match item {
            Item::Experiment(id) => ("experiment", id.as_str()),
            Item::Model(_, id) => ("model", id.as_str()),
            _ => continue,
        };
        there.insert(kind_and_id);
    }
    // A derived experiment stays as long as a run is in it.
    let text = "SELECT kind, id, coalesce(json_extract(body, '$.experiment'), ''),
            coalesce(json_extract(body, '$.is_derived'), 0)
            AND EXISTS (SELECT 1 FROM runs WHERE runs.experiment = docs.id)
        FROM docs WHERE kind IN ('experiment', 'model')";
    let mut find = connection.prepare_cached(text)?;
    let rows = find.query_map([], |row| {
        let (kind, id, experiment): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok((kind, id, experiment, row.get::<_, bool>(3)?))
    })?;
    let mut gone = Vec::new();
    for row in rows {
        let (kind, id, experiment, is_held) = row?;
        if !is_held && !there.contains(&(kind.as_str(), id.as_str())) {
            gone.push((kind, id, experiment));
        }
    }
    Ok(gone)
}

/// Removes documents and the read positions of their files.
pub(super) fn forget(connection: &Connection, gone: &[(String, String, String)]) -> rusqlite::Result<()> {
    for (kind, id, experiment) in gone {
        connection.execute("DELETE FROM docs WHERE kind = ? AND id = ?", [kind, id])?;
        let item = match kind.as_str() {
            "experiment" => Item::Experiment(id.clone()),
            _ => Item::Model(experiment.clone(), id.clone()),
        };
        for file in item.files() {
            connection.execute("DELETE FROM files WHERE path = ?", [file])?;
        }
    }
    Ok(())
}

impl Reader {
    pub(crate) fn document<D: Document>(&self, id: &str) -> Result<Option<D>, IndexError> {
        self.sql(read(&self.connection, id))
    }

    pub(crate) fn documents<D: Document>(&self) -> Result<Vec<(String, D)>, IndexError> {
        self.sql(all(&self.connection))
    }

    pub(crate) fn experiment(&self, id: &str) -> Result<Option<Experiment>, IndexError> {
        self.sql(experiment(&self.connection, id))
    }

    pub(crate) fn experiment_by_name(&self, name: &str) -> Result<Option<(String, Experiment)>, IndexError> {
        self.sql(experiment_by_name(&self.connection, name))
    }
}
