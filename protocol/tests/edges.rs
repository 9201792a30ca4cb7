//! Broken data connections: the first causes a retry, repeated ones quarantine the worker.

#![allow(clippy::single_range_in_vec_init, reason = "a member may well have one range of microbatches")]

mod table;

use protocol::coordinator::{CheckpointEvery, Event, Output, RunEvent, RunPlan};
use protocol::ids::MemberId;
use protocol::journal::Record;
use protocol::messages::{FromWorker, Join, ToWorker, View};
use table::{Table, join, run_plan};

/// Two members of a run without end.
fn two(min_workers: u32) -> (Table, View) {
    let checkpoint_every = CheckpointEvery::Steps(100_000);
    let mut plan = RunPlan { total_steps: 100_000, min_workers, checkpoint_every, ..run_plan(2) };
    plan.geometry.samples = 400_000;
    Table::working(plan)
}

/// Breaks the second member's data connection; returns the view in which the run continues.
fn break_edge(table: &mut Table, view: &View) -> View {
    table.handle(Event::DataPlaneLost { member: view.members[1].member, reason: "reset".to_owned() });
    table.now += 200;
    table.handle(Event::Tick);
    table.last_view(0)
}

/// The second worker's process rejoins on another stream, with its model ready.
fn come_back(table: &mut Table, connection: u64) {
    let message = FromWorker::Join(Join { instance: 1, ..join("w", None) });
    table.handle(Event::Message { connection, message });
    table.say(connection, FromWorker::Prepared { elements: 3 });
}

/// The run is held for the worker, which enters with the transferred state.
fn is_let_in(table: &mut Table, view: &View, step: u64, connection: u64) -> bool {
    if !table.step(view, step).next.hold {
        return false;
    }
    table.handle(Event::StateShown { step, digest: [3; 32] });
    table.say(connection, FromWorker::Loaded { step, digest: [3; 32] });
    true
}

fn evictions(table: &Table) -> Vec<String> {
    let evictions = table.outputs.iter().filter_map(|output| match output {
        Output::Send { message: ToWorker::Evicted { reason, .. }, .. } => Some(reason.clone()),
        _ => None,
    });
    evictions.collect()
}

/// Steps are committed in between, so that the connection never breaks twice in a row.
fn break_until_evicted(table: &mut Table, view: &mut View, step: &mut u64) -> u32 {
    let before = evictions(table).len();
    for breaks in 1..=10 {
        *view = break_edge(table, view);
        if evictions(table).len() > before {
            return breaks;
        }
        table.step(view, *step);
        *step += 1;
    }
    panic!("ten breaks have put nobody out");
}

#[test]
fn a_data_connection_that_breaks_costs_a_retry_and_twice_in_a_row_its_member() {
    let (mut table, view) = Table::working(run_plan(2));
    let member: MemberId = view.members[0].member;
    let lose = |table: &mut Table| {
        table.handle(Event::DataPlaneLost { member, reason: "bad frame".to_owned() });
        table.now += 200;
        table.handle(Event::Tick);
    };
    lose(&mut table);
    let again = table.last_view(0);
    assert_eq!((again.members.len(), again.step), (2, 1));
    assert_eq!(again.dealt, [vec![0..1], vec![1..2]], "everybody keeps what it has");
    lose(&mut table);
    let Some(ToWorker::Evicted { reason, .. }) = table.sent(0).last() else { panic!("it is put out") };
    assert!(reason.contains("2 times in a row: bad frame"), "{reason}");
    let alone = table.last_view(1);
    assert_eq!(alone.dealt, [vec![0..2]], "the other computes what is left of the step");
    // A commit in between resets the count.
    let (mut table, _) = Table::working(run_plan(2));
    lose(&mut table);
    let view = table.last_view(0);
    table.step(&view, 1);
    lose(&mut table);
    assert_eq!(table.last_view(0).members.len(), 2);
    // A dead process closes its streams one after the other: that causes one retry.
    let (mut table, view) = Table::working(run_plan(2));
    table.handle(Event::DataPlaneLost { member: view.members[0].member, reason: "reset".to_owned() });
    table.handle(Event::Disconnected { connection: 0, reason: "reset".to_owned() });
    assert_eq!(table.last_view(1).dealt, [vec![0..2]]);
    assert_eq!(table.records().iter().filter(|record| matches!(record, Record::View(_))).count(), 2);
}

