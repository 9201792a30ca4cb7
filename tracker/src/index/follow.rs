//! Follows the folders into the index: finds what exists, what was appended and what was removed.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;

use run_record::RunRecord;
use rusqlite::Connection;

use super::incremental_read::Follow;
use super::item::Item;
use super::{FOLDER, FileStamp, Index, IndexError, documents, runs, schema, tail};
use crate::clients;

impl Index {
    pub(super) fn follow_all(&mut self) -> Result<(), IndexError> {
        let items = survey(&self.root)?;
        for item in &items {
            let looks = self.looks(item)?;
            if looks.iter().any(|(path, look)| self.seen.get(path) != Some(look)) {
                self.follow(item)?;
                self.seen.extend(looks);
            }
        }
        self.forget_what_is_gone(&items)
    }

    /// Indexes an item's new lines.
    pub(crate) fn follow(&mut self, item: &Item) -> Result<(), IndexError> {
        let (root, mut remarks) = (self.root.clone(), Vec::new());
        let done = self.transact(|transaction| {
            Follow { connection: transaction, root: &root, remarks: &mut remarks }.item(item)
        });
        self.remarks.extend(remarks);
        done
    }

    fn looks(&self, item: &Item) -> Result<Vec<(String, FileStamp)>, IndexError> {
        let mut looks = Vec::new();
        for file in item.files() {
            let path = self.root.join(&file);
            let look = tail::look(&path).map_err(|source| IndexError::Io { path, source })?;
            looks.push((file, look));
        }
        Ok(looks)
    }

    fn forget_what_is_gone(&mut self, items: &[Item]) -> Result<(), IndexError> {
        let path = schema::index_path(&self.root);
        let at = |source| IndexError::Sql { path, source };
        let there: HashSet<String> = items.iter().filter_map(Item::run_folder).collect();
        let known = |connection: &Connection| -> rusqlite::Result<Vec<(i64, String)>> {
            let mut runs = connection.prepare_cached("SELECT id, folder FROM runs")?;
            runs.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let mut gone = known(&self.connection).map_err(at)?;
        gone.retain(|(_, folder)| !there.contains(folder));
        let docs = documents::gone(&self.connection, items)
            .map_err(|source| IndexError::Sql { path: schema::index_path(&self.root), source })?;
        if gone.is_empty() && docs.is_empty() {
            return Ok(());
        }
        for (_, folder) in &gone {
            let inside = format!("{folder}/");
            self.seen.retain(|path, _| !path.starts_with(&inside));
        }
        let path = schema::index_path(&self.root);
        self.transact(|transaction| {
            let forget = || -> rusqlite::Result<()> {
                for (run, folder) in &gone {
                    runs::empty(transaction, *run, folder)?;
                    transaction.execute("DELETE FROM runs WHERE id = ?", [run])?;
                }
                // Without its last run a derived experiment is removed too.
                documents::forget(transaction, &documents::gone(transaction, items)?)
            };
            forget().map_err(|source| IndexError::Sql { path, source })
        })
    }
}

/// All followed items: clients' experiments first, since runs of Bonfire look up theirs among them.
fn survey(root: &Path) -> Result<Vec<Item>, IndexError> {
    let mut items = Vec::new();
    let clients = root.join(FOLDER).join("clients");
    for experiment in folders(&clients)? {
        items.push(Item::Experiment(experiment.clone()));
        for run in folders(&clients.join(&experiment))? {
            if run == "models" {
                let models = folders(&clients.join(&experiment).join(&run))?;
                items.extend(models.into_iter().map(|model| Item::Model(experiment.clone(), model)));
            } else {
                items.push(Item::Client(experiment.clone(), run));
            }
        }
    }
    items.push(Item::Registry);
    for folder in folders(root)? {
        if !folder.starts_with('.') && root.join(&folder).join(RunRecord::FILE).is_file() {
            items.push(Item::Bonfire(folder));
        }
    }
    Ok(items)
}

/// The names of a folder's subfolders, sorted; none if the folder doesn't exist. Names that aren't UTF-8 are skipped:
/// Bonfire creates none.
fn folders(path: &Path) -> Result<Vec<String>, IndexError> {
    let at = |source| IndexError::Io { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at)?;
        let is_folder =
            entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_symlink() && entry.path().is_dir());
        if let (true, Ok(name)) = (is_folder, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Follow<'_> {
    pub(super) fn item(&mut self, item: &Item) -> Result<(), IndexError> {
        match item {
            Item::Experiment(id) => self.document::<clients::documents::Experiment>(id, item),
            Item::Model(_, id) => self.document::<clients::documents::LoggedModel>(id, item),
            Item::Registry => self.document::<clients::documents::Registry>("", item),
            Item::Client(experiment, run) => self.client(experiment, run),
            Item::Bonfire(folder) => self.bonfire(folder),
        }
    }
}
