//! The index over the runs folder: an SQLite file that can be deleted and rebuilt from the folders at any time.
//!
//! [`Index`] follows the folders: [`Index::refresh`] reads what was appended since the last call, and nothing twice,
//! across restarts and with several processes sharing an index. It notices a truncated or replaced file and reads it
//! again. [`Reader`] answers queries, each reader over a connection of its own. A damaged index is moved aside and
//! rebuilt; [`Index::remarks`] reports it.
//!
//! Runs of Bonfire are the folders with a `run.json`; the data that MLflow clients logged lies below `.tracker/` in the
//! same tree. Steps and times are integers (times in milliseconds since 1970).

mod amend;
mod client_runs;
mod compare;
mod documents;
mod follow;
mod incremental_read;
mod item;
mod lists;
mod points;
mod query;
mod runs;
mod schema;
mod select;
mod tail;
mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use serde::Serialize;

pub use compare::{Comparison, MetricRow, ParamRow};
pub use lists::{ExperimentRow, KeyCount};
pub use points::{HistoryPage, POINTS_MAX, POINTS_MIN, Point, Series};
pub use query::{COLUMNS, Checkpoint, MetricNow, RunSummary, RunWhole};
pub use select::{Page, Select, Stage};

pub(crate) use crate::clients::FOLDER;
pub(crate) use amend::{Amend, LockWait};
pub(crate) use documents::{DEFAULT_ID, DEFAULT_NAME, experiment_by_name, free_experiment_id};
pub(crate) use documents::{experiment as experiment_in, read as document_in};
pub(crate) use item::Item;
pub(crate) use points::PointKey;
pub(crate) use query::{RunRow, run_row};
pub(crate) use runs::{is_own_tag, notes_file};
pub(crate) use schema::is_damage;

/// Why the index can't answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file system operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
    /// An SQLite operation failed.
    #[error("the index {}: {source}", path.display())]
    Sql {
        /// The index.
        path: PathBuf,
        /// The underlying error.
        source: rusqlite::Error,
    },
    /// A filter or an order is invalid.
    #[error(transparent)]
    Filter(#[from] crate::filter::FilterError),
}

/// The program that wrote a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A coordinator: its folder is the source of truth, and only notes on it can be changed here.
    Bonfire,
    /// An MLflow client.
    Client,
}

/// The index, open for following.
#[derive(Debug)]
pub struct Index {
    root: PathBuf,
    connection: Connection,
    /// Inode of the open index file: another process may have moved it aside.
    inode: u64,
    /// Each followed file's stamp when it was last read.
    seen: HashMap<String, FileStamp>,
    remarks: Vec<String>,
}

/// Inode, size and modification time; `None` for a missing file.
type FileStamp = Option<(u64, u64, i64)>;

/// Answers queries from the index.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    connection: Connection,
    /// Inode of the file that it reads.
    inode: u64,
}

impl Index {
    /// Opens the index of a runs folder; creates the folder and the index if they don't exist. Reads no runs yet.
    ///
    /// # Errors
    /// When the file system or SQLite fails.
    pub fn open(root: &Path) -> Result<Self, IndexError> {
        let mut remarks = Vec::new();
        let connection = schema::open(root, &mut remarks)?;
        let inode = inode(root);
        Ok(Self { root: root.to_owned(), connection, inode, seen: HashMap::new(), remarks })
    }

    /// The runs folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the messages for people, each reported once: a damaged index, or an invalid file.
    pub fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// Indexes all changes in the folders. Cheap if nothing changed: one `stat` per file.
    ///
    /// # Errors
    /// When the file system or SQLite fails. A damaged index is rebuilt instead.
    pub fn refresh(&mut self) -> Result<(), IndexError> {
        if inode(&self.root) != self.inode {
            self.reopen()?;
        }
        match self.follow_all() {
            Err(error) if error.is_damage() => {
                self.make_anew(&error.to_string())?;
                self.follow_all()
            }
            other => other,
        }
    }

    /// Moves a damaged index aside and creates an empty one, which the next refresh fills.
    ///
    /// # Errors
    /// When the file system or SQLite fails.
    pub fn make_anew(&mut self, why: &str) -> Result<(), IndexError> {
        let aside = schema::move_aside(&schema::index_path(&self.root))?;
        self.remarks.push(format!(
            "{why}: the index is made anew from the folders; the old file is {}",
            aside.display()
        ));
        self.reopen()
    }

    fn reopen(&mut self) -> Result<(), IndexError> {
        self.connection = schema::open(&self.root, &mut self.remarks)?;
        self.inode = inode(&self.root);
        self.seen.clear();
        Ok(())
    }

    /// Opens a reader with a connection of its own.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn reader(&self) -> Result<Reader, IndexError> {
        Reader::open(&self.root)
    }

    /// Runs `what` in one write transaction, serialised with other processes' writes.
    pub(crate) fn transact<T, E: From<IndexError>>(
        &mut self,
        what: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = schema::index_path(&self.root);
        let at = |source| IndexError::Sql { path, source };
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(at.clone())?;
        let done = what(&transaction)?;
        transaction.commit().map_err(at)?;
        Ok(done)
    }

    /// As [`Index::transact`], but returns `None` at once if another process holds the write lock.
    pub(crate) fn transact_at_once<T, E: From<IndexError>>(
        &mut self,
        what: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let path = schema::index_path(&self.root);
        let at = |source| IndexError::Sql { path, source };
        schema::wait_for_others(&self.connection, false).map_err(at.clone())?;
        let done = match self.connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(transaction) => match what(&transaction) {
                Ok(done) => transaction.commit().map(|()| Some(done)).map_err(|why| at.clone()(why).into()),
                Err(why) => Err(why),
            },
            Err(why) if why.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(None),
            Err(why) => Err(at.clone()(why).into()),
        };
        schema::wait_for_others(&self.connection, true).map_err(at)?;
        done
    }
}

impl Reader {
    /// Opens an existing index.
    ///
    /// # Errors
    /// When it doesn't exist, or SQLite fails.
    pub fn open(root: &Path) -> Result<Self, IndexError> {
        let connection = schema::open_reader(root)?;
        Ok(Self { root: root.to_owned(), connection, inode: inode(root) })
    }

    /// Whether the index is still the file that this reader reads: it may have been deleted or moved aside.
    #[must_use]
    pub fn is_current(&self) -> bool {
        inode(&self.root) == self.inode
    }

    /// The runs folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, IndexError> {
        result.map_err(|source| IndexError::Sql { path: schema::index_path(&self.root), source })
    }
}

fn inode(root: &Path) -> u64 {
    let look = tail::look(&schema::index_path(root));
    look.ok().flatten().map_or(0, |(inode, ..)| inode)
}

#[cfg(test)]
mod tests;
