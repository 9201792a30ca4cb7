//! Bugs that random lives found, as tests of their own that stay whatever the seeds' scenarios become. Each injects a
//! fault at every event of a range, so that another order of messages finds the same bug.
//!
//! The tests marked "Seen" fail without the fix. The other bugs were found by seeds whose draws no longer exist, or
//! need more coincidence than a range of events provides: their tests guard the area around the bug.

use std::sync::Arc;

use protocol::coordinator::CheckpointEvery;
use protocol::early_stopping::EarlyStopping;
use protocol::schedule::Schedule;
use sim::{Chaos, ConnectionKind, Incarnation, Scenario, reference, run};

/// The same run for all tests, except for the changes that `tune` makes.
fn scenario(world: u64, tune: impl Fn(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::of(world);
    let plan = &mut scenario.plan;
    plan.geometry.samples = 24;
    plan.geometry.batch = 6;
    plan.geometry.microbatch = 1;
    plan.geometry.seed = 4_711;
    plan.geometry.evaluation_samples = 5;
    plan.geometry.evaluation_microbatch = 2;
    plan.total_steps = 10;
    plan.schedule = Schedule::Constant { learning_rate: 0.05 };
    plan.clip_norm = None;
    plan.checkpoint_every = CheckpointEvery::Steps(4);
    plan.evaluate_every_epochs = 1;
    plan.early_stopping = None;
    plan.export = true;
    (plan.min_workers, plan.max_workers) = (1, 16);
    scenario.toy = sim::Toy { elements: 24, salt: 7, nan_sample: None, weightless: 0 };
    scenario.speeds =
        sim::Speeds { network_ms: 20, compute_ms: 60, journal_ms: 30, upload_ms: 400, timer_ms: 0 };
    tune(&mut scenario);
    scenario
}

fn holds(events: impl Iterator<Item = u64>, tune: impl Fn(&mut Scenario), life: impl Fn(u64) -> Incarnation) {
    let first = scenario(1, &tune);
    let reference = Arc::new(reference(&first).unwrap_or_else(|violation| panic!("{violation}")));
    for (world, at) in events.enumerate() {
        let scenario = scenario(world as u64, &tune);
        let lives = [life(at), Incarnation::quiet(2)];
        if let Err(violation) = run(&scenario, &lives, reference.clone(), None, false) {
            panic!("{:?}: {}", lives[0], violation.message);
        }
    }
}

/// A pause was forgiven again at every event until the leases were checked: deadlines moved by days. (Seen.)
#[test]
fn a_pause_is_forgiven_once() {
    let leap = Chaos::CoordinatorClock(172_800_000);
    holds(60..100, |_| {}, |at| Incarnation { missing: 1, ..Incarnation::with(2, &[(at, leap)]) });
}

/// A member was evicted for the coordinator's own pause while its messages waited to be read.
#[test]
fn nobody_is_blamed_for_what_waits_to_be_read() {
    let paused = |at: u64| Chaos::PauseCoordinator(10_500 + at * 37 % 4_500);
    // The deadline that a broken edge left behind comes before the waiting messages, if the clock is checked first.
    let faults = |at| [(at, Chaos::BreakData(1)), (at + 1 + at % 6, paused(at))];
    holds(60..400, |_| {}, |at| Incarnation::with(3, &faults(at)));
}

/// A coordinator that was paused past the end of its wait for workers gave up before it read that they had joined.
/// (Seen.)
#[test]
fn a_wait_that_ended_in_a_pause_goes_on() {
    let leap = Chaos::CoordinatorClock(103_467);
    holds(1..60, |_| {}, |at| Incarnation::supervised(5, &[(at, leap)]));
}

/// History was rewound past a complete checkpoint whose journal record was pending while the journal couldn't be
/// written.
#[test]
fn a_version_on_its_way_to_the_journal_counts() {
    let often = |scenario: &mut Scenario| {
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(2);
        scenario.speeds.upload_ms = 100;
    };
    let faults = |at| [(at, Chaos::JournalFails(10_000)), (at + 30, Chaos::KillAll { apart_ms: 0 })];
    holds(60..400, often, |at| Incarnation::supervised(2, &faults(at)));
}

/// A checkpoint that a deviant was still uploading when it was evicted became part of the history that followed.
#[test]
fn a_deviants_late_upload_is_no_version() {
    let slow = |scenario: &mut Scenario| {
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1);
        scenario.speeds.upload_ms = 4_000;
    };
    // In the state before that checkpoint.
    let flip = Chaos::FlipBit { worker: 0, at: 0, bit: 22 };
    holds((0..600).map(|at| 50 + at % 60), slow, |at| Incarnation::supervised(3, &[(at, flip)]));
}

/// The zeros that a host's crash leaves after a torn record were taken for damage, and the run couldn't resume. (Seen.)
#[test]
fn a_journal_that_ends_in_zeros_is_torn() {
    let slow = |scenario: &mut Scenario| scenario.speeds.journal_ms = 300;
    let crash = Chaos::RestartCoordinator { host: true, after_ms: 1_000 };
    holds(60..300, slow, |at| Incarnation::supervised(3, &[(at, crash)]));
}

