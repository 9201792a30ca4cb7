//! Early stopping: a pure function of the committed evaluations, so that every coordinator of the run ends it at the
//! same step.

/// The monitored metric and the patience of the rule.
#[derive(Clone, PartialEq, Debug)]
pub struct EarlyStopping {
    /// Display name of the metric.
    pub metric: String,
    /// Index of the metric's sum; the metric is this sum over the weight (sum 1), times `scale`.
    pub sum: usize,
    /// Factor from the sums' unit to the metric's.
    pub scale: f64,
    /// Whether less is better.
    pub lower_is_better: bool,
    /// An evaluation improves on the best if it is better by more than this.
    pub min_delta: f64,
    /// The run ends after this many evaluations in a row without improvement; 0 is read as 1.
    pub patience: u64,
}

/// Summary of the evaluations so far.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EvaluationProgress {
    /// The step of the best evaluation, and its value. `None` while no value was finite.
    pub best: Option<(u64, f64)>,
    /// Evaluations since the best one.
    pub since: u64,
}

/// Sums of an evaluation that a history keeps: enough for a metric, without the confusion matrix.
pub(crate) const SUMS_KEPT: usize = 4;

impl EarlyStopping {
    /// Summarises the sums of the evaluations, in the order of their steps.
    pub fn standing<'a>(&self, evaluations: impl Iterator<Item = (u64, &'a [f64])>) -> EvaluationProgress {
        let mut standing = EvaluationProgress { best: None, since: 0 };
        for (step, sums) in evaluations {
            let value = self.value(sums);
            let improves = match standing.best {
                None => value.is_finite(),
                Some((_, best)) if self.lower_is_better => best - value > self.min_delta,
                Some((_, best)) => value - best > self.min_delta,
            };
            if improves && value.is_finite() {
                standing = EvaluationProgress { best: Some((step, value)), since: 0 };
            } else {
                standing.since += 1;
            }
        }
        standing
    }

    /// Whether the run ends here.
    #[must_use]
    pub fn is_over(&self, standing: &EvaluationProgress) -> bool {
        standing.since >= self.patience.max(1)
    }

    fn value(&self, sums: &[f64]) -> f64 {
        match (sums.get(self.sum), sums.get(1)) {
            (Some(sum), Some(weight)) if *weight > 0.0 => sum / weight * self.scale,
            _ => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(lower_is_better: bool, min_delta: f64) -> EarlyStopping {
        let metric = "validation/loss".to_owned();
        EarlyStopping { metric, sum: 0, scale: 0.5, lower_is_better, min_delta, patience: 2 }
    }

    /// Evaluates the values, one for each tenth step.
    fn check(rule: &EarlyStopping, values: &[f64], best: Option<u64>, since: u64) {
        let sums: Vec<[f64; 2]> = values.iter().map(|value| [value * 8.0, 4.0]).collect();
        let standing = rule.standing((1..).map(|number| number * 10).zip(sums.iter().map(|sums| &sums[..])));
        assert_eq!((standing.best.map(|(step, _)| step), standing.since), (best, since), "{values:?}");
        assert_eq!(rule.is_over(&standing), since >= 2);
    }

    #[test]
    fn the_first_of_the_best_counts_and_what_is_not_finite_never_does() {
        let lower = rule(true, 0.0);
        check(&lower, &[], None, 0);
        check(&lower, &[3.0], Some(10), 0);
        check(&lower, &[3.0, 2.0, 2.0], Some(20), 1);
        check(&lower, &[3.0, 2.0, 2.5, 2.0], Some(20), 2);
        check(&lower, &[f64::NAN, 3.0, f64::NEG_INFINITY, 4.0], Some(20), 2);
        check(&lower, &[f64::NAN, f64::NAN], None, 2);
        check(&rule(false, 0.0), &[0.5, 0.7, 0.6], Some(20), 1);
    }

    #[test]
    fn an_improvement_must_be_greater_than_min_delta() {
        check(&rule(true, 0.25), &[2.0, 1.75, 1.5], Some(30), 0);
        check(&rule(true, 0.25), &[2.0, 1.75], Some(10), 1);
        check(&rule(false, 0.25), &[1.0, 1.25, 1.5], Some(30), 0);
    }

    #[test]
    fn a_metric_that_the_sums_lack_never_improves() {
        let rule = EarlyStopping { sum: 3, ..rule(true, 0.0) };
        check(&rule, &[1.0, 1.0], None, 2);
        let empty = rule.standing(std::iter::once((10, &[1.0, 0.0][..])));
        assert_eq!(empty, EvaluationProgress { best: None, since: 1 });
    }
}
