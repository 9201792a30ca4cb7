//! Access control: the run's own token may do everything; other tokens have a role, a name and an expiry.
//!
//! `RUN_DIR/tokens.json` is the source of truth and is reread when it changes: callers whose token was revoked or has
//! expired are disconnected within a second.

pub(crate) mod token_table;
mod until_revoked;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use store::{FolderLocation, HeldFolder};
use tokio::sync::watch;
use tonic::Status;
use tracing::warn;
use wire::token::Token;

use token_table::{FileStamp, Role, TokenEntry, TokenTable};
pub(crate) use until_revoked::UntilRevoked;

/// The name of the run's own token in messages and in the audit log.
pub(crate) const RUN: &str = "run";

/// How often the token file is checked for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A kind of call, which a role may or may not make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Read the run's status or pages.
    Read,
    /// Be a member and transfer its files.
    Join,
    /// Stop the run or request a checkpoint.
    Operate,
}

impl Action {
    fn is_met_by(self, role: Role) -> bool {
        match self {
            Self::Read => matches!(role, Role::Viewer | Role::Operator),
            Self::Join => role == Role::Worker,
            Self::Operate => role == Role::Operator,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Read => "reading takes a viewer or an operator",
            Self::Join => "joining takes a worker",
            Self::Operate => "stopping and checkpointing take an operator",
        }
    }
}

/// An admitted caller, identified by its token.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: Arc<str>,
    /// `None` for the run's own token, which may do everything.
    role: Option<Role>,
    /// Shared secret derived from the token, for the proofs of the data plane.
    pub(crate) secret: [u8; 32],
    /// Becomes true when the token ends.
    ended: watch::Receiver<bool>,
}

impl Caller {
    /// Checks that the caller's role permits the action.
    pub(crate) fn may(&self, need: Action) -> Result<(), Status> {
        match self.role {
            Some(role) if !need.is_met_by(role) => Err(Status::permission_denied(format!(
                "the token {:?} is of {}: {}",
                self.name,
                role.with_article(),
                need.in_words()
            ))),
            _ => Ok(()),
        }
    }

    /// The role's name; "all" for the run's own token.
    pub(crate) fn role(&self) -> String {
        self.role.map_or_else(|| "all".to_owned(), |role| role.to_string())
    }

    /// The caller of a request that the token check has admitted.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::internal("nobody has looked at the token"))
    }

    /// Waits until the caller's token ends, which may be never; returns the reason.
    pub(crate) async fn ended(mut self) -> String {
        // The run's own token never ends: its sender is gone.
        if self.ended.wait_for(|ended| *ended).await.is_err() {
            std::future::pending::<()>().await;
        }
        format!("its token {:?} was revoked or has expired", self.name)
    }
}

/// Why a token was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TokenRefusal {
    /// The run has no such token.
    Unknown,
    /// The token was revoked or has expired.
    Ended {
        name: String,
        /// "was revoked" or "has expired".
        how: &'static str,
    },
}

impl From<&TokenRefusal> for Status {
    fn from(refused: &TokenRefusal) -> Self {
        match refused {
            TokenRefusal::Unknown => {
                Self::unauthenticated("the run's token is missing or wrong: see --token-file")
            }
            TokenRefusal::Ended { name, how } => Self::permission_denied(format!(
                "the token {name:?} {how}: ask for another one (coordinator token create)"
            )),
        }
    }
}

/// All tokens of a run, kept up to date with its token file.
#[derive(Clone)]
pub(crate) struct Access {
    run: Caller,
    token: Token,
    dir: Arc<Path>,
    /// Handle on the run's folder: the token file counts only while the folder is in place.
    held: Option<Arc<HeldFolder>>,
    known: Arc<RwLock<LoadedTokens>>,
}

struct LoadedTokens {
    stamp: Option<FileStamp>,
    entries: BTreeMap<String, IssuedToken>,
    /// Why the file can't be read; logged once.
    trouble: String,
}

struct IssuedToken {
    entry: TokenEntry,
    ended: watch::Sender<bool>,
}

