//! Checkpoints: when they are requested, one at a time, and what happens when they can't be written.

mod table;

use protocol::coordinator::{CheckpointEvery, Event, RunPlan};
use protocol::messages::{EndReason, FromWorker, ToWorker, UploadKind};
use table::{Table, join, run_plan};

#[test]
fn one_upload_at_a_time_and_the_last_is_asked_for_after_it() {
    let (mut table, view) = Table::working(run_plan(1));
    assert_eq!(table.step(&view, 1).next.version, None);
    assert!(table.step(&view, 2).next.version.is_some(), "every 2 steps");
    assert_eq!(table.step(&view, 3).next.version, None);
    assert_eq!(table.step(&view, 4).next.version, None, "version 2 is still under way");
    table.handle(Event::VersionWritten { step: 2, digest: [2; 32] });
    assert!(table.step(&view, 5).next.version.is_some(), "version 4 was owed");
    let last = table.step(&view, 6);
    assert!(last.next.last && last.next.version.is_none(), "version 5 is under way");
    table.say(0, FromWorker::Applied { step: 6, state_check: 1 });
    assert!(!table.sent(0).contains(&&ToWorker::WriteVersion { step: 6 }));
    table.handle(Event::VersionWritten { step: 5, digest: [5; 32] });
    assert!(table.sent(0).contains(&&ToWorker::WriteVersion { step: 6 }));
    assert_eq!(table.outcome(), None);
    table.handle(Event::VersionWritten { step: 6, digest: [6; 32] });
    assert_eq!(
        table.outcome().map(|outcome| (outcome.reason, outcome.code)),
        Some((EndReason::Completed, 0))
    );
}

#[test]
fn a_checkpoint_is_written_when_a_person_asks() {
    let plan = RunPlan { checkpoint_every: CheckpointEvery::Steps(100), ..run_plan(1) };
    let (mut table, view) = Table::working(plan);
    assert_eq!(table.step(&view, 1).next.version, None);
    table.handle(Event::CheckpointRequested);
    assert!(table.step(&view, 2).next.version.is_some());
    assert_eq!(table.step(&view, 3).next.version, None);
}

/// The run's folder is gone: the state is written once more, whatever was durable, and the run ends.
#[test]
fn lost_versions_are_written_once_more_before_the_end() {
    let (mut table, view) = Table::working(run_plan(1));
    table.step(&view, 1);
    assert!(table.step(&view, 2).next.version.is_some());
    table.handle(Event::VersionsLost { reason: "the run's folder was removed".to_owned() });
    // The checkpoint in progress is lost like the others.
    table.handle(Event::VersionFailed { step: 2, reason: "no such folder".to_owned() });
    let last = table.step(&view, 3);
    assert!(last.next.last, "the step in flight is the last");
    assert!(last.next.version.is_some(), "version 2 is owed");
    table.say(0, FromWorker::Applied { step: 3, state_check: 1 });
    assert_eq!(table.outcome(), None);
    table.handle(Event::VersionWritten { step: 3, digest: [3; 32] });
    assert_eq!(table.outcome().map(|outcome| outcome.reason), Some(EndReason::Interrupted));
}

#[test]
fn versions_that_are_lost_at_the_end_are_written_once_more_too() {
    let (mut table, view) = Table::working(RunPlan { export: true, ..run_plan(1) });
    for step in 1..=6 {
        table.step(&view, step);
        if step % 2 == 0 {
            table.handle(Event::VersionWritten { step, digest: [step as u8; 32] });
        }
    }
    table.say(0, FromWorker::Applied { step: 6, state_check: 1 });
    assert_eq!(table.sent(0).last(), Some(&&ToWorker::Export { step: 6 }), "version 6 is durable");
    table.handle(Event::VersionsLost { reason: "the run's folder was removed".to_owned() });
    assert_eq!(table.sent(0).last(), Some(&&ToWorker::WriteVersion { step: 6 }));
    table.handle(Event::VersionWritten { step: 6, digest: [6; 32] });
    assert!(table.outcome().is_some());
}

