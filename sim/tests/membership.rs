//! Workers join and leave, are slow, lost or partitioned, and the others continue.

mod support;

use protocol::coordinator::CheckpointEvery;
use protocol::messages::EndReason;
use sim::{Chaos, ConnectionKind, Incarnation, World};
use support::{check, completed, outcome, scenario, slow};

#[test]
fn a_lost_worker_costs_one_retry_of_its_own_microbatches() {
    let mut scenario = scenario(6);
    scenario.speeds.network_ms = 20;
    let quiet = completed(&scenario, &Incarnation::quiet(3), None).summary().clone();
    let mut retries = 0;
    for event in (60..420).step_by(7) {
        let world = completed(&scenario, &Incarnation::with(3, &[(event, Chaos::KillWorker(1))]), None);
        let summary = world.summary();
        assert!(summary.retries <= 1 && summary.rewinds == 0, "killed at {event}: {summary:?}");
        // A step has six microbatches: two for each.
        let more = summary.computed - quiet.computed;
        assert!(more <= 2, "killed at {event}: {more} microbatches were computed again");
        retries += summary.retries;
    }
    assert!(retries > 20, "only {retries} of 52 kills hit a step");
}

#[test]
fn a_silent_worker_loses_its_lease_and_comes_back() {
    let scenario = slow(3);
    let world = completed(&scenario, &Incarnation::with(3, &[(150, Chaos::PauseWorker(2, 20_000))]), None);
    let summary = world.summary();
    assert!(summary.left.iter().any(|reason| reason.contains("lease 10000 ms")), "{summary:?}");
    assert_eq!(
        world.exits()[2].as_ref().map(|(code, _)| *code),
        Some(0),
        "it was there at the end: {summary:?}"
    );
}

#[test]
fn a_worker_that_leaves_is_done_without() {
    let scenario = scenario(4);
    let world = completed(&scenario, &Incarnation::with(2, &[(150, Chaos::Leave(0))]), None);
    assert_eq!(world.exits()[0].as_ref().map(|(code, _)| *code), Some(130));
    assert_eq!(world.exits()[1].as_ref().map(|(code, _)| *code), Some(0));
    assert!(world.summary().left[0].contains("it leaves: SIGTERM"));
    assert_eq!(world.summary().retries, 0, "it finished its step");
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
    let world = completed(&scenario, &Incarnation::with(3, &[(1, Chaos::SlowWorker(1, 8))]), None);
    let summary = world.summary();
    let named =
        |warning: &String| warning.starts_with("worker-1 is") && warning.contains("gets fewer microbatches");
    assert!(summary.warnings.iter().any(named), "{:?}", summary.warnings);
    let of = |name: &str| {
        let last = summary.shares.last().expect("views");
        last.iter().find(|(member, _)| member == name).map_or(0, |(_, share)| *share)
    };
    assert!(
        of("worker-1") * 2 < of("worker-0") && of("worker-1") * 2 < of("worker-2"),
        "{:?}",
        summary.shares
    );
    assert_eq!(summary.retries, 0, "nobody is put out for being slow");
}

#[test]
fn a_late_joiner_enters_and_so_do_ten_at_once() {
    let mut scenario = slow(1);
    scenario.plan.max_workers = 16;
    let world = completed(&scenario, &Incarnation::with(2, &[(80, Chaos::Joiners(1))]), None);
    assert_eq!(world.exits().last(), Some(&Some((0, "all 9 steps are done".to_owned()))));
    assert!(world.summary().views >= 2 && world.summary().retries == 0, "{:?}", world.summary());
    let world = completed(&scenario, &Incarnation::with(2, &[(80, Chaos::Joiners(10))]), None);
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
    let world = completed(&scenario, &Incarnation::with(2, &events), None);
    assert_eq!(world.exits()[..3], [None, None, None]);
}

