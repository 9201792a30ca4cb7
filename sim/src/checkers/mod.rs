//! The checkers: they see everything that happens and know nothing of how it is done.
//!
//! Each function takes in one observation and says what is wrong with it, naming the invariant of the design that
//! it breaks. A bit that flips makes a state, and what comes of it, *tainted*: it is compared with nobody's, for what a
//! flip does before anything is reduced is invisible by design; but that it was ever told and not heard is a finding.

mod history;
mod replicas;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ids::{MemberId, Phase, StepKey};

pub(crate) use versions::{Claim, RecoveryPoint, RollbackCause};

/// What is wrong.
pub(crate) type CheckResult = Result<(), String>;

/// A quiet single-worker run of the same scenario: what every other run must reproduce bit for bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// State check by step.
    pub checks: BTreeMap<u64, u64>,
    /// Journalled hash by step and phase.
    pub hashes: BTreeMap<(u64, Phase), u64>,
    /// Digest of the final state.
    pub digest: [u8; 32],
}

/// What one step of one view computed: microbatch, member, samples.
type Computed = BTreeMap<u32, (MemberId, Vec<u64>)>;

/// What a member said with its Ready: the check of its state, and the hash of what was reduced.
type ReadyClaim = (u64, u64);

/// What was seen so far, over all lives of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    reference: Option<Arc<Reference>>,
    /// Commits after rewinds: what the bytes on the disk say.
    history: BTreeMap<(u64, Phase), (StepKey, u64)>,
    /// Every hash that was ever committed and not voided, rewound or not; and whether it is tainted.
    committed: BTreeMap<(u64, Phase), (u64, bool)>,
    consumed: BTreeMap<u64, Vec<u64>>,
    /// Of every commit, should the journal lose it with its host.
    lost_samples: BTreeMap<StepKey, Vec<u64>>,
    computed: BTreeMap<StepKey, Computed>,
    ready: BTreeMap<StepKey, BTreeMap<MemberId, ReadyClaim>>,
    /// Slices of a step that reached a member.
    heard: BTreeMap<(MemberId, StepKey), BTreeSet<u32>>,
    /// Steps that reached a member whole before it began them.
    early: BTreeSet<(MemberId, StepKey)>,
    members: BTreeMap<u64, BTreeSet<MemberId>>,
    checks: BTreeMap<u64, u64>,
    journalled_versions: BTreeSet<u64>,
    term: u32,
    /// The latest state that all members have said the same check of, and the one before that (see `versions`).
    agreed: u64,
    proven: u64,
    /// Steps of views to which a tainted state has contributed.
    tainted: BTreeSet<StepKey>,
    /// See `World::compare_bits_alone`.
    pub(crate) compares_bits_alone: bool,
    /// Whether there ever was one.
    pub(crate) was_tainted: bool,
    /// Whether there was one in this life, or an earlier life has left some of it behind.
    pub(crate) is_tainted: bool,
}

impl Oracle {
    /// A watch that knows what the run must come to.
    #[must_use]
    pub(crate) fn new(reference: Option<Arc<Reference>>) -> Self {
        Self { reference, ..Self::default() }
    }

    /// A bit flips in a state.
    pub(crate) fn on_flip(&mut self) {
        (self.was_tainted, self.is_tainted) = (true, true);
    }

    /// A tainted state contributes to this step.
    pub(crate) fn on_tainted(&mut self, key: StepKey) {
        self.tainted.insert(key);
        self.on_flip();
    }

    /// Another life begins: all processes are new, so what a flip has made is gone where it is neither in the journal nor in
    /// a version.
    pub(crate) fn on_life(&mut self, has_tainted_version: bool) {
        self.is_tainted = has_tainted_version || self.committed.values().any(|(_, is_tainted)| *is_tainted);
    }

    /// Whether one has.
    pub(crate) fn is_step_tainted(&self, key: StepKey) -> bool {
        self.tainted.contains(&key)
    }

    /// Whether any view was ever journalled.
    pub(crate) fn has_views(&self) -> bool {
        !self.members.is_empty()
    }

    /// The last committed step.
    fn last(&self) -> u64 {
        self.history.keys().rev().find(|(_, phase)| *phase == Phase::Train).map_or(0, |(step, _)| *step)
    }

    /// What this run came to, as a reference for others.
    #[must_use]
    pub(crate) fn to_reference(&self, digest: [u8; 32]) -> Reference {
        let hashes = self.history.iter().map(|(at, (_, hash))| (*at, *hash)).collect();
        Reference { checks: self.checks.clone(), hashes, digest }
    }
}
