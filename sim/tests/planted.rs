//! Every planted bug is caught, by the checker that is there for it; without the bug the same lives hold.

use std::sync::Arc;

use protocol::coordinator::CheckpointEvery;
use sim::{Bug, Chaos, Life, LifeEnd, Scenario, Told, World, reference, run};

/// Seeds that a bug may take to show itself.
const SEEDS: u64 = 12;

/// A scenario in which there is something to see: several microbatches of odd count, several steps, one element of
/// each kind.
fn scenario(seed: u64) -> Scenario {
    let mut scenario = Scenario::of(seed);
    let plan = &mut scenario.plan;
    plan.geometry.samples = 33;
    plan.geometry.batch = 11;
    plan.geometry.microbatch = 1;
    plan.geometry.evaluation_samples = 5;
    plan.total_steps = 9;
    plan.checkpoint_every = CheckpointEvery::Steps(2);
    plan.evaluate_every_epochs = 1;
    scenario.toy.elements = 24;
    scenario.toy.nan_sample = None;
    scenario.toy.weightless = 0;
    scenario
}

fn check(bug: Bug, expected: &[&str], tune: impl Fn(&mut Scenario), lives: &[Life]) {
    let mut found = Vec::new();
    for seed in 0..SEEDS {
        let mut scenario = scenario(seed);
        tune(&mut scenario);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        if let Err(violation) = run(&scenario, lives, reference.clone(), None, false) {
            panic!("without the bug: {violation}");
        }
        if let Err(violation) = run(&scenario, lives, reference, Some(bug), false) {
            found.push(violation.message);
        }
    }
    let is_expected = |message: &String| expected.iter().any(|words| message.contains(words));
    assert!(found.iter().any(is_expected), "{bug:?} was not caught by {expected:?}; found: {found:#?}");
}

fn kill_at(event: u64) -> Life {
    Life::with(3, &[(event, Chaos::KillCoordinator { host: false })])
}

#[test]
fn a_commit_without_all_ready() {
    let expected = ["before member"];
    check(Bug::CommitsWithoutAllReady, &expected, |_| {}, &[Life::quiet(3)]);
}

#[test]
fn a_commit_without_the_view_check() {
    let stale: Vec<(u64, Chaos)> = (60..400).step_by(20).map(|at| (at, Chaos::Stale)).collect();
    let expected = ["before member", "bit-exact"];
    check(Bug::IgnoresKeyOfReady, &expected, |_| {}, &[Life::with(3, &stale)]);
}

#[test]
fn an_old_term_is_accepted() {
    let stale: Vec<(u64, Chaos)> = (60..400).step_by(10).map(|at| (at, Chaos::Stale)).collect();
    let expected = ["bit-exact", "identical replicas"];
    check(Bug::AcceptsOldTerm, &expected, |_| {}, &[kill_at(250), Life::with(3, &stale)]);
}

#[test]
fn a_sum_in_the_order_of_arrival() {
    check(Bug::SumsInArrivalOrder, &["bit-exact"], |_| {}, &[Life::quiet(3)]);
}

#[test]
fn a_sum_in_place_over_a_held_partial() {
    let corrupt: Vec<(u64, Chaos)> = (60..300).step_by(15).map(|at| (at, Chaos::CorruptFrames(2))).collect();
    check(Bug::SumsInPlace, &["bit-exact"], |_| {}, &[Life::with(3, &corrupt)]);
}

#[test]
fn an_absent_child_is_added_as_zero() {
    check(Bug::AddsAbsentAsZero, &["bit-exact"], |_| {}, &[Life::quiet(2)]);
}

#[test]
fn a_sample_is_repeated_on_resume() {
    let lives = [Life::with(3, &[(250, Chaos::Stop)]), Life::quiet(2)];
    check(Bug::RepeatsSamplesOnResume, &["exactly once", "bit-exact"], |_| {}, &lives);
    // Nor does it need another run to compare with.
    let caught = (0..SEEDS).filter(|seed| {
        let scenario = scenario(*seed);
        let mut world = World::new(&scenario, None, Some(Bug::RepeatsSamplesOnResume));
        lives.iter().any(|life| world.live(life).is_err_and(|message| message.contains("exactly once")))
    });
    assert!(caught.count() > 0);
}

#[test]
fn a_sample_repeated_in_a_replay_is_noticed_by_the_machine() {
    let expected = ["the replay of step"];
    check(Bug::RepeatsSamplesOnResume, &expected, |_| {}, &[kill_at(250), Life::quiet(2)]);
}

#[test]
fn a_torn_tail_is_not_cut() {
    let lives = [kill_at(150), kill_at(160), kill_at(170), kill_at(180), kill_at(190), Life::quiet(2)];
    let slow_disk = |scenario: &mut Scenario| scenario.speeds.journal_ms = 400;
    check(Bug::LeavesTornTail, &["journal damaged", "one history"], slow_disk, &lives);
}

