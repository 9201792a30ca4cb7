//! State that each phase keeps between two events: plain data and its queries.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::Millis;
use crate::ids::{MemberId, Phase, StepKey};
use crate::messages::{CommitRecord, Ready, Timings};

/// A faster step lowers the expected duration by this divisor of the difference.
const PACE_DECAY: u64 = 16;

#[derive(Debug)]
pub(super) struct Initialising {
    pub(super) by: MemberId,
    pub(super) until: Millis,
    /// The digest that the member reported for its state.
    pub(super) loaded: Option<[u8; 32]>,
}

impl Initialising {
    pub(super) fn has_loaded(&self) -> bool {
        self.loaded.is_some()
    }
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) key: StepKey,
    pub(super) until: Millis,
    /// Deadline for newcomers: a member's first step may compile what its warm-up didn't.
    pub(super) newcomers_until: Millis,
    pub(super) started: Millis,
    /// When the blocking members are reported next.
    pub(super) late_at: Millis,
    /// The last report.
    pub(super) late: String,
    /// Members whose part of the step is at the reducer.
    pub(super) computed: BTreeSet<MemberId>,
    /// Members that block the reduction, as the reducer last reported.
    pub(super) behind: Vec<MemberId>,
    pub(super) readies: BTreeMap<MemberId, Ready>,
}

impl Step {
    /// Whether this member has computed its part.
    pub(super) fn has_computed(&self, id: MemberId) -> bool {
        self.computed.contains(&id) || self.is_ready(id)
    }

    pub(super) fn ready_count(&self) -> usize {
        self.readies.len()
    }

    pub(super) fn is_ready(&self, id: MemberId) -> bool {
        self.readies.contains_key(&id)
    }
}

/// A step that is decided but not yet history.
#[derive(Debug)]
pub(super) struct DecidedStep {
    pub(super) record: CommitRecord,
    /// Duration at the members; the journal's time says nothing about them.
    pub(super) took_ms: u64,
    pub(super) timings: Vec<(MemberId, Timings)>,
}

/// How long a step takes, by phase; `None` before the first.
#[derive(Debug, Default)]
pub(super) struct StepDurations {
    pub(super) train_ms: Option<u64>,
    pub(super) evaluate_ms: Option<u64>,
}

impl StepDurations {
    pub(super) fn of(&mut self, phase: Phase) -> &mut Option<u64> {
        match phase {
            Phase::Train => &mut self.train_ms,
            Phase::Evaluate => &mut self.evaluate_ms,
        }
    }

    /// Records the duration of a step. A slower one counts at once, a faster one by a sixteenth: a single slow step,
    /// such as the first one or one on a busy machine, doesn't lengthen deadlines for good.
    pub(super) fn record(&mut self, phase: Phase, took_ms: u64) {
        let pace = self.of(phase);
        let decayed = pace.map_or(0, |before| before - before.saturating_sub(took_ms).div_ceil(PACE_DECAY));
        *pace = Some(decayed.max(took_ms));
    }
}

/// Measurements of the balance in this view.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Balance {
    pub(super) looked_at: Millis,
    /// Training steps since the last check.
    pub(super) steps: u32,
    /// Consecutive checks that found the members unbalanced.
    pub(super) unbalanced: u32,
}

/// Microbatches that members have computed, or are computing, of an uncommitted step.
#[derive(Clone, Debug, Default)]
pub(super) struct UncommittedWork {
    pub(super) step: u64,
    pub(super) phase: Option<Phase>,
    pub(super) sets: BTreeMap<MemberId, Vec<Range<u32>>>,
}

/// A transfer of a member's state to members that lack it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StateTransfer {
    pub(super) step: u64,
    pub(super) from: MemberId,
    /// Digest of the uploaded state, once the upload is complete.
    pub(super) digest: Option<[u8; 32]>,
}

/// The work that remains after the last step.
#[derive(Debug)]
pub(super) struct Closing {
    /// `None` for members that must still send Applied.
    pub(super) checks: BTreeMap<MemberId, Option<u64>>,
    pub(super) applied_until: Millis,
    /// Failed attempts at the last checkpoint.
    pub(super) attempts: u32,
    /// When the first of them failed.
    pub(super) failing_since: Option<Millis>,
    pub(super) retry_at: Option<Millis>,
    /// The uploader of the last permitted attempt, and why that attempt failed.
    pub(super) giving_up: Option<(MemberId, String)>,
    pub(super) export: Export,
    /// Failed attempts at the exports.
    pub(super) exports_failed: u32,
}

impl Closing {
    pub(super) fn deadline(&self) -> Option<Millis> {
        let applied = self.waits_for_checks().then_some(self.applied_until);
        let export = match self.export {
            Export::InFlight { until, .. } => Some(until),
            Export::NotAsked | Export::Done => None,
        };
        [applied, self.retry_at, export].into_iter().flatten().min()
    }

    pub(super) fn shift(&mut self, shift: impl Fn(&mut Millis)) {
        shift(&mut self.applied_until);
        if let Export::InFlight { until, .. } = &mut self.export {
            shift(until);
        }
    }

    /// The members' checks of the last state.
    pub(super) fn checks(&self) -> impl Iterator<Item = (MemberId, u64)> {
        self.checks.iter().filter_map(|(id, check)| check.map(|check| (*id, check)))
    }

    pub(super) fn waits_for_checks(&self) -> bool {
        self.checks.values().any(Option::is_none)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Export {
    NotAsked,
    InFlight { from: MemberId, until: Millis },
    Done,
}
