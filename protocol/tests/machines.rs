//! Random sequences of events, sensible and senseless, never panic in either machine; a machine that isn't finished
//! always names what it waits for.

use proptest::prelude::*;
use protocol::PROTOCOL_VERSION;
use protocol::coordinator::{self, CheckpointEvery, Coordinator, OnNan, RunPlan};
use protocol::history::History;
use protocol::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use protocol::messages::{
    Commit, EndReason, Failure, FromWorker, Join, MemberInfo, Next, Ready, ReduceAt, Timings, ToWorker,
    UpdateScalars, UploadKind, Verdict, View, Welcome,
};
use protocol::plan::Geometry;
use protocol::schedule::Schedule;
use protocol::worker::{self, Options, Worker};

fn run_plan(workers: u32, export: bool) -> RunPlan {
    RunPlan {
        run: RunId([7; 16]),
        run_name: "test-1".to_owned(),
        config: String::new(),
        config_digest: "c".to_owned(),
        data_plan: String::new(),
        data_digest: "d".to_owned(),
        data_port: 1,
        task: "toy".to_owned(),
        geometry: Geometry {
            samples: 10,
            batch: 4,
            microbatch: 2,
            seed: 1,
            order: protocol::order::Order::Full,
            evaluation_samples: 4,
            evaluation_microbatch: 2,
        },
        total_steps: 5,
        schedule: Schedule::Constant { learning_rate: 0.1 },
        betas: Some((0.9, 0.999)),
        clip_norm: Some(1.0),
        on_nan: OnNan::Skip,
        wait_for_workers: workers,
        min_workers: 1,
        max_workers: 3,
        mixed: false,
        checkpoint_every: CheckpointEvery::Steps(2),
        evaluate_every_epochs: 1,
        early_stopping: None,
        export,
        lease_ms: 10_000,
        join_timeout_ms: 60_000,
        rejoin_ms: 5_000,
        load_timeout_ms: 60_000,
        step_timeout_ms: 30_000,
        transfer_timeout_ms: 60_000,
        last_version_ms: RunPlan::LAST_VERSION_MS,
    }
}

fn join(slot: Option<u32>, version: u32) -> Join {
    Join {
        protocol_version: version,
        tasks: vec![("toy".to_owned(), 1)],
        fingerprint: [1; 32],
        build: protocol::BUILD.to_owned(),
        name: "w".to_owned(),
        device: "cpu".to_owned(),
        slot,
        pid: 1,
        instance: u64::from(slot.unwrap_or(9)),
        run: None,
        holds: None,
    }
}

fn key() -> impl Strategy<Value = StepKey> {
    let ids = prop_oneof![Just(0u64), (0u64..8).prop_map(|id| 1 << 32 | id), any::<u64>()];
    let steps = prop_oneof![0u64..7, any::<u64>()];
    (ids, steps, any::<bool>()).prop_map(|(view, step, train)| StepKey {
        view: ViewId(view),
        step,
        phase: if train { Phase::Train } else { Phase::Evaluate },
    })
}

fn odd_float() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(f64::NAN), Just(f64::INFINITY), Just(-1.0), Just(4.0)]
}

fn ready() -> impl Strategy<Value = Ready> {
    let sums = prop::collection::vec(odd_float(), 0..4);
    (key(), sums, odd_float(), any::<bool>(), 0u64..2, 0u64..2).prop_map(
        |(key, sums, squared_norm, finite, hash, state_check)| Ready {
            key,
            sums,
            squared_norm,
            finite,
            hash,
            state_check,
            timings: Timings::default(),
        },
    )
}

