//! Reads what is new in the followed files; the index keeps how far each has been read.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::tail::{self, FileChange, Mark};
use super::{IndexError, schema};

/// The state that following needs within a transaction.
pub(crate) struct Follow<'a> {
    pub(super) connection: &'a Connection,
    pub(super) root: &'a Path,
    pub(super) remarks: &'a mut Vec<String>,
}

impl Follow<'_> {
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
