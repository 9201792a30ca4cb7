//! Joining and lost members and the messages to them: other runs, other releases, latecomers, deviating replicas.

mod table;

use protocol::coordinator::{CheckpointEvery, Event, Output, RunEvent, RunPlan};
use protocol::history::History;
use protocol::ids::{Phase, RunId, StepKey};
use protocol::journal::Record;
use protocol::messages::{EndReason, Failure, FromWorker, Held, Join, Ready, ToWorker, View};
use table::{Table, join, ready, run_plan};

/// No state of another run may enter this one, although both count from the same numbers.
#[test]
fn what_a_worker_of_another_run_holds_counts_for_nothing() {
    let (mut other, view) = Table::working(run_plan(1));
    other.step(&view, 1);
    let records = other.records();
    let Some(Record::Commit(commit)) = records.last().cloned() else { panic!("the commit of step 1") };
    // This run has not committed step 1 yet, in a view of the same number.
    let before = &records[..records.len() - 1];
    let resumed = || {
        let mut history = History::replay(before).expect("a history");
        history.resume_from(0, [0; 32]).expect("version 0");
        Table::resumed(run_plan(1), 2, history)
    };
    let holds = Held { step: 1, state_check: 1, prepared: None, commit: Some(Box::new(commit.clone())) };
    let holds = Join { holds: Some(holds), ..join("a", None) };
    let mut table = resumed();
    table.say(0, FromWorker::Join(holds.clone()));
    assert!(table.records().contains(&Record::Adopted(commit.clone())), "of this run it would be history");
    let mut table = resumed();
    table.say(0, FromWorker::Join(Join { run: Some(RunId([8; 16])), ..holds.clone() }));
    assert!(!table.records().contains(&Record::Adopted(commit)));
    assert!(table.warnings().iter().any(|warning| warning.contains("a comes from another run")));
    table.now += 5_000;
    table.handle(Event::Tick);
    assert_eq!(table.sent(0).last(), Some(&&ToWorker::Load { step: 0 }), "it is a newcomer");
    // A local worker has a coordinator of its own to return to.
    let mut table = resumed();
    table.say(0, FromWorker::Join(Join { run: Some(RunId([8; 16])), slot: Some(0), ..holds }));
    let failure = table.refusal(0).expect("a refusal");
    assert!(failure.code == 2 && failure.message.contains("another run"), "{}", failure.message);
}

#[test]
fn a_worker_of_another_release_is_admitted_with_a_warning() {
    let mut table = Table::new(run_plan(2));
    table.say(0, FromWorker::Join(join("a", None)));
    assert_eq!(table.warnings(), [""; 0]);
    table.say(1, FromWorker::Join(Join { build: "bonfire 9.9".to_owned(), ..join("b", None) }));
    assert!(matches!(table.sent(1).first(), Some(ToWorker::Welcome(_))));
    let [warning] = table.warnings()[..] else { panic!("one warning") };
    assert!(warning.contains("b is of another release: \"bonfire 9.9\""), "{warning}");
}

/// A short run of two members, to its end.
fn completed() -> Table {
    let (mut table, view) = Table::working(RunPlan { total_steps: 1, ..run_plan(2) });
    table.handle(Event::Disconnected { connection: 1, reason: "cut".to_owned() });
    let view = View { id: table.last_view(0).id, members: vec![view.members[0].clone()], ..view };
    table.step(&view, 1);
    table.say(0, FromWorker::Applied { step: 1, state_check: 1 });
    table.handle(Event::VersionWritten { step: 1, digest: [1; 32] });
    assert_eq!(table.outcome().map(|outcome| outcome.reason), Some(EndReason::Completed));
    table
}

#[test]
fn a_worker_that_comes_when_the_run_is_over_hears_so() {
    let mut table = completed();
    assert!(table.machine.expects_late_workers(table.now), "one was cut off and may live");
    let message = FromWorker::Join(Join { instance: 1, ..join("w", None) });
    table.handle(Event::Message { connection: 7, message });
    assert!(
        matches!(table.sent(7)[..], [ToWorker::End { reason: EndReason::Completed, .. }]),
        "{:?}",
        table.sent(7)
    );
    assert!(!table.machine.expects_late_workers(table.now), "nobody else is missing");
    let table = completed();
    assert!(!table.machine.expects_late_workers(table.now + 60_000), "whoever lives would have come by then");
}

/// The members report these checks of the state before step `step`.
fn say_checks(table: &mut Table, view: &View, step: u64, checks: [u64; 2]) {
    let key = StepKey { view: view.id, step, phase: Phase::Train };
    for (connection, state_check) in (0..).zip(checks) {
        table.say(connection, FromWorker::Ready(Ready { state_check, ..ready(key) }));
    }
}

