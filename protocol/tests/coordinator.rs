//! The coordinator's machine, one decision at a time: the messages to each member, and their reasons.

#![allow(clippy::single_range_in_vec_init, reason = "a member may well have one range of microbatches")]

mod table;

use protocol::PROTOCOL_VERSION;
use protocol::assignment::range;
use protocol::coordinator::{CheckpointEvery, Coordinator, Event, Output, RunEvent, RunPlan};
use protocol::history::History;
use protocol::ids::{Phase, StepKey};
use protocol::journal::{CommitRecord, Record};
use protocol::messages::{
    EndReason, Failure, FromWorker, Held, Join, Ready, ReduceAt, Timings, ToWorker, View,
};
use protocol::plan::Geometry;
use table::{Table, join, ready, run_plan};

fn check_refused(join: Join, words: &[&str]) {
    let mut table = Table::new(run_plan(2));
    table.say(0, FromWorker::Join(table::join("first", None)));
    table.say(1, FromWorker::Join(join));
    let failure = table.refusal(1).expect("a refusal");
    assert_eq!(failure.code, 2);
    for word in words {
        assert!(failure.message.contains(word), "no \"{word}\" in \"{}\"", failure.message);
    }
    let closes = |output: &Output| matches!(output, Output::Close { connection: 1 });
    assert!(table.outputs.iter().any(closes), "it is hung up on");
    assert_eq!(table.outcome(), None, "the run goes on waiting");
}

#[test]
fn those_who_dont_fit_are_refused_with_both_values() {
    let other = PROTOCOL_VERSION + 1;
    check_refused(
        Join { protocol_version: other, ..join("w", None) },
        &["protocol version", &other.to_string(), &PROTOCOL_VERSION.to_string()],
    );
    let tasks = |name: &str, schema| vec![(name.to_owned(), schema)];
    check_refused(Join { tasks: tasks("mlp", 1), ..join("w", None) }, &["\"toy\"", "it knows mlp"]);
    check_refused(Join { tasks: tasks("toy", 2), ..join("w", None) }, &["schema", "is 2", "is 1"]);
    check_refused(
        Join { fingerprint: [2; 32], ..join("w", None) },
        &["02020202", "01010101", "elastic.mixed"],
    );
}

/// Local workers are all alike, so a run that none of them fits would wait for ever; a remote one may be followed by
/// others.
#[test]
fn a_local_worker_that_does_not_fit_ends_a_run_that_has_nobody() {
    let check = |first: Option<Join>, slot: Option<u32>, ends: bool| {
        let mut table = Table::new(run_plan(2));
        if let Some(first) = first {
            table.say(0, FromWorker::Join(first));
        }
        let tasks = vec![("mlp".to_owned(), 1)];
        table.say(1, FromWorker::Join(Join { tasks, ..join("w", slot) }));
        assert!(table.refusal(1).is_some());
        let Some(outcome) = table.outcome() else { return assert!(!ends, "it goes on waiting") };
        assert!(ends && outcome.code == 2, "{outcome:?}");
        assert!(outcome.message.contains("local worker w") && outcome.message.contains("it knows mlp"));
    };
    check(None, Some(0), true);
    check(None, None, false);
    check(Some(join("first", None)), Some(0), false);
}

#[test]
fn another_fingerprint_is_admitted_where_the_run_is_mixed() {
    let mut table = Table::new(RunPlan { mixed: true, ..run_plan(2) });
    table.say(0, FromWorker::Join(join("a", None)));
    table.say(1, FromWorker::Join(Join { fingerprint: [2; 32], ..join("b", None) }));
    assert_eq!(table.refusal(1), None);
}

#[test]
fn ranks_go_by_slot_then_by_arrival_and_names_are_unique() {
    let mut table = Table::new(run_plan(3));
    table.say(0, FromWorker::Join(join("w", None)));
    table.say(1, FromWorker::Join(join("w", Some(1))));
    table.say(2, FromWorker::Join(join("w", Some(0))));
    assert_eq!(table.sent(2).last(), Some(&&ToWorker::Initialise), "rank 0 makes the first state");
    table.say(2, FromWorker::Loaded { step: 0, digest: [0; 32] });
    table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
    for connection in [0, 1] {
        assert_eq!(table.sent(connection).last(), Some(&&ToWorker::Load { step: 0 }));
        table.say(connection, FromWorker::Loaded { step: 0, digest: [0; 32] });
    }
    let Some(ToWorker::View(view)) = table.sent(0).last() else { panic!("a view") };
    let names: Vec<&str> = view.members.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["w-3", "w-2", "w"]);
    assert_eq!(view.reduce, ReduceAt::Coordinator);
}

