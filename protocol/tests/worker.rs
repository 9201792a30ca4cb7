//! The worker's machine, one phase at a time.

use protocol::PROTOCOL_VERSION;
use protocol::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use protocol::messages::{
    Commit, EndReason, Failure, FromWorker, Held, Join, MemberInfo, Next, ReduceAt, Timings, ToWorker,
    UpdateScalars, Verdict, View, Welcome,
};
use protocol::worker::{Event, Options, Output, Worker};

const TERM: u64 = 3 << 32;
const ME: MemberId = MemberId(TERM | 1);
const VIEW: ViewId = ViewId(TERM | 5);

fn key(step: u64, phase: Phase) -> StepKey {
    StepKey { view: VIEW, step, phase }
}

fn view(id: ViewId, step: u64) -> View {
    let members = vec![MemberInfo { member: ME, name: "w".to_owned(), share: 1 }];
    View { id, members, reduce: ReduceAt::Alone, step, phase: Phase::Train, dealt: Vec::new() }
}

fn commit(key: StepKey, hash: u64, next: Next) -> ToWorker {
    ToWorker::Commit(the_commit(key, hash, next))
}

fn the_commit(key: StepKey, hash: u64, next: Next) -> Commit {
    Commit { key, verdict: Verdict::Apply, hash, applied: key.step, scalars: UpdateScalars::default(), next }
}

fn welcome(member: MemberId) -> Welcome {
    Welcome {
        run: RunId([0; 16]),
        run_name: String::new(),
        member,
        name: "w".to_owned(),
        config: String::new(),
        data_plan: String::new(),
        data_port: 0,
        heartbeat_ms: 2_500,
        key: MemberKey::default(),
    }
}

struct Table {
    machine: Worker,
    now: u64,
}

impl Table {
    fn new() -> Self {
        let join = Join {
            protocol_version: PROTOCOL_VERSION,
            tasks: Vec::new(),
            fingerprint: [0; 32],
            build: protocol::BUILD.to_owned(),
            name: "w".to_owned(),
            device: "cpu".to_owned(),
            slot: None,
            pid: 1,
            instance: 1,
            run: None,
            holds: None,
        };
        let mut table = Self { machine: Worker::new(Options { join, join_timeout_ms: 60_000 }, 0), now: 0 };
        assert!(matches!(table.outputs()[..], [Output::Send(FromWorker::Join(_))]));
        table
    }

    fn welcomed() -> Self {
        let mut table = Self::new();
        assert!(matches!(table.hear(ToWorker::Welcome(welcome(ME)))[..], [Output::Prepare(_)]));
        table
    }

    /// A worker that holds state 0 and works on step 1 of the view.
    fn working() -> Self {
        let mut table = Self::welcomed();
        let prepared = Output::Send(FromWorker::Prepared { elements: 3 });
        assert_eq!(table.handle(Event::Prepared { elements: 3 }), [prepared]);
        assert_eq!(table.hear(ToWorker::Load { step: 0 }), [Output::Load { step: 0 }]);
        let loaded = Event::Loaded { step: 0, digest: [1; 32], state_check: 70 };
        let said = FromWorker::Loaded { step: 0, digest: [1; 32] };
        assert_eq!(table.handle(loaded), [Output::Send(said)]);
        let outputs = table.hear(ToWorker::View(view(VIEW, 1)));
        assert_eq!(outputs, [Output::EnterView(view(VIEW, 1)), Output::Compute(key(1, Phase::Train))]);
        table
    }

    /// A worker that has sent Ready for step 1 with hash 11.
    fn ready() -> Self {
        let mut table = Self::working();
        let outputs = table.reduce(key(1, Phase::Train), 11);
        let [Output::Send(FromWorker::Ready(ready))] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!((ready.hash, ready.state_check), (11, 70));
        table
    }

    fn reduce(&mut self, key: StepKey, hash: u64) -> Vec<Output> {
        let (sums, timings) = (vec![1.0, 2.0], Timings::default());
        self.handle(Event::Reduced { key, sums, squared_norm: 1.0, finite: true, hash, timings })
    }

    fn hear(&mut self, message: ToWorker) -> Vec<Output> {
        self.handle(Event::Message(message))
    }

    fn handle(&mut self, event: Event) -> Vec<Output> {
        self.machine.handle(self.now, event);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }
}

fn exit(outputs: &[Output]) -> (EndReason, u8, &str) {
    match outputs.last() {
        Some(Output::Exit { reason, code, message }) => (*reason, *code, message),
        other => panic!("not an exit: {other:?}"),
    }
}

