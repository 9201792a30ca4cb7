//! Control messages round-trip, and invalid ones are refused without a panic.

#![allow(clippy::single_range_in_vec_init, reason = "a member may well have one range of microbatches")]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use protocol::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use protocol::journal::{CommitRecord, Record};
use protocol::messages::{
    Commit, EndReason, Failure, FromWorker, Held, Join, MemberInfo, Next, Ready, ReduceAt, Timings, ToWorker,
    UpdateScalars, UploadKind, Verdict, View, Welcome,
};
use wire::convert::{
    BadMessage, DEVICE_BYTES_MAX, MEMBERS_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, SUMS_MAX, TASKS_MAX,
    TEXT_MAX, cut, from_worker_in, from_worker_out, to_worker_in, to_worker_out,
};
use wire::proto;

/// Any f32, including NaN payloads; compared by bits.
fn float() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits)
}

/// Any f64; compared by bits.
fn double() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits)
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn key() -> impl Strategy<Value = StepKey> {
    (any::<u64>(), 1..=u64::MAX, prop_oneof![Just(Phase::Train), Just(Phase::Evaluate)])
        .prop_map(|(view, step, phase)| StepKey { view: ViewId(view), step, phase })
}

fn failure() -> impl Strategy<Value = Failure> {
    (1..=u8::MAX, text()).prop_map(|(code, message)| Failure { code, message })
}

fn join() -> impl Strategy<Value = Join> {
    let commit = option::of(commit()).prop_map(|commit| commit.map(Box::new));
    let held = (any::<u64>(), any::<u64>(), option::of(any::<(u64, u64)>()), commit).prop_map(
        |(step, state_check, prepared, commit)| Held {
            step,
            state_check,
            prepared,
            commit: commit.map(|commit| Box::new(record(&commit))),
        },
    );
    let words = (text(), text(), text());
    let numbers = (any::<u32>(), any::<[u8; 32]>(), option::of(any::<u32>()), any::<u32>());
    (vec((text(), any::<u32>()), 0..4), words, numbers, option::of(held)).prop_map(
        |(tasks, (build, name, device), (protocol_version, fingerprint, slot, pid), holds)| Join {
            protocol_version,
            tasks,
            fingerprint,
            build,
            name,
            device,
            slot,
            pid,
            instance: u64::from(pid) << 7,
            run: slot.map(|slot| RunId([slot as u8; 16])),
            holds,
        },
    )
}

/// A commit as a journal record.
fn record(commit: &Commit) -> CommitRecord {
    CommitRecord {
        key: commit.key,
        hash: commit.hash,
        verdict: commit.verdict,
        applied: commit.applied,
        scalars: commit.scalars,
        next: commit.next,
        sums: vec![1.5, 2.0],
        squared_norm: 0.25,
        state_check: 9,
    }
}

fn ready() -> impl Strategy<Value = Ready> {
    let timings =
        any::<[u32; 6]>().prop_map(|[data_us, compute_us, exchange_us, apply_us, snapshot_us, samples]| {
            Timings { data_us, compute_us, exchange_us, apply_us, snapshot_us, samples }
        });
    (key(), vec(double(), 0..6), double(), any::<(bool, u64, u64)>(), timings).prop_map(
        |(key, sums, squared_norm, (finite, hash, state_check), timings)| Ready {
            key,
            sums,
            squared_norm,
            finite,
            hash,
            state_check,
            timings,
        },
    )
}

fn upload_kind() -> impl Strategy<Value = UploadKind> {
    prop_oneof![Just(UploadKind::Version), Just(UploadKind::Export), Just(UploadKind::State)]
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    prop_oneof![
        join().prop_map(FromWorker::Join),
        any::<u64>().prop_map(|elements| FromWorker::Prepared { elements }),
        any::<(u64, [u8; 32])>().prop_map(|(step, digest)| FromWorker::Loaded { step, digest }),
        ready().prop_map(FromWorker::Ready),
        any::<(u64, u64)>().prop_map(|(step, state_check)| FromWorker::Applied { step, state_check }),
        Just(FromWorker::Heartbeat),
        text().prop_map(|reason| FromWorker::Leaving { reason }),
        failure().prop_map(FromWorker::Failed),
        (upload_kind(), any::<u64>(), text()).prop_map(|(kind, step, reason)| FromWorker::NotUploaded {
            kind,
            step,
            reason
        }),
    ]
}