#[test]
fn a_ready_for_a_step_to_come_breaks_the_protocol_and_the_others_go_on() {
    let (mut table, view) = Table::working(run_plan(2));
    let key = StepKey { view: view.id, step: 2, phase: Phase::Train };
    table.say(0, FromWorker::Ready(ready(key)));
    let failure = table.refusal(0).expect("a refusal");
    assert!(failure.message.contains("Ready for step 2 early"), "{}", failure.message);
    let view = table.last_view(1);
    assert_eq!((view.members.len(), view.step, view.reduce), (1, 1, ReduceAt::Alone));
}

#[test]
fn another_state_or_model_at_the_start_is_named() {
    let check = |loaded: FromWorker, code: u8, words: &str| {
        let mut table = Table::new(run_plan(2));
        table.say(0, FromWorker::Join(join("a", None)));
        table.say(1, FromWorker::Join(join("b", None)));
        table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
        table.say(0, FromWorker::Loaded { step: 0, digest: [0; 32] });
        table.say(1, loaded);
        let outcome = table.outcome().expect("the end");
        assert_eq!(outcome.code, code);
        assert!(outcome.message.contains(words), "{}", outcome.message);
    };
    check(FromWorker::Loaded { step: 0, digest: [9; 32] }, 3, "worker b holds a state 0 with another");
    check(FromWorker::Prepared { elements: 4 }, 2, "worker b's model has 4 elements");
}

#[test]
fn a_workers_exit_code_is_taken_where_the_contract_knows_it() {
    for (said, code) in [(2, 2), (3, 3), (4, 4), (0, 4), (130, 4)] {
        let (mut table, _) = Table::working(run_plan(1));
        table.say(0, FromWorker::Failed(Failure { code: said, message: "no memory".to_owned() }));
        let outcome = table.outcome().expect("the end");
        assert_eq!(outcome.code, code);
        assert!(outcome.message.contains("worker w failed: no memory"), "{}", outcome.message);
    }
}

#[test]
fn the_last_states_must_agree_before_the_run_is_complete() {
    let (mut table, view) = Table::working(run_plan(3));
    for step in 1..=6 {
        table.step(&view, step);
        table.handle(Event::VersionWritten { step, digest: [6; 32] });
    }
    assert_eq!(table.outcome(), None, "nobody has said Applied");
    for (connection, state_check) in [(0, 5), (1, 5), (2, 6)] {
        table.say(connection, FromWorker::Applied { step: 6, state_check });
    }
    let Some(ToWorker::Evicted { reason, forget: true }) = table.sent(2).last() else {
        panic!("w-3 is put out")
    };
    assert!(reason.contains("w-3 deviates from the strict majority"), "{reason}");
    let void = table.records().iter().rev().find_map(|record| match record {
        Record::Rewind { to_step, void, .. } => Some((*to_step, *void)),
        _ => None,
    });
    assert_eq!(void, Some((4, true)), "state 5 was checked, so what was uploaded of state 4 is right");
    for connection in [0, 1] {
        assert_eq!(table.sent(connection).last(), Some(&&ToWorker::Load { step: 4 }));
        table.say(connection, FromWorker::Loaded { step: 4, digest: [6; 32] });
    }
    assert_eq!(table.last_view(0).step, 5);
    assert_eq!(table.outcome(), None);
}