fn upload_kind() -> impl Strategy<Value = UploadKind> {
    prop_oneof![Just(UploadKind::Version), Just(UploadKind::Export), Just(UploadKind::State)]
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    let steps = prop_oneof![0u64..7, any::<u64>()];
    prop_oneof![
        (any::<Option<u32>>(), 1u32..3).prop_map(|(slot, version)| FromWorker::Join(join(slot, version))),
        Just(FromWorker::Join(join(None, PROTOCOL_VERSION))),
        (3u64..5).prop_map(|elements| FromWorker::Prepared { elements }),
        (steps.clone(), 0u8..2).prop_map(|(step, digest)| FromWorker::Loaded { step, digest: [digest; 32] }),
        ready().prop_map(FromWorker::Ready),
        (steps, 0u64..2).prop_map(|(step, state_check)| FromWorker::Applied { step, state_check }),
        Just(FromWorker::Heartbeat),
        Just(FromWorker::Leaving { reason: String::new() }),
        any::<u8>().prop_map(|code| FromWorker::Failed(Failure { code, message: String::new() })),
        (upload_kind(), 0u64..7).prop_map(|(kind, step)| FromWorker::NotUploaded {
            kind,
            step,
            reason: String::new()
        }),
    ]
}

fn coordinator_event() -> impl Strategy<Value = coordinator::Event> {
    use coordinator::Event;
    let steps = prop_oneof![0u64..7, any::<u64>()];
    let reason = String::new;
    prop_oneof![
        8 => (0u64..4, from_worker()).prop_map(|(connection, message)| Event::Message { connection, message }),
        1 => (0u64..4).prop_map(move |connection| Event::Disconnected { connection, reason: reason() }),
        4 => Just(Event::Journalled),
        1 => Just(Event::JournalFailed { reason: reason() }),
        2 => (steps.clone(), 0u8..2).prop_map(|(step, digest)| Event::StateShown { step, digest: [digest; 32] }),
        1 => steps.clone().prop_map(|step| Event::StateNotShown { step, reason: String::new() }),
        2 => (steps.clone(), 0u8..2).prop_map(|(step, digest)| Event::VersionWritten { step, digest: [digest; 32] }),
        1 => steps.clone().prop_map(|step| Event::VersionDeviates { step }),
        1 => steps.prop_map(move |step| Event::VersionFailed { step, reason: reason() }),
        1 => Just(Event::Exported),
        1 => Just(Event::ExportFailed { reason: reason() }),
        1 => Just(Event::StopRequested { reason: reason() }),
        1 => Just(Event::CheckpointRequested),
        1 => (0u64..8, key()).prop_map(|(id, key)| Event::Computed { member: MemberId(1 << 32 | id), key }),
        1 => (0u64..8).prop_map(move |id| Event::DataPlaneLost { member: MemberId(1 << 32 | id), reason: reason() }),
        1 => (0u64..8, key()).prop_map(|(id, key)| Event::Behind { key, members: vec![MemberId(1 << 32 | id)] }),
        1 => (0u64..8).prop_map(move |id| Event::ProtocolBroken { member: MemberId(1 << 32 | id), what: reason() }),
        1 => any::<u64>().prop_map(move |id| Event::DataPlaneLost { member: MemberId(id), reason: reason() }),
        1 => Just(Event::LaunchFailed { code: 2, reason: reason() }),
        2 => Just(Event::Tick),
    ]
}

/// Half of the actions answer the machine's requests, so that the walk gets beyond the first state.
#[derive(Clone, Debug)]
enum Action {
    Sensible { hash: u64, finite: bool },
    Random(Box<coordinator::Event>),
    Wait(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => (Just(7u64), prop::bool::weighted(0.9)).prop_map(|(hash, finite)| Action::Sensible { hash, finite }),
        1 => (0u64..2, any::<bool>()).prop_map(|(hash, finite)| Action::Sensible { hash, finite }),
        2 => coordinator_event().prop_map(|event| Action::Random(Box::new(event))),
        1 => prop_oneof![0u64..20_000, any::<u64>()].prop_map(Action::Wait),
    ]
}

/// Answers that the walk owes the machine.
#[derive(Default)]
struct Owed(std::collections::VecDeque<coordinator::Event>);