#[test]
fn versions_by_time_count_from_the_last_one_asked_for() {
    let plan = RunPlan { checkpoint_every: CheckpointEvery::Millis(1_000), ..run_plan(1) };
    let (mut table, view) = Table::working(plan);
    table.now += 600;
    assert_eq!(table.step(&view, 1).next.version, None);
    table.now += 600;
    assert!(table.step(&view, 2).next.version.is_some());
    table.handle(Event::VersionWritten { step: 2, digest: [2; 32] });
    table.now += 600;
    assert_eq!(table.step(&view, 3).next.version, None);
}

#[test]
fn an_upload_that_hangs_is_given_up_and_the_last_one_is_tried_again() {
    let plan = RunPlan { export: true, total_steps: 2, step_timeout_ms: 600_000, ..run_plan(1) };
    let (mut table, view) = Table::working(plan);
    table.step(&view, 1);
    table.step(&view, 2);
    table.say(0, FromWorker::Applied { step: 2, state_check: 1 });
    let wait_ms = |table: &mut Table, ms: u64| {
        let until = table.now + ms;
        while table.now < until && table.outcome().is_none() {
            table.now = table.machine.next_deadline().unwrap_or(until).clamp(table.now + 1, until);
            table.say(0, FromWorker::Heartbeat);
            table.handle(Event::Tick);
        }
    };
    wait_ms(&mut table, 65_000);
    assert!(table.sent(0).contains(&&ToWorker::WriteVersion { step: 2 }), "once more, after 60 s");
    table.handle(Event::VersionWritten { step: 2, digest: [2; 32] });
    assert!(table.sent(0).contains(&&ToWorker::Export { step: 2 }));
    wait_ms(&mut table, 65_000);
    let asked = table.sent(0).into_iter().filter(|message| **message == ToWorker::Export { step: 2 }).count();
    assert_eq!((asked, table.outcome()), (2, None), "the exports are tried again");
    wait_ms(&mut table, 130_000);
    let outcome = table.outcome().expect("the end");
    assert_eq!((outcome.code, outcome.step), (4, 2));
    assert!(outcome.message.contains("the export failed: waited 60000 ms for w"), "{}", outcome.message);
}

fn not_uploaded(kind: UploadKind, step: u64) -> FromWorker {
    FromWorker::NotUploaded { kind, step, reason: "connection refused".to_owned() }
}

/// The upload never reached the coordinator, so only the member can report it.
#[test]
fn a_member_that_cant_begin_an_upload_is_heard() {
    let (mut table, view) = Table::working(RunPlan { export: true, total_steps: 4, ..run_plan(2) });
    table.step(&view, 1);
    table.step(&view, 2);
    table.say(1, not_uploaded(UploadKind::Version, 2));
    table.say(0, not_uploaded(UploadKind::Version, 0));
    table.say(0, not_uploaded(UploadKind::State, 2));
    assert_eq!(table.warnings(), Vec::<&str>::new(), "nothing of the kind was asked for");
    table.say(0, not_uploaded(UploadKind::Version, 2));
    assert_eq!(table.warnings(), ["version 2 could not be written: w: connection refused"]);
    table.step(&view, 3);
    let by = table.step(&view, 4).next.version;
    assert_eq!(by, Some(view.members[1].member), "the other one has its turn");
    for connection in 0..2 {
        table.say(connection, FromWorker::Applied { step: 4, state_check: 1 });
    }
    table.handle(Event::VersionWritten { step: 4, digest: [4; 32] });
    // The member with the fewest failed uploads is asked: the first has one, of checkpoint 2.
    for asked in [1, 0, 1] {
        assert_eq!(table.sent(asked).last(), Some(&&ToWorker::Export { step: 4 }));
        table.say(1 - asked, not_uploaded(UploadKind::Export, 4));
        assert_eq!(table.outcome(), None);
        table.say(asked, not_uploaded(UploadKind::Export, 4));
        table.now += 2_000;
        table.handle(Event::Tick);
    }
    let outcome = table.outcome().expect("the end");
    assert!(outcome.message.contains("the export failed: w-2: connection refused"), "{}", outcome.message);
}

/// All steps are done, and nothing is written; the last checkpoint is requested.
fn at_the_last_version(workers: u32) -> Table {
    let plan = RunPlan { total_steps: 2, step_timeout_ms: 600_000, ..run_plan(workers) };
    let plan = RunPlan { checkpoint_every: CheckpointEvery::Steps(1_000), lease_ms: 10_000_000, ..plan };
    let (mut table, view) = Table::working(plan);
    table.step(&view, 1);
    table.step(&view, 2);
    for connection in 0..u64::from(workers) {
        table.say(connection, FromWorker::Applied { step: 2, state_check: 1 });
    }
    table
}

