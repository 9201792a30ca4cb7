//! Single scenarios, each with what a person would see.

use std::sync::Arc;

use protocol::coordinator::{CheckpointEvery, OnNan, Outcome};
use protocol::messages::EndReason;
use sim::{Bug, Chaos, Life, LifeEnd, Scenario, Which, World, reference, run};

fn scenario(seed: u64) -> Scenario {
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
        let mut scenario = Scenario::of(seed);
        scenario.plan.min_workers = 1;
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
fn workers_that_never_come_are_waited_for_and_named() {
    let missing = Life { missing: 2, ..Life::quiet(1) };
    // Enough to begin with, after a while.
    check(&missing, EndReason::Completed, 0, &["all 9 steps"]);
    let mut scenario = scenario(1);
    scenario.plan.min_workers = 2;
    let mut world = World::new(&scenario, None, None);
    let found = outcome(&mut world, &missing);
    assert_eq!((found.reason, found.code), (EndReason::Failed, 4));
    for words in ["waited 60000 ms for 2 more workers", "1 of 3 are here"] {
        assert!(found.message.contains(words), "{}", found.message);
    }
}

/// Steps take long enough for others to come meanwhile.
fn slow(seed: u64) -> Scenario {
    let scenario = scenario(seed);
    Scenario { speeds: sim::Speeds { compute_ms: 2_000, ..scenario.speeds }, ..scenario }
}

/// A world in which the life completed, with the bits of a quiet run.
fn completed<'a>(scenario: &'a Scenario, life: &Life, bug: Option<Bug>) -> World<'a> {
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

#[test]
fn a_lost_worker_costs_one_retry_of_its_own_microbatches() {
    let mut scenario = scenario(2);
    scenario.speeds.network_ms = 20;
    let quiet = completed(&scenario, &Life::quiet(3), None).told().clone();
    let mut retries = 0;
    for event in (60..420).step_by(7) {
        let world = completed(&scenario, &Life::with(3, &[(event, Chaos::KillWorker(1))]), None);
        let told = world.told();
        assert!(told.retries <= 1 && told.rewinds == 0, "killed at {event}: {told:?}");
        // A step has six microbatches: two for each.
        let more = told.computed - quiet.computed;
        assert!(more <= 2, "killed at {event}: {more} microbatches were computed again");
        retries += told.retries;
    }
    assert!(retries > 20, "only {retries} of 52 kills hit a step");
}

/// Behind a firewall, perhaps: it would hold the others up, so it never enters.
#[test]
fn a_newcomer_that_cant_reach_the_data_plane_costs_the_others_nothing() {
    let cut = Chaos::Partition { worker: 2, which: Which::Data, up: true, down: true, ms: 600_000 };
    let life = Life::with(2, &[(100, cut), (101, Chaos::Joiners(1))]);
    for seed in 0..6 {
        let scenario = scenario(seed);
        let world = completed(&scenario, &life, None);
        let told = world.told();
        assert_eq!((told.retries, told.rewinds), (0, 0), "{told:?}");
        assert!(told.shares.iter().flatten().all(|(name, _)| name != "worker-2"), "{:?}", told.shares);
    }
}

/// A data connection breaks, and the news of it is slower than the view that makes up for it: the member sends its part on the
/// dead connection. It joins again then, rather than waiting for the step's deadline.
#[test]
fn a_member_that_hears_of_a_break_after_the_next_view_joins_again() {
    let slow = Chaos::SlowEdge { worker: 1, which: Which::Data, ms: 1_900 };
    let mut broken = 0;
    for at in 80..200 {
        let scenario = scenario(at);
        let world =
            completed(&scenario, &Life::supervised(2, &[(60, slow), (at, Chaos::CorruptFrames(1))]), None);
        let told = world.told();
        let is_late = |reason: &String| reason.contains("has not computed its part");
        assert!(!told.left.iter().any(is_late), "at {at}: {:?}", told.left);
        broken += told.retries;
    }
    assert!(broken > 20, "only {broken} connections broke");
}

/// All are gone, and for a while the system gives no process: the run waits.
#[test]
fn local_workers_that_cant_be_started_for_a_while_are_started_later() {
    let chaos = [(150, Chaos::LaunchFails(15_000)), (151, Chaos::KillAll { apart_ms: 0 })];
    let life = Life::supervised(2, &chaos);
    for seed in 0..6 {
        let scenario = scenario(seed);
        let world = completed(&scenario, &life, None);
        let told = world.told();
        assert!(told.warnings.iter().any(|text| text.contains("a local worker failed")), "{told:?}");
    }
}

/// Nobody has worked yet: whoever looks after workers can't, and a person has to.
#[test]
fn a_local_worker_that_dies_before_it_joins_ends_a_run_that_has_not_begun() {
    let life = Life::supervised(1, &[(1, Chaos::KillWorker(0))]);
    check(&life, EndReason::Failed, 4, &["a local worker failed", "--resume"]);
}