#[test]
fn a_connection_that_breaks_once_in_every_step_puts_its_member_out_and_keeps_it_waiting() {
    let (mut table, mut view) = two(1);
    let mut step = 1;
    assert_eq!(break_until_evicted(&mut table, &mut view, &mut step), 4);
    assert!(evictions(&table)[0].contains("may not enter for 5000 ms"), "{:?}", evictions(&table));
    assert_eq!(view.members.len(), 1);

    come_back(&mut table, 7);
    assert!(table.warnings().last().expect("a warning").contains("is back, and enters in 4800 ms"));
    for _ in 0..3 {
        assert!(!is_let_in(&mut table, &view, step, 7), "the run goes on without it");
        step += 1;
    }
    table.now += 5_000;
    table.handle(Event::Tick);
    assert!(is_let_in(&mut table, &view, step, 7));
    step += 1;
    view = table.last_view(0);
    assert_eq!(view.members.len(), 2);

    // Its penalty persists: fewer breaks are enough, and the quarantine is longer.
    let break_of_it = |table: &mut Table, view: &View| {
        table.handle(Event::DataPlaneLost { member: view.members[1].member, reason: "reset".to_owned() });
        table.now += 200;
        table.handle(Event::Tick);
        table.last_view(0)
    };
    view = break_of_it(&mut table, &view);
    assert_eq!((evictions(&table).len(), view.members.len()), (1, 2));
    view = break_of_it(&mut table, &view);
    assert_eq!((evictions(&table).len(), view.members.len()), (2, 1));
    assert!(evictions(&table)[1].contains("may not enter for 10000 ms"), "{:?}", evictions(&table));
    come_back(&mut table, 8);
    table.now += 9_000;
    table.handle(Event::Tick);
    assert!(!is_let_in(&mut table, &view, step, 8));
    table.now += 1_000;
    table.handle(Event::Tick);
    assert!(is_let_in(&mut table, &view, step + 1, 8));
}

#[test]
fn a_run_that_is_short_of_workers_takes_one_whose_connection_breaks() {
    let (mut table, mut view) = two(2);
    let mut step = 1;
    break_until_evicted(&mut table, &mut view, &mut step);
    come_back(&mut table, 7);
    let committed = step - 1;
    assert_eq!(table.sent(0).last(), Some(&&ToWorker::SendState { step: committed }), "at once");
    table.handle(Event::StateShown { step: committed, digest: [3; 32] });
    table.say(7, FromWorker::Loaded { step: committed, digest: [3; 32] });
    assert_eq!(table.last_view(7).members.len(), 2);
}

/// The only other member leaves while one is quarantined.
#[test]
fn a_run_that_loses_its_last_member_takes_one_that_is_kept_waiting() {
    let (mut table, mut view) = two(1);
    let mut step = 1;
    break_until_evicted(&mut table, &mut view, &mut step);
    come_back(&mut table, 7);
    table.handle(Event::Disconnected { connection: 0, reason: "killed".to_owned() });
    table.now += 5_000;
    table.handle(Event::Tick);
    assert_eq!(table.sent(7).last(), Some(&&ToWorker::Load { step: 0 }), "from the newest version");
}

/// A worker whose state transfer failed rejoins with its penalty: the pause continues, and the next one is longer.
#[test]
fn a_worker_that_was_put_off_is_so_on_another_stream_too() {
    let (mut table, view) = two(1);
    table.handle(Event::Disconnected { connection: 1, reason: "cut".to_owned() });
    let view = View { id: table.last_view(0).id, members: vec![view.members[0].clone()], ..view };
    come_back(&mut table, 7);
    let fail = |table: &mut Table, step: u64| {
        assert!(table.step(&view_now(table), step).next.hold);
        table.handle(Event::StateNotShown { step, reason: "no room".to_owned() });
    };
    assert_eq!(view.members.len(), 1);
    fail(&mut table, 1);
    let put_off =
        |table: &Table| table.warnings().iter().filter(|text| text.contains("can't enter yet")).count();
    assert_eq!(put_off(&table), 1);
    table.handle(Event::Disconnected { connection: 7, reason: "cut".to_owned() });
    come_back(&mut table, 8);
    assert!(!table.step(&view_now(&table), 2).next.hold, "30 s have not gone by");
    table.now += 30_000;
    fail(&mut table, 3);
    assert_eq!(put_off(&table), 2);
    table.now += 30_000;
    assert!(!table.step(&view_now(&table), 4).next.hold, "a minute by now");
    table.now += 30_000;
    assert!(table.step(&view_now(&table), 5).next.hold);
    let joined = table
        .outputs
        .iter()
        .filter(|output| matches!(output, Output::RunEvent(RunEvent::Joined { .. })))
        .count();
    assert_eq!(joined, 4);
}

fn view_now(table: &Table) -> View {
    table.last_view(0)
}
