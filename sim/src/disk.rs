//! State that outlives a process: the journal with its torn tails, the checkpoints with their manifests, the terms.

use std::collections::BTreeMap;

use protocol::journal::{self, Decoded, JournalError, Record};

use crate::toy::State;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct StoredVersion {
    /// The written state; `None` while it is incomplete.
    pub state: Option<State>,
    /// The digest that the manifest names; without a manifest the checkpoint does not exist.
    pub manifest: Option<[u8; 32]>,
    /// The disk has damaged the state since.
    pub is_damaged: bool,
}

/// One run's directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// The journal's bytes in the operating system.
    pub journal: Vec<u8>,
    /// How many of them survive a crash of the host.
    pub durable_bytes: usize,
    /// Checkpoints by step.
    pub versions: BTreeMap<u64, StoredVersion>,
    /// The last term taken.
    pub term: u32,
    /// Appends fail until this time.
    pub journal_fails_until: u64,
    /// An append doesn't complete before this time.
    pub journal_hangs_until: u64,
    /// Checkpoints can't be written until this time.
    pub full_until: u64,
}

impl Disk {
    pub(crate) fn take_term(&mut self) -> u32 {
        self.term += 1;
        self.term
    }

    pub(crate) fn append(&mut self, record: &Record, durable: bool) {
        self.journal.extend(journal::encode(record));
        if durable {
            self.durable_bytes = self.journal.len();
        }
    }

    /// A process died during an append: a part of the record's bytes is written.
    pub(crate) fn tear(&mut self, record: &Record, bytes: usize) {
        let encoded = journal::encode(record);
        self.journal.extend(&encoded[..bytes.min(encoded.len().saturating_sub(1))]);
    }

    /// The host died: unsynced bytes are cut anywhere, or the file keeps its length with zeros in it.
    pub(crate) fn lose_unsynced(&mut self, keep: usize, zeros: bool) {
        let len = self.journal.len();
        self.journal.truncate(self.durable_bytes + keep.min(len - self.durable_bytes));
        if zeros {
            self.journal.resize(len, 0);
        }
    }

    /// Reads the journal and truncates a torn tail, as a driver must before it appends.
    ///
    /// # Errors
    /// When a record in the middle is damaged.
    pub(crate) fn open_journal(&mut self, cut_tail: bool) -> Result<Vec<Record>, JournalError> {
        let Decoded { records, good_bytes, .. } = journal::decode(&self.journal)?;
        if cut_tail {
            self.journal.truncate(good_bytes);
            self.durable_bytes = self.durable_bytes.min(good_bytes);
        }
        Ok(records)
    }

    /// Intact checkpoints that match their manifests, newest first.
    #[must_use]
    pub(crate) fn whole_versions(&self) -> Vec<(u64, [u8; 32])> {
        let whole = |(step, version): (&u64, &StoredVersion)| {
            let digest = version.state.as_ref()?.digest();
            (version.manifest == Some(digest)).then_some((*step, digest))
        };
        self.versions.iter().rev().filter_map(whole).collect()
    }
}