#[test]
fn a_run_below_min_workers_pauses_until_somebody_comes() {
    let mut scenario = slow(9);
    scenario.plan.min_workers = 2;
    let life = Incarnation::with(2, &[(150, Chaos::KillWorker(1)), (151, Chaos::Joiners(1))]);
    let world = completed(&scenario, &life, None);
    assert_eq!(world.summary().rewinds, 0, "the one that was left showed its state to the new one");
}

#[test]
fn workers_that_never_come_are_waited_for_and_named() {
    let missing = Incarnation { missing: 2, ..Incarnation::quiet(1) };
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

#[test]
fn all_workers_are_lost_at_once_and_one_after_another() {
    let scenario = slow(9);
    for apart_ms in [0, 300, 3_000] {
        for event in (60..240).step_by(20) {
            completed(&scenario, &Incarnation::supervised(3, &[(event, Chaos::KillAll { apart_ms })]), None);
        }
    }
}

/// All workers are gone, and for a while no process can be started: the run waits.
#[test]
fn local_workers_that_cant_be_started_for_a_while_are_started_later() {
    let chaos = [(150, Chaos::LaunchFails(15_000)), (151, Chaos::KillAll { apart_ms: 0 })];
    let life = Incarnation::supervised(2, &chaos);
    for seed in 0..6 {
        let scenario = scenario(seed);
        let world = completed(&scenario, &life, None);
        let summary = world.summary();
        assert!(summary.warnings.iter().any(|text| text.contains("a local worker failed")), "{summary:?}");
    }
}

/// Before any worker has joined there is nothing to supervise: a person has to act.
#[test]
fn a_local_worker_that_dies_before_it_joins_ends_a_run_that_has_not_begun() {
    let life = Incarnation::supervised(1, &[(1, Chaos::KillWorker(0))]);
    check(&life, EndReason::Failed, 4, &["a local worker failed", "--resume"]);
}

/// A newcomer behind a firewall, for example, would hold the others up, so it never enters a view.
#[test]
fn a_newcomer_that_cant_reach_the_data_plane_costs_the_others_nothing() {
    let cut = Chaos::Partition { worker: 2, which: ConnectionKind::Data, up: true, down: true, ms: 600_000 };
    let life = Incarnation::with(2, &[(100, cut), (101, Chaos::Joiners(1))]);
    for seed in 0..6 {
        let scenario = scenario(seed);
        let world = completed(&scenario, &life, None);
        let summary = world.summary();
        assert_eq!((summary.retries, summary.rewinds), (0, 0), "{summary:?}");
        assert!(summary.shares.iter().flatten().all(|(name, _)| name != "worker-2"), "{:?}", summary.shares);
    }
}

/// A data connection breaks, and the member hears of it later than of the view that repairs it: it sends its part on
/// the dead connection. It then rejoins, rather than waiting for the step's deadline.
#[test]
fn a_member_that_hears_of_a_break_after_the_next_view_joins_again() {
    let slow = Chaos::SlowEdge { worker: 1, which: ConnectionKind::Data, ms: 1_900 };
    let mut broken = 0;
    for at in 80..200 {
        let scenario = scenario(at);
        let world = completed(
            &scenario,
            &Incarnation::supervised(2, &[(60, slow), (at, Chaos::CorruptFrames(1))]),
            None,
        );
        let summary = world.summary();
        let is_late = |reason: &String| reason.contains("has not computed its part");
        assert!(!summary.left.iter().any(is_late), "at {at}: {:?}", summary.left);
        broken += summary.retries;
    }
    assert!(broken > 20, "only {broken} connections broke");
}

/// A member that sends a part of a step that hasn't begun is evicted at once, alone, and the run ends like any other.
#[test]
fn a_member_that_is_ahead_is_put_out() {
    let mut put_out = 0;
    for at in 80..140 {
        let scenario = scenario(at);
        let world = completed(&scenario, &Incarnation::supervised(3, &[(at, Chaos::Ahead(1))]), None);
        let left = &world.summary().left;
        put_out += left.iter().filter(|reason| reason.contains("broke the protocol")).count();
        assert!(left.iter().all(|reason| !reason.contains("has not computed")), "at {at}: {left:?}");
    }
    assert!(put_out > 20, "only {put_out} were put out");
}

#[test]
fn a_partition_of_one_way_or_both_is_survived() {
    let scenario = scenario(8);
    for (up, down) in [(true, false), (false, true), (true, true)] {
        for which in [ConnectionKind::Both, ConnectionKind::Control, ConnectionKind::Data] {
            for ms in [2_000, 20_000, 90_000] {
                let partition = Chaos::Partition { worker: 1, which, up, down, ms };
                completed(&scenario, &Incarnation::with(3, &[(150, partition)]), None);
            }
        }
    }
}

/// Whatever happens to one of three workers for half an hour, the others complete the run long before it ends.
#[test]
fn the_others_go_on_whatever_befalls_one() {
    let (worker, ms) = (1, 1_500_000);
    let mut troubles = vec![Chaos::HangWorker(worker, ms), Chaos::PauseWorker(worker, ms)];
    for which in [ConnectionKind::Both, ConnectionKind::Control, ConnectionKind::Data] {
        for (up, down) in [(true, true), (true, false), (false, true)] {
            troubles.push(Chaos::Partition { worker, which, up, down, ms });
            troubles.push(Chaos::Stall { worker, which, up, down, ms });
        }
    }
    for trouble in troubles {
        for at in (5..300).step_by(13) {
            let scenario = scenario(at);
            let world = completed(&scenario, &Incarnation::with(3, &[(at, trouble)]), None);
            let took_ms = world.last_progress_ms();
            // The slowest case: a first state that is never made, then another one that two load, and a step.
            assert!(took_ms < 200_000, "{took_ms} ms with {trouble:?} at {at}");
        }
    }
}

/// The others are lost while it leaves, or before: its state becomes a checkpoint first.
#[test]
fn who_leaves_last_leaves_its_state() {
    for (min_workers, leaves_first) in [(1, true), (2, false)] {
        let mut scenario = slow(6);
        scenario.plan.min_workers = min_workers;
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1_000);
        for at in (100..300).step_by(10) {
            let (leave, kill) = (Chaos::Leave(0), Chaos::KillWorker(1));
            let chaos =
                if leaves_first { [(at, leave), (at + 2, kill)] } else { [(at, kill), (at + 4, leave)] };
            let world = completed(&scenario, &Incarnation::supervised(2, &chaos), None);
            assert_eq!(world.summary().rewinds, 0, "at {at}: {:?}", world.summary().left);
        }
    }
}

