//! The index's tables, and how its file is opened, checked and rebuilt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::IndexError;

/// Incremented with every change of the tables: an index of another schema is rebuilt from the folders.
pub(super) const SCHEMA: i64 = 2;

/// How long one process waits for another's write.
const BUSY: Duration = Duration::from_secs(10);

/// `metrics` is ordered as queries read it. NaN is stored as NULL, since SQLite keeps no NaN (nor the sign of zero).
/// `tie` distinguishes a client's values of equal key, step and time; for a run of Bonfire it is 0.
const TABLES: &str = "
CREATE TABLE files(
    path TEXT PRIMARY KEY, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
    offset INTEGER NOT NULL, head INTEGER NOT NULL, tail INTEGER NOT NULL, damaged INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE runs(
    id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL, folder TEXT NOT NULL UNIQUE,
    experiment TEXT NOT NULL, name TEXT NOT NULL, user TEXT NOT NULL, status TEXT NOT NULL, stage TEXT NOT NULL,
    start_ms INTEGER, end_ms INTEGER, changed INTEGER NOT NULL DEFAULT 0, body TEXT NOT NULL DEFAULT 'null'
);
CREATE INDEX runs_by_start ON runs(experiment, start_ms);
CREATE TABLE keys(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE metrics(
    run INTEGER NOT NULL, key INTEGER NOT NULL, step INTEGER NOT NULL, time INTEGER NOT NULL, tie INTEGER NOT NULL,
    value REAL, epoch REAL, samples INTEGER, PRIMARY KEY(run, key, step, time, tie)
) WITHOUT ROWID;
CREATE TABLE latest(
    run INTEGER NOT NULL, key INTEGER NOT NULL, step INTEGER NOT NULL, time INTEGER NOT NULL, tie INTEGER NOT NULL,
    value REAL, count INTEGER NOT NULL, minimum REAL, maximum REAL, PRIMARY KEY(run, key)
) WITHOUT ROWID;
CREATE INDEX latest_by_value ON latest(key, value);
CREATE TABLE params(
    run INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(run, key)
) WITHOUT ROWID;
CREATE INDEX params_by_value ON params(key, value);
CREATE TABLE tags(
    run INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(run, key)
) WITHOUT ROWID;
CREATE INDEX tags_by_value ON tags(key, value);
CREATE TABLE inputs(
    run INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, context TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY(run, name, digest)
) WITHOUT ROWID;
CREATE TABLE models(
    run INTEGER NOT NULL, is_output INTEGER NOT NULL, model TEXT NOT NULL, step INTEGER NOT NULL,
    PRIMARY KEY(run, is_output, model)
) WITHOUT ROWID;
CREATE TABLE docs(kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY(kind, id)) WITHOUT ROWID;
";

/// The index's file below a runs folder.
#[must_use]
pub(super) fn index_path(root: &Path) -> PathBuf {
    root.join(super::FOLDER).join("index.sqlite")
}

/// Opens the index for writing; rebuilds it if it is missing, damaged or of another schema.
pub(super) fn open(root: &Path, remarks: &mut Vec<String>) -> Result<Connection, IndexError> {
    let path = index_path(root);
    let folder = root.join(super::FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| IndexError::Io { path: folder, source })?;
    match try_open(&path) {
        Err(error) if error.is_damage() => {
            let aside = move_aside(&path)?;
            remarks.push(format!(
                "{error}: the index is made anew from the folders; the old file is {}",
                aside.display()
            ));
            try_open(&path)
        }
        other => other,
    }
}

fn try_open(path: &Path) -> Result<Connection, IndexError> {
    let at = |source| IndexError::Sql { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(at)?;
    tune(&connection).map_err(at)?;
    // Several processes may open a new file at once: the first creates the tables.
    let make = |connection: &mut Connection| -> rusqlite::Result<()> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == SCHEMA {
            return connection.query_row("SELECT count(*) FROM docs WHERE kind = ''", [], |_| Ok(()));
        }
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != SCHEMA {
            drop_tables(&transaction)?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", SCHEMA)?;
        }
        transaction.commit()
    };
    make(&mut connection).map_err(at)?;
    Ok(connection)
}

/// Drops all tables; their content can be read again from the folders.
fn drop_tables(connection: &Connection) -> rusqlite::Result<()> {
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in names.iter().filter(|name| !name.starts_with("sqlite_")) {
        connection.execute_batch(&format!("DROP TABLE \"{}\"", name.replace('"', "\"\"")))?;
    }
    Ok(())
}

/// Opens a query-only connection; the index must exist.
pub(super) fn open_reader(root: &Path) -> Result<Connection, IndexError> {
    let path = index_path(root);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
        tune(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    });
    opened.map_err(|source| IndexError::Sql { path, source })
}

/// Sets whether to wait for another process's write or to fail at once.
pub(super) fn wait_for_others(connection: &Connection, is_waited: bool) -> rusqlite::Result<()> {
    connection.busy_timeout(if is_waited { BUSY } else { Duration::ZERO })
}

fn tune(connection: &Connection) -> rusqlite::Result<()> {
    wait_for_others(connection, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "cache_size", -32_000)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Case-sensitive LIKE, as in MLflow's databases; ILIKE compares lower-cased values.
    connection.pragma_update(None, "case_sensitive_like", true)
}

/// Renames `index.sqlite` to `index.sqlite.damaged`, over an older one: it holds nothing that the folders don't.
pub(super) fn move_aside(path: &Path) -> Result<PathBuf, IndexError> {
    let aside = path.with_extension("sqlite.damaged");
    std::fs::rename(path, &aside).map_err(|source| IndexError::Io { path: path.to_owned(), source })?;
    for extension in ["sqlite-wal", "sqlite-shm"] {
        // They belong to the renamed file.
        let _ = std::fs::remove_file(path.with_extension(extension));
    }
    Ok(aside)
}

impl IndexError {
    /// Whether the file is damaged or not a database.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Sql { source, .. } if is_damage(source))
    }
}

/// Whether the SQLite error means that the file is damaged or not a database.
pub(crate) fn is_damage(source: &rusqlite::Error) -> bool {
    let code = source.sqlite_error_code();
    let is_missing =
        matches!(source, rusqlite::Error::SqliteFailure(_, Some(text)) if text.starts_with("no such table"));
    is_missing || matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
