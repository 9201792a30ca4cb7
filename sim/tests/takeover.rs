//! The coordinator and its disk: killed, paused, its clock, its journal and its versions.

mod support;

use std::sync::Arc;

use protocol::messages::EndReason;
use sim::{Chaos, Life, reference, run};
use support::{check, completed, scenario, slow};

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

#[test]
fn what_the_journal_lost_with_its_host_comes_back_with_the_members() {
    let scenario = scenario(7);
    for event in (60..420).step_by(3) {
        let restart = Chaos::RestartCoordinator { host: true, after_ms: 1_000 };
        completed(&scenario, &Life::with(3, &[(event, restart)]), None);
    }
}

#[test]
fn a_paused_coordinator_blames_nobody() {
    check(&Life::with(3, &[(150, Chaos::PauseCoordinator(45_000))]), EndReason::Completed, 0, &[]);
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
fn without_any_whole_version_the_run_starts_again_from_its_seed() {
    let scenario = scenario(5);
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    let host_dies_early = |event| Life::with(2, &[(event, Chaos::KillCoordinator { host: true })]);
    for event in (5..60).step_by(5) {
        run(&scenario, &[host_dies_early(event), Life::quiet(3)], reference.clone(), None, false)
            .unwrap_or_else(|violation| panic!("killed at {event}: {violation}"));
    }
}
