//! Changes of what clients wrote: appended to their files, then followed, all in one transaction of the index. So two
//! processes at one index don't come between each other's check and write.

use std::path::PathBuf;

use rusqlite::Connection;
use serde::Serialize;

use super::follow::{Follow, Item};
use super::{Index, IndexError};
use crate::clients::{self, Durable};

/// An event on its way into a file.
pub(crate) struct Amend<E> {
    /// Whose file it is.
    pub(crate) item: Item,
    /// The file, below the folder of runs.
    pub(crate) file: String,
    /// The events.
    pub(crate) events: Vec<E>,
    /// Whether it must be on the disk at once.
    pub(crate) durable: Durable,
}

impl<E> Amend<E> {
    /// An event for an item of one file.
    pub(crate) fn of(item: Item, event: E) -> Self {
        let file = item.files().into_iter().next().unwrap_or_default();
        Self { item, file, events: vec![event], durable: Durable::Synced }
    }
}

impl Index {
    /// Appends what `make` decides on, seeing the newest state, and takes it into the index.
    pub(crate) fn amend<E: Serialize, F: From<IndexError>, T>(
        &mut self,
        make: impl FnOnce(&Connection) -> Result<(Option<Amend<E>>, T), F>,
    ) -> Result<T, F> {
        let (root, mut remarks) = (self.root.clone(), Vec::new());
        let done = self.transact(|transaction| {
            let (amend, answer) = make(transaction)?;
            if let Some(amend) = amend {
                let path: PathBuf = root.join(&amend.file);
                for event in &amend.events {
                    clients::append(&path, event, amend.durable)
                        .map_err(|source| IndexError::Io { path: path.clone(), source })?;
                }
                let mut follow = Follow { connection: transaction, root: &root, remarks: &mut remarks };
                follow.item(&amend.item)?;
            }
            Ok(answer)
        });
        self.remarks.extend(remarks);
        done
    }
}