#[test]
fn two_that_differ_go_back_once_and_end_the_run_if_they_differ_there_again() {
    let plan = RunPlan { checkpoint_every: CheckpointEvery::Steps(1_000), ..run_plan(2) };
    let (mut table, view) = Table::working(plan);
    table.step(&view, 1);
    table.step(&view, 2);
    say_checks(&mut table, &view, 3, [1, 2]);
    assert_eq!(table.outcome(), None);
    let rewinds = |record: &Record| matches!(record, Record::Rewind { to_step: 0, void: true, .. });
    assert!(table.records().iter().any(rewinds), "to the last that both had");
    let load = |table: &mut Table| {
        for connection in 0..2 {
            assert_eq!(table.sent(connection).last(), Some(&&ToWorker::Load { step: 0 }));
        }
        for connection in 0..2 {
            table.say(connection, FromWorker::Loaded { step: 0, digest: [0; 32] });
        }
        table.last_view(0)
    };
    let again = load(&mut table);
    assert_eq!((again.step, again.members.len()), (1, 2));
    let warned = table.warnings().iter().filter(|warning| warning.contains("no strict majority")).count();
    assert_eq!(warned, 1);
    table.step(&again, 1);
    table.step(&again, 2);
    say_checks(&mut table, &again, 3, [1, 2]);
    let outcome = table.outcome().expect("the end");
    assert!(outcome.code == 4 && outcome.message.contains("none can be blamed"), "{}", outcome.message);
}

#[test]
fn a_local_worker_that_cannot_be_started_ends_a_run_only_before_it_has_begun() {
    let failed = Event::LaunchFailed { code: 4, reason: "worker-0: no memory".to_owned() };
    let mut table = Table::new(run_plan(1));
    table.handle(failed.clone());
    assert_eq!(table.outcome().map(|outcome| outcome.code), Some(4));
    let (mut table, _) = Table::working(run_plan(1));
    table.handle(Event::Disconnected { connection: 0, reason: "killed".to_owned() });
    assert!(table.machine.waits_for().contains("worker"), "{}", table.machine.waits_for());
    table.handle(failed);
    assert_eq!(table.outcome(), None, "it may be started again, or another may come");
    assert!(table.warnings().iter().any(|warning| warning.contains("worker-0: no memory")));
    table.say(5, FromWorker::Join(join("w", None)));
    assert_eq!(table.sent(5).last(), Some(&&ToWorker::Load { step: 0 }));
}

#[test]
fn a_run_that_nobody_is_left_for_ends_with_4_and_says_how_it_goes_on() {
    let (mut table, _) = Table::working(run_plan(1));
    table.handle(Event::Disconnected { connection: 0, reason: "killed".to_owned() });
    table.handle(Event::NobodyLeft { reason: "every local worker is given up".to_owned() });
    let outcome = table.outcome().expect("the end");
    assert_eq!(outcome.code, 4);
    let says = |text| outcome.message.contains(text);
    assert!(
        says("every local worker is given up") && says("--resume goes on from version"),
        "{}",
        outcome.message
    );
}

/// A newcomer may fail to get ready because of its own machine; a failure of the last member would hit any other.
#[test]
fn a_newcomer_that_fails_before_it_is_ready_ends_no_run_that_has_begun() {
    let failed = |message: &str| FromWorker::Failed(Failure { code: 4, message: message.to_owned() });
    let (mut table, _) = Table::working(run_plan(1));
    table.handle(Event::Disconnected { connection: 0, reason: "killed".to_owned() });
    let message = FromWorker::Join(Join { instance: 5, ..join("newcomer", None) });
    table.handle(Event::Message { connection: 5, message });
    table.say(5, failed("the data plane can't be reached"));
    assert_eq!(table.outcome(), None);
    assert!(table.warnings().iter().any(|warning| warning.contains("the data plane can't be reached")));
    table.say(6, FromWorker::Join(join("w", None)));
    assert_eq!(table.sent(6).last(), Some(&&ToWorker::Load { step: 0 }), "another goes on");
    table.say(6, failed("the data can't be read"));
    assert_eq!(table.outcome().map(|outcome| outcome.code), Some(4));

    let mut table = Table::new(run_plan(1));
    let message = FromWorker::Join(Join { instance: 5, ..join("newcomer", None) });
    table.handle(Event::Message { connection: 5, message });
    table.say(5, failed("model.hiden is no key"));
    assert_eq!(
        table.outcome().map(|outcome| outcome.code),
        Some(4),
        "before the run has begun nobody would do better"
    );
}

/// The time until the silent members of a view are evicted.
fn patience(table: &mut Table) -> u64 {
    let began = table.now;
    while !table.outputs.iter().any(|output| matches!(output, Output::RunEvent(RunEvent::Left { .. }))) {
        table.now = table.machine.next_deadline().expect("a deadline").max(table.now + 1);
        for connection in 0..2 {
            table.say(connection, FromWorker::Heartbeat);
        }
        table.handle(Event::Tick);
    }
    table.now - began
}

/// Commits a step with measured timings.
fn step_in(table: &mut Table, view: &View, step: u64, took_ms: u64) {
    let timings = protocol::messages::Timings { compute_us: 1_000, samples: 2, ..Default::default() };
    table.now += took_ms;
    let key = StepKey { view: view.id, step, phase: Phase::Train };
    for connection in 0..2 {
        table.say(connection, FromWorker::Heartbeat);
        table.say(connection, FromWorker::Ready(Ready { timings, ..ready(key) }));
    }
}

