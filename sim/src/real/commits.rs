//! A run's journal as it grows, with the moment at which each record was seen.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use protocol::journal::{Record, decode};

/// The polling interval: the resolution of all times taken from the journal.
const LOOK: Duration = Duration::from_millis(1);

/// The journal records that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JournalEntry {
    Term,
    View { id: u64, members: usize },
    Commit { view: u64 },
}

/// Follows a journal.
#[derive(Debug)]
pub(super) struct Commits {
    path: PathBuf,
    offset: u64,
    /// All entries seen, the oldest first.
    pub(super) seen: Vec<(Instant, JournalEntry)>,
}

impl Commits {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0, seen: Vec::new() }
    }

    /// Reads on until a condition holds for the entries seen.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&[(Instant, JournalEntry)]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            self.read_on()?;
            if let Some(found) = condition(&self.seen) {
                return Ok(found);
            }
            if began.elapsed() > limit {
                bail!("waited {limit:?} for {what}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Follows the journal for a while.
    pub(super) fn pause(&mut self, pause: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + pause;
        self.until("the pause's end", 2 * pause, |_| (Instant::now() >= end).then_some(()))
    }

    fn read_on(&mut self) -> anyhow::Result<()> {
        // The run's first coordinator creates it.
        let Ok(mut file) = File::open(&self.path) else { return Ok(()) };
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.read_to_end(&mut bytes));
        read.with_context(|| format!("{} can't be read", self.path.display()))?;
        // The last record may still be half-written: it is read again next time.
        let decoded = decode(&bytes).with_context(|| format!("{}", self.path.display()))?;
        let now = Instant::now();
        self.offset += decoded.good_bytes as u64;
        self.seen.extend(decoded.records.iter().filter_map(seen).map(|seen| (now, seen)));
        Ok(())
    }
}

fn seen(record: &Record) -> Option<JournalEntry> {
    match record {
        Record::Term(_) => Some(JournalEntry::Term),
        Record::View(record) => {
            Some(JournalEntry::View { id: record.view.id.0, members: record.view.members.len() })
        }
        Record::Commit(record) => Some(JournalEntry::Commit { view: record.key.view.0 }),
        _ => None,
    }
}

/// The last view seen, and its number of members.
pub(super) fn last_view(seen: &[(Instant, JournalEntry)]) -> Option<(u64, usize)> {
    seen.iter().rev().find_map(|(_, seen)| match seen {
        JournalEntry::View { id, members } => Some((*id, *members)),
        _ => None,
    })
}

/// The first commit of a view later than `view`, and the pause between it and the commit before it.
pub(super) fn commit_after_view(seen: &[(Instant, JournalEntry)], view: u64) -> Option<(Instant, Duration)> {
    let mut before = None;
    for (at, seen) in seen {
        if let JournalEntry::Commit { view: of } = seen {
            if *of > view {
                return Some((*at, at.duration_since(before?)));
            }
            before = Some(*at);
        }
    }
    None
}