fn welcome() -> impl Strategy<Value = Welcome> {
    (any::<([u8; 16], u64, u16, u64, [u8; 32])>(), (text(), text(), text(), text())).prop_map(
        |((run, member, data_port, heartbeat_ms, key), (run_name, name, config, data_plan))| Welcome {
            run: RunId(run),
            run_name,
            member: MemberId(member),
            name,
            config,
            data_plan,
            data_port,
            heartbeat_ms,
            key: MemberKey(key),
        },
    )
}

fn view() -> impl Strategy<Value = View> {
    let member = (any::<(u64, u32)>(), text()).prop_map(|((member, share), name)| MemberInfo {
        member: MemberId(member),
        name,
        share,
    });
    let reduce = prop_oneof![Just(ReduceAt::Coordinator), Just(ReduceAt::Alone)];
    // About every third microbatch to each member, for a step that is dealt again.
    let starts = option::of(vec(0..40u32, 0..5));
    (key(), vec(member, 1..5), reduce, starts).prop_map(|(key, members, reduce, starts)| {
        let own = |starts: &Vec<u32>| {
            let mut starts = starts.clone();
            starts.sort_unstable();
            starts.dedup();
            starts.into_iter().map(|start| start * 3..start * 3 + 2).collect()
        };
        let dealt = starts.map_or_else(Vec::new, |starts| vec![own(&starts); members.len()]);
        View { id: key.view, members, reduce, step: key.step, phase: key.phase, dealt }
    })
}

fn commit() -> impl Strategy<Value = Commit> {
    let scalars = (float(), float(), float(), float(), any::<bool>()).prop_map(
        |(learning_rate, clip_factor, bias_correction1, bias_correction2_sqrt, first)| UpdateScalars {
            learning_rate,
            clip_factor,
            bias_correction1,
            bias_correction2_sqrt,
            first,
        },
    );
    let next = (option::of(any::<u64>()), any::<(bool, bool, bool)>()).prop_map(
        |(version, (evaluate, last, hold))| Next { version: version.map(MemberId), evaluate, last, hold },
    );
    let verdict = prop_oneof![Just(Verdict::Apply), Just(Verdict::Skip)];
    (key(), verdict, any::<(u64, u64)>(), scalars, next).prop_map(
        |(key, verdict, (hash, applied), scalars, next)| Commit {
            key,
            verdict,
            hash,
            applied,
            scalars,
            next,
        },
    )
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    let end = prop_oneof![Just(EndReason::Completed), Just(EndReason::Interrupted), Just(EndReason::Failed)];
    prop_oneof![
        welcome().prop_map(ToWorker::Welcome),
        failure().prop_map(ToWorker::Refused),
        (text(), any::<bool>()).prop_map(|(reason, forget)| ToWorker::Evicted { reason, forget }),
        commit().prop_map(ToWorker::Recover),
        Just(ToWorker::Initialise),
        any::<u64>().prop_map(|step| ToWorker::Load { step }),
        view().prop_map(ToWorker::View),
        commit().prop_map(ToWorker::Commit),
        any::<u64>().prop_map(|step| ToWorker::SendState { step }),
        any::<u64>().prop_map(|step| ToWorker::FetchState { step }),
        any::<u64>().prop_map(|step| ToWorker::WriteVersion { step }),
        any::<u64>().prop_map(|step| ToWorker::Export { step }),
        (end, text()).prop_map(|(reason, message)| ToWorker::End { reason, message }),
        Just(ToWorker::Alive),
    ]
}

/// Compares by bits: `PartialEq` calls a NaN unequal to itself, and -0.0 equal to 0.0.
fn bits_of_ready(message: &FromWorker) -> Option<(Vec<u64>, u64)> {
    let FromWorker::Ready(ready) = message else { return None };
    Some((ready.sums.iter().map(|sum| sum.to_bits()).collect(), ready.squared_norm.to_bits()))
}

