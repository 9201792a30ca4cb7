//! A small run that has something of everything, and helpers that run lives of it and check their outcomes.
#![allow(dead_code, reason = "not every test program uses all of it")]

use std::sync::Arc;

use protocol::coordinator::{CheckpointEvery, Outcome};
use protocol::messages::EndReason;
use sim::{Bug, Incarnation, LifeEnd, Scenario, World, reference};

pub(crate) fn scenario(seed: u64) -> Scenario {
    let mut scenario = Scenario::of(seed);
    let plan = &mut scenario.plan;
    plan.min_workers = 1;
    plan.geometry.samples = 33;
    plan.geometry.batch = 11;
    plan.geometry.microbatch = 2;
    plan.geometry.evaluation_samples = 5;
    plan.total_steps = 9;
    plan.checkpoint_every = CheckpointEvery::Steps(2);
    plan.evaluate_every_epochs = 1;
    plan.export = true;
    plan.early_stopping = None;
    scenario.toy.elements = 24;
    scenario.toy.nan_sample = None;
    scenario.toy.weightless = 0;
    scenario
}

/// Steps are slow enough for others to join meanwhile.
pub(crate) fn slow(seed: u64) -> Scenario {
    let scenario = scenario(seed);
    Scenario { speeds: sim::Speeds { compute_ms: 2_000, ..scenario.speeds }, ..scenario }
}

pub(crate) fn outcome(world: &mut World<'_>, life: &Incarnation) -> Outcome {
    match world.live(life) {
        Ok(LifeEnd::Finished(outcome)) => outcome,
        other => panic!("the life didn't finish: {other:?}"),
    }
}

pub(crate) fn check(life: &Incarnation, reason: EndReason, code: u8, words: &[&str]) {
    for seed in 0..6 {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let mut world = World::new(&scenario, Some(reference), None);
        let found = outcome(&mut world, life);
        assert_eq!((found.reason, found.code), (reason, code), "seed {seed}: {}", found.message);
        for word in words {
            assert!(found.message.contains(word), "seed {seed}: no \"{word}\" in \"{}\"", found.message);
        }
        if reason != EndReason::Completed {
            let last = outcome(&mut world, &Incarnation::quiet(2));
            assert_eq!(last.reason, EndReason::Completed, "seed {seed}: {}", last.message);
        }
        assert_eq!(world.live(&Incarnation::quiet(1)), Ok(LifeEnd::WasComplete));
    }
}

/// A world in which the life completed, with the bits of a quiet run.
pub(crate) fn completed<'a>(scenario: &'a Scenario, life: &Incarnation, bug: Option<Bug>) -> World<'a> {
    let mut alone = scenario.clone();
    alone.plan.min_workers = 1;
    let reference = Arc::new(reference(&alone).unwrap_or_else(|violation| panic!("{violation}")));
    let mut world = World::new(scenario, Some(reference), bug);
    match world.live(life) {
        // A coordinator that was killed after the last record finds that nothing is left to do.
        Ok(LifeEnd::WasComplete) => {}
        Ok(LifeEnd::Finished(found)) => {
            assert_eq!(found.reason, EndReason::Completed, "{life:?}: {}", found.message);
        }
        other => panic!("{life:?}: {other:?}"),
    }
    world
}