/// Each attempt at the last checkpoint fails; returns how long until the run gives up.
fn last_version_fails(table: &mut Table) -> u64 {
    let began = table.now;
    let mut asked = table.sent(0).iter().filter(|message| is_last_version(message)).count();
    table.handle(Event::VersionFailed { step: 2, reason: "no room".to_owned() });
    while table.outcome().is_none() {
        table.now = table.machine.next_deadline().expect("it tries again").max(table.now);
        table.handle(Event::Tick);
        let now_asked = table.sent(0).iter().filter(|message| is_last_version(message)).count();
        if now_asked > asked {
            asked = now_asked;
            table.handle(Event::VersionFailed { step: 2, reason: "no room".to_owned() });
        }
    }
    table.now - began
}

fn is_last_version(message: &ToWorker) -> bool {
    matches!(message, ToWorker::WriteVersion { step: 2 })
}

#[test]
fn the_last_version_waits_half_an_hour_for_room_and_ten_seconds_where_somebody_asked_for_the_end() {
    let mut table = at_the_last_version(1);
    let ms = last_version_fails(&mut table);
    assert!((30 * 60_000..31 * 60_000).contains(&ms), "{ms} ms");
    let outcome = table.outcome().expect("the end");
    assert!(outcome.code == 4 && outcome.message.contains("(tried for 18"), "{}", outcome.message);
    assert!(outcome.message.contains("no room"), "{}", outcome.message);

    let mut table = at_the_last_version(1);
    table.handle(Event::StopRequested { reason: "SIGTERM".to_owned() });
    let ms = last_version_fails(&mut table);
    assert!((10_000..20_000).contains(&ms), "{ms} ms");
    assert_eq!(table.outcome().expect("the end").code, 4);
}

/// An attempt that ends with its member says nothing about the disk.
#[test]
fn another_member_has_its_try_where_the_last_attempt_was_a_lost_members() {
    let mut table = at_the_last_version(2);
    table.handle(Event::VersionFailed { step: 2, reason: "no room".to_owned() });
    table.handle(Event::StopRequested { reason: "SIGTERM".to_owned() });
    table.now += 10_000;
    table.handle(Event::Tick);
    let asked =
        |table: &Table, of| table.sent(of).into_iter().filter(|message| is_last_version(message)).count();
    assert_eq!((asked(&table, 0), asked(&table, 1)), (0, 1), "the first was asked with the commit");
    table.handle(Event::VersionFailed { step: 2, reason: "connection reset".to_owned() });
    assert_eq!(table.outcome(), None, "the news of its loss may be on its way");
    table.handle(Event::Disconnected { connection: 1, reason: "killed".to_owned() });
    table.now += 10_000;
    table.handle(Event::Tick);
    assert_eq!(asked(&table, 0), 1);
    table.handle(Event::VersionWritten { step: 2, digest: [2; 32] });
    assert_eq!(table.outcome().map(|outcome| outcome.code), Some(130));
}

#[test]
fn the_first_version_is_tried_three_times_and_not_by_those_that_are_lost() {
    let fails = |table: &mut Table| {
        table.handle(Event::VersionFailed { step: 0, reason: "no room".to_owned() });
    };
    let mut table = Table::new(run_plan(1));
    table.say(0, FromWorker::Join(join("w", None)));
    fails(&mut table);
    fails(&mut table);
    assert_eq!(table.outcome(), None);
    table.handle(Event::VersionFailed { step: 0, reason: "connection reset".to_owned() });
    let outcome = table.outcome().expect("the end");
    assert_eq!(outcome.code, 4);
    assert!(
        outcome.message.contains("could not be written: no room; then connection reset"),
        "{}",
        outcome.message
    );

    let mut table = Table::new(run_plan(1));
    for connection in 0..5 {
        table.say(connection, FromWorker::Join(join("w", None)));
        fails(&mut table);
        assert_eq!(table.outcome(), None, "its stream broke, and so did its upload");
        table.handle(Event::Disconnected { connection, reason: "killed".to_owned() });
    }
}