#[test]
fn a_commit_waits_for_the_journal() {
    let (mut table, view) = Table::working(run_plan(1));
    let key = StepKey { view: view.id, step: 1, phase: Phase::Train };
    let message = FromWorker::Ready(ready(key));
    table.machine.handle(5, Event::Message { connection: 0, message });
    let mut outputs = Vec::new();
    let mut take = |machine: &mut Coordinator| {
        outputs.extend(std::iter::from_fn(|| machine.poll_output()));
        outputs.iter().any(|output| matches!(output, Output::Send { message: ToWorker::Commit(_), .. }))
    };
    assert!(!take(&mut table.machine), "it is not in the journal yet");
    table.machine.handle(6, Event::JournalFailed { reason: "disk full".to_owned() });
    assert!(!take(&mut table.machine) && table.machine.waits_for().contains("journal"));
    let retry = table.machine.next_deadline().expect("another attempt");
    table.machine.handle(retry, Event::Tick);
    assert!(!take(&mut table.machine));
    table.machine.handle(retry, Event::Journalled);
    assert!(take(&mut table.machine));
}

#[test]
fn before_the_first_view_another_worker_may_take_a_lost_ones_place() {
    let mut table = Table::new(run_plan(2));
    table.say(0, FromWorker::Join(join("a", None)));
    table.say(1, FromWorker::Join(join("b", None)));
    table.handle(Event::Disconnected { connection: 0, reason: "reset".to_owned() });
    table.say(2, FromWorker::Join(join("c", None)));
    assert!(table.sent(1).contains(&&ToWorker::Initialise), "b is rank 0 now");
    table.say(1, FromWorker::Loaded { step: 0, digest: [0; 32] });
    table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
    table.say(2, FromWorker::Loaded { step: 0, digest: [0; 32] });
    assert!(matches!(table.sent(2).last(), Some(ToWorker::View(_))));
}

#[test]
fn a_lost_member_costs_one_retry_of_its_own_microbatches() {
    let (mut table, view) = Table::working(run_plan(3));
    let shares: Vec<usize> = (0..3).map(|rank| range(&[1; 3], 2, rank).len()).collect();
    assert_eq!(shares, [0, 1, 1]);
    table.handle(Event::Disconnected { connection: 2, reason: "reset".to_owned() });
    let again = table.last_view(0);
    assert!(again.id > view.id && again.step == 1);
    assert_eq!(again.dealt, [vec![], vec![0..2]], "what was lost goes to one of the others");
    table.step(&again, 1);
    table.step(&again, 2);
    assert_eq!(table.outcome(), None);
}

#[test]
fn a_run_below_min_workers_pauses_and_goes_on_by_itself() {
    let (mut table, view) = Table::working(RunPlan { min_workers: 2, ..run_plan(2) });
    table.step(&view, 1);
    table.handle(Event::Disconnected { connection: 1, reason: "reset".to_owned() });
    assert!(table.machine.waits_for().contains("1 more worker to join (1 of 2 are here)"));
    table.say(7, FromWorker::Join(join("new", None)));
    // The new member lacks state 1: the member that holds it sends it.
    assert_eq!(table.sent(0).last(), Some(&&ToWorker::SendState { step: 1 }));
    table.handle(Event::StateShown { step: 1, digest: [1; 32] });
    assert_eq!(table.sent(7).last(), Some(&&ToWorker::FetchState { step: 1 }));
    table.say(7, FromWorker::Loaded { step: 1, digest: [1; 32] });
    let view = table.last_view(7);
    assert_eq!((view.members.len(), view.step), (2, 2));
    assert_eq!(view.dealt, [vec![0..1], vec![1..2]], "of the step that was given up each has a part");
}

/// Two members work, a third is ready and lacks the state: after step 1 the run is held.
fn holding() -> Table {
    let (mut table, view) = Table::working(run_plan(2));
    table.say(5, FromWorker::Join(join("new", None)));
    table.step(&view, 1);
    table
}

#[test]
fn a_state_is_shown_by_another_member_where_the_first_is_lost() {
    let mut table = holding();
    let asked =
        |table: &Table, connection| table.sent(connection).contains(&&ToWorker::SendState { step: 1 });
    let first = if asked(&table, 0) { 0 } else { 1 };
    table.handle(Event::Disconnected { connection: first, reason: "reset".to_owned() });
    assert!(asked(&table, 1 - first), "the other one shows it");
    table.handle(Event::StateShown { step: 1, digest: [1; 32] });
    table.say(5, FromWorker::Loaded { step: 1, digest: [1; 32] });
    assert_eq!(table.last_view(5).step, 2);
}