impl Access {
    /// Loads the tokens of the run in this folder.
    ///
    /// # Errors
    /// When the token file can't be read.
    pub(crate) fn open(token: Token, dir: &Path) -> Result<Self, String> {
        let run =
            Caller { name: RUN.into(), role: None, secret: token.secret(), ended: watch::channel(false).1 };
        let known = LoadedTokens { stamp: None, entries: BTreeMap::new(), trouble: String::new() };
        let held = HeldFolder::open(dir, "lock").ok().map(Arc::new);
        let own = Self { run, token, dir: dir.into(), held, known: Arc::new(RwLock::new(known)) };
        own.look()?;
        Ok(own)
    }

    /// Starts a task that polls the file for changes for as long as the run goes on.
    pub(crate) fn watch(&self) -> tokio::task::JoinHandle<()> {
        let own = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let looking = own.clone();
                let _ = tokio::task::spawn_blocking(move || looking.look()).await;
            }
        })
    }

    /// Rereads the file if it has changed, and ends revoked and expired tokens.
    fn look(&self) -> Result<(), String> {
        let stamp = FileStamp::of(&self.dir);
        // Removing the run's folder revokes no token: workers still save what they hold.
        let is_lost = self.held.as_ref().is_some_and(|held| held.whereabouts() != FolderLocation::InPlace);
        let has_changed =
            !is_lost && self.known.read().unwrap_or_else(PoisonError::into_inner).stamp != stamp;
        let table = if has_changed { Some(TokenTable::read(&self.dir)) } else { None };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = match table {
            None => Ok(()),
            Some(Ok(table)) => {
                known.take(table.by_hash());
                (known.stamp, known.trouble) = (stamp, String::new());
                Ok(())
            }
            Some(Err(why)) => {
                if known.trouble != why {
                    warn!("{why}; what was read before counts");
                    known.trouble.clone_from(&why);
                }
                Err(why)
            }
        };
        let now = token_table::now();
        for given in known.entries.values().filter(|given| given.entry.ended(now).is_some()) {
            given.ended.send_if_modified(|ended| !std::mem::replace(ended, true));
        }
        outcome
    }

    /// Admits the caller that presents this `authorization` header.
    pub(crate) fn admit(&self, value: Option<&str>) -> Result<Caller, TokenRefusal> {
        if self.token.admits(value) {
            return Ok(self.run.clone());
        }
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).and_then(Token::parse);
        self.admit_named(&token.ok_or(TokenRefusal::Unknown)?)
    }

    fn admit_named(&self, token: &Token) -> Result<Caller, TokenRefusal> {
        let hash = token_table::hash(token);
        let find = || {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let given = known.entries.get(&hash)?;
            let who = Caller {
                name: given.entry.name.as_str().into(),
                role: Some(given.entry.role),
                secret: token.secret(),
                ended: given.ended.subscribe(),
            };
            Some(match given.entry.ended(token_table::now()) {
                Some(how) => Err(TokenRefusal::Ended { name: given.entry.name.clone(), how }),
                None => Ok(who),
            })
        };
        match find() {
            Some(found) => found,
            // The token may have been created since the last poll.
            None => {
                let _ = self.look();
                find().unwrap_or(Err(TokenRefusal::Unknown))
            }
        }
    }
}

impl LoadedTokens {
    /// Replaces the entries; tokens missing from the new ones have ended.
    fn take(&mut self, entries: BTreeMap<String, TokenEntry>) {
        let mut before = std::mem::take(&mut self.entries);
        for (hash, entry) in entries {
            let still = before.remove(&hash).map(|given| given.ended).filter(|ended| !*ended.borrow());
            let ended = still.unwrap_or_else(|| watch::channel(false).0);
            self.entries.insert(hash, IssuedToken { entry, ended });
        }
        // Kept, so that their holders are told that the token was revoked, rather than that it is unknown.
        for (hash, mut given) in before.into_iter().take(token_table::TOKENS_MAX) {
            given.ended.send_replace(true);
            given.entry.revoked.get_or_insert_with(token_table::now);
            self.entries.insert(hash, given);
        }
    }
}

#[cfg(test)]
mod tests;
