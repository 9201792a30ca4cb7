//! Evaluates all members' Readies together. Pure; each decision comes with its reason.

use std::collections::BTreeMap;
use std::fmt::LowerHex;

use crate::messages::{Ready, Verdict};

use super::OnNan;

/// A difference between members that must be equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Disagreement {
    /// Whether states differ (and not only reduced values): then earlier commits are in doubt too.
    pub(super) in_state: bool,
    /// Names of the members outside a strict majority; empty if there is none.
    pub(super) deviants: Vec<String>,
    /// Description, for display.
    pub(super) message: String,
}

/// Compares the members' state checks, then their reduced values.
pub(super) fn compare(step: u64, readies: &[(String, &Ready)]) -> Result<(), Disagreement> {
    let checks: Vec<(String, u64)> =
        readies.iter().map(|(name, ready)| (name.clone(), ready.state_check)).collect();
    compare_states(&format!("before step {step}"), &checks)?;
    let reduced: Vec<(String, u64, Vec<u64>)> =
        readies.iter().map(|(name, ready)| (name.clone(), ready.hash, scalar_bits(ready))).collect();
    let hashes = reduced.iter().map(|(name, hash, bits)| (name.clone(), (*hash, bits.clone())));
    unequal(hashes.collect()).map_or(Ok(()), |deviants| {
        let shown = show(reduced.iter().map(|(name, hash, _)| (name, *hash)));
        Err(Disagreement {
            in_state: false,
            message: format!(
                "the members don't agree on the reduced gradient of step {step}: {} ({shown})",
                blame(&deviants, readies.len())
            ),
            deviants,
        })
    })
}

/// Compares state checks that belong to one committed state.
pub(super) fn compare_states(when: &str, checks: &[(String, u64)]) -> Result<(), Disagreement> {
    unequal(checks.to_vec()).map_or(Ok(()), |deviants| {
        let shown = show(checks.iter().map(|(name, check)| (name, *check)));
        Err(Disagreement {
            in_state: true,
            message: format!(
                "the members' parameters or optimizer states differ {when}: {} ({shown})",
                blame(&deviants, checks.len())
            ),
            deviants,
        })
    })
}

/// Apply or skip with an optional warning, or the message of a stop.
pub(super) fn decide(step: u64, ready: &Ready, on_nan: OnNan) -> Result<(Verdict, Option<String>), String> {
    let weight = ready.sums.get(1).copied().unwrap_or(0.0);
    if weight == 0.0 {
        return Ok((Verdict::Skip, Some(format!("step {step} is skipped: its samples weigh 0"))));
    }
    if ready.finite {
        return Ok((Verdict::Apply, None));
    }
    match on_nan {
        OnNan::Skip => {
            Ok((Verdict::Skip, Some(format!("step {step} is skipped: its loss or gradient is not finite"))))
        }
        OnNan::Stop => Err(format!(
            "the loss or gradient of step {step} is not finite, and train.on_nan is \"stop\" (a lower \
             optimizer.learning_rate or train.clip_norm may help; \"skip\" passes over such steps)"
        )),
    }
}

fn scalar_bits(ready: &Ready) -> Vec<u64> {
    let sums = ready.sums.iter().map(|sum| sum.to_bits());
    sums.chain([ready.squared_norm.to_bits(), u64::from(ready.finite)]).collect()
}

/// `None` if all are equal; else those outside a strict majority (empty if there is none).
fn unequal<V: Ord>(values: Vec<(String, V)>) -> Option<Vec<String>> {
    let count = values.len();
    let mut groups: BTreeMap<V, Vec<String>> = BTreeMap::new();
    for (name, value) in values {
        groups.entry(value).or_default().push(name);
    }
    if groups.len() <= 1 {
        return None;
    }
    let has_majority = groups.values().any(|names| names.len() * 2 > count);
    let minority = groups.into_values().filter(|names| has_majority && names.len() * 2 <= count);
    Some(minority.flatten().collect())
}

/// Names the deviating members, for display.
pub(super) fn blame(deviants: &[String], count: usize) -> String {
    match deviants {
        [] => format!("no strict majority among {count}, so none can be blamed"),
        [one] => format!("{one} deviates from the strict majority"),
        many => format!("{} deviate from the strict majority", many.join(", ")),
    }
}

fn show<'a, V: LowerHex>(values: impl Iterator<Item = (&'a String, V)>) -> String {
    values.map(|(name, value)| format!("{name} {value:016x}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Phase, StepKey, ViewId};
    use crate::messages::Timings;

    fn ready(hash: u64, state_check: u64) -> Ready {
        Ready {
            key: StepKey { view: ViewId(1), step: 4, phase: Phase::Train },
            sums: vec![1.0, 2.0],
            squared_norm: 1.0,
            finite: true,
            hash,
            state_check,
            timings: Timings::default(),
        }
    }

    fn check(members: &[(u64, u64)], expected: Option<(bool, &[&str])>) {
        let readies: Vec<Ready> = members.iter().map(|(hash, state)| ready(*hash, *state)).collect();
        let named: Vec<(String, &Ready)> =
            readies.iter().enumerate().map(|(i, ready)| (format!("w{i}"), ready)).collect();
        let found = compare(4, &named).err().map(|d| (d.in_state, d.deviants));
        assert_eq!(found, expected.map(|(s, names)| (s, names.iter().map(ToString::to_string).collect())));
    }

    #[test]
    fn a_strict_majority_names_the_deviant() {
        check(&[(7, 1)], None);
        check(&[(7, 1), (7, 1), (7, 1)], None);
        check(&[(7, 1), (8, 1), (7, 1)], Some((false, &["w1"])));
        check(&[(7, 1), (7, 1), (7, 2)], Some((true, &["w2"])));
        check(&[(7, 1), (8, 1)], Some((false, &[])));
        check(&[(7, 1), (8, 1), (9, 1), (7, 1)], Some((false, &[])));
        check(&[(7, 1), (8, 1), (9, 1), (7, 1), (7, 1)], Some((false, &["w1", "w2"])));
    }

    #[test]
    fn equal_hashes_with_other_scalars_are_unequal() {
        let (a, mut b) = (ready(7, 1), ready(7, 1));
        b.sums[0] = -1.0;
        assert!(compare(4, &[("a".to_owned(), &a), ("b".to_owned(), &b)]).is_err());
    }

    #[test]
    fn weight_zero_skips_and_not_finite_follows_the_policy() {
        let mut zero = ready(7, 1);
        zero.sums[1] = 0.0;
        assert_eq!(decide(4, &zero, OnNan::Stop).unwrap().0, Verdict::Skip);
        let mut nan = ready(7, 1);
        nan.finite = false;
        assert_eq!(decide(4, &nan, OnNan::Skip).unwrap().0, Verdict::Skip);
        assert!(decide(4, &nan, OnNan::Stop).unwrap_err().contains("on_nan"));
        assert_eq!(decide(4, &ready(7, 1), OnNan::Stop).unwrap().0, Verdict::Apply);
    }
}
