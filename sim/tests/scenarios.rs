//! Outcomes of runs: the same bits whichever workers compute them, an end with a reason, and deviant replicas detected.

mod support;

use std::sync::Arc;

use protocol::coordinator::{CheckpointEvery, OnNan};
use protocol::messages::EndReason;
use sim::{Chaos, Incarnation, LifeEnd, Scenario, World, reference, run};
use support::{check, completed, outcome, scenario, slow};

#[test]
fn any_number_of_workers_comes_to_the_same_bits() {
    for seed in 0..10 {
        let mut scenario = Scenario::of(seed);
        scenario.plan.min_workers = 1;
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        for workers in [1, 2, 3, 5, 7] {
            run(&scenario, &[Incarnation::quiet(workers)], reference.clone(), None, false)
                .unwrap_or_else(|violation| panic!("{workers} workers: {violation}"));
        }
    }
}

#[test]
fn a_gradient_of_several_slices_comes_to_the_same_bits() {
    let mut scenario = scenario(0);
    scenario.toy.elements = protocol::reduce::SLICE + 70_001;
    scenario.plan.geometry.samples = 3;
    scenario.plan.geometry.batch = 3;
    scenario.plan.geometry.microbatch = 1;
    scenario.plan.total_steps = 1;
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    run(&scenario, &[Incarnation::quiet(2)], reference, None, false)
        .unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_stop_finishes_the_step_and_writes_a_version() {
    let life = Incarnation::with(2, &[(120, Chaos::Stop)]);
    check(&life, EndReason::Interrupted, 130, &["SIGINT", "its version is written", "--resume"]);
    let scenario = scenario(3);
    let mut world = World::new(&scenario, None, None);
    let stopped = outcome(&mut world, &life);
    assert_eq!(world.newest_version().map(|(step, _)| step), Some(stopped.step));
    assert!(stopped.step > 0 && stopped.step < 9);
}

#[test]
fn a_donor_with_a_flipped_bit_is_found_out_or_makes_no_difference() {
    let scenario = slow(5);
    for bit in [0, 12, 22, 31] {
        let events = [(1, Chaos::FlipDonor { at: 3, bit }), (80, Chaos::Joiners(1))];
        let world = completed(&scenario, &Incarnation::supervised(3, &events), None);
        assert!(world.was_tainted() && world.summary().rewinds > 0, "bit {bit}: {:?}", world.summary());
    }
}

#[test]
fn a_nan_stops_the_run_or_is_skipped() {
    let mut scenario = scenario(2);
    scenario.toy.nan_sample = Some(20);
    let skipped = reference(&scenario).unwrap_or_else(|violation| panic!("{violation}"));
    scenario.plan.on_nan = OnNan::Stop;
    let mut world = World::new(&scenario, None, None);
    let stopped = outcome(&mut world, &Incarnation::quiet(3));
    assert_eq!((stopped.reason, stopped.code), (EndReason::Failed, 4));
    assert!(
        stopped.message.contains("not finite") && stopped.message.contains("on_nan"),
        "{}",
        stopped.message
    );
    // Resuming with "skip" gives the bits of a run that skipped from the start.
    let going_on = Scenario { plan: sim_plan(&scenario, OnNan::Skip), ..scenario.clone() };
    run(&going_on, &[Incarnation::quiet(2)], Arc::new(skipped), None, false)
        .unwrap_or_else(|v| panic!("{v}"));
}

fn sim_plan(scenario: &Scenario, on_nan: OnNan) -> protocol::coordinator::RunPlan {
    protocol::coordinator::RunPlan { on_nan, ..scenario.plan.clone() }
}

#[test]
fn steps_whose_samples_weigh_nothing_are_skipped() {
    let mut scenario = scenario(4);
    scenario.toy.weightless = 1;
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    let first = reference.checks.values().next().copied();
    run(&scenario, &[Incarnation::quiet(3)], reference, None, false)
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(first.is_some());
}

#[test]
fn a_deviant_replica_is_put_out_and_what_it_touched_is_done_again() {
    let mut rewound = 0;
    for seed in 0..8 {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let mut world = World::new(&scenario, Some(reference), None);
        // The final digest is compared with the quiet run's.
        let found = outcome(
            &mut world,
            &Incarnation::with(3, &[(180, Chaos::FlipBit { worker: 1, at: 0, bit: 20 })]),
        );
        assert_eq!(found.reason, EndReason::Completed, "{}", found.message);
        let summary = world.summary();
        let is_named = |reason: &String| reason.contains("worker-1 deviates from the strict majority");
        assert_eq!(summary.left.iter().any(is_named), summary.rewinds > 0, "{summary:?}");
        rewound += usize::from(summary.rewinds > 0);
    }
    assert!(rewound >= 4, "only {rewound} of 8 flips were in the middle of a run");
}

/// With two members there is no majority: both rewind to the last agreed state, and reach the quiet run's end.
#[test]
fn two_that_differ_go_back_together() {
    let mut rewound = 0;
    for seed in 0..8 {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let mut world = World::new(&scenario, Some(reference), None);
        let found = outcome(
            &mut world,
            &Incarnation::with(2, &[(180, Chaos::FlipBit { worker: 1, at: 0, bit: 20 })]),
        );
        assert_eq!(found.reason, EndReason::Completed, "{}", found.message);
        let summary = world.summary();
        assert!(summary.left.iter().all(|reason| !reason.contains("deviates")), "{summary:?}");
        rewound += usize::from(summary.rewinds > 0);
    }
    assert!(rewound >= 4, "only {rewound} of 8 flips were in the middle of a run");
}

#[test]
fn a_changed_dataset_is_a_loud_failure_of_the_replay() {
    for seed in 0..6 {
        let mut scenario = scenario(seed);
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(100);
        let mut world = World::new(&scenario, None, None);
        let killed = world.live(&Incarnation::with(3, &[(220, Chaos::KillCoordinator { host: false })]));
        assert_eq!(killed, Ok(LifeEnd::Killed));
        let found = outcome(&mut world, &Incarnation { other_data: true, ..Incarnation::quiet(2) });
        assert_eq!(found.code, 4, "seed {seed}: {}", found.message);
        assert!(found.message.contains("the replay of step 1 (Train) gave hash"), "{}", found.message);
    }
}

/// No improvement is large enough, so the run ends at its third evaluation, whichever workers take part or take over.
#[test]
fn a_run_that_ends_early_ends_at_the_same_step_whatever_happens() {
    for seed in 0..12 {
        let mut scenario = scenario(seed);
        scenario.plan.total_steps = 30;
        scenario.plan.schedule = protocol::schedule::Schedule::Constant { learning_rate: 0.05 };
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1_000);
        scenario.plan.early_stopping = Some(protocol::early_stopping::EarlyStopping {
            metric: "loss".to_owned(),
            sum: 0,
            scale: 1.0,
            lower_is_better: true,
            min_delta: 1e9,
            patience: 2,
        });
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        assert_eq!(reference.checks.keys().max(), Some(&9), "seed {seed}: three epochs of three steps");
        let restart = Chaos::RestartCoordinator { host: seed % 2 == 0, after_ms: 100 };
        let at = 150 + 40 * seed;
        for life in [
            Incarnation::quiet(3),
            Incarnation::with(2, &[(at, restart), (at + 20, Chaos::KillWorker(1))]),
            Incarnation::with(3, &[(at, Chaos::Stop)]),
        ] {
            let mut world = World::new(&scenario, Some(reference.clone()), None);
            let mut found = outcome(&mut world, &life);
            if found.reason == EndReason::Interrupted {
                found = outcome(&mut world, &Incarnation::quiet(2));
            }
            assert_eq!(
                (found.reason, found.step),
                (EndReason::Completed, 9),
                "seed {seed}: {}",
                found.message
            );
            let said = "ended early after step 9: loss has not improved for 2 evaluations; the best was";
            assert!(found.message.starts_with(said), "seed {seed}: {}", found.message);
            assert!(found.message.ends_with("after step 3"), "seed {seed}: {}", found.message);
            assert_eq!(world.live(&Incarnation::quiet(1)), Ok(LifeEnd::WasComplete));
        }
    }
}