#[test]
fn a_state_that_cant_be_shown_holds_nobody_up_and_another_digest_is_not_taken() {
    let mut table = holding();
    for member in 0..2 {
        assert_eq!(table.sent(member).last(), Some(&&ToWorker::SendState { step: 1 }), "each has one try");
        table.handle(Event::StateNotShown { step: 1, reason: "no space left".to_owned() });
    }
    let view = table.last_view(0);
    assert_eq!((view.step, view.members.len()), (2, 2), "the others go on without the joiner");
    assert!(table.warnings().iter().any(|text| text.contains("no space left")), "{:?}", table.warnings());
    // Too late.
    table.handle(Event::StateShown { step: 1, digest: [1; 32] });
    assert!(!table.sent(5).contains(&&ToWorker::FetchState { step: 1 }));

    let mut table = holding();
    table.handle(Event::StateShown { step: 1, digest: [1; 32] });
    table.say(5, FromWorker::Loaded { step: 1, digest: [2; 32] });
    assert!(
        matches!(table.sent(5).last(), Some(ToWorker::Evicted { forget: true, .. })),
        "{:?}",
        table.sent(5)
    );
    assert_eq!(table.last_view(0).members.len(), 2);
}

#[test]
fn a_joiner_enters_between_two_steps_and_a_leaver_goes_there() {
    let (mut table, view) = Table::working(run_plan(1));
    table.say(5, FromWorker::Join(join("new", None)));
    let commit = table.step(&view, 1);
    assert!(commit.next.hold && commit.next.version.is_none(), "{commit:?}");
    table.handle(Event::StateShown { step: 1, digest: [1; 32] });
    table.say(5, FromWorker::Loaded { step: 1, digest: [1; 32] });
    let view = table.last_view(5);
    assert_eq!((view.members.len(), view.step, view.reduce), (2, 2, ReduceAt::Coordinator));
    // The first member wants to leave in the middle of step 2, and helps to finish it.
    table.say(0, FromWorker::Leaving { reason: "SIGTERM".to_owned() });
    let key = StepKey { view: view.id, step: 2, phase: Phase::Train };
    table.say(0, FromWorker::Ready(ready(key)));
    table.say(5, FromWorker::Ready(ready(key)));
    assert!(matches!(table.sent(0).last(), Some(ToWorker::End { reason: EndReason::Interrupted, .. })));
    let view = table.last_view(5);
    assert_eq!((view.members.len(), view.step), (1, 3));
    assert_eq!(table.outcome(), None);
}

#[test]
fn a_straggler_is_named_and_gets_fewer_microbatches() {
    let mut plan = run_plan(2);
    plan.total_steps = 100;
    plan.geometry = Geometry { samples: 64, batch: 16, microbatch: 1, ..plan.geometry };
    plan.checkpoint_every = CheckpointEvery::Steps(1_000);
    let (mut table, view) = Table::working(RunPlan { lease_ms: 1_000_000, ..plan });
    // The first member is three times as fast as the second.
    let step = |table: &mut Table, view: &View, step: u64, slow_us: u32| {
        let key = StepKey { view: view.id, step, phase: Phase::Train };
        for (connection, us) in [(0, 1_000), (1, slow_us)] {
            let timings = Timings { compute_us: us, samples: 8, ..Timings::default() };
            table.say(connection, FromWorker::Ready(Ready { timings, ..ready(key) }));
        }
    };
    for number in 1..=32 {
        table.now += 400;
        step(&mut table, &view, number, 3_000);
    }
    assert_eq!(table.last_view(0).id, view.id, "two looks, five seconds apart, must find the same");
    step(&mut table, &view, 33, 3_000);
    let shared = table.last_view(1);
    assert_eq!(shared.members.iter().map(|info| info.share).collect::<Vec<_>>(), [1_000, 333]);
    let named = table.outputs.iter().any(|output| match output {
        Output::RunEvent(RunEvent::Warning { message }) => message.contains("w-2 is 3.0 times slower"),
        _ => false,
    });
    assert!(named);
    // Small differences don't justify another view.
    let (mut table, view) = Table::working(RunPlan { total_steps: 100, ..run_plan(2) });
    for number in 1..=80 {
        table.now += 400;
        step(&mut table, &view, number, 1_100);
    }
    assert_eq!(table.last_view(0).id, view.id);
}

