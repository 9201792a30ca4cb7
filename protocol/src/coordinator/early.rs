//! Early stopping: a run ends before its last step because a metric has stopped improving.

use super::machine::Coordinator;
use crate::early_stopping::EvaluationProgress;
use crate::ids::{Phase, StepKey};

impl Coordinator {
    /// The step of the best evaluation, if the run uses early stopping. Its checkpoint must be kept.
    #[must_use]
    pub fn best_step(&self) -> Option<u64> {
        self.standing().and_then(|standing| standing.best).map(|(step, _)| step)
    }

    /// The checkpoint to which a rewind would return if a deviation were found now; it must be kept.
    #[must_use]
    pub fn refuge_step(&self) -> Option<u64> {
        self.uploads.newest_until(self.proven_step)
    }

    /// Whether the journal has a checkpoint of this step that is not void.
    #[must_use]
    pub fn has_version(&self, step: u64) -> bool {
        self.history.versions().any(|(known, _)| known == step)
    }

    fn standing(&self) -> Option<EvaluationProgress> {
        self.plan.early_stopping.as_ref().map(|rule| rule.standing(self.history.evaluations()))
    }

    pub(super) fn is_best(&self, step: u64) -> bool {
        self.best_step() == Some(step)
    }

    /// Whether these sums, which are about to be committed, end the run, and whether they are the best so far.
    pub(super) fn standing_after(&self, key: StepKey, sums: &[f64]) -> (bool, bool) {
        let Some(rule) = self.plan.early_stopping.as_ref().filter(|_| key.phase == Phase::Evaluate) else {
            return (false, false);
        };
        let standing = rule.standing(self.history.evaluations().chain([(key.step, sums)]));
        (rule.is_over(&standing), standing.best.is_some_and(|(step, _)| step == key.step))
    }

    /// Whether the committed evaluations end the run.
    pub(super) fn has_ended_early(&self) -> bool {
        let rule = self.plan.early_stopping.as_ref();
        rule.zip(self.standing()).is_some_and(|(rule, standing)| rule.is_over(&standing))
    }

    /// Why the run ended before its last step, if it did.
    pub(super) fn describe_early_end(&self) -> Option<String> {
        let step = self.position.step;
        let rule = self.plan.early_stopping.as_ref().filter(|_| step < self.plan.total_steps)?;
        let standing = self.standing().filter(|standing| rule.is_over(standing))?;
        let best = standing.best.map_or_else(
            || "it was never a number".to_owned(),
            |(best, value)| format!("the best was {value} after step {best}"),
        );
        let (metric, since) = (&rule.metric, standing.since);
        Some(format!(
            "ended early after step {step}: {metric} has not improved for {since} evaluations; {best}"
        ))
    }
}