/// With a state that others lack and that can't be transferred to them yet, a coordinator slept for zero time. (Seen.)
#[test]
fn a_holder_waits_for_those_that_are_put_off() {
    let two = |scenario: &mut Scenario| scenario.plan.min_workers = 2;
    let faults = |at| [(at, Chaos::DiskFull(15_000)), (at + 1, Chaos::KillWorker(1))];
    holds(60..300, two, |at| Incarnation::supervised(2, &faults(at)));
}

/// History was rewound although a member with the last state had rejoined and merely wasn't ready yet. (Seen.)
#[test]
fn whoever_has_the_state_and_is_not_ready_yet_is_waited_for() {
    let broken = |at: u64| {
        let all = (0..2).map(|worker| (at + 12, Chaos::BreakControl(worker)));
        Incarnation::supervised(2, &std::iter::once((at, Chaos::Joiners(2))).chain(all).collect::<Vec<_>>())
    };
    holds(60..400, |_| {}, broken);
}

/// A failed data connection and a lost control stream made a worker open two streams, which evicted each other.
#[test]
fn a_worker_without_a_data_plane_opens_one_stream_at_a_time() {
    let two = |scenario: &mut Scenario| scenario.plan.min_workers = 2;
    let cut = Chaos::Partition { worker: 0, which: ConnectionKind::Data, up: true, down: true, ms: 74_575 };
    holds((60..300).step_by(5), two, |at| Incarnation::supervised(2, &[(at, cut)]));
}

/// A donor was asked for its state while it was still building its model after rejoining.
#[test]
fn who_is_back_and_builds_its_model_is_no_donor() {
    let broken = |at: u64| {
        let back = (at + 1 + at % 40, Chaos::BreakControl((at % 2) as usize));
        Incarnation::supervised(2, &[(at, Chaos::Joiners(1)), back])
    };
    holds(60..460, |_| {}, broken);
}

/// A donor was asked for a state that it was just about to apply.
#[test]
fn who_is_told_to_apply_a_recovered_commit_is_no_donor_yet() {
    let slow = |scenario: &mut Scenario| scenario.speeds.network_ms = 300;
    let restart = Chaos::RestartCoordinator { host: false, after_ms: 500 };
    let faults =
        |at: u64| [(at, restart), (at + 20, Chaos::Joiners(2)), (at + 30 + at % 50, Chaos::BreakControl(0))];
    holds(60..360, slow, |at| Incarnation::supervised(3, &faults(at)));
}

/// A rejoining worker was refused because its own dead stream still held its slot.
#[test]
fn who_comes_back_takes_its_own_place() {
    let full = |scenario: &mut Scenario| {
        scenario.plan.max_workers = 2;
        scenario.speeds.network_ms = 300;
        scenario.speeds.compute_ms = 2_000;
    };
    let (which, down) = (ConnectionKind::Control, true);
    let stall = Chaos::Stall { worker: 1, which, up: false, down, ms: 60_000 };
    holds((60..160).step_by(4), full, |at| Incarnation::with(2, &[(at, stall)]));
}

/// The holder of the newest state couldn't reach the data plane: the others waited for it, gave up, and the run ended
/// although they could have continued from a checkpoint. (Seen.)
#[test]
fn a_holder_that_cant_be_ready_is_not_waited_for_to_the_end() {
    let cut = |at: u64| {
        let (which, up, down, ms) = (ConnectionKind::Data, false, true, 95_000);
        let partition = Chaos::Partition { worker: 0, which, up, down, ms };
        let restart = Chaos::RestartCoordinator { host: false, after_ms: 5_000 };
        Incarnation::supervised(
            3,
            &[(at, Chaos::CorruptFrames(4)), (at + 90, partition), (at + 104, restart)],
        )
    };
    holds(20..140, |scenario| scenario.speeds.network_ms = 300, cut);
}

/// The host's crash lost the record of an evaluation, a member brought the next step's commit back, and a run that
/// should have stopped early at the following evaluation went on. (Seen.)
#[test]
fn an_evaluation_that_decides_is_not_lost_with_the_host() {
    // The loss grows, so the second evaluation is worse than the first, provided the first is known.
    let rule = EarlyStopping {
        metric: "loss".to_owned(),
        sum: 0,
        scale: 1.0,
        lower_is_better: true,
        min_delta: 0.0,
        patience: 1,
    };
    let stops_early = |scenario: &mut Scenario| {
        scenario.plan.early_stopping = Some(rule.clone());
        scenario.plan.geometry.batch = 12;
        scenario.plan.checkpoint_every = CheckpointEvery::Steps(1_000);
    };
    let restart = Chaos::RestartCoordinator { host: true, after_ms: 5_000 };
    holds(20..320, stops_early, |at| Incarnation::supervised(2, &[(at, restart)]));
}

/// All workers were killed in turn while one's device hung, and then the newest checkpoint was damaged. (Found with
/// storms of checkpoint damage; the code was correct.)
#[test]
fn a_version_that_is_damaged_after_all_were_killed_is_passed_over() {
    let by_time = |scenario: &mut Scenario| {
        scenario.plan.min_workers = 2;
        scenario.plan.checkpoint_every = CheckpointEvery::Millis(2_860);
    };
    let faults = |at: u64| {
        let (hang, kill) = (Chaos::HangWorker(0, 76_743), Chaos::KillAll { apart_ms: 2_732 });
        [(at, hang), (at + 161, kill), (at + 220, Chaos::DamageVersion)]
    };
    holds(20..80, by_time, |at| Incarnation::supervised(2, &faults(at)));
}