fn bits_of_commit(message: &ToWorker) -> Option<[u32; 4]> {
    let ToWorker::Commit(Commit { scalars, .. }) = message else { return None };
    let all =
        [scalars.learning_rate, scalars.clip_factor, scalars.bias_correction1, scalars.bias_correction2_sqrt];
    Some(all.map(f32::to_bits))
}

proptest! {
    #[test]
    fn what_a_worker_says_arrives(message in from_worker()) {
        let bytes = from_worker_out(message.clone()).encode_to_vec();
        let arrived = proto::FromWorker::decode(&bytes[..]).expect("our own bytes");
        let arrived = from_worker_in(arrived).expect("our own message");
        prop_assert_eq!(bits_of_ready(&arrived), bits_of_ready(&message));
        prop_assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
    }

    #[test]
    fn what_the_coordinator_says_arrives(message in to_worker()) {
        let bytes = to_worker_out(message.clone()).encode_to_vec();
        let arrived = proto::ToWorker::decode(&bytes[..]).expect("our own bytes");
        let arrived = to_worker_in(arrived).expect("our own message");
        prop_assert_eq!(bits_of_commit(&arrived), bits_of_commit(&message));
        prop_assert_eq!(format!("{arrived:?}"), format!("{message:?}"));
    }

    /// Damage that protobuf itself doesn't detect: the outcome is a message or a refusal.
    #[test]
    fn damaged_messages_never_panic(
        from in from_worker(), to in to_worker(), at: prop::sample::Index, mask in 1u8.., cut: prop::sample::Index,
    ) {
        let damage = |mut bytes: Vec<u8>| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        };
        if let Ok(message) = proto::FromWorker::decode(&damage(from_worker_out(from).encode_to_vec())[..]) {
            let _ = from_worker_in(message);
        }
        if let Ok(message) = proto::ToWorker::decode(&damage(to_worker_out(to).encode_to_vec())[..]) {
            let _ = to_worker_in(message);
        }
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = proto::FromWorker::decode(&bytes[..]) {
            let _ = from_worker_in(message);
        }
        if let Ok(message) = proto::ToWorker::decode(&bytes[..]) {
            let _ = to_worker_in(message);
        }
    }
}

use proto::from_worker::Message as Said;
use proto::to_worker::Message as Told;

fn of_worker(message: Said) -> Result<FromWorker, BadMessage> {
    from_worker_in(proto::FromWorker { message: Some(message) })
}

fn of_coordinator(message: Told) -> Result<ToWorker, BadMessage> {
    to_worker_in(proto::ToWorker { message: Some(message) })
}

/// Checks the field and the problem that the error names.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, BadMessage>, field: &str, problem: &str) {
    let bad = outcome.expect_err(field);
    assert_eq!(bad.message, field);
    assert!(bad.problem.contains(problem), "{bad}");
}

fn good_join() -> proto::Join {
    proto::Join { fingerprint: vec![0; 32], ..Default::default() }
}

fn good_key() -> Option<proto::StepKey> {
    Some(proto::StepKey { view: 1, step: 1, phase: 1 })
}

#[test]
fn bad_words_of_a_worker_are_refused_by_name() {
    let join = |change: &dyn Fn(&mut proto::Join)| {
        let mut join = good_join();
        change(&mut join);
        of_worker(Said::Join(join))
    };
    join(&|_| {}).expect("good");
    refused(from_worker_in(proto::FromWorker { message: None }), "FromWorker", "missing");
    refused(join(&|j| j.fingerprint = vec![0; 31]), "Join.fingerprint", "31 bytes, not 32");
    let many = vec![proto::Task::default(); TASKS_MAX + 1];
    refused(join(&|j| j.tasks.clone_from(&many)), "Join.tasks", "257 entries, at most 256");

    let loaded = proto::Loaded { step: 1, digest: vec![0; 33] };
    refused(of_worker(Said::Loaded(loaded)), "Loaded.digest", "33 bytes, not 32");

    let ready = |key, sums| of_worker(Said::Ready(proto::Ready { key, sums, ..Default::default() }));
    ready(good_key(), vec![0.0; SUMS_MAX]).expect("good, without timings");
    refused(ready(None, Vec::new()), "Ready.key", "missing");
    refused(ready(good_key(), vec![0.0; SUMS_MAX + 1]), "Ready.sums", "at most 1000003");
    let key = |step, phase| ready(Some(proto::StepKey { view: 1, step, phase }), Vec::new());
    refused(key(1, 0), "phase", "is 0");
    refused(key(1, 3), "phase", "is 3");
    refused(key(0, 1), "StepKey.step", "0 in training");
    key(0, 2).expect("version 0 may be evaluated");

    let failed = |code, message| of_worker(Said::Failed(proto::Failure { code, message }));
    refused(failed(0, String::new()), "Failure.code", "no failure");
    refused(failed(256, String::new()), "Failure.code", "is 256");
}