impl Owed {
    fn take_outputs(&mut self, machine: &mut Coordinator, hash: u64, finite: bool) -> bool {
        use coordinator::{Event, Output};
        let mut finished = false;
        while let Some(output) = machine.poll_output() {
            assert!(!finished, "an output after Finished: {output:?}");
            let answer = match output {
                Output::Append { .. } => Some(Event::Journalled),
                Output::ExpectVersion { step, .. } => Some(Event::VersionWritten { step, digest: [1; 32] }),
                Output::ExpectState { step, .. } => Some(Event::StateShown { step, digest: [1; 32] }),
                Output::ExpectExport { .. } => Some(Event::Exported),
                Output::Send { connection, message } => {
                    reply(&message, hash, finite).map(|message| Event::Message { connection, message })
                }
                Output::Finished(_) => {
                    finished = true;
                    None
                }
                _ => None,
            };
            self.0.extend(answer);
        }
        finished
    }
}

fn reply(message: &ToWorker, hash: u64, finite: bool) -> Option<FromWorker> {
    let ready = |key| {
        FromWorker::Ready(Ready {
            key,
            sums: vec![1.0, 2.0],
            squared_norm: 1.0,
            finite,
            hash,
            state_check: 0,
            timings: Timings::default(),
        })
    };
    match message {
        ToWorker::Welcome(_) => Some(FromWorker::Prepared { elements: 3 }),
        ToWorker::Initialise => Some(FromWorker::Loaded { step: 0, digest: [1; 32] }),
        ToWorker::Load { step } => Some(FromWorker::Loaded { step: *step, digest: [1; 32] }),
        ToWorker::View(view) => Some(ready(StepKey { view: view.id, step: view.step, phase: view.phase })),
        ToWorker::Commit(commit) => {
            let key = commit.key;
            Some(if commit.next.evaluate {
                ready(StepKey { phase: Phase::Evaluate, ..key })
            } else if commit.next.last {
                FromWorker::Applied { step: key.step, state_check: 0 }
            } else {
                ready(StepKey { step: key.step + 1, phase: Phase::Train, ..key })
            })
        }
        _ => None,
    }
}