fn check_refused(mut table: Table, message: ToWorker, words: &str) {
    let outputs = table.hear(message);
    assert!(
        matches!(outputs[0], Output::Send(FromWorker::Failed(_))),
        "the coordinator is told: {outputs:?}"
    );
    let (reason, code, message) = exit(&outputs);
    assert_eq!((reason, code), (EndReason::Failed, 4));
    assert!(message.contains(words), "{message}");
    assert_eq!(table.machine.next_deadline(), None);
}

#[test]
fn a_commit_is_applied_and_what_comes_next_follows_in_its_order() {
    let mut table = Table::ready();
    let next = Next { version: Some(ME), evaluate: true, ..Next::default() };
    let outputs = table.hear(commit(key(1, Phase::Train), 11, next));
    assert!(matches!(outputs[..], [Output::Apply(_)]));
    let outputs = table.handle(Event::Applied { step: 1, state_check: 71 });
    assert_eq!(outputs, [Output::WriteVersion { step: 1 }, Output::Compute(key(1, Phase::Evaluate))]);
    let outputs = table.reduce(key(1, Phase::Evaluate), 12);
    let [Output::Send(FromWorker::Ready(ready))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(ready.state_check, 71, "of the state that was evaluated");
    table.hear(commit(key(1, Phase::Evaluate), 12, Next::default()));
    let outputs = table.handle(Event::Applied { step: 1, state_check: 71 });
    assert_eq!(outputs, [Output::Compute(key(2, Phase::Train))]);
}

#[test]
fn after_the_last_commit_it_says_its_check_and_waits() {
    let mut table = Table::ready();
    table.hear(commit(key(1, Phase::Train), 11, Next { last: true, ..Next::default() }));
    let outputs = table.handle(Event::Applied { step: 1, state_check: 71 });
    assert_eq!(outputs, [Output::Send(FromWorker::Applied { step: 1, state_check: 71 })]);
    assert_eq!(table.hear(ToWorker::WriteVersion { step: 1 }), [Output::WriteVersion { step: 1 }]);
    assert_eq!(table.hear(ToWorker::Export { step: 1 }), [Output::Export { step: 1 }]);
    let end = ToWorker::End { reason: EndReason::Completed, message: "done".to_owned() };
    assert_eq!(exit(&table.hear(end)), (EndReason::Completed, 0, "done"));
}

#[test]
fn what_is_old_is_dropped() {
    let mut table = Table::ready();
    let old_term = StepKey { view: ViewId(2 << 32 | 9), ..key(1, Phase::Train) };
    assert_eq!(table.hear(commit(old_term, 11, Next::default())), []);
    assert_eq!(table.hear(ToWorker::View(view(VIEW, 1))), [], "this view again");
    assert_eq!(table.hear(ToWorker::View(view(ViewId(TERM | 4), 1))), [], "an older view");
    table.hear(commit(key(1, Phase::Train), 11, Next::default()));
    assert_eq!(table.hear(commit(key(1, Phase::Train), 11, Next::default())), [], "a duplicate");
    table.handle(Event::Applied { step: 1, state_check: 71 });
    assert_eq!(table.hear(commit(key(1, Phase::Train), 11, Next::default())), []);
    assert_eq!(table.reduce(key(1, Phase::Train), 11), [], "of the step before");
    // The same before its first view.
    let mut table = Table::welcomed();
    assert_eq!(table.hear(ToWorker::View(view(ViewId(2 << 32 | 9), 1))), []);
    assert_eq!(table.hear(commit(old_term, 11, Next::default())), []);
}

#[test]
fn what_cant_be_is_refused() {
    let train = |step| key(step, Phase::Train);
    check_refused(
        Table::ready(),
        commit(train(1), 12, Next::default()),
        "not the 000000000000000b that is prepared",
    );
    check_refused(Table::ready(), commit(train(2), 11, Next::default()), "a commit of step 2");
    check_refused(Table::working(), commit(train(1), 11, Next::default()), "a commit of step 1");
    check_refused(Table::working(), ToWorker::View(view(ViewId(TERM | 6), 2)), "this worker's state: 0");
    let without_me = View { members: Vec::new(), ..view(ViewId(TERM | 6), 1) };
    check_refused(Table::working(), ToWorker::View(without_me), "is not in");
    check_refused(Table::welcomed(), ToWorker::Load { step: 0 }, "an order to load a state");
    check_refused(Table::working(), ToWorker::Export { step: 1 }, "a request for state 1");
    let recover = ToWorker::Recover(the_commit(train(1), 11, Next::default()));
    check_refused(Table::working(), recover, "a commit of step 1 to recover");
}

#[test]
fn a_newer_view_begins_the_step_anew() {
    let newer = ViewId(TERM | 6);
    let mut table = Table::ready();
    let again = StepKey { view: newer, ..key(1, Phase::Train) };
    let outputs = table.hear(ToWorker::View(view(newer, 1)));
    assert_eq!(outputs, [Output::EnterView(view(newer, 1)), Output::Compute(again)]);
    // An update in progress is completed first.
    let mut table = Table::ready();
    table.hear(commit(key(1, Phase::Train), 11, Next::default()));
    assert_eq!(table.hear(ToWorker::View(view(newer, 2))), []);
    let outputs = table.handle(Event::Applied { step: 1, state_check: 71 });
    let second = StepKey { view: newer, ..key(2, Phase::Train) };
    assert_eq!(outputs, [Output::EnterView(view(newer, 2)), Output::Compute(second)]);
}

#[test]
fn a_request_to_leave_is_passed_on_and_waits_for_the_end() {
    let mut table = Table::working();
    let leave = || Event::LeaveRequested { reason: "SIGTERM".to_owned() };
    let said = FromWorker::Leaving { reason: "SIGTERM".to_owned() };
    assert_eq!(table.handle(leave()), [Output::Send(said)]);
    assert_eq!(table.handle(leave()), [], "once is enough");
    let end = ToWorker::End { reason: EndReason::Failed, message: String::new() };
    assert_eq!(exit(&table.hear(end)).1, 130);
    assert_eq!(exit(&Table::new().handle(leave())).1, 130, "nobody knows it yet");
}

#[test]
fn failures_carry_their_code_and_a_refusal_its_reason() {
    let mut table = Table::working();
    let failure = Failure { code: 3, message: "no such file".to_owned() };
    let outputs = table.handle(Event::Failed(failure.clone()));
    assert_eq!(outputs[0], Output::Send(FromWorker::Failed(failure)));
    assert_eq!(exit(&outputs).1, 3);
    let refusal = Failure { code: 2, message: "other protocol".to_owned() };
    assert_eq!(exit(&Table::new().hear(ToWorker::Refused(refusal))).1, 2);
}

fn lose(table: &mut Table) -> Vec<Output> {
    table.handle(Event::Disconnected { reason: "reset".to_owned() })
}

/// Loses the coordinator and rejoins; returns the state that Join claims.
fn come_back(table: &mut Table) -> Option<Held> {
    assert!(matches!(lose(table)[..], [Output::Reconnect { .. }]));
    let outputs = table.handle(Event::Connected);
    let [Output::Send(FromWorker::Join(join))] = &outputs[..] else { panic!("{outputs:?}") };
    join.holds.clone()
}

#[test]
fn without_its_coordinator_it_keeps_what_it_holds_and_tries_again() {
    let mut table = Table::ready();
    table.hear(commit(key(1, Phase::Train), 11, Next::default()));
    table.handle(Event::Applied { step: 1, state_check: 71 });
    table.reduce(key(2, Phase::Train), 12);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let outputs = lose(&mut table);
        let [Output::Reconnect { after_ms, .. }] = outputs[..] else { panic!("{outputs:?}") };
        pauses.push(after_ms);
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
    let held = come_back(&mut table).expect("state 1");
    assert_eq!((held.step, held.state_check, held.prepared), (1, 71, Some((2, 12))));
    let vouches = held.commit.expect("the commit of step 1");
    assert_eq!(
        (vouches.key, vouches.hash, vouches.sums.as_slice()),
        (key(1, Phase::Train), 11, &[1.0, 2.0][..])
    );
    // The next coordinator knows that step 2 is history.
    let later = MemberId(4 << 32 | 1);
    table.hear(ToWorker::Welcome(welcome(later)));
    table.handle(Event::Prepared { elements: 3 });
    let outputs = table.hear(ToWorker::Recover(the_commit(key(2, Phase::Train), 12, Next::default())));
    assert!(matches!(outputs[..], [Output::Apply(_)]));
    let said = FromWorker::Applied { step: 2, state_check: 72 };
    assert_eq!(table.handle(Event::Applied { step: 2, state_check: 72 }), [Output::Send(said)]);
    // After long enough without a coordinator, the worker ends.
    lose(&mut table);
    table.now = table.machine.next_deadline().expect("a deadline");
    let outputs = table.handle(Event::Tick);
    assert!(exit(&outputs).2.contains("no coordinator was reached for 60000 ms"), "{outputs:?}");
}

#[test]
fn an_update_that_is_under_way_is_waited_for_before_it_says_what_it_holds() {
    let mut table = Table::ready();
    table.hear(commit(key(1, Phase::Train), 11, Next::default()));
    lose(&mut table);
    assert_eq!(table.handle(Event::Connected), []);
    let outputs = table.handle(Event::Applied { step: 1, state_check: 71 });
    let [Output::Send(FromWorker::Join(join))] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(join.holds.as_ref().map(|held| (held.step, held.state_check)), Some((1, 71)));
}

#[test]
fn whoever_may_be_wrong_forgets_and_another_run_knows_nothing_of_it() {
    let evicted = |forget| {
        let mut table = Table::ready();
        let outputs = table.hear(ToWorker::Evicted { reason: "a bit flipped".to_owned(), forget });
        assert!(
            matches!(&outputs[..], [Output::Reconnect { reason, .. }] if reason.contains("a bit flipped"))
        );
        let outputs = table.handle(Event::Connected);
        let [Output::Send(FromWorker::Join(join))] = &outputs[..] else { panic!("{outputs:?}") };
        join.holds.clone()
    };
    assert_eq!(evicted(false).and_then(|held| held.prepared), Some((1, 11)));
    assert_eq!(evicted(true), None);
    let mut table = Table::ready();
    assert!(come_back(&mut table).is_some());
    table.hear(ToWorker::Welcome(Welcome { run: RunId([1; 16]), ..welcome(ME) }));
    assert_eq!(come_back(&mut table), None);
}

#[test]
fn another_run_on_the_same_port_counts_its_views_and_steps_from_the_same_numbers() {
    let mut table = Table::ready();
    table.hear(commit(key(1, Phase::Train), 11, Next::default()));
    table.handle(Event::Applied { step: 1, state_check: 71 });
    lose(&mut table);
    table.handle(Event::Connected);
    table.hear(ToWorker::Welcome(Welcome { run: RunId([1; 16]), ..welcome(ME) }));
    table.handle(Event::Prepared { elements: 3 });
    table.hear(ToWorker::Load { step: 0 });
    table.handle(Event::Loaded { step: 0, digest: [1; 32], state_check: 70 });
    table.hear(ToWorker::View(view(VIEW, 1)));
    table.reduce(key(1, Phase::Train), 13);
    let outputs = table.hear(commit(key(1, Phase::Train), 13, Next::default()));
    assert!(matches!(outputs[..], [Output::Apply(_)]), "{outputs:?}");
}

#[test]
fn it_goes_back_to_an_earlier_state_when_it_is_told_to() {
    let mut table = Table::ready();
    assert_eq!(table.hear(ToWorker::Load { step: 0 }), [Output::Load { step: 0 }]);
    assert_eq!(table.hear(ToWorker::Load { step: 3 }), [], "the newer order waits for the older");
    let loaded = |step| Event::Loaded { step, digest: [1; 32], state_check: 7 };
    assert_eq!(table.handle(loaded(0)), [Output::Load { step: 3 }]);
    assert!(matches!(table.handle(loaded(3))[..], [Output::Send(FromWorker::Loaded { step: 3, .. })]));
}

#[test]
fn where_the_membership_changes_it_waits_for_a_view() {
    let mut table = Table::ready();
    table.hear(commit(key(1, Phase::Train), 11, Next { hold: true, version: Some(ME), ..Next::default() }));
    let outputs = table.handle(Event::Applied { step: 1, state_check: 71 });
    assert_eq!(outputs, [Output::WriteVersion { step: 1 }]);
    let newer = ViewId(TERM | 6);
    let second = StepKey { view: newer, ..key(2, Phase::Train) };
    let outputs = table.hear(ToWorker::View(view(newer, 2)));
    assert_eq!(outputs, [Output::EnterView(view(newer, 2)), Output::Compute(second)]);
}

#[test]
fn it_says_that_it_lives_and_gives_up_a_silent_coordinator() {
    let mut table = Table::working();
    let (mut beats, begin) = (0, table.now);
    let silent_ms = loop {
        table.now = table.machine.next_deadline().expect("a deadline");
        match &table.handle(Event::Tick)[..] {
            [Output::Send(FromWorker::Heartbeat)] => beats += 1,
            [Output::Reconnect { reason, .. }] => {
                assert!(reason.contains("the reduced gradient of step 1"), "{reason}");
                break table.now - begin;
            }
            outputs => panic!("{outputs:?}"),
        }
    };
    assert_eq!((beats, silent_ms), (11, 30_000), "twelve heartbeats without an answer");
}

#[test]
fn a_worker_that_was_paused_itself_blames_nobody() {
    let mut table = Table::working();
    table.now += 600_000;
    assert_eq!(table.handle(Event::Tick), [Output::Send(FromWorker::Heartbeat)]);
    table.now += 2_500;
    assert_eq!(table.handle(Event::Tick), [Output::Send(FromWorker::Heartbeat)]);
}

/// Timers of a busy machine are late all the time; a lost coordinator must be detected all the same.
#[test]
fn a_silent_coordinator_is_lost_where_every_tick_is_a_little_late() {
    let mut table = Table::working();
    loop {
        table.now = table.machine.next_deadline().expect("a heartbeat") + 3;
        assert!(table.now < 40_000, "twelve heartbeats are 30 s");
        let outputs = table.handle(Event::Tick);
        if matches!(outputs.last(), Some(Output::Reconnect { .. })) {
            return assert!(table.now >= 30_000);
        }
    }
}
