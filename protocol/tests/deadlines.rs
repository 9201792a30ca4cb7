//! Deadlines: the length and owner of each wait, the reports before it is over, and what doesn't count against it.

mod table;

use protocol::coordinator::{Coordinator, Event, Outcome, Output, RunEvent, RunPlan};
use protocol::history::History;
use protocol::ids::{Phase, StepKey};
use protocol::messages::{FromWorker, Ready, Timings, ToWorker};
use table::{Table, join, ready, run_plan};

#[test]
fn every_wait_has_a_deadline_that_names_who_is_waited_for() {
    let expire = |table: &mut Table, words: &str| {
        // Heartbeats keep the leases; only the wait itself runs out.
        for _ in 0..200 {
            let Some(due) = table.machine.next_deadline() else { break };
            table.now = due.max(table.now).min(table.now + 2_000);
            for connection in 0..2 {
                table.say(connection, FromWorker::Heartbeat);
            }
            table.handle(Event::Tick);
        }
        let outcome = table.outcome().expect("the end");
        assert_eq!(outcome.code, 4);
        assert!(outcome.message.contains(words), "{}", outcome.message);
    };
    let mut table = Table::new(RunPlan { min_workers: 2, ..run_plan(2) });
    table.say(0, FromWorker::Join(join("a", None)));
    expire(&mut table, "1 more worker to join (1 of 2 are here)");
    let mut table = Table::new(run_plan(2));
    table.say(0, FromWorker::Join(join("a", None)));
    table.say(1, FromWorker::Join(join("b", None)));
    expire(&mut table, "a to make and upload the first state");
}

#[test]
fn a_member_that_is_far_too_late_is_put_out_by_name() {
    let (mut table, view) = Table::working(RunPlan { lease_ms: 1_000_000, ..run_plan(2) });
    table.say(1, FromWorker::Ready(ready(StepKey { view: view.id, step: 1, phase: Phase::Train })));
    assert!(table.machine.waits_for().contains("w to compute its part of step 1"));
    table.now += run_plan(2).load_timeout_ms;
    table.handle(Event::Tick);
    let Some(ToWorker::Evicted { reason, forget: false }) = table.sent(0).last() else {
        panic!("w is put out")
    };
    assert!(reason.contains("has not computed its part"), "{reason}");
    let view = table.last_view(1);
    assert_eq!((view.members[0].name.as_str(), view.step), ("w-2", 1));
}

/// A newcomer's first step may compile what its warm-up didn't; members that have worked before have no such reason.
#[test]
fn a_newcomers_first_step_gives_nobody_else_more_time() {
    let working = || {
        let plan =
            RunPlan { lease_ms: 10_000_000, step_timeout_ms: 30_000, load_timeout_ms: 60_000, ..run_plan(2) };
        let (mut table, view) = Table::working(plan);
        let key = StepKey { view: view.id, step: 1, phase: Phase::Train };
        let timings = Timings { compute_us: 1_000, samples: 2, ..Timings::default() };
        for connection in 0..2 {
            table.say(connection, FromWorker::Ready(Ready { timings, ..ready(key) }));
        }
        table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
        table.say(2, FromWorker::Join(join("newcomer", None)));
        table.step(&view, 2);
        table.handle(Event::StateShown { step: 2, digest: [2; 32] });
        table.say(2, FromWorker::Loaded { step: 2, digest: [2; 32] });
        let view = table.last_view(2);
        assert_eq!(view.members.len(), 3);
        (table, StepKey { view: view.id, step: 3, phase: Phase::Train }, view)
    };
    let put_out = |table: &Table| -> Vec<u64> {
        let is_evicted = |message: &&ToWorker| matches!(message, ToWorker::Evicted { .. });
        (0..3).filter(|connection| table.sent(*connection).iter().any(is_evicted)).collect()
    };
    let wait = |table: &mut Table, ms: u64| {
        table.now += ms;
        table.handle(Event::Tick);
    };
    let (mut table, key, view) = working();
    table.handle(Event::Computed { member: view.members[0].member, key });
    wait(&mut table, 30_000);
    assert_eq!(put_out(&table), [1]);

    let (mut table, key, view) = working();
    view.members[..2].iter().for_each(|info| table.handle(Event::Computed { member: info.member, key }));
    wait(&mut table, 30_000);
    assert_eq!(put_out(&table), [0; 0], "the newcomer has until its own deadline");
    wait(&mut table, 30_000);
    assert_eq!(put_out(&table), [2]);
}

