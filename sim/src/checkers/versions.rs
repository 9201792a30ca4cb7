//! Recovery uses the last checkpoint and never a partial one (invariant 6), across incarnations and within one.

use protocol::ids::{Phase, StepKey};

use super::{CheckResult, Oracle};
use crate::scenario::Scenario;
use crate::toy::State;

/// What a present member could continue from: the commit that made its state, and the step for which it is prepared
/// beyond it, with its hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) commit: (StepKey, u64),
    pub(crate) prepared: Option<(u64, u64)>,
}

/// Why history is rewound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RollbackCause {
    /// No member has the committed state any more.
    Lost,
    /// The members' states differ.
    Void,
    /// The members' states differ, while returning members could outvote the present ones: no checkpoint is proven by
    /// the present members alone.
    Outvoted,
    /// A member joined with another state of this step than the one from which the run has continued.
    Late(u64),
}

/// Everything from which a rewound run could continue.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecoveryPoint {
    /// Intact checkpoints, newest first.
    pub(crate) versions: Vec<(u64, [u8; 32])>,
    pub(crate) members: Vec<Claim>,
}

impl Oracle {
    /// A checkpoint's manifest was written, or a checkpoint is about to be loaded.
    ///
    /// # Errors
    /// When its content differs from the committed state.
    pub(crate) fn on_version(&self, step: u64, state: &State) -> CheckResult {
        let differs = || self.checks.get(&step).is_some_and(|check| *check != state.check());
        if state.step != step || !state.tainted && differs() {
            return Err(format!("versions: version {step} does not hold state {step}"));
        }
        Ok(())
    }

    /// Members load a checkpoint.
    ///
    /// # Errors
    /// When the journal doesn't name it, or a rewind has made it void.
    pub(crate) fn on_version_used(&self, step: u64) -> CheckResult {
        match self.journalled_versions.contains(&step) {
            true => Ok(()),
            false => Err(format!("versions: version {step} is loaded, and is void or not in the journal")),
        }
    }

    /// A run continues from the `chosen` checkpoint although those in `whole` are intact.
    ///
    /// # Errors
    /// When it could have continued from a newer one.
    pub(crate) fn on_resume(&self, chosen: Option<u64>, whole: &[(u64, [u8; 32])]) -> CheckResult {
        let best = self.newest_whole(whole, u64::MAX);
        if chosen < best {
            return Err(format!("versions: the run resumes from {chosen:?} and version {best:?} is whole"));
        }
        Ok(())
    }

    fn newest_whole(&self, whole: &[(u64, [u8; 32])], until: u64) -> Option<u64> {
        let last = self.last();
        let counts = |step: &u64| *step <= last.min(until) && self.journalled_versions.contains(step);
        whole.iter().map(|(step, _)| *step).filter(counts).max()
    }

    /// History is about to be rewound.
    ///
    /// # Errors
    /// When it is rewound further than necessary, that is, beyond the newest intact checkpoint (among those that no
    /// deviant replica can have touched, if one was found) or a member's state; or not far enough, if states
    /// differed.
    pub(crate) fn on_rewind(&self, to_step: u64, way: RollbackCause, best: &RecoveryPoint) -> CheckResult {
        let (last, void) = (self.last(), way != RollbackCause::Lost);
        let agreed = match way {
            RollbackCause::Late(step) => self.agreed.min(step.saturating_sub(1)),
            _ => self.agreed,
        };
        if void && to_step > agreed {
            return Err(format!("versions: a rewind to {to_step}; members last agreed on state {agreed}"));
        }
        let until = match way {
            RollbackCause::Lost => last,
            RollbackCause::Void => self.proven,
            RollbackCause::Late(_) | RollbackCause::Outvoted => return Ok(()),
        };
        if let Some(version) = self.newest_whole(&best.versions, until).filter(|version| to_step < *version) {
            return Err(format!("versions: a rewind to {to_step}, beyond version {version}, which is whole"));
        }
        if void {
            return Ok(());
        }
        let held = best.members.iter().filter_map(|claim| self.reaches(claim)).max();
        match held.filter(|held| to_step < *held) {
            Some(held) => {
                Err(format!("versions: a rewind to {to_step}, beyond state {held}, which a member has"))
            }
            None => Ok(()),
        }
    }

    /// The step that a member's claim reaches in this history.
    fn reaches(&self, claim: &Claim) -> Option<u64> {
        let (key, hash) = claim.commit;
        let is_history = |step: u64, hash: u64| {
            self.history.get(&(step, Phase::Train)).filter(|(_, journalled)| *journalled == hash)
        };
        is_history(key.step, hash).filter(|(journalled, _)| *journalled == key)?;
        let prepared = claim.prepared.filter(|(step, hash)| {
            *step == key.step + 1 && *step == self.last() && is_history(*step, *hash).is_some()
        });
        Some(prepared.map_or(key.step, |(step, _)| step))
    }

    /// The run reports its completion.
    ///
    /// # Errors
    /// When the final state differs from the quiet run's, or isn't a checkpoint.
    pub(crate) fn on_completed(
        &self,
        scenario: &Scenario,
        newest: Option<(u64, [u8; 32])>,
        is_tainted: bool,
    ) -> CheckResult {
        let steps = scenario.plan.total_steps;
        let Some((step, digest)) = newest else {
            return Err("versions: the run is complete and has no version".to_owned());
        };
        let last = self.reference.as_ref().and_then(|reference| reference.checks.keys().max().copied());
        // The quiet run determines where a run with early stopping ends.
        let is_end = match (&scenario.plan.early_stopping, last) {
            (Some(_), Some(last)) if !is_tainted => step == last,
            (Some(_), _) => step <= steps,
            (None, _) => step == steps,
        };
        if !is_end {
            return Err(format!(
                "versions: the run is complete at step {steps}, its newest version is {step}"
            ));
        }
        match &self.reference {
            Some(reference) if !is_tainted && reference.digest != digest => {
                Err("bit-exact: the final digest is not the quiet run's".to_owned())
            }
            _ => Ok(()),
        }
    }
}
