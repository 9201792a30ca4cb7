//! Prints a failing seed as values, reduced to the parts that are needed to fail: the case stays the same however the
//! scenarios of seeds change.

use std::sync::Arc;

use crate::checkers::Reference;
use crate::incarnation::Incarnation;
use crate::run::{reference, run};
use crate::scenario::Scenario;

/// The case of a failing seed, in Rust, for `tests/found.rs`; `None` if it doesn't fail.
#[must_use]
pub fn case(seed: u64) -> Option<String> {
    let scenario = Scenario::of(seed);
    let reference = Arc::new(reference(&scenario).ok()?);
    let fails = |lives: &[Incarnation]| fails(&scenario, lives, &reference);
    let mut lives = scenario.lives();
    if !fails(&lives) {
        return None;
    }
    // The last incarnation, which must complete the run, stays; remove everything unnecessary from the others.
    let mut at = 0;
    while at + 1 < lives.len() {
        let mut fewer = lives.clone();
        fewer.remove(at);
        if fails(&fewer) { lives = fewer } else { at += 1 }
    }
    for life in 0..lives.len() {
        let mut at = 0;
        while at < lives[life].chaos.len() {
            let mut fewer = lives.clone();
            fewer[life].chaos.remove(at);
            if fails(&fewer) { lives = fewer } else { at += 1 }
        }
    }
    Some(text(&scenario, &lives))
}

fn fails(scenario: &Scenario, lives: &[Incarnation], reference: &Arc<Reference>) -> bool {
    run(scenario, lives, reference.clone(), None, false).is_err()
}

fn text(scenario: &Scenario, lives: &[Incarnation]) -> String {
    let Scenario { seed, plan, toy, speeds } = scenario;
    let mut text = format!(
        "Case {{\n    world: {seed},\n    geometry: {:?},\n    plan: Plan {{ total_steps: {}, schedule: {:?}, clip_norm: {:?}, \
         checkpoint_every: {:?}, evaluate_every_epochs: {}, export: {}, min_workers: {}, max_workers: {}, early_stopping: {:?} \
         }},\n    toy: {toy:?},\n    speeds: {speeds:?},\n    lives: vec![",
        plan.geometry,
        plan.total_steps,
        plan.schedule,
        plan.clip_norm,
        plan.checkpoint_every,
        plan.evaluate_every_epochs,
        plan.export,
        plan.min_workers,
        plan.max_workers,
        plan.early_stopping.as_ref().map(|early| (early.lower_is_better, early.patience)),
    );
    for life in lives {
        let Incarnation { workers, chaos, damaged_version, is_supervised, .. } = life;
        text += &format!(
            "\n        Life {{ damaged_version: {damaged_version}, is_supervised: {is_supervised}, ..Life::with({workers}, &{chaos:?}) }},"
        );
    }
    text + "\n    ],\n},"
}