/// A worker's texts are stored, shown and forwarded: each is truncated to the length that its kind needs.
#[test]
fn long_words_of_a_worker_are_cut() {
    let long = "é".repeat(1 << 20);
    let task = proto::Task { name: long.clone(), schema: 1 };
    let join = proto::Join {
        tasks: vec![task; TASKS_MAX],
        build: long.clone(),
        name: long.clone(),
        device: long.clone(),
        ..good_join()
    };
    let FromWorker::Join(join) = of_worker(Said::Join(join)).expect("cut") else { panic!("a Join") };
    let names = join.tasks.iter().map(|(name, _)| name).chain([&join.build, &join.name]);
    for name in names {
        assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("é..."), "{name}");
        assert!(name.capacity() <= 2 * NAME_BYTES_MAX, "{} bytes are held", name.capacity());
    }
    assert!(join.device.len() <= DEVICE_BYTES_MAX && join.device.ends_with("..."));
    let failure = proto::Failure { code: 4, message: long.clone() };
    let upload = proto::NotUploaded { kind: 1, step: 1, reason: long.clone() };
    let said =
        [Said::Leaving(proto::Leaving { reason: long }), Said::Failed(failure), Said::NotUploaded(upload)];
    for said in said {
        let (FromWorker::Leaving { reason }
        | FromWorker::Failed(Failure { message: reason, .. })
        | FromWorker::NotUploaded { reason, .. }) = of_worker(said).expect("cut")
        else {
            panic!("a reason")
        };
        assert!(reason.len() <= REASON_BYTES_MAX && reason.ends_with("é..."), "{} bytes", reason.len());
    }
    assert_eq!(cut("short".to_owned(), 5), "short");
    assert_eq!(cut("longer".to_owned(), 5), "lo...");
}