#[test]
fn the_deadline_of_a_step_follows_what_steps_take() {
    let plan =
        || RunPlan { total_steps: 1_000, checkpoint_every: CheckpointEvery::Steps(10_000), ..run_plan(2) };
    // The members' first steps may compile.
    assert_eq!(patience(&mut Table::working(plan()).0), 60_000);
    let (mut table, view) = Table::working(plan());
    (1..=3).for_each(|step| step_in(&mut table, &view, step, 100));
    assert_eq!(patience(&mut table), 30_000, "at least so long");
    let (mut table, view) = Table::working(plan());
    (1..=3).for_each(|step| step_in(&mut table, &view, step, 8_000));
    assert_eq!(patience(&mut table), 80_000, "ten times what they took");
    let (mut table, view) = Table::working(plan());
    (1..=3).for_each(|step| step_in(&mut table, &view, step, 8_000));
    (4..=60).for_each(|step| step_in(&mut table, &view, step, 100));
    assert_eq!(patience(&mut table), 30_000, "what was slow once is forgotten");
}

#[test]
fn a_joiner_whose_transfer_fails_waits_twice_as_long_each_time() {
    let plan =
        RunPlan { total_steps: 100_000, checkpoint_every: CheckpointEvery::Steps(1_000_000), ..run_plan(1) };
    let (mut table, mut view) = Table::working(plan);
    table.say(5, FromWorker::Join(join("late", None)));
    let mut attempts = Vec::new();
    let mut step = 0;
    while attempts.len() < 8 {
        step += 1;
        table.now += 1_000;
        table.say(5, FromWorker::Heartbeat);
        let asked = |table: &Table| {
            table.sent(0).iter().filter(|message| matches!(message, ToWorker::SendState { .. })).count()
        };
        let before = asked(&table);
        table.step(&view, step);
        if asked(&table) > before {
            attempts.push(table.now);
            table.handle(Event::StateNotShown { step, reason: "no room".to_owned() });
            view = table.last_view(0);
        }
    }
    let pauses: Vec<u64> = attempts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000).collect();
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 960], "seconds, up to 16 minutes");
}

/// One member works alone and has committed a step, another is ready and lacks the state; then the first one's stream
/// breaks.
fn last_holder_lost() -> (Table, Record) {
    let plan = RunPlan { checkpoint_every: CheckpointEvery::Steps(1_000), ..run_plan(1) };
    let (mut table, view) = Table::working(plan);
    table.step(&view, 1);
    let commit = table.records().last().cloned().expect("a record");
    table.say(1, FromWorker::Join(join("newcomer", None)));
    table.handle(Event::Disconnected { connection: 0, reason: "cut".to_owned() });
    (table, commit)
}

fn went_back(table: &Table) -> bool {
    table.records().iter().any(|record| matches!(record, Record::Rewind { to_step: 0, .. }))
}

#[test]
fn the_only_one_that_has_the_state_is_waited_for_when_its_stream_breaks() {
    let (mut table, commit) = last_holder_lost();
    let waits = table.machine.waits_for();
    assert!(waits.contains("w to come back with state 1") && !went_back(&table), "{waits}");
    let Record::Commit(commit) = commit else { panic!("not the commit of step 1") };
    let holds = Held { step: 1, state_check: 1, prepared: None, commit: Some(Box::new(commit)) };
    table.now += 3_000;
    // The same process, on another stream.
    let message = FromWorker::Join(Join { holds: Some(holds), ..join("w", None) });
    table.handle(Event::Message { connection: 5, message });
    table.say(5, FromWorker::Prepared { elements: 3 });
    assert_eq!(table.last_view(5).step, 2, "it goes on from there, and the newcomer enters after the step");
    assert!(!went_back(&table));
}

#[test]
fn the_only_one_that_has_the_state_is_not_waited_for_without_end() {
    let (mut table, _) = last_holder_lost();
    assert_eq!(table.machine.next_deadline(), Some(5_000 + table.now));
    table.now += 4_999;
    table.handle(Event::Tick);
    assert!(!went_back(&table));
    table.now += 1;
    table.handle(Event::Tick);
    assert!(went_back(&table));
    assert_eq!(table.sent(1).last(), Some(&&ToWorker::Load { step: 0 }));
}

/// Another process in the lost worker's slot: the state of the former is lost.
#[test]
fn one_that_was_started_again_is_not_waited_for() {
    let plan = RunPlan { checkpoint_every: CheckpointEvery::Steps(1_000), ..run_plan(1) };
    let mut table = Table::new(plan);
    table.say(0, FromWorker::Join(join("worker-0", Some(0))));
    table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
    table.say(0, FromWorker::Loaded { step: 0, digest: [0; 32] });
    let view = table.last_view(0);
    table.step(&view, 1);
    table.handle(Event::Disconnected { connection: 0, reason: "killed".to_owned() });
    table.now += 700;
    table.say(1, FromWorker::Join(join("worker-0", Some(0))));
    assert!(went_back(&table), "{}", table.machine.waits_for());
}
