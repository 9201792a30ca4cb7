//! The coordinator and its disk: kills, pauses, its clock, its journal and its checkpoints.

mod support;

use std::sync::Arc;

use protocol::coordinator::CheckpointEvery;
use protocol::messages::EndReason;
use sim::{Chaos, ConnectionKind, Incarnation, World, reference, run};
use support::{check, completed, outcome, scenario, slow};

#[test]
fn a_coordinator_that_is_killed_at_any_event_goes_on_from_what_its_members_hold() {
    let scenario = scenario(6);
    let mut recovered = 0;
    for event in (1..420).step_by(3) {
        let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
        let world = completed(&scenario, &Incarnation::with(2, &[(event, restart)]), None);
        assert_eq!(world.summary().rewinds, 0, "killed at {event}: {:?}", world.summary());
        recovered += usize::from(world.summary().views >= 2);
    }
    assert!(recovered > 60, "only {recovered} kills hit a running run");
}

#[test]
fn a_kill_at_any_event_is_survived() {
    let scenario = scenario(6);
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    for event in 1..=400 {
        for chaos in [Chaos::KillCoordinator { host: false }, Chaos::KillWorker(0)] {
            run(
                &scenario,
                &[Incarnation::with(2, &[(event, chaos)]), Incarnation::quiet(2)],
                reference.clone(),
                None,
                false,
            )
            .unwrap_or_else(|violation| panic!("{chaos:?} at {event}: {violation}"));
        }
    }
}

#[test]
fn what_the_journal_lost_with_its_host_comes_back_with_the_members() {
    let scenario = scenario(7);
    for event in (60..420).step_by(3) {
        let restart = Chaos::RestartCoordinator { host: true, after_ms: 1_000 };
        completed(&scenario, &Incarnation::with(3, &[(event, restart)]), None);
    }
}

#[test]
fn a_paused_coordinator_blames_nobody() {
    check(&Incarnation::with(3, &[(150, Chaos::PauseCoordinator(45_000))]), EndReason::Completed, 0, &[]);
}

#[test]
fn a_clock_that_leaps_blames_nobody() {
    let scenario = slow(3);
    for leap_ms in [3_000, 30_000, 86_400_000] {
        for chaos in [Chaos::CoordinatorClock(leap_ms), Chaos::WorkerClock(1, leap_ms)] {
            let world = completed(&scenario, &Incarnation::with(3, &[(150, chaos)]), None);
            assert_eq!(
                (world.summary().left.len(), world.summary().retries),
                (0, 0),
                "{chaos:?}: {:?}",
                world.summary()
            );
        }
    }
    // Not even a clock that goes backwards, which a monotonic one never does.
    completed(&scenario, &Incarnation::with(3, &[(150, Chaos::CoordinatorClock(-30_000))]), None);
}

#[test]
fn messages_that_come_twice_are_taken_once() {
    let scenario = scenario(2);
    let twice: Vec<(u64, Chaos)> = (1..400).step_by(3).map(|at| (at, Chaos::Duplicates)).collect();
    let world = completed(&scenario, &Incarnation::with(3, &twice), None);
    assert_eq!((world.summary().left.len(), world.summary().retries), (0, 0), "{:?}", world.summary());
}

#[test]
fn a_journal_that_fails_for_a_while_only_takes_time() {
    check(&Incarnation::with(3, &[(120, Chaos::JournalFails(30_000))]), EndReason::Completed, 0, &[]);
}

#[test]
fn a_stop_while_the_journal_fails_doesnt_wait_for_it() {
    let life = Incarnation::with(3, &[(120, Chaos::JournalFails(600_000)), (160, Chaos::Stop)]);
    check(&life, EndReason::Interrupted, 130, &["the journal can't be written", "--resume"]);
}

#[test]
fn a_full_disk_at_the_end_fails_and_resumes() {
    let life = Incarnation::with(2, &[(120, Chaos::DiskFull(3_600_000))]);
    check(&life, EndReason::Failed, 4, &["state 9 could not be written as a version", "no space left"]);
}

#[test]
fn without_any_whole_version_the_run_starts_again_from_its_seed() {
    let scenario = scenario(5);
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    let host_dies_early = |event| Incarnation::with(2, &[(event, Chaos::KillCoordinator { host: true })]);
    for event in (5..60).step_by(5) {
        run(&scenario, &[host_dies_early(event), Incarnation::quiet(3)], reference.clone(), None, false)
            .unwrap_or_else(|violation| panic!("killed at {event}: {violation}"));
    }
}

/// A step is committed in another view than the one in which a member prepared it, and only that member is left.
#[test]
fn a_step_that_was_committed_in_another_view_is_recovered() {
    for slow_steps in [false, true] {
        let scenario = if slow_steps { slow(1) } else { scenario(1) };
        for (at, later) in
            (60..300).step_by(3).flat_map(|at| (1..40).step_by(6).map(move |later| (at, later)))
        {
            let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
            let chaos =
                [(at, Chaos::BreakControl(0)), (at + later, restart), (at + later, Chaos::KillWorker(1))];
            completed(&scenario, &Incarnation::with(2, &chaos), None);
        }
    }
}

/// Its device hangs meanwhile, for longer than the timeout for a state.
#[test]
fn a_commit_that_is_recovered_late_costs_no_state() {
    let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
    for seed in 0..4 {
        let scenario = scenario(seed);
        for (at, later) in
            (20..140).step_by(3).flat_map(|at| (1..40).step_by(5).map(move |later| (at, later)))
        {
            let chaos = [(at, restart), (at + later, Chaos::HangWorker(0, 90_000))];
            completed(&scenario, &Incarnation::supervised(1, &chaos), None);
        }
    }
}