/// Timers of a busy machine are late all the time, but a lost member must not stay in the run for that.
#[test]
fn a_lease_ends_where_every_tick_is_a_little_late() {
    let (mut table, _) = Table::working(run_plan(2));
    table.now += 1_000;
    for connection in 0..2 {
        table.say(connection, FromWorker::Heartbeat);
    }
    let heard_at = table.now;
    let is_put_out = |table: &Table| table.outputs.contains(&Output::Close { connection: 1 });
    while !is_put_out(&table) {
        table.now = table.machine.next_deadline().expect("a lease").max(table.now) + 3;
        table.say(0, FromWorker::Heartbeat);
        table.handle(Event::Tick);
        assert!(table.now < heard_at + 15_000, "the lease is 10 s");
    }
    assert!(table.now >= heard_at + 10_000);
}

/// The reported reasons of late steps, in order.
fn late_steps(table: &Table) -> Vec<&str> {
    let waits = table.outputs.iter().filter_map(|output| match output {
        Output::RunEvent(RunEvent::Waiting { reason, late_ms: Some(_) }) => Some(reason.as_str()),
        _ => None,
    });
    waits.collect()
}

#[test]
fn people_hear_who_holds_a_step_up() {
    let (mut table, view) = Table::working(run_plan(2));
    table.step(&view, 1);
    let key = StepKey { view: view.id, step: 2, phase: Phase::Train };
    let wait = |table: &mut Table, ms: u64| {
        table.now += ms;
        for connection in 0..2 {
            table.say(connection, FromWorker::Heartbeat);
        }
        table.handle(Event::Tick);
    };
    wait(&mut table, 1_900);
    assert_eq!(late_steps(&table), [""; 0]);
    table.handle(Event::Computed { member: view.members[0].member, key });
    wait(&mut table, 100);
    assert_eq!(late_steps(&table), ["w-2 to compute its part of step 2"]);
    table.handle(Event::Computed { member: view.members[1].member, key });
    wait(&mut table, 1_900);
    assert_eq!(late_steps(&table).len(), 1, "not at once again");
    wait(&mut table, 100);
    assert_eq!(late_steps(&table)[1..], ["w, w-2 to be ready with step 2"]);
    table.step(&view, 2);
    let waits = table
        .outputs
        .iter()
        .rev()
        .find(|output| matches!(output, Output::RunEvent(RunEvent::Waiting { .. })));
    let over = Output::RunEvent(RunEvent::Waiting { reason: String::new(), late_ms: None });
    assert_eq!(waits, Some(&over));
}

/// The journal refuses each attempt for ten minutes; returns how the run ended in the meantime.
fn journal_fails(machine: &mut Coordinator, from: u64) -> Option<Outcome> {
    let mut now = from;
    while now < from + 600_000 {
        machine.handle(now, Event::Message { connection: 0, message: FromWorker::Heartbeat });
        machine.handle(now, Event::Tick);
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Append { .. } => {
                    machine.handle(now, Event::JournalFailed { reason: "no space left".to_owned() });
                }
                Output::Finished(outcome) => return Some(outcome),
                Output::RunEvent(RunEvent::Warning { message }) => {
                    assert!(!message.contains("go on"), "{message}");
                }
                _ => {}
            }
        }
        now = machine.next_deadline().map_or(now + 1_000, |at| at.max(now + 1));
    }
    None
}

#[test]
fn a_journal_that_cant_be_written_pauses_a_run_that_has_begun_and_ends_one_that_has_not() {
    let mut machine = Coordinator::new(run_plan(2), 1, History::fresh(), 0);
    let outcome = journal_fails(&mut machine, 0).expect("nothing is lost, and a person is there");
    assert!(
        outcome.code == 4 && outcome.message.contains("the journal, which can't be written"),
        "{outcome:?}"
    );

    // Only the term's record is missing.
    let mut machine = Coordinator::new(run_plan(1), 1, History::fresh(), 0);
    machine.handle(0, Event::JournalFailed { reason: "no space left".to_owned() });
    machine.handle(0, Event::Message { connection: 0, message: FromWorker::Join(join("w", None)) });
    machine.handle(0, Event::Message { connection: 0, message: FromWorker::Prepared { elements: 3 } });
    let outcome = journal_fails(&mut machine, 0).expect("it doesn't go on without a journal");
    assert!(outcome.message.contains("the journal, which can't be written and gave up"), "{outcome:?}");

    // All members are lost while the journal records a checkpoint.
    let (mut table, view) = Table::working(run_plan(1));
    table.step(&view, 1);
    table.step(&view, 2);
    table.machine.handle(table.now, Event::VersionWritten { step: 2, digest: [2; 32] });
    table.machine.handle(table.now, Event::Disconnected { connection: 0, reason: "killed".to_owned() });
    assert_eq!(journal_fails(&mut table.machine, table.now), None);
    assert_eq!(table.machine.waits_for(), "the journal, which can't be written");
}

