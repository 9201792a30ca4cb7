//! What outlives a process: the journal with its torn tails, the versions with their manifests, the terms.

use std::collections::BTreeMap;

use protocol::journal::{self, Decoded, JournalError, Record};

use crate::toy::State;

/// A version's files, and whether its manifest is there.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct StoredVersion {
    /// What was written; `None` while only a part of it is.
    pub state: Option<State>,
    /// The digest that the manifest names; without a manifest the version does not exist.
    pub manifest: Option<[u8; 32]>,
    /// The disk has changed it since.
    pub is_damaged: bool,
}

/// One run's directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// The journal's bytes, as the operating system has them.
    pub journal: Vec<u8>,
    /// How many of them survive the host's crash.
    pub durable_bytes: usize,
    /// Versions by step.
    pub versions: BTreeMap<u64, StoredVersion>,
    /// The last term taken.
    pub term: u32,
    /// Appends fail until this time.
    pub journal_fails_until: u64,
    /// An append doesn't end before this time.
    pub journal_hangs_until: u64,
    /// Versions can't be written until this time.
    pub full_until: u64,
}

impl Disk {
    /// Takes the next term.
    pub(crate) fn take_term(&mut self) -> u32 {
        self.term += 1;
        self.term
    }

    /// Appends a whole record.
    pub(crate) fn append(&mut self, record: &Record, durable: bool) {
        self.journal.extend(journal::encode(record));
        if durable {
            self.durable_bytes = self.journal.len();
        }
    }

    /// A process died while it appended: some of the record's bytes are there.
    pub(crate) fn tear(&mut self, record: &Record, bytes: usize) {
        let encoded = journal::encode(record);
        self.journal.extend(&encoded[..bytes.min(encoded.len().saturating_sub(1))]);
    }

    /// The host died: what was not fsynced is cut anywhere, or the file has its length and zeros in it.
    pub(crate) fn lose_unsynced(&mut self, keep: usize, zeros: bool) {
        let len = self.journal.len();
        self.journal.truncate(self.durable_bytes + keep.min(len - self.durable_bytes));
        if zeros {
            self.journal.resize(len, 0);
        }
    }

    /// Reads the journal and cuts a torn tail, as a driver must before it appends.
    ///
    /// # Errors
    /// When the middle is damaged.
    pub(crate) fn open_journal(&mut self, cut_tail: bool) -> Result<Vec<Record>, JournalError> {
        let Decoded { records, good_bytes, .. } = journal::decode(&self.journal)?;
        if cut_tail {
            self.journal.truncate(good_bytes);
            self.durable_bytes = self.durable_bytes.min(good_bytes);
        }
        Ok(records)
    }

    /// Versions that are whole and are what their manifest says, newest first.
    #[must_use]
    pub(crate) fn whole_versions(&self) -> Vec<(u64, [u8; 32])> {
        let whole = |(step, version): (&u64, &StoredVersion)| {
            let digest = version.state.as_ref()?.digest();
            (version.manifest == Some(digest)).then_some((*step, digest))
        };
        self.versions.iter().rev().filter_map(whole).collect()
    }
}