/// A paused run has too few members to continue, and may lose those too: the next worker finds the state as a
/// checkpoint.
#[test]
fn a_run_that_pauses_writes_a_version() {
    let mut scenario = slow(4);
    scenario.plan.min_workers = 2;
    scenario.plan.checkpoint_every = CheckpointEvery::Steps(1_000);
    for at in (140..300).step_by(20) {
        let (first, last) = (Chaos::KillWorker(1), Chaos::KillWorker(0));
        let life = Incarnation::with(2, &[(at, first), (at + 30, last), (at + 40, Chaos::Joiners(2))]);
        let world = completed(&scenario, &life, None);
        assert_eq!(world.summary().rewinds, 0, "at {at}: {:?}", world.summary().left);
    }
}

/// A worker with other numerics joins: it is refused, or the run gives up its claim to exact bits (as the checkers
/// verify).
#[test]
fn other_numerics_are_refused_or_end_the_claim() {
    for mixed in [false, true] {
        let mut scenario = slow(3);
        scenario.plan.mixed = mixed;
        let world = completed(&scenario, &Incarnation::with(2, &[(150, Chaos::OtherNumerics)]), None);
        let has_worked = world.summary().shares.iter().flatten().any(|(name, _)| name == "worker-2");
        assert_eq!(has_worked, mixed);
        let end = world.exits()[2].clone().expect("it was told an end");
        assert_eq!(end.0, if mixed { 0 } else { 2 }, "{}", end.1);
        assert!(mixed || end.1.contains("numerics fingerprint"), "{}", end.1);
    }
}