/// The uploader's replica deviates, its checkpoint exists, and the coordinator restarts before the others' checks
/// report the deviation: they make the run rewind further than to that checkpoint.
#[test]
fn a_deviants_version_is_not_gone_back_to_after_a_restart() {
    let mut rewound = 0;
    for seed in 0..3 {
        let mut scenario = scenario(seed);
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        for (at, later) in
            (80..300).step_by(4).flat_map(|at| (0..14).step_by(2).map(move |later| (at, later)))
        {
            let flip = Chaos::FlipBit { worker: 0, at: 0, bit: 20 };
            let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
            let mut world = World::new(&scenario, Some(reference.clone()), None);
            let found = outcome(&mut world, &Incarnation::with(3, &[(at, flip), (at + later, restart)]));
            assert_eq!(found.code, 0, "{}", found.message);
            if world.summary().rewinds > 0 {
                rewound += 1;
                let digest = world.newest_version().map(|(_, digest)| digest);
                assert_eq!(
                    digest,
                    Some(reference.digest),
                    "seed {seed}, a flip at {at}, a restart {later} later"
                );
            }
        }
    }
    assert!(rewound > 100, "{rewound}");
}

/// A replica deviates during a replay: the replay is started again, and reproduces the history.
#[test]
fn a_flip_in_a_replay_costs_another_replay() {
    let mut again = 0;
    for seed in 0..3 {
        let mut scenario = scenario(seed);
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1_000);
        for (at, later) in
            (200..330).step_by(20).flat_map(|at| (40..200).step_by(8).map(move |later| (at, later)))
        {
            let flip = Chaos::FlipBit { worker: 4, at: 0, bit: 20 };
            let life =
                Incarnation::supervised(3, &[(at, Chaos::KillAll { apart_ms: 0 }), (at + later, flip)]);
            let world = completed(&scenario, &life, None);
            again += usize::from(
                world.summary().warnings.iter().any(|text| text.contains("once more from state")),
            );
        }
    }
    assert!(again > 0, "no flip came into a replay");
}

/// The host's crash loses several commits from the journal's end, and all members survive: nothing is recomputed.
#[test]
fn what_a_crash_takes_of_the_journal_comes_back_however_much_it_is() {
    let mut adopted = 0;
    for seed in 0..4 {
        let mut scenario = scenario(seed);
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1_000);
        for at in (200..400).step_by(8) {
            let restart = Chaos::RestartCoordinator { host: true, after_ms: 1_000 };
            let world = completed(&scenario, &Incarnation::with(3, &[(at, restart)]), None);
            assert_eq!(world.summary().rewinds, 0, "seed {seed}, a crash at {at}");
            adopted +=
                usize::from(world.summary().warnings.iter().any(|text| text.contains("brought it back")));
        }
    }
    assert!(adopted > 10, "{adopted}");
}

/// A replica deviates, the coordinator restarts before the members' checks report it, and the deviant alone comes back
/// in time: the run continues from its state. The others, which come later, outvote it.
#[test]
fn a_deviant_that_was_alone_after_a_takeover_is_found_out_when_the_others_come() {
    let (mut found_late, mut named) = (0, 0);
    for seed in 0..4 {
        let mut scenario = slow(seed);
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        for (at, later) in
            (100..220).step_by(6).flat_map(|at| (0..40).step_by(4).map(move |later| (at, later)))
        {
            let flip = Chaos::FlipBit { worker: 0, at: 0, bit: 20 };
            let cut = |worker| Chaos::Partition {
                worker,
                which: ConnectionKind::Control,
                up: true,
                down: true,
                ms: 15_000,
            };
            let restart = Chaos::RestartCoordinator { host: false, after_ms: 100 };
            let chaos = [(at, flip), (at + later, cut(1)), (at + later, cut(2)), (at + later, restart)];
            let mut world = World::new(&scenario, Some(reference.clone()), None);
            let found = outcome(&mut world, &Incarnation::with(3, &chaos));
            assert_eq!(found.code, 0, "seed {seed}, {chaos:?}: {}", found.message);
            let summary = world.summary();
            let is_late = |text: &String| text.contains("what members hold of state");
            if summary.warnings.iter().any(is_late) {
                found_late += 1;
                named += usize::from(summary.left.iter().any(|text| text.contains("worker-0 deviates from")));
                let digest = world.newest_version().map(|(_, digest)| digest);
                assert_eq!(digest, Some(reference.digest), "seed {seed}, {chaos:?}: {summary:?}");
            }
        }
    }
    assert!(found_late > 20 && named > 0, "{found_late} found out, {named} by name");
}

#[test]
fn a_journal_that_hangs_for_a_while_only_takes_time() {
    let hangs = Incarnation::with(3, &[(120, Chaos::JournalHangs(40_000))]);
    check(&hangs, EndReason::Completed, 0, &[]);
    let scenario = scenario(2);
    for at in (20..400).step_by(7) {
        let world = completed(&scenario, &Incarnation::with(3, &[(at, Chaos::JournalHangs(40_000))]), None);
        assert!(world.summary().left.is_empty(), "hangs at {at}: {:?}", world.summary());
    }
}

#[test]
fn exports_that_fail_for_a_while_are_written() {
    check(&Incarnation::with(2, &[(1, Chaos::ExportsFail(3_000))]), EndReason::Completed, 0, &[]);
    let life = Incarnation::with(2, &[(1, Chaos::ExportsFail(3_600_000))]);
    check(&life, EndReason::Failed, 4, &["but the export failed", "--resume"]);
}