/// The coordinator's own pause within a step doesn't count as the step's duration.
#[test]
fn deadlines_are_not_made_of_the_coordinators_own_pauses() {
    let (mut table, view) = Table::working(RunPlan { lease_ms: 1_000, ..run_plan(1) });
    table.now += 8 * 3_600_000;
    table.handle(Event::Tick);
    table.step(&view, 1);
    let key = StepKey { view: view.id, step: 2, phase: Phase::Train };
    for _ in 0..70 {
        table.now += 1_000;
        table.say(0, FromWorker::Heartbeat);
        table.handle(Event::Tick);
    }
    assert!(
        table.sent(0).iter().any(|message| matches!(message, ToWorker::Evicted { .. })),
        "{key:?} has a minute"
    );
}

/// Waits for `ms` with heartbeats of `alive` only, or until the run ends.
fn wait_for(table: &mut Table, alive: &[u64], ms: u64) {
    let until = table.now + ms;
    while table.now < until && table.outcome().is_none() {
        let due = table.machine.next_deadline().unwrap_or(until);
        table.now = due.clamp(table.now + 1, until.min(table.now + 2_000));
        alive.iter().for_each(|connection| table.say(*connection, FromWorker::Heartbeat));
        table.handle(Event::Tick);
    }
}

/// All members compute and none becomes ready, again and again: the retries are bounded.
#[test]
fn a_step_that_nobody_gets_ready_with_is_not_tried_for_ever() {
    let (mut table, _) = Table::working(run_plan(2));
    for attempt in 0..3 {
        assert_eq!(table.outcome(), None, "after {attempt} attempts");
        let view = table.last_view(0);
        let key = StepKey { view: view.id, step: 1, phase: Phase::Train };
        view.members.iter().for_each(|info| table.handle(Event::Computed { member: info.member, key }));
        wait_for(&mut table, &[0, 1], 61_000);
    }
    let outcome = table.outcome().expect("the end");
    assert!(outcome.message.contains("w, w-2 to be ready with step 1 and gave up"), "{}", outcome.message);
}

/// A member sends its sums and withholds its gradient: all have computed, none can be ready, and the cause is known.
#[test]
fn a_member_that_withholds_its_gradient_is_put_out_by_name() {
    let (mut table, view) = Table::working(run_plan(3));
    let key = StepKey { view: view.id, step: 1, phase: Phase::Train };
    view.members.iter().for_each(|info| table.handle(Event::Computed { member: info.member, key }));
    let members = vec![view.members[1].member];
    table.handle(Event::Behind { key: StepKey { step: 9, ..key }, members: vec![view.members[0].member] });
    table.handle(Event::Behind { key, members });
    wait_for(&mut table, &[0, 1, 2], 61_000);
    let evicted = |connection| {
        let sent = table.sent(connection).into_iter();
        sent.filter(|message| matches!(message, ToWorker::Evicted { .. })).cloned().collect::<Vec<_>>()
    };
    let [ToWorker::Evicted { reason, forget: false }] = &evicted(1)[..] else { panic!("{:?}", evicted(1)) };
    assert!(reason.contains("not sent its gradient within 60000 ms"), "{reason}");
    assert!(evicted(0).is_empty() && evicted(2).is_empty());
    let view = table.last_view(0);
    assert_eq!((view.members.len(), view.step), (2, 1));
}

/// A member that violates the protocol is evicted at once, and the others continue.
#[test]
fn a_member_that_breaks_the_protocol_is_put_out_at_once() {
    let (mut table, view) = Table::working(run_plan(3));
    let what = "it sent a part of step 9, where step 1 is due".to_owned();
    table.handle(Event::ProtocolBroken { member: view.members[1].member, what });
    let refused = table.sent(1).into_iter().any(
        |message| matches!(message, ToWorker::Refused(failure) if failure.code == 4 && failure.message.contains("step 9")),
    );
    assert!(refused, "{:?}", table.sent(1));
    let view = table.last_view(0);
    assert_eq!((view.members.len(), view.step), (2, 1));
}

