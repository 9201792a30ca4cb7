//! `RUN_DIR/tokens.json`: the tokens that were issued. It stores hashes only, never a token.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use wire::token::{Token, write_private};

/// File name in the run's folder.
const FILE: &str = "tokens.json";

/// Tokens of a run: more than it may have members, and few enough to read whole.
pub(crate) const TOKENS_MAX: usize = 1_000;

/// A token takes about two hundred bytes in the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a token is for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Reads the run's status and the tracker's pages
    Viewer,
    /// Joins the run and computes
    Worker,
    /// Reads, stops the run and asks for checkpoints
    Operator,
}

impl Role {
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Self::Viewer => "a viewer",
            Self::Worker => "a worker",
            Self::Operator => "an operator",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Viewer => "viewer",
            Self::Worker => "worker",
            Self::Operator => "operator",
        })
    }
}

/// An issued token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenEntry {
    /// For people and the audit log; unique among valid tokens.
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The token's hash in hexadecimal: see [`hash`].
    pub(crate) hash: String,
    /// Unix time in seconds.
    pub(crate) created: u64,
    /// Expiry, Unix time in seconds; `None` for a token that never expires.
    pub(crate) expires: Option<u64>,
    /// Revocation time, Unix time in seconds.
    pub(crate) revoked: Option<u64>,
}

impl TokenEntry {
    /// Why the token is no longer valid; `None` while it is.
    pub(crate) fn ended(&self, now: u64) -> Option<&'static str> {
        match (self.revoked, self.expires) {
            (Some(_), _) => Some("was revoked"),
            (None, Some(expires)) if expires <= now => Some("has expired"),
            _ => None,
        }
    }
}

/// The file's content.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TokenTable {
    /// In order of creation.
    pub(crate) tokens: Vec<TokenEntry>,
}

impl TokenTable {
    /// Reads a run's token file; without a file there are no tokens.
    ///
    /// # Errors
    /// When the file can't be read or parsed.
    pub(crate) fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join(FILE);
        let wrong = |why: &dyn std::fmt::Display| {
            format!(
                "{}: {why}: mend it, or remove it, which revokes all tokens but the run's own",
                path.display()
            )
        };
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(why) => return Err(format!("{} can't be read: {why}", path.display())),
        };
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|why| wrong(&why))?;
        serde_json::from_str(&text).map_err(|why| wrong(&why))
    }

    fn write(&self, dir: &Path) -> Result<(), String> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|why| why.to_string())?;
        write_private(&path, text.as_bytes()).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// The entries by token hash.
    pub(crate) fn by_hash(self) -> BTreeMap<String, TokenEntry> {
        self.tokens.into_iter().map(|entry| (entry.hash.clone(), entry)).collect()
    }
}

/// Changes a run's token file under its lock.
///
/// # Errors
/// The error of `change`, or of reading or writing the file.
pub(crate) fn change<T>(
    dir: &Path,
    change: impl FnOnce(&mut TokenTable) -> Result<T, String>,
) -> Result<T, String> {
    let _lock = Lock::take(dir)?;
    let mut table = TokenTable::read(dir)?;
    let done = change(&mut table)?;
    table.write(dir)?;
    Ok(done)
}

/// Held while the file is read, changed and written.
struct Lock(#[allow(dead_code, reason = "unlocked when it is closed")] std::fs::File);

impl Lock {
    fn take(dir: &Path) -> Result<Self, String> {
        let path = dir.join(".tokens.lock");
        let failed = |why: std::io::Error| format!("{}: {why}", path.display());
        let file =
            std::fs::File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|why| failed(why.into()))?;
        Ok(Self(file))
    }
}

/// Inode, mtime and length, which change whenever the file does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileStamp(u64, i64, i64, u64);

impl FileStamp {
    /// The file's current stamp; `None` without a file.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let meta = std::fs::metadata(dir.join(FILE)).ok()?;
        Some(Self(meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    }
}

/// The hash that stands for a token in the file. A token is 32 random bytes, so a slow hash would gain nothing.
pub(crate) fn hash(token: &Token) -> String {
    hex::encode(token.digest())
}

/// Checks that a name fits into a log, a table and a command line.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    const NAME_BYTES_MAX: usize = 64;
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_fit) || name == super::RUN {
        return Err(format!(
            "--name {name:?}: expected up to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\", and not \"{}\", which is \
             the run's own token",
            super::RUN
        ));
    }
    Ok(())
}

/// Unix time in seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
