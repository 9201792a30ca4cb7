//! Follows the folders into the index: finds what exists, what was appended and what was removed.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;

use run_record::RunRecord;
use rusqlite::{Connection, OptionalExtension, params};

use super::tail::{self, FileChange, Mark};
use super::{FOLDER, FileStamp, Index, IndexError, documents, runs, schema};
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

/// The state that following needs within a transaction.
pub(crate) struct Follow<'a> {
    pub(super) connection: &'a Connection,
    pub(super) root: &'a Path,
    pub(super) remarks: &'a mut Vec<String>,
}

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

    pub(super) fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, IndexError> {
        result.map_err(|source| IndexError::Sql { path: schema::index_path(self.root), source })
    }

    /// Passes a file's new whole lines to `take`, which returns whether the line was valid. Returns `Ok(None)` if the
    /// file was truncated or replaced; otherwise whether there was anything new.
    pub(super) fn lines(
        &mut self,
        file: &str,
        mut take: impl FnMut(&str) -> rusqlite::Result<bool>,
    ) -> Result<Option<bool>, IndexError> {
        let path = self.root.join(file);
        let mut mark = self.mark(file)?;
        let (mut is_new, damaged_before) = (false, mark.damaged);
        loop {
            let news = tail::follow(&path, &mark);
            match news.map_err(|source| IndexError::Io { path: path.clone(), source })? {
                FileChange::Replaced => return Ok(None),
                FileChange::Absent if mark.inode != 0 => return Ok(None),
                FileChange::Absent | FileChange::Same => break,
                FileChange::Grown(bytes, next) => {
                    mark = next;
                    let is_end = bytes.is_empty();
                    for line in String::from_utf8_lossy(&bytes).lines() {
                        let is_good = line.is_empty() || self.sql(take(line))?;
                        mark.damaged += u64::from(!is_good);
                        is_new = true;
                    }
                    self.put_mark(file, &mark)?;
                    if is_end {
                        break;
                    }
                }
            }
        }
        if mark.damaged > damaged_before {
            self.remarks.push(format!(
                "{}: {} lines say nothing and are passed over",
                path.display(),
                mark.damaged - damaged_before
            ));
        }
        Ok(Some(is_new))
    }

    /// The file's bytes if it changed since it was last read; `Ok(None)` if it didn't, or doesn't exist.
    pub(super) fn whole(&mut self, file: &str) -> Result<Option<Vec<u8>>, IndexError> {
        let path = self.root.join(file);
        let at = |source| IndexError::Io { path: path.clone(), source };
        let Some((inode, size, mtime)) = tail::look(&path).map_err(at)? else { return Ok(None) };
        let before = self.mark(file)?;
        if (before.inode, before.size, before.mtime) == (inode, size, mtime) {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(at)?;
        self.put_mark(file, &Mark { inode, size, mtime, ..Mark::default() })?;
        Ok(Some(bytes))
    }

    fn mark(&self, file: &str) -> Result<Mark, IndexError> {
        let text = "SELECT inode, size, mtime, offset, head, tail, damaged FROM files WHERE path = ?";
        let found = self.connection.prepare_cached(text).and_then(|mut mark| {
            let read = |row: &rusqlite::Row| {
                Ok(Mark {
                    inode: row.get::<_, i64>(0)? as u64,
                    size: row.get::<_, i64>(1)? as u64,
                    mtime: row.get(2)?,
                    offset: row.get::<_, i64>(3)? as u64,
                    head: row.get(4)?,
                    tail: row.get(5)?,
                    damaged: row.get::<_, i64>(6)? as u64,
                })
            };
            mark.query_row([file], read).optional()
        });
        Ok(self.sql(found)?.unwrap_or_default())
    }

    fn put_mark(&self, file: &str, mark: &Mark) -> Result<(), IndexError> {
        let m = mark;
        let numbers = [m.inode, m.size, m.offset, m.damaged].map(|number| number as i64);
        let [inode, size, offset, damaged] = numbers;
        let text = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let put = self.connection.prepare_cached(text).and_then(|mut put| {
            put.execute(params![file, inode, size, m.mtime, offset, m.head, m.tail, damaged])
        });
        self.sql(put).map(|_| ())
    }
}