/// Packets to one member are silently lost: its own messages still arrive, and its control stream is intact.
#[test]
fn a_member_that_the_reduced_gradient_doesnt_reach_is_put_out() {
    let (mut table, view) = Table::working(run_plan(3));
    let key = StepKey { view: view.id, step: 1, phase: Phase::Train };
    view.members.iter().for_each(|info| table.handle(Event::Computed { member: info.member, key }));
    for connection in [0, 2] {
        table.say(connection, FromWorker::Ready(ready(key)));
    }
    wait_for(&mut table, &[0, 1, 2], 61_000);
    let evicted: Vec<&ToWorker> =
        table.sent(1).into_iter().filter(|message| matches!(message, ToWorker::Evicted { .. })).collect();
    let [ToWorker::Evicted { reason, forget: false }] = evicted[..] else { panic!("{evicted:?}") };
    assert!(reason.contains("was not ready within 60000 ms as others were"), "{reason}");
    let view = table.last_view(0);
    assert_eq!((view.members.len(), view.step), (2, 1));
}

/// A device hangs at the very end: another holder of the last state finishes the run.
#[test]
fn a_member_that_doesnt_apply_the_last_step_is_done_without() {
    let (mut table, view) =
        Table::working(RunPlan { total_steps: 1, transfer_timeout_ms: 600_000, ..run_plan(2) });
    table.step(&view, 1);
    table.say(1, FromWorker::Applied { step: 1, state_check: 1 });
    wait_for(&mut table, &[0, 1], 61_000);
    let Some(ToWorker::Evicted { reason, forget: false }) = table.sent(0).last() else {
        panic!("w is put out: {:?}", table.sent(0).last())
    };
    assert!(reason.contains("has not applied the last step within 60000 ms"), "{reason}");
    wait_for(&mut table, &[1], 5_000);
    assert!(table.sent(1).contains(&&ToWorker::WriteVersion { step: 1 }), "{:?}", table.sent(1));
    table.handle(Event::VersionWritten { step: 1, digest: [1; 32] });
    assert_eq!(table.outcome().map(|outcome| outcome.code), Some(0));
}

/// A run that had begun: other workers may join and load the state that these can't.
#[test]
fn members_that_dont_load_a_state_are_waited_for_a_few_times() {
    let (mut table, view) = Table::working(run_plan(2));
    table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
    table.step(&view, 1);
    for connection in 0..2 {
        table.handle(Event::Disconnected { connection, reason: "killed".to_owned() });
    }
    table.say(2, FromWorker::Join(join("hangs", None)));
    wait_for(&mut table, &[2], 6_000);
    assert!(table.sent(2).contains(&&ToWorker::Load { step: 0 }), "{:?}", table.sent(2));
    wait_for(&mut table, &[2], 61_000);
    assert_eq!(table.outcome(), None, "a slow disk is no end");
    let warned = |table: &Table| {
        table.warnings().iter().any(|text| text.contains("hangs to load state 0; others may come"))
    };
    assert!(warned(&table), "{:?}", table.warnings());
    wait_for(&mut table, &[2], 400_000);
    let outcome = table.outcome().expect("the end");
    assert!(outcome.message.contains("hangs to load state 0 and gave up"), "{}", outcome.message);
}

/// The same for the upload of the last checkpoint.
#[test]
fn a_last_version_that_its_member_doesnt_bring_is_another_ones() {
    let (mut table, view) = Table::working(RunPlan { total_steps: 1, ..run_plan(2) });
    let by = table.step(&view, 1).next.version;
    assert_eq!(by, Some(view.members[0].member));
    for connection in 0..2 {
        table.say(connection, FromWorker::Applied { step: 1, state_check: 1 });
    }
    wait_for(&mut table, &[0, 1], 65_000);
    let Some(ToWorker::Evicted { reason, forget: false }) = table.sent(0).last() else {
        panic!("w is put out: {:?}", table.sent(0).last())
    };
    assert!(reason.contains("has not uploaded version 1 within 60000 ms"), "{reason}");
    assert!(table.sent(1).contains(&&ToWorker::WriteVersion { step: 1 }), "{:?}", table.sent(1));
}