fn walk_coordinator(workers: u32, actions: Vec<Action>) {
    let mut now = 0u64;
    let mut machine = Coordinator::new(run_plan(workers, true), 1, History::fresh(), now);
    let mut owed = Owed::default();
    for connection in 0..u64::from(workers) {
        let message = FromWorker::Join(join(Some(connection as u32), PROTOCOL_VERSION));
        owed.0.push_back(coordinator::Event::Message { connection, message });
    }
    for action in actions {
        let (event, hash, finite) = match action {
            Action::Sensible { hash, finite } => {
                now = now.saturating_add(1);
                (owed.0.pop_front().unwrap_or(coordinator::Event::Tick), hash, finite)
            }
            Action::Random(event) => (*event, 7, true),
            Action::Wait(ms) => {
                now = now.saturating_add(ms);
                (coordinator::Event::Tick, 7, true)
            }
        };
        machine.handle(now, event);
        if owed.take_outputs(&mut machine, hash, finite) {
            assert_eq!(machine.next_deadline(), None);
            machine.handle(now, coordinator::Event::Tick);
            assert_eq!(machine.poll_output(), None, "nothing follows Finished");
            return;
        }
        assert!(!machine.waits_for().is_empty());
    }
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let steps = prop_oneof![0u64..7, any::<u64>()];
    let view = (key(), any::<bool>()).prop_map(|(key, mine)| {
        let member = MemberId(if mine { 1 << 32 | 1 } else { 9 });
        ToWorker::View(View {
            id: key.view,
            members: vec![MemberInfo { member, name: String::new(), share: 1 }],
            reduce: ReduceAt::Alone,
            step: key.step,
            phase: key.phase,
            dealt: Vec::new(),
        })
    });
    let commit = (key(), 0u64..2, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(key, hash, version, evaluate, last)| {
            ToWorker::Commit(Commit {
                key,
                verdict: Verdict::Apply,
                hash,
                applied: 1,
                scalars: UpdateScalars::default(),
                next: Next {
                    version: version.then_some(MemberId(1 << 32 | 1)),
                    evaluate,
                    last,
                    hold: version,
                },
            })
        },
    );
    let welcome = Welcome {
        run: RunId([7; 16]),
        run_name: String::new(),
        member: MemberId(1 << 32 | 1),
        name: String::new(),
        config: String::new(),
        data_plan: String::new(),
        data_port: 0,
        heartbeat_ms: 0,
        key: MemberKey::default(),
    };
    prop_oneof![
        3 => Just(ToWorker::Welcome(welcome)),
        1 => Just(ToWorker::Refused(Failure { code: 2, message: String::new() })),
        2 => Just(ToWorker::Initialise),
        2 => steps.clone().prop_map(|step| ToWorker::Load { step }),
        4 => view,
        5 => (commit, 0..5u8).prop_map(|(message, kind)| match message {
            ToWorker::Commit(commit) if kind == 0 => ToWorker::Recover(commit),
            other => other,
        }),
        1 => any::<bool>().prop_map(|forget| ToWorker::Evicted { reason: String::new(), forget }),
        1 => steps.clone().prop_map(|step| ToWorker::SendState { step }),
        1 => steps.clone().prop_map(|step| ToWorker::FetchState { step }),
        1 => steps.clone().prop_map(|step| ToWorker::WriteVersion { step }),
        1 => steps.prop_map(|step| ToWorker::Export { step }),
        1 => Just(ToWorker::End { reason: EndReason::Completed, message: String::new() }),
        1 => Just(ToWorker::Alive),
    ]
}

fn worker_event() -> impl Strategy<Value = worker::Event> {
    use worker::Event;
    let steps = prop_oneof![0u64..7, any::<u64>()];
    prop_oneof![
        8 => to_worker().prop_map(Event::Message),
        1 => Just(Event::Disconnected { reason: String::new() }),
        4 => Just(Event::Prepared { elements: 3 }),
        4 => Just(Event::Connected),
        4 => steps.clone().prop_map(|step| Event::Loaded { step, digest: [1; 32], state_check: 1 }),
        4 => ready().prop_map(|ready| Event::Reduced {
            key: ready.key,
            sums: ready.sums,
            squared_norm: ready.squared_norm,
            finite: ready.finite,
            hash: ready.hash,
            timings: ready.timings,
        }),
        2 => steps.prop_map(|step| Event::Applied { step, state_check: 2 }),
        1 => Just(Event::LeaveRequested { reason: String::new() }),
        2 => Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_coordinator_never_panics(workers in 1u32..4, actions in prop::collection::vec(action(), 0..120)) {
        walk_coordinator(workers, actions);
    }

    #[test]
    fn the_coordinator_never_panics_on_senseless_events(
        workers in 1u32..4, events in prop::collection::vec(coordinator_event().prop_map(|event| Action::Random(Box::new(event))), 0..80),
    ) {
        walk_coordinator(workers, events);
    }

    #[test]
    fn the_worker_never_panics(events in prop::collection::vec((worker_event(), 0u64..3_000), 0..80)) {
        let options = Options { join: join(None, PROTOCOL_VERSION), join_timeout_ms: 60_000 };
        let (mut now, mut machine) = (0u64, Worker::new(options, 0));
        for (event, later) in events {
            now += later;
            machine.handle(now, event);
            let mut exited = false;
            while let Some(output) = machine.poll_output() {
                prop_assert!(!exited, "an output after Exit");
                exited = matches!(output, worker::Output::Exit { .. });
            }
            prop_assert_eq!(machine.next_deadline().is_none(), exited, "a deadline until the exit");
            if exited {
                break;
            }
        }
    }
}
