//! The index over a folder of runs: an SQLite file that can be deleted and made anew from the folders at any time.
//!
//! [`Index`] follows the folders: [`Index::refresh`] reads what was appended since it looked last, and nothing twice,
//! over restarts and with several processes at one index. A file that was cut or replaced is noticed and read again.
//! [`Reader`] answers questions, each reader with a connection of its own. A damaged index is moved aside and made
//! anew; [`Index::remarks`] says so.
//!
//! Runs of Bonfire are the folders with a `run.json`; what clients of the MLflow interface logged lies below
//! `.tracker/` in the same tree. Steps and times are whole numbers (times in milliseconds since 1970).

mod amend;
mod client_runs;
mod compare;
mod documents;
mod follow;
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
pub(crate) use follow::Item;
pub(crate) use points::PointKey;
pub(crate) use query::{RunRow, run_row};
pub(crate) use runs::{is_own_tag, notes_file};
pub(crate) use schema::is_damage;

/// Why the index can't answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// SQLite said no.
    #[error("the index {}: {source}", path.display())]
    Sql {
        /// The index.
        path: PathBuf,
        /// What it said.
        source: rusqlite::Error,
    },
    /// A filter or an order that says nothing.
    #[error(transparent)]
    Filter(#[from] crate::filter::FilterError),
}

/// Who made a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A coordinator: its folder is the truth, and only notes on it can be changed here.
    Bonfire,
    /// A client of the MLflow interface.
    Client,
}

/// The index, open for following.
#[derive(Debug)]
pub struct Index {
    root: PathBuf,
    connection: Connection,
    /// The index file's own inode: another process may have moved it aside.
    inode: u64,
    /// What each followed file looked like when it was last read.
    seen: HashMap<String, FileStamp>,
    remarks: Vec<String>,
}

/// Inode, size and time of change; `None` for a file that isn't there.
type FileStamp = Option<(u64, u64, i64)>;

/// Answers questions about what the index holds.
#[derive(Debug)]
pub struct Reader {
    root: PathBuf,
    connection: Connection,
    /// Of the file that it reads.
    inode: u64,
}

impl Index {
    /// Opens the index of a folder of runs; makes the folder and the index if they aren't there. Nothing is read yet.
    ///
    /// # Errors
    /// When the file system or SQLite says no.
    pub fn open(root: &Path) -> Result<Self, IndexError> {
        let mut remarks = Vec::new();
        let connection = schema::open(root, &mut remarks)?;
        let inode = inode(root);
        Ok(Self { root: root.to_owned(), connection, inode, seen: HashMap::new(), remarks })
    }

    /// The folder of runs.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What people should know, said once: a damaged index, a file that is not what it should be.
    pub fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.remarks)
    }

    /// Takes in what has changed in the folders. Cheap where nothing has: a look at each file.
    ///
    /// # Errors
    /// When the file system or SQLite says no. A damaged index is made anew instead.
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

    /// Moves a damaged index aside and begins an empty one: the next look at the folders fills it.
    ///
    /// # Errors
    /// When the file system or SQLite says no.
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

    /// A reader with a connection of its own.
    ///
    /// # Errors
    /// When SQLite says no.
    pub fn reader(&self) -> Result<Reader, IndexError> {
        Reader::open(&self.root)
    }

    /// Does something in one write transaction: other processes' writes come before or after.
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

    /// Likewise, but `None` where another process writes just now: nothing is waited for.
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
    /// Opens an index that is there.
    ///
    /// # Errors
    /// When it isn't, or SQLite says no.
    pub fn open(root: &Path) -> Result<Self, IndexError> {
        let connection = schema::open_reader(root)?;
        Ok(Self { root: root.to_owned(), connection, inode: inode(root) })
    }

    /// Whether the index is still the file that this reader reads: it may have been deleted or moved aside.
    #[must_use]
    pub fn is_current(&self) -> bool {
        inode(&self.root) == self.inode
    }

    /// The folder of runs.
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
