//! Single scenarios, each with what a person would see.

use std::sync::Arc;

use protocol::coordinator::{CheckpointEvery, OnNan, Outcome};
use protocol::messages::EndReason;
use sim::{Chaos, Life, LifeEnd, Scenario, World, reference, run};

fn scenario(seed: u64) -> Scenario {
    let mut scenario = Scenario::of(seed);
    let plan = &mut scenario.plan;
    plan.geometry.samples = 33;
    plan.geometry.batch = 11;
    plan.geometry.microbatch = 2;
    plan.geometry.evaluation_samples = 5;
    plan.total_steps = 9;
    plan.checkpoint_every = CheckpointEvery::Steps(2);
    plan.evaluate_every_epochs = 1;
    plan.export = true;
    scenario.toy.elements = 24;
    scenario.toy.nan_sample = None;
    scenario.toy.weightless = 0;
    scenario
}

fn outcome(world: &mut World<'_>, life: &Life) -> Outcome {
    match world.live(life) {
        Ok(LifeEnd::Finished(outcome)) => outcome,
        other => panic!("the life didn't finish: {other:?}"),
    }
}

fn check(life: &Life, reason: EndReason, code: u8, words: &[&str]) {
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
            let last = outcome(&mut world, &Life::quiet(2));
            assert_eq!(last.reason, EndReason::Completed, "seed {seed}: {}", last.message);
        }
        assert_eq!(world.live(&Life::quiet(1)), Ok(LifeEnd::WasComplete));
    }
}