#[test]
fn a_silent_worker_loses_its_lease_and_comes_back() {
    let scenario = slow(3);
    let world = completed(&scenario, &Life::with(3, &[(150, Chaos::PauseWorker(2, 20_000))]), None);
    let told = world.told();
    assert!(told.left.iter().any(|reason| reason.contains("lease 10000 ms")), "{told:?}");
    assert_eq!(
        world.exits()[2].as_ref().map(|(code, _)| *code),
        Some(0),
        "it was there at the end: {told:?}"
    );
}

#[test]
fn a_worker_that_leaves_is_done_without() {
    let scenario = scenario(4);
    let world = completed(&scenario, &Life::with(2, &[(150, Chaos::Leave(0))]), None);
    assert_eq!(world.exits()[0].as_ref().map(|(code, _)| *code), Some(130));
    assert_eq!(world.exits()[1].as_ref().map(|(code, _)| *code), Some(0));
    assert!(world.told().left[0].contains("it leaves: SIGTERM"));
    assert_eq!(world.told().retries, 0, "it finished its step");
}

#[test]
fn a_straggler_gets_fewer_microbatches_and_is_named() {
    let mut scenario = scenario(4);
    scenario.plan.geometry.samples = 40;
    scenario.plan.geometry.batch = 20;
    scenario.plan.geometry.microbatch = 1;
    scenario.plan.total_steps = 60;
    scenario.plan.schedule = protocol::schedule::Schedule::Constant { learning_rate: 0.05 };
    scenario.speeds.compute_ms = 100;
    let world = completed(&scenario, &Life::with(3, &[(1, Chaos::SlowWorker(1, 8))]), None);
    let told = world.told();
    let named =
        |warning: &String| warning.starts_with("worker-1 is") && warning.contains("gets fewer microbatches");
    assert!(told.warnings.iter().any(named), "{:?}", told.warnings);
    let of = |name: &str| {
        let last = told.shares.last().expect("views");
        last.iter().find(|(member, _)| member == name).map_or(0, |(_, share)| *share)
    };
    assert!(of("worker-1") * 2 < of("worker-0") && of("worker-1") * 2 < of("worker-2"), "{:?}", told.shares);
    assert_eq!(told.retries, 0, "nobody is put out for being slow");
}

#[test]
fn a_late_joiner_enters_and_so_do_ten_at_once() {
    let mut scenario = slow(1);
    scenario.plan.max_workers = 16;
    let world = completed(&scenario, &Life::with(2, &[(80, Chaos::Joiners(1))]), None);
    assert_eq!(world.exits().last(), Some(&Some((0, "all 9 steps are done".to_owned()))));
    assert!(world.told().views >= 2 && world.told().retries == 0, "{:?}", world.told());
    let world = completed(&scenario, &Life::with(2, &[(80, Chaos::Joiners(10))]), None);
    assert!(world.exits().iter().all(|exit| exit.as_ref().is_some_and(|(code, _)| *code == 0)));
}

#[test]
fn the_whole_crew_changes_while_the_run_goes_on() {
    let scenario = slow(5);
    let events = [
        (80, Chaos::Joiners(1)),
        (200, Chaos::KillWorker(0)),
        (260, Chaos::Joiners(1)),
        (380, Chaos::KillWorker(1)),
        (420, Chaos::KillWorker(2)),
    ];
    let world = completed(&scenario, &Life::with(2, &events), None);
    assert_eq!(world.exits()[..3], [None, None, None]);
}

#[test]
fn a_coordinator_that_is_killed_at_any_event_goes_on_from_what_its_members_hold() {
    let scenario = scenario(6);
    let mut recovered = 0;
    for event in (1..420).step_by(3) {
        let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
        let world = completed(&scenario, &Life::with(2, &[(event, restart)]), None);
        assert_eq!(world.told().rewinds, 0, "killed at {event}: {:?}", world.told());
        recovered += usize::from(world.told().views >= 2);
    }
    assert!(recovered > 60, "only {recovered} kills hit a running run");
}

#[test]
fn what_the_journal_lost_with_its_host_comes_back_with_the_members() {
    let scenario = scenario(7);
    for event in (60..420).step_by(3) {
        let restart = Chaos::RestartCoordinator { host: true, after_ms: 1_000 };
        completed(&scenario, &Life::with(3, &[(event, restart)]), None);
    }
}

#[test]
fn a_partition_of_one_way_or_both_is_survived() {
    let scenario = scenario(8);
    for (up, down) in [(true, false), (false, true), (true, true)] {
        for which in [Which::Both, Which::Control, Which::Data] {
            for ms in [2_000, 20_000, 90_000] {
                let partition = Chaos::Partition { worker: 1, which, up, down, ms };
                completed(&scenario, &Life::with(3, &[(150, partition)]), None);
            }
        }
    }
}

