//! Changes to clients' data: appended to their files, then followed, all in one transaction of the index. So two
//! processes that share an index can't interleave between each other's check and write.

use std::path::Path;

use rusqlite::{Connection, Transaction};
use serde::Serialize;

use super::incremental_read::Follow;
use super::item::Item;
use super::{Index, IndexError};
use crate::clients::{self, Durable};

/// Events to be appended to a file.
pub(crate) struct Amend<E> {
    pub(crate) item: Item,
    /// The file, relative to the runs folder.
    pub(crate) file: String,
    pub(crate) events: Vec<E>,
    pub(crate) durable: Durable,
}

/// Whether to wait while another process holds the index's write lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LockWait {
    Yes,
    No,
}

impl<E> Amend<E> {
    /// One event for an item that has a single file.
    pub(crate) fn of(item: Item, event: E) -> Self {
        let file = item.files().into_iter().next().unwrap_or_default();
        Self { item, file, events: vec![event], durable: Durable::Synced }
    }
}

impl Index {
    /// Appends the events that `make` decides on from the newest state, and follows them into the index.
    pub(crate) fn amend<E: Serialize, F: From<IndexError>, T>(
        &mut self,
        make: impl FnOnce(&Connection) -> Result<(Option<Amend<E>>, T), F>,
    ) -> Result<T, F> {
        let (root, mut remarks) = (self.root.clone(), Vec::new());
        let done = self.transact(|transaction| {
            let (amend, answer) = make(transaction)?;
            if let Some(amend) = amend {
                append(&root, &amend)?;
                let mut follow = Follow { connection: transaction, root: &root, remarks: &mut remarks };
                follow.item(&amend.item)?;
            }
            Ok(answer)
        });
        self.remarks.extend(remarks);
        done
    }

    /// As [`Index::amend`], but the index stays behind: the next reader must follow the returned item first. The write
    /// lock is still held, so that no other process comes between the check and the file. `None`: another process
    /// holds the lock, and `wait` says not to wait for it.
    pub(crate) fn amend_later<E: Serialize, F: From<IndexError>>(
        &mut self,
        wait: LockWait,
        make: impl FnOnce(&Connection) -> Result<Amend<E>, F>,
    ) -> Result<Option<Item>, F> {
        let root = self.root.clone();
        let write = |transaction: &Transaction<'_>| {
            let amend = make(transaction)?;
            append(&root, &amend)?;
            Ok(amend.item)
        };
        match wait {
            LockWait::Yes => self.transact(write).map(Some),
            LockWait::No => self.transact_at_once(write),
        }
    }
}

fn append<E: Serialize>(root: &Path, amend: &Amend<E>) -> Result<(), IndexError> {
    let path = root.join(&amend.file);
    let append = |event| clients::append(&path, event, amend.durable);
    amend.events.iter().try_for_each(append).map_err(|source| IndexError::Io { path, source })
}