#[test]
fn another_replay_goes_unnoticed() {
    // One version at the start: the resumed run replays everything, with a dataset that was changed.
    let sparse = |scenario: &mut Scenario| scenario.plan.checkpoint_every = CheckpointEvery::Steps(100);
    let changed = Life { other_data: true, ..Life::quiet(2) };
    let expected = ["came back as", "bit-exact"];
    check(Bug::IgnoresReplayedHashes, &expected, sparse, &[kill_at(300), changed, Life::quiet(2)]);
}

#[test]
fn applied_steps_are_forgotten_at_a_resume() {
    check(Bug::ForgetsAppliedSteps, &["bit-exact"], |_| {}, &[kill_at(300), Life::quiet(2)]);
}

#[test]
fn a_damaged_version_is_loaded() {
    let damaged = Life { damaged_version: true, ..Life::quiet(2) };
    let expected = ["versions:"];
    check(Bug::SkipsVersionChecks, &expected, |_| {}, &[kill_at(300), damaged, Life::quiet(1)]);
}

/// What the machines survive costs something: what people are told of it, over all these lives.
fn told(scenario: &Scenario, lives: &[Life], bug: Option<Bug>, of: fn(&Told) -> usize) -> usize {
    let cost = |life: &Life| {
        let mut world = World::new(scenario, None, bug);
        let end = world.live(life).unwrap_or_else(|message| panic!("{bug:?}, {life:?}: {message}"));
        assert!(matches!(end, LifeEnd::Finished(_)), "{end:?}");
        of(world.told())
    };
    lives.iter().map(cost).sum()
}

#[test]
fn a_prepared_step_is_forgotten() {
    let mut scenario = scenario(6);
    scenario.speeds.network_ms = 300; // Commits are lost on their way.
    scenario.plan.checkpoint_every = CheckpointEvery::Steps(100);
    let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
    let lives: Vec<Life> = (20..140).map(|event| Life::with(1, &[(event, restart)])).collect();
    let rewinds = |bug| told(&scenario, &lives, bug, |told| told.rewinds);
    let (without, with) = (rewinds(None), rewinds(Some(Bug::ForgetsPrepared)));
    assert!(with > without, "what was committed was done again {with} times, {without} without the bug");
}

#[test]
fn early_frames_are_dropped() {
    // Members without microbatches get the others' result before they begin the step.
    let mut scenario = scenario(2);
    scenario.plan.geometry.microbatch = 6;
    scenario.speeds.network_ms = 300;
    let lives: Vec<Life> = (0..8).map(|_| Life::with(4, &[(1, Chaos::SlowWorker(0, 20))])).collect();
    let retries = |bug| told(&scenario, &lives, bug, |told| told.retries);
    assert_eq!(retries(None), 0);
    assert!(retries(Some(Bug::DropsEarlyFrames)) > 0, "every step's result came in time");
}

#[test]
fn reduced_slices_are_kept_over_an_abort() {
    // What was reduced in the view that gave the step up has the same bits, so only where it came from tells.
    let mut scenario = scenario(4);
    scenario.speeds.network_ms = 60; // One member is ready long before another.
    let reference = Arc::new(reference(&scenario).expect("a quiet run holds"));
    let found = (40..200).filter_map(|at| {
        let lives = [Life::with(3, &[(at, Chaos::KillWorker(2))])];
        run(&scenario, &lives, reference.clone(), None, false).expect("without the bug");
        run(&scenario, &lives, reference.clone(), Some(Bug::KeepsSlicesOverAbort), false).err()
    });
    let found: Vec<String> = found.map(|violation| violation.message).collect();
    assert!(found.iter().any(|message| message.contains("slices of its view")), "{found:?}");
}

#[test]
fn a_paused_coordinator_trusts_its_clock() {
    let lives = [Life::with(3, &[(150, Chaos::PauseCoordinator(45_000))])];
    let blamed = |told: &Told| told.left.iter().filter(|reason| reason.contains("lease")).count();
    let left = |bug| told(&scenario(3), &lives, bug, blamed);
    assert_eq!(left(None), 0);
    assert!(left(Some(Bug::TrustsTimeAfterPause)) > 0, "it blamed its workers for its own pause");
}

#[test]
fn a_deviant_replica_goes_unnoticed() {
    let flip = Life::with(3, &[(200, Chaos::FlipBit(1))]);
    let mut caught = 0;
    for seed in 0..SEEDS {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        let complete = |bug| {
            let mut world = World::new(&scenario, Some(reference.clone()), bug);
            world.be_lenient(true); // What the flip does to the bits of this life is the point of it.
            let first = world.live(&flip)?;
            world.live(&Life::quiet(2)).map(|last| (first, last))
        };
        complete(None).unwrap_or_else(|message| panic!("seed {seed}, without the bug: {message}"));
        caught +=
            usize::from(complete(Some(Bug::IgnoresDisagreement)).is_err_and(|m| m.contains("bit-exact")));
    }
    assert!(caught > 0, "a deviant replica was never caught");
}