#[test]
fn all_workers_are_lost_at_once_and_one_after_another() {
    let scenario = slow(9);
    for apart_ms in [0, 300, 3_000] {
        for event in (60..240).step_by(20) {
            completed(&scenario, &Life::supervised(3, &[(event, Chaos::KillAll { apart_ms })]), None);
        }
    }
}

#[test]
fn a_clock_that_leaps_blames_nobody() {
    let scenario = slow(3);
    for leap_ms in [3_000, 30_000, 86_400_000] {
        for chaos in [Chaos::CoordinatorClock(leap_ms), Chaos::WorkerClock(1, leap_ms)] {
            let world = completed(&scenario, &Life::with(3, &[(150, chaos)]), None);
            assert_eq!(
                (world.told().left.len(), world.told().retries),
                (0, 0),
                "{chaos:?}: {:?}",
                world.told()
            );
        }
    }
    // Not even one that goes back, which a monotonic one doesn't.
    completed(&scenario, &Life::with(3, &[(150, Chaos::CoordinatorClock(-30_000))]), None);
}

#[test]
fn messages_that_come_twice_are_taken_once() {
    let scenario = scenario(2);
    let twice: Vec<(u64, Chaos)> = (1..400).step_by(3).map(|at| (at, Chaos::Duplicates)).collect();
    let world = completed(&scenario, &Life::with(3, &twice), None);
    assert_eq!((world.told().left.len(), world.told().retries), (0, 0), "{:?}", world.told());
}

#[test]
fn a_donor_with_a_flipped_bit_is_found_out_or_makes_no_difference() {
    let scenario = slow(5);
    for bit in [0, 12, 22, 31] {
        let events = [(1, Chaos::FlipDonor { at: 3, bit }), (80, Chaos::Joiners(1))];
        let world = completed(&scenario, &Life::supervised(3, &events), None);
        assert!(world.was_tainted() && world.told().rewinds > 0, "bit {bit}: {:?}", world.told());
    }
}

#[test]
fn a_run_below_min_workers_pauses_until_somebody_comes() {
    let mut scenario = slow(9);
    scenario.plan.min_workers = 2;
    let life = Life::with(2, &[(150, Chaos::KillWorker(1)), (151, Chaos::Joiners(1))]);
    let world = completed(&scenario, &life, None);
    assert_eq!(world.told().rewinds, 0, "the one that was left showed its state to the new one");
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
fn a_deviant_replica_is_put_out_and_what_it_touched_is_done_again() {
    let mut rewound = 0;
    for seed in 0..8 {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let mut world = World::new(&scenario, Some(reference), None);
        // The final digest is compared with the quiet run's.
        let found =
            outcome(&mut world, &Life::with(3, &[(180, Chaos::FlipBit { worker: 1, at: 0, bit: 20 })]));
        assert_eq!(found.reason, EndReason::Completed, "{}", found.message);
        let told = world.told();
        let is_named = |reason: &String| reason.contains("worker-1 deviates from the strict majority");
        assert_eq!(told.left.iter().any(is_named), told.rewinds > 0, "{told:?}");
        rewound += usize::from(told.rewinds > 0);
    }
    assert!(rewound >= 4, "only {rewound} of 8 flips were in the middle of a run");
}

/// Nobody knows who is right: both go back to what they agreed on, and come to the quiet run's end.
#[test]
fn two_that_differ_go_back_together() {
    let mut rewound = 0;
    for seed in 0..8 {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let mut world = World::new(&scenario, Some(reference), None);
        let found =
            outcome(&mut world, &Life::with(2, &[(180, Chaos::FlipBit { worker: 1, at: 0, bit: 20 })]));
        assert_eq!(found.reason, EndReason::Completed, "{}", found.message);
        let told = world.told();
        assert!(told.left.iter().all(|reason| !reason.contains("deviates")), "{told:?}");
        rewound += usize::from(told.rewinds > 0);
    }
    assert!(rewound >= 4, "only {rewound} of 8 flips were in the middle of a run");
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

/// No improvement is great enough, so the run ends at its third evaluation: whoever takes part, and whoever takes over.
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
            Life::quiet(3),
            Life::with(2, &[(at, restart), (at + 20, Chaos::KillWorker(1))]),
            Life::with(3, &[(at, Chaos::Stop)]),
        ] {
            let mut world = World::new(&scenario, Some(reference.clone()), None);
            let mut found = outcome(&mut world, &life);
            if found.reason == EndReason::Interrupted {
                found = outcome(&mut world, &Life::quiet(2));
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
            assert_eq!(world.live(&Life::quiet(1)), Ok(LifeEnd::WasComplete));
        }
    }
}