#[test]
fn a_coordinator_that_takes_over_goes_on_from_what_its_members_hold() {
    let (mut table, view) = Table::working(run_plan(2));
    for step in 1..=3 {
        table.step(&view, step);
    }
    let records = table.records();
    let commit_of = |step: u64| {
        records.iter().find_map(|record| match record {
            Record::Commit(commit) if commit.key.step == step => Some(Box::new(commit.clone())),
            _ => None,
        })
    };
    let mut history = History::replay(&records).expect("a history");
    history.resume_from(0, [0; 32]).expect("version 0");
    assert_eq!(history.orphans(), 2);
    let mut table = Table::resumed(run_plan(2), 2, history);
    // One has applied step 3, the other was prepared for it and missed the commit. The checks match the table's
    // Ready.
    let held = |step, prepared| Held { step, state_check: 101 + step, prepared, commit: commit_of(step) };
    table.say(0, FromWorker::Join(Join { holds: Some(held(3, None)), ..join("a", None) }));
    assert!(
        table.machine.waits_for().contains("the 2 workers of the last view to come back (1 workers"),
        "{}",
        table.machine.waits_for()
    );
    table.say(1, FromWorker::Join(Join { holds: Some(held(2, Some((3, 3)))), ..join("b", None) }));
    let Some(ToWorker::Recover(commit)) = table.sent(1).last() else { panic!("b is told of the commit") };
    assert_eq!((commit.key.step, commit.hash), (3, 3));
    table.say(1, FromWorker::Applied { step: 3, state_check: 1 });
    let view = table.last_view(0);
    assert_eq!((view.members.len(), view.step), (2, 4));
    assert!(!table.records().iter().any(|record| matches!(record, Record::Rewind { .. })));
}

/// Two members reported the check of state 2 when step 3 was committed: one that rejoins with another check must not
/// keep its state.
#[test]
fn a_deviant_that_comes_back_alone_is_held_against_the_journal() {
    let (mut table, view) = Table::working(run_plan(2));
    for step in 1..=3 {
        table.step(&view, step);
    }
    let records = table.records();
    let commit = records.iter().find_map(|record| match record {
        Record::Commit(commit) if commit.key.step == 2 => Some(Box::new(commit.clone())),
        _ => None,
    });
    for (state_check, is_refused) in [(103, false), (7, true)] {
        let mut history = History::replay(&records).expect("a history");
        history.resume_from(0, [0; 32]).expect("version 0");
        let mut table = Table::resumed(run_plan(2), 2, history);
        let holds = Held { step: 2, state_check, prepared: None, commit: commit.clone() };
        table.say(0, FromWorker::Join(Join { holds: Some(holds), ..join("a", None) }));
        let evicted = table.sent(0).into_iter().find_map(|message| match message {
            ToWorker::Evicted { reason, forget: true } => Some(reason.clone()),
            _ => None,
        });
        assert_eq!(evicted.is_some(), is_refused, "{evicted:?}");
        let is_named = evicted.is_none_or(|reason| {
            reason.starts_with("what members hold of state 2 differs: a deviates from the strict majority")
        });
        assert!(is_named);
        let went_back =
            table.records().iter().any(|record| matches!(record, Record::Rewind { to_step: 0, .. }));
        assert_eq!(went_back, is_refused, "it took part in step 2, perhaps with a wrong state");
    }
}