#[test]
fn any_number_of_workers_comes_to_the_same_bits() {
    for seed in 0..10 {
        let scenario = Scenario::of(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        for workers in [1, 2, 3, 5, 7] {
            run(&scenario, &[Life::quiet(workers)], reference.clone(), None, false)
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
    run(&scenario, &[Life::quiet(2)], reference, None, false)
        .unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_lost_worker_ends_the_run_and_resume_goes_on() {
    let words = ["lost worker worker-1", "--resume goes on from version"];
    check(&Life::with(3, &[(150, Chaos::KillWorker(1))]), EndReason::Failed, 4, &words);
}

#[test]
fn a_silent_worker_loses_its_lease() {
    let words = ["nothing was heard from it for", "lease 10000 ms"];
    check(&Life::with(3, &[(150, Chaos::PauseWorker(2, 40_000))]), EndReason::Failed, 4, &words);
}

#[test]
fn a_paused_coordinator_blames_nobody() {
    check(&Life::with(3, &[(150, Chaos::PauseCoordinator(45_000))]), EndReason::Completed, 0, &[]);
}

#[test]
fn a_stop_finishes_the_step_and_writes_a_version() {
    let life = Life::with(2, &[(120, Chaos::Stop)]);
    check(&life, EndReason::Interrupted, 130, &["SIGINT", "its version is written", "--resume"]);
    let scenario = scenario(3);
    let mut world = World::new(&scenario, None, None);
    let stopped = outcome(&mut world, &life);
    assert_eq!(world.newest_version().map(|(step, _)| step), Some(stopped.step));
    assert!(stopped.step > 0 && stopped.step < 9);
}

#[test]
fn a_worker_that_leaves_ends_the_run_with_a_version() {
    let words = ["worker worker-0 leaves (SIGTERM)", "--resume goes on from version"];
    check(&Life::with(2, &[(120, Chaos::Leave(0))]), EndReason::Failed, 4, &words);
}

#[test]
fn a_late_joiner_is_refused_and_the_run_goes_on() {
    let scenario = scenario(1);
    let mut world = World::new(&scenario, None, None);
    let found = outcome(&mut world, &Life::with(2, &[(120, Chaos::LateJoiner)]));
    assert_eq!(found.reason, EndReason::Completed);
    let Some(Some((code, message))) = world.exits().last().cloned() else {
        panic!("the third worker's exit")
    };
    assert_eq!(code, 2);
    assert!(message.contains("membership is fixed") && message.contains("--resume"), "{message}");
}

#[test]
fn workers_that_never_come_are_waited_for_and_named() {
    let missing = Life { missing: 2, ..Life::quiet(1) };
    check(&missing, EndReason::Failed, 4, &["waited 60000 ms for 2 more workers", "1 of 3 are here"]);
}

#[test]
fn a_journal_that_fails_for_a_while_only_takes_time() {
    check(&Life::with(3, &[(120, Chaos::JournalFails(30_000))]), EndReason::Completed, 0, &[]);
}

#[test]
fn a_stop_while_the_journal_fails_doesnt_wait_for_it() {
    let life = Life::with(3, &[(120, Chaos::JournalFails(600_000)), (160, Chaos::Stop)]);
    check(&life, EndReason::Interrupted, 130, &["the journal can't be written", "--resume"]);
}

#[test]
fn a_full_disk_at_the_end_fails_and_resumes() {
    let life = Life::with(2, &[(120, Chaos::DiskFull(3_600_000))]);
    check(&life, EndReason::Failed, 4, &["state 9 could not be written as a version", "no space left"]);
}

#[test]
fn a_nan_stops_the_run_or_is_skipped() {
    let mut scenario = scenario(2);
    scenario.toy.nan_sample = Some(20);
    let skipped = reference(&scenario).unwrap_or_else(|violation| panic!("{violation}"));
    scenario.plan.on_nan = OnNan::Stop;
    let mut world = World::new(&scenario, None, None);
    let stopped = outcome(&mut world, &Life::quiet(3));
    assert_eq!((stopped.reason, stopped.code), (EndReason::Failed, 4));
    assert!(
        stopped.message.contains("not finite") && stopped.message.contains("on_nan"),
        "{}",
        stopped.message
    );
    // Going on with "skip" comes to the bits of a run that skipped from the start.
    let going_on = Scenario { plan: sim_plan(&scenario, OnNan::Skip), ..scenario.clone() };
    run(&going_on, &[Life::quiet(2)], Arc::new(skipped), None, false).unwrap_or_else(|v| panic!("{v}"));
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
    run(&scenario, &[Life::quiet(3)], reference, None, false)
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(first.is_some());
}

#[test]
fn a_deviant_replica_is_named_and_what_it_touched_is_void() {
    let mut named = 0;
    for seed in 0..8 {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let mut world = World::new(&scenario, Some(reference), None);
        world.be_lenient(true);
        let found = outcome(&mut world, &Life::with(3, &[(180, Chaos::FlipBit(1))]));
        if found.reason == EndReason::Completed {
            continue; // The flip came before the first state or after the last.
        }
        assert!(found.message.contains("worker-1 deviates from the strict majority"), "{}", found.message);
        assert!(found.message.contains("is void") || found.step < 2, "{}", found.message);
        named += 1;
        // The final digest is compared with the quiet run's.
        let last = outcome(&mut world, &Life::quiet(2));
        assert_eq!(last.reason, EndReason::Completed, "{}", last.message);
    }
    assert!(named >= 4, "only {named} of 8 flips were in the middle of a run");
}

#[test]
fn a_changed_dataset_is_a_loud_failure_of_the_replay() {
    for seed in 0..6 {
        let mut scenario = scenario(seed);
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(100);
        let mut world = World::new(&scenario, None, None);
        let killed = world.live(&Life::with(3, &[(220, Chaos::KillCoordinator { host: false })]));
        assert_eq!(killed, Ok(LifeEnd::Killed));
        let found = outcome(&mut world, &Life { other_data: true, ..Life::quiet(2) });
        assert_eq!(found.code, 4, "seed {seed}: {}", found.message);
        assert!(found.message.contains("the replay of step 1 (Train) gave hash"), "{}", found.message);
    }
}

#[test]
fn without_any_whole_version_the_run_starts_again_from_its_seed() {
    let scenario = scenario(5);
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    let host_dies_early = |event| Life::with(2, &[(event, Chaos::KillCoordinator { host: true })]);
    for event in (5..60).step_by(5) {
        run(&scenario, &[host_dies_early(event), Life::quiet(3)], reference.clone(), None, false)
            .unwrap_or_else(|violation| panic!("killed at {event}: {violation}"));
    }
}

#[test]
fn a_kill_at_any_event_is_survived() {
    let scenario = scenario(6);
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    for event in 1..=400 {
        for chaos in [Chaos::KillCoordinator { host: false }, Chaos::KillWorker(0)] {
            run(
                &scenario,
                &[Life::with(2, &[(event, chaos)]), Life::quiet(2)],
                reference.clone(),
                None,
                false,
            )
            .unwrap_or_else(|violation| panic!("{chaos:?} at {event}: {violation}"));
        }
    }
}
