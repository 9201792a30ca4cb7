//! The checkers: they observe every event and know nothing of the implementation.
//!
//! Each function takes one observation and returns an error that names the violated invariant of the design. A
//! flipped bit makes a state and everything derived from it *tainted*: tainted states are compared with no others,
//! because the effect of a flip before anything is reduced is invisible by design; but a reported and ignored
//! difference is a violation.

mod history;
mod replicas;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ids::{MemberId, Phase, StepKey};

pub(crate) use versions::{Claim, RecoveryPoint, RollbackCause};

/// The error describes the violation.
pub(crate) type CheckResult = Result<(), String>;

/// Results of a quiet single-worker run of the same scenario, which every other run must reproduce bit for bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// State check by step.
    pub checks: BTreeMap<u64, u64>,
    /// Journalled hash by step and phase.
    pub hashes: BTreeMap<(u64, Phase), u64>,
    /// Digest of the final state.
    pub digest: [u8; 32],
}

/// Work on one step of one view: microbatch, member, samples.
type Computed = BTreeMap<u32, (MemberId, Vec<u64>)>;

/// A member's Ready: the check of its state, and the hash of the reduced step.
type ReadyClaim = (u64, u64);

/// Observations so far, over all incarnations of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    reference: Option<Arc<Reference>>,
    /// Commits with rewinds applied, according to the bytes on the disk.
    history: BTreeMap<(u64, Phase), (StepKey, u64)>,
    /// Every hash that was ever committed and not voided, rewound or not; and whether it is tainted.
    committed: BTreeMap<(u64, Phase), (u64, bool)>,
    consumed: BTreeMap<u64, Vec<u64>>,
    /// The samples of every commit, in case the journal loses it with its host.
    lost_samples: BTreeMap<StepKey, Vec<u64>>,
    computed: BTreeMap<StepKey, Computed>,
    ready: BTreeMap<StepKey, BTreeMap<MemberId, ReadyClaim>>,
    /// Slices of a step that reached a member.
    heard: BTreeMap<(MemberId, StepKey), BTreeSet<u32>>,
    /// Steps that reached a member completely before it began them.
    early: BTreeSet<(MemberId, StepKey)>,
    members: BTreeMap<u64, BTreeSet<MemberId>>,
    checks: BTreeMap<u64, u64>,
    journalled_versions: BTreeSet<u64>,
    term: u32,
    /// The latest state on whose check all members agreed, and the one before it (see `versions`).
    agreed: u64,
    proven: u64,
    /// Steps of views to which a tainted state has contributed.
    tainted: BTreeSet<StepKey>,
    /// See `World::compare_bits_alone`.
    pub(crate) compares_bits_alone: bool,
    /// Whether there ever was a tainted state.
    pub(crate) was_tainted: bool,
    /// Whether there is a tainted state in this incarnation, or an earlier one left its effects behind.
    pub(crate) is_tainted: bool,
}

impl Oracle {
    /// Creates an oracle with the expected results of the run.
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

    /// Another incarnation begins: all processes are new, so the effects of a flip persist only in the journal or in
    /// a checkpoint.
    pub(crate) fn on_life(&mut self, has_tainted_version: bool) {
        self.is_tainted = has_tainted_version || self.committed.values().any(|(_, is_tainted)| *is_tainted);
    }

    /// Whether a tainted state has contributed to this step.
    pub(crate) fn is_step_tainted(&self, key: StepKey) -> bool {
        self.tainted.contains(&key)
    }

    pub(crate) fn has_views(&self) -> bool {
        !self.members.is_empty()
    }

    /// The last committed training step; 0 if there is none.
    fn last(&self) -> u64 {
        self.history.keys().rev().find(|(_, phase)| *phase == Phase::Train).map_or(0, |(step, _)| *step)
    }

    /// This run's results, as a reference for others.
    #[must_use]
    pub(crate) fn to_reference(&self, digest: [u8; 32]) -> Reference {
        let hashes = self.history.iter().map(|(at, (_, hash))| (*at, *hash)).collect();
        Reference { checks: self.checks.clone(), hashes, digest }
    }
}