#[test]
fn a_commit_that_the_journal_lost_comes_back_with_a_member() {
    let (mut table, view) = Table::working(run_plan(1));
    table.step(&view, 1);
    table.step(&view, 2);
    let mut records = table.records();
    let Some(Record::Commit(lost)) = records.pop() else { panic!("the commit of step 2") };
    let mut history = History::replay(&records).expect("a history");
    history.resume_from(0, [0; 32]).expect("version 0");
    let mut table = Table::resumed(run_plan(1), 2, history.clone());
    let holds = Held { step: 2, state_check: 1, prepared: None, commit: Some(Box::new(lost.clone())) };
    table.say(0, FromWorker::Join(Join { holds: Some(holds.clone()), ..join("a", None) }));
    assert!(table.records().contains(&Record::Adopted(lost.clone())));
    assert_eq!(table.last_view(0).step, 3);
    assert!(
        History::replay(&[records, table.records()].concat()).is_ok_and(|history| history.last_step() == 2)
    );
    // No state of an invalidated history is accepted.
    let mut records = table.records();
    records.retain(|record| matches!(record, Record::Term(_)));
    let (mut table, view) = Table::working(run_plan(1));
    table.step(&view, 1);
    records = table.records();
    records.push(Record::Rewind { to_step: 0, void: true, reason: "a deviant".to_owned() });
    let mut history = History::replay(&records).expect("a history");
    history.resume_from(0, [0; 32]).expect("version 0");
    let mut table = Table::resumed(run_plan(1), 2, history);
    let key = StepKey { step: 1, ..lost.key };
    let holds = Held { step: 1, commit: Some(Box::new(CommitRecord { key, ..lost })), ..holds };
    table.say(0, FromWorker::Join(Join { holds: Some(holds), ..join("a", None) }));
    assert_eq!(table.sent(0).last(), Some(&&ToWorker::Load { step: 0 }));
}

#[test]
fn a_resumed_run_must_reproduce_hashes_and_versions() {
    let (mut table, view) = Table::working(run_plan(1));
    for step in 1..=3 {
        table.step(&view, step);
    }
    table.handle(Event::VersionWritten { step: 2, digest: [2; 32] });
    // Checkpoint 2 is found damaged: the run continues from checkpoint 0.
    let mut history = History::replay(&table.records()).expect("a history");
    assert_eq!(history.last_step(), 3);
    history.resume_from(0, [0; 32]).expect("version 0");
    let resume = || Table::resumed(run_plan(1), 2, history.clone()).start(1);

    let (mut table, view) = resume();
    let rewinds = |record: &Record| matches!(record, Record::Rewind { to_step: 0, void: false, .. });
    assert!(table.records().iter().any(rewinds));
    table.step(&view, 1);
    table.step(&view, 2);
    table.handle(Event::VersionWritten { step: 2, digest: [9; 32] });
    let outcome = table.outcome().expect("another version 2");
    assert!(outcome.message.contains("version 2 was written again"), "{}", outcome.message);

    // A replica may have gone wrong in the replay: it is repeated once.
    let (mut table, _) = resume();
    for attempt in 0..2 {
        assert_eq!(table.outcome(), None, "after {attempt} attempts");
        let key = StepKey { view: table.last_view(0).id, step: 1, phase: Phase::Train };
        table.say(0, FromWorker::Ready(Ready { hash: 99, ..ready(key) }));
        table.say(0, FromWorker::Loaded { step: 0, digest: [0; 32] });
    }
    let outcome = table.outcome().expect("another step 1");
    assert!(outcome.message.contains("the replay of step 1"), "{}", outcome.message);
}

#[test]
fn a_run_whose_steps_are_all_done_only_ends() {
    let (mut table, view) = Table::working(run_plan(1));
    for step in 1..=6 {
        table.step(&view, step);
        table.handle(Event::VersionWritten { step, digest: [6; 32] });
    }
    let mut history = History::replay(&table.records()).expect("a history");
    history.resume_from(6, [6; 32]).expect("version 6");
    let mut table = Table::resumed(run_plan(1), 2, history);
    table.say(0, FromWorker::Join(join("w", None)));
    table.now += 5_000;
    table.handle(Event::Tick);
    table.say(0, FromWorker::Loaded { step: 6, digest: [6; 32] });
    assert_eq!(table.outcome().map(|outcome| (outcome.code, outcome.step)), Some((0, 6)));
    assert!(!table.outputs.iter().any(|output| matches!(output, Output::OpenView(_))));
}

#[test]
fn more_than_max_workers_are_refused() {
    let mut table = Table::new(run_plan(2));
    for connection in 0..4 {
        table.say(connection, FromWorker::Join(join("w", None)));
    }
    assert_eq!(table.refusal(2), None, "until the first view more may come");
    let failure = table.refusal(3).expect("a refusal");
    assert!(failure.message.contains("elastic.max_workers = 3"), "{}", failure.message);
}
