//! Every planted bug is caught, by the checker made for it; without the bug the same lives hold.

mod support;

use std::sync::Arc;

use protocol::coordinator::CheckpointEvery;
use sim::{Bug, Chaos, ConnectionKind, Incarnation, Scenario, World, reference, run};

/// Maximum number of seeds that a bug may take to show.
const SEEDS: u64 = 12;

/// A scenario in which bugs can show: an odd number of microbatches, several steps, one element of each kind.
fn scenario(seed: u64) -> Scenario {
    let mut scenario = support::scenario(seed);
    scenario.plan.geometry.microbatch = 1;
    scenario
}

fn check(bug: Bug, expected: &[&str], tune: impl Fn(&mut Scenario), lives: &[Incarnation]) {
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

fn kill_at(event: u64) -> Incarnation {
    Incarnation::with(3, &[(event, Chaos::KillCoordinator { host: false })])
}

#[test]
fn a_commit_without_all_ready() {
    let expected = ["before member"];
    check(Bug::CommitsWithoutAllReady, &expected, |_| {}, &[Incarnation::quiet(3)]);
}

#[test]
fn a_commit_without_the_view_check() {
    let stale: Vec<(u64, Chaos)> = (60..400).step_by(20).map(|at| (at, Chaos::Stale)).collect();
    let expected = ["before member", "bit-exact"];
    check(Bug::IgnoresKeyOfReady, &expected, |_| {}, &[Incarnation::with(3, &stale)]);
}

#[test]
fn an_old_term_is_accepted() {
    let stale: Vec<(u64, Chaos)> = (60..400).step_by(10).map(|at| (at, Chaos::Stale)).collect();
    let expected = ["bit-exact", "identical replicas"];
    check(Bug::AcceptsOldTerm, &expected, |_| {}, &[kill_at(250), Incarnation::with(3, &stale)]);
}

#[test]
fn a_sum_in_the_order_of_arrival() {
    check(Bug::SumsInArrivalOrder, &["bit-exact"], |_| {}, &[Incarnation::quiet(3)]);
}

#[test]
fn a_sum_in_place_over_a_held_partial() {
    // A member is lost when slices are already reduced: the others send their partials once more, in another view.
    let found: Vec<String> =
        sweep(Bug::SumsInPlace, |at| Incarnation::with(3, &[(at, Chaos::KillWorker(2))]));
    assert!(found.iter().any(|message| message.contains("bit-exact")), "{found:?}");
}

#[test]
fn what_a_member_holds_is_computed_again() {
    let found: Vec<String> =
        sweep(Bug::ForgetsPartials, |at| Incarnation::with(3, &[(at, Chaos::KillWorker(2))]));
    assert!(found.iter().any(|message| message.contains("recomputed")), "{found:?}");
}

#[test]
fn an_absent_child_is_added_as_zero() {
    check(Bug::AddsAbsentAsZero, &["bit-exact"], |_| {}, &[Incarnation::quiet(2)]);
}

#[test]
fn a_sample_is_repeated_on_resume() {
    let lives = [Incarnation::with(3, &[(250, Chaos::Stop)]), Incarnation::quiet(2)];
    check(Bug::RepeatsSamplesOnResume, &["exactly once", "bit-exact"], |_| {}, &lives);
    // It doesn't need another run to compare with either.
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
    check(Bug::RepeatsSamplesOnResume, &expected, |_| {}, &[kill_at(250), Incarnation::quiet(2)]);
}

#[test]
fn a_torn_tail_is_not_cut() {
    let lives = [kill_at(150), kill_at(160), kill_at(170), kill_at(180), kill_at(190), Incarnation::quiet(2)];
    let slow_disk = |scenario: &mut Scenario| scenario.speeds.journal_ms = 400;
    check(Bug::LeavesTornTail, &["journal damaged", "one history"], slow_disk, &lives);
}

#[test]
fn another_replay_goes_unnoticed() {
    // One checkpoint at the start: the resumed run replays everything, with a changed dataset.
    let sparse = |scenario: &mut Scenario| {
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(100);
        scenario.plan.early_stopping = None;
    };
    let changed = Incarnation { other_data: true, ..Incarnation::quiet(2) };
    let expected = ["came back as", "bit-exact"];
    check(Bug::IgnoresReplayedHashes, &expected, sparse, &[kill_at(300), changed, Incarnation::quiet(2)]);
}

#[test]
fn applied_steps_are_forgotten_at_a_resume() {
    check(Bug::ForgetsAppliedSteps, &["bit-exact"], |_| {}, &[kill_at(300), Incarnation::quiet(2)]);
}

/// The newest checkpoint is damaged, so its steps are replayed, and meanwhile a bit flips at the only member.
#[test]
fn a_version_of_another_replay_takes_the_place_of_the_journalled_one() {
    let scenario = scenario(4);
    let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
    let flip = Chaos::FlipBit { worker: 0, at: 378_883, bit: 31 };
    let mut found = Vec::new();
    for at in 15..80 {
        let replay = Incarnation { damaged_version: true, ..Incarnation::with(1, &[(at, flip)]) };
        let lives = [Incarnation::with(1, &[(90, Chaos::Stop)]), replay, Incarnation::quiet(2)];
        run(&scenario, &lives, reference.clone(), None, false)
            .unwrap_or_else(|violation| panic!("without the bug, at {at}: {violation}"));
        found.extend(run(&scenario, &lives, reference.clone(), Some(Bug::ReplacesVersions), false).err());
    }
    let found: Vec<String> = found.into_iter().map(|violation| violation.message).collect();
    is_found(&found, "is whole");
}

#[test]
fn a_damaged_version_is_loaded() {
    let damaged = Incarnation { damaged_version: true, ..Incarnation::quiet(2) };
    let expected = ["versions:"];
    check(Bug::SkipsVersionChecks, &expected, |_| {}, &[kill_at(300), damaged, Incarnation::quiet(1)]);
}

/// The checkers' findings in lives with the bug, over the events at which a fault is injected; without the bug all
/// lives hold.
fn sweep(bug: Bug, life: impl Fn(u64) -> Incarnation) -> Vec<String> {
    let mut scenario = scenario(4);
    scenario.speeds.network_ms = 60; // One member is ready long before another.
    sweep_of(&scenario, bug, 40..200, life)
}

fn sweep_of(
    scenario: &Scenario,
    bug: Bug,
    events: std::ops::Range<u64>,
    life: impl Fn(u64) -> Incarnation,
) -> Vec<String> {
    let reference = Arc::new(reference(scenario).unwrap_or_else(|violation| panic!("{violation}")));
    let found = events.filter_map(|at| {
        let lives = [life(at), Incarnation::quiet(2)];
        run(scenario, &lives, reference.clone(), None, false)
            .unwrap_or_else(|violation| panic!("without the bug, at {at}: {violation}"));
        run(scenario, &lives, reference.clone(), Some(bug), false).err()
    });
    found.map(|violation| violation.message).collect()
}

fn is_found(found: &[String], words: &str) {
    assert!(found.iter().any(|message| message.contains(words)), "no \"{words}\" in {found:#?}");
}

#[test]
fn a_prepared_step_is_forgotten() {
    let mut scenario = scenario(6);
    scenario.speeds.network_ms = 300; // Commits are lost on their way.
    scenario.plan.checkpoint_every = CheckpointEvery::Steps(100);
    let restart = Chaos::RestartCoordinator { host: false, after_ms: 1_000 };
    let found =
        sweep_of(&scenario, Bug::ForgetsPrepared, 20..140, |at| Incarnation::with(1, &[(at, restart)]));
    is_found(&found, "which a member has");
}

#[test]
fn early_frames_are_dropped() {
    // Members without microbatches get the others' result before they begin the step.
    let mut scenario = scenario(2);
    scenario.plan.geometry.microbatch = 6;
    let slow = Chaos::SlowEdge { worker: 0, which: ConnectionKind::Control, ms: 2_000 };
    let found = sweep_of(&scenario, Bug::DropsEarlyFrames, 1..8, |at| Incarnation::with(4, &[(at, slow)]));
    is_found(&found, "early frames");
}

/// A step that is retried by members whose states are right has the same bits, so only the origin of its slices
/// reveals the bug. That differs if a deviant contributed to the kept slices: see the test below.
#[test]
fn reduced_slices_are_kept_over_an_abort() {
    let found = sweep(Bug::KeepsSlicesOverAbort, |at| Incarnation::with(3, &[(at, Chaos::KillWorker(2))]));
    is_found(&found, "slices of its view");
}

/// Here the bits reveal it, too: a deviant's gradient is in the slices of the step that exposed it, and that step
/// comes again after the rewind. So the gradient would be in the weights for good.
#[test]
fn slices_that_a_deviant_had_a_part_in_are_kept_over_an_abort() {
    let flip = Chaos::FlipBit { worker: 1, at: 0, bit: 20 };
    let mut differs = 0;
    for seed in 0..SEEDS {
        let scenario = scenario(seed);
        let reference = Arc::new(reference(&scenario).unwrap_or_else(|violation| panic!("{violation}")));
        for at in (120..260).step_by(10) {
            let life = |bug| {
                let mut world = World::new(&scenario, Some(reference.clone()), bug);
                world.compare_bits_alone();
                world.live(&Incarnation::supervised(3, &[(at, flip)]))
            };
            life(None).unwrap_or_else(|message| panic!("seed {seed}, without the bug, at {at}: {message}"));
            let found = life(Some(Bug::KeepsSlicesOverAbort)).err();
            differs += usize::from(found.is_some_and(|message| message.contains("bit-exact")));
        }
    }
    assert!(differs > 0, "what was kept had the right bits every time");
}

#[test]
fn a_paused_coordinator_trusts_its_clock() {
    let paused = |at| Incarnation::with(3, &[(at, Chaos::PauseCoordinator(45_000))]);
    is_found(&sweep_of(&scenario(3), Bug::TrustsTimeAfterPause, 150..154, paused), "is put out");
}

#[test]
fn a_paused_worker_trusts_its_clock() {
    // Longer than its own timeout, but its coordinator answers until its lease ends.
    let paused = |at| Incarnation::with(3, &[(at, Chaos::PauseWorker(1, 45_000))]);
    is_found(&sweep_of(&scenario(3), Bug::TrustsTimeAfterPause, 150..154, paused), "waits to be read");
}

#[test]
fn a_silent_member_is_kept() {
    let cut = Chaos::Partition { worker: 1, which: ConnectionKind::Both, up: true, down: true, ms: 60_000 };
    let found = sweep(Bug::KeepsTheSilent, |at| Incarnation::supervised(3, &[(at, cut)]));
    is_found(&found, "silent for longer");
}

#[test]
fn a_deviant_replica_goes_unnoticed() {
    let flip = Chaos::FlipBit { worker: 1, at: 0, bit: 20 };
    let found = sweep(Bug::IgnoresDisagreement, |at| Incarnation::supervised(3, &[(at, flip)]));
    is_found(&found, "although its members' states or gradients differ");
}

#[test]
fn a_commit_is_sent_while_the_journal_hangs() {
    let hangs = |at| Incarnation::with(3, &[(at, Chaos::JournalHangs(20_000))]);
    is_found(&sweep(Bug::CommitsBeforeItIsWritten, hangs), "that the journal doesn't hold");
}

#[test]
fn exports_that_failed_are_forgotten() {
    let lives = [Incarnation::with(2, &[(1, Chaos::ExportsFail(600_000))]), Incarnation::quiet(2)];
    check(Bug::ForgetsFailedExports, &["is complete and has none"], |_| {}, &lives);
}

#[test]
fn a_worker_hides_what_its_numerics_are() {
    let found = sweep(Bug::HidesNumerics, |at| Incarnation::with(2, &[(at, Chaos::OtherNumerics)]));
    is_found(&found, "members of two numerics");
}

#[test]
fn what_is_not_finite_is_applied() {
    let nan = |scenario: &mut Scenario| scenario.toy.nan_sample = Some(20);
    check(Bug::TrustsNan, &["is not finite, and is applied"], nan, &[Incarnation::quiet(2)]);
    let stops = Incarnation { stops_at_nan: true, ..Incarnation::quiet(2) };
    check(Bug::TrustsNan, &["is not finite, and was committed"], nan, &[stops, Incarnation::quiet(2)]);
}

#[test]
fn the_data_plane_grows_with_every_connection() {
    let breaks: Vec<(u64, Chaos)> = (60..400).step_by(50).map(|at| (at, Chaos::BreakData(1))).collect();
    check(Bug::KeepsDeadConnections, &["growth: "], |_| {}, &[Incarnation::with(3, &breaks)]);
}

#[test]
fn a_version_that_is_damaged_while_the_run_lives_is_loaded() {
    let mut scenario = scenario(4);
    scenario.speeds.upload_ms = 20;
    let life = |at| {
        Incarnation::supervised(2, &[(at, Chaos::DamageVersion), (at + 1, Chaos::KillAll { apart_ms: 0 })])
    };
    let found = sweep_of(&scenario, Bug::SkipsVersionChecks, 150..350, life);
    is_found(&found, "versions:");
}