#[test]
fn bad_words_of_the_coordinator_are_refused_by_name() {
    let long = "x".repeat(TEXT_MAX + 1);
    refused(to_worker_in(proto::ToWorker { message: None }), "ToWorker", "missing");

    let welcome = |run: usize, data_port, name: &str| {
        let (run, name) = (vec![0; run], name.to_owned());
        let key = vec![0; 32];
        of_coordinator(Told::Welcome(proto::Welcome { run, data_port, name, key, ..Default::default() }))
    };
    welcome(16, 65_535, "a").expect("good");
    refused(welcome(15, 1, "a"), "Welcome.run", "15 bytes, not 16");
    refused(welcome(16, 65_536, "a"), "Welcome.data_port", "is 65536");
    refused(welcome(16, 1, &long), "Welcome.name", "at most 65536");
    let keyless = proto::Welcome { run: vec![0; 16], key: vec![1; 31], ..Default::default() };
    refused(of_coordinator(Told::Welcome(keyless)), "Welcome.key", "31 bytes, not 32");

    let view = |members: usize, reduce, step, phase| {
        let members = vec![proto::Member { member: 1, name: "a".to_owned(), share: 1 }; members];
        of_coordinator(Told::View(proto::View { id: 1, members, reduce, step, phase, dealt: Vec::new() }))
    };
    view(MEMBERS_MAX, 1, 1, 1).expect("good");
    refused(view(0, 1, 1, 1), "View.members", "is empty");
    refused(view(MEMBERS_MAX + 1, 1, 1, 1), "View.members", "4097 entries, at most 4096");
    refused(view(1, 0, 1, 1), "View.reduce", "is 0");
    refused(view(1, 9, 1, 1), "View.reduce", "is 9");
    refused(view(1, 1, 0, 1), "View.step", "0 in training");
    refused(view(1, 1, 1, -1), "phase", "is -1");

    let dealt = |ranges: &[u32], entries: usize| {
        let members = vec![proto::Member { member: 1, name: "a".to_owned(), share: 1 }];
        let dealt = vec![proto::Dealt { ranges: ranges.to_vec() }; entries];
        of_coordinator(Told::View(proto::View { id: 1, members, reduce: 1, step: 1, phase: 1, dealt }))
    };
    dealt(&[0, 2, 3, 4], 1).expect("good");
    dealt(&[], 1).expect("good");
    refused(dealt(&[0, 2], 2), "View.dealt", "2 entries for 1 members");
    refused(dealt(&[0, 2, 3], 1), "Dealt.ranges", "odd number");
    for wrong in [[0, 2, 2, 4], [4, 6, 0, 1], [1, 1, 2, 3], [2, 1, 3, 4]] {
        refused(dealt(&wrong, 1), "Dealt.ranges", "empty, touch, or are out of order");
    }
    let holds = |commit: &[u8]| {
        let holds = proto::Held { step: 1, state_check: 1, prepared: None, commit: commit.to_vec() };
        let join = proto::Join { fingerprint: vec![0; 32], holds: Some(holds), ..Default::default() };
        of_worker(Said::Join(join))
    };
    holds(&[]).expect("a state that was loaded");
    refused(holds(&[1; 40]), "Held.commit", "no frame of a journal");
    let other = protocol::journal::encode(&Record::Stop { reason: "x".to_owned() });
    refused(holds(&other), "Held.commit", "is not a commit");

    let commit = |change: &dyn Fn(&mut proto::Commit)| {
        let mut commit = proto::Commit {
            key: good_key(),
            verdict: 1,
            hash: 1,
            scalars: Some(proto::UpdateScalars::default()),
            next: Some(proto::Next::default()),
            applied: 1,
        };
        change(&mut commit);
        of_coordinator(Told::Commit(commit))
    };
    commit(&|_| {}).expect("good");
    refused(commit(&|c| c.key = None), "Commit.key", "missing");
    refused(commit(&|c| c.scalars = None), "Commit.scalars", "missing");
    refused(commit(&|c| c.next = None), "Commit.next", "missing");
    refused(commit(&|c| c.verdict = 0), "Commit.verdict", "is 0");

    let end =
        |reason, message: &str| of_coordinator(Told::End(proto::End { reason, message: message.to_owned() }));
    refused(end(0, ""), "End.reason", "is 0");
    refused(end(1, &long), "End.message", "at most 65536");
    let code = |code| of_coordinator(Told::Refused(proto::Failure { code, message: String::new() }));
    refused(code(0), "Failure.code", "no failure");
}

#[test]
fn the_largest_message_fits_the_limit() {
    let ready = Ready {
        key: StepKey { view: ViewId(u64::MAX), step: u64::MAX, phase: Phase::Evaluate },
        sums: vec![1.0; SUMS_MAX],
        squared_norm: 1.0,
        finite: true,
        hash: u64::MAX,
        state_check: u64::MAX,
        timings: Timings::default(),
    };
    assert!(from_worker_out(FromWorker::Ready(ready)).encoded_len() < wire::MESSAGE_BYTES_MAX);
    let member = MemberInfo { member: MemberId(u64::MAX), name: "x".repeat(255), share: u32::MAX };
    let view = View {
        id: ViewId(u64::MAX),
        members: vec![member; MEMBERS_MAX],
        reduce: ReduceAt::Coordinator,
        step: u64::MAX,
        phase: Phase::Train,
        dealt: vec![vec![1..u32::MAX]; MEMBERS_MAX],
    };
    assert!(to_worker_out(ToWorker::View(view)).encoded_len() < wire::MESSAGE_BYTES_MAX);
}
