//! Conversions between protobuf's types and `protocol`'s. Data from a peer is validated and bounded.

use std::ops::Range;

use protocol::ids::{MemberId, MemberKey, Phase, RunId, StepKey, ViewId};
use protocol::journal::{self, Record};
use protocol::messages::{
    Commit, EndReason, Failure, FromWorker, Held, Join, MemberInfo, Next, Ready, ReduceAt, Timings, ToWorker,
    UpdateScalars, UploadKind, Verdict, View, Welcome,
};

use crate::proto;

/// Maximum number of members in a view.
pub const MEMBERS_MAX: usize = 4_096;
/// Maximum number of tasks that a worker may offer.
pub const TASKS_MAX: usize = 256;
/// Maximum number of sums of a step: a confusion matrix of a thousand labels.
pub const SUMS_MAX: usize = 1_000_003;
/// Maximum number of microbatch ranges of one member: more than any step has microbatches.
pub const RANGES_MAX: usize = 1 << 16;
/// Maximum bytes of a text from the coordinator.
pub const TEXT_MAX: usize = 64 << 10;
/// Maximum bytes of the name of a worker, a task or a release: a longer one is truncated, since it only serves people.
pub const NAME_BYTES_MAX: usize = 128;
/// Maximum bytes of a device's description: the names of a GPU and its driver.
pub const DEVICE_BYTES_MAX: usize = 256;
/// Maximum bytes of a worker's reason: an error with its causes, at most a screenful. The run's record and its log
/// store it, as often as a worker fails.
pub const REASON_BYTES_MAX: usize = 4 << 10;

/// An invalid message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("control message {message}: {problem}")]
pub struct BadMessage {
    /// The message and field.
    pub message: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn bad<T>(message: &'static str, problem: impl Into<String>) -> Result<T, BadMessage> {
    Err(BadMessage { message, problem: problem.into() })
}

fn required<T>(message: &'static str, value: Option<T>) -> Result<T, BadMessage> {
    value.ok_or(BadMessage { message, problem: "is missing".to_owned() })
}

fn fixed<const N: usize>(message: &'static str, bytes: &[u8]) -> Result<[u8; N], BadMessage> {
    bytes.try_into().or_else(|_| bad(message, format!("has {} bytes, not {N}", bytes.len())))
}

fn bounded(message: &'static str, count: usize, most: usize) -> Result<(), BadMessage> {
    if count > most { bad(message, format!("has {count} entries, at most {most}")) } else { Ok(()) }
}

fn text(message: &'static str, value: String) -> Result<String, BadMessage> {
    bounded(message, value.len(), TEXT_MAX)?;
    Ok(value)
}

/// Truncates a worker's text, which is only for people: the beginning of an overlong one, followed by "...".
#[must_use]
pub fn cut(mut text: String, bytes_max: usize) -> String {
    const ELLIPSIS: &str = "...";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(ELLIPSIS.len())));
        text.push_str(ELLIPSIS);
        // Don't keep a peer's megabyte allocated.
        text.shrink_to_fit();
    }
    text
}

/// Encodes a worker's message.
#[must_use]
pub fn from_worker_out(message: FromWorker) -> proto::FromWorker {
    use proto::from_worker::Message as M;
    let message = match message {
        FromWorker::Join(join) => M::Join(join_out(join)),
        FromWorker::Prepared { elements } => M::Prepared(proto::Prepared { elements }),
        FromWorker::Loaded { step, digest } => M::Loaded(proto::Loaded { step, digest: digest.to_vec() }),
        FromWorker::Ready(ready) => M::Ready(proto::Ready {
            key: Some(key_out(ready.key)),
            sums: ready.sums,
            squared_norm: ready.squared_norm,
            finite: ready.finite,
            hash: ready.hash,
            state_check: ready.state_check,
            timings: Some(proto::Timings {
                data_us: ready.timings.data_us,
                compute_us: ready.timings.compute_us,
                exchange_us: ready.timings.exchange_us,
                apply_us: ready.timings.apply_us,
                snapshot_us: ready.timings.snapshot_us,
                samples: ready.timings.samples,
            }),
        }),
        FromWorker::Applied { step, state_check } => M::Applied(proto::Applied { step, state_check }),
        FromWorker::Heartbeat => M::Heartbeat(proto::Heartbeat::default()),
        FromWorker::Leaving { reason } => M::Leaving(proto::Leaving { reason }),
        FromWorker::Failed(failure) => M::Failed(failure_out(failure)),
        FromWorker::NotUploaded { kind, step, reason } => {
            M::NotUploaded(proto::NotUploaded { kind: upload_kind_out(kind).into(), step, reason })
        }
    };
    proto::FromWorker { message: Some(message) }
}

/// Decodes a worker's message.
///
/// # Errors
/// When a field is missing, too long or has an invalid value.
pub fn from_worker_in(message: proto::FromWorker) -> Result<FromWorker, BadMessage> {
    use proto::from_worker::Message as M;
    Ok(match required("FromWorker", message.message)? {
        M::Join(join) => FromWorker::Join(join_in(join)?),
        M::Prepared(prepared) => FromWorker::Prepared { elements: prepared.elements },
        M::Loaded(loaded) => {
            FromWorker::Loaded { step: loaded.step, digest: fixed("Loaded.digest", &loaded.digest)? }
        }
        M::Ready(ready) => FromWorker::Ready(ready_in(ready)?),
        M::Applied(applied) => FromWorker::Applied { step: applied.step, state_check: applied.state_check },
        M::Heartbeat(_) => FromWorker::Heartbeat,
        M::Leaving(leaving) => FromWorker::Leaving { reason: cut(leaving.reason, REASON_BYTES_MAX) },
        M::Failed(failure) => {
            let failure = failure_in(failure)?;
            FromWorker::Failed(Failure { message: cut(failure.message, REASON_BYTES_MAX), ..failure })
        }
        M::NotUploaded(upload) => FromWorker::NotUploaded {
            kind: upload_kind_in("NotUploaded.kind", upload.kind)?,
            step: upload.step,
            reason: cut(upload.reason, REASON_BYTES_MAX),
        },
    })
}

fn join_out(join: Join) -> proto::Join {
    proto::Join {
        protocol_version: join.protocol_version,
        tasks: join.tasks.into_iter().map(|(name, schema)| proto::Task { name, schema }).collect(),
        fingerprint: join.fingerprint.to_vec(),
        build: join.build,
        name: join.name,
        device: join.device,
        slot: join.slot,
        pid: join.pid,
        instance: join.instance,
        run: join.run.map(|run| run.0.to_vec()),
        holds: join.holds.map(held_out),
        machine: None,
    }
}

fn held_out(held: Held) -> proto::Held {
    let commit = held.commit.map(|commit| journal::encode(&Record::Commit(*commit)));
    proto::Held {
        step: held.step,
        state_check: held.state_check,
        prepared: held.prepared.map(|(step, hash)| proto::PreparedStep { step, hash }),
        commit: commit.unwrap_or_default(),
    }
}

fn held_in(held: &proto::Held) -> Result<Held, BadMessage> {
    let decoded = journal::decode(&held.commit)
        .or_else(|error| bad("Held.commit", format!("is no frame of a journal: {error}")))?;
    let commit = match decoded.records.into_iter().next() {
        Some(Record::Commit(commit)) => {
            bounded("Held.commit.sums", commit.sums.len(), SUMS_MAX)?;
            Some(Box::new(commit))
        }
        None if held.commit.is_empty() => None,
        _ => return bad("Held.commit", "is not a commit"),
    };
    Ok(Held {
        step: held.step,
        state_check: held.state_check,
        prepared: held.prepared.as_ref().map(|prepared| (prepared.step, prepared.hash)),
        commit,
    })
}

fn join_in(join: proto::Join) -> Result<Join, BadMessage> {
    bounded("Join.tasks", join.tasks.len(), TASKS_MAX)?;
    Ok(Join {
        protocol_version: join.protocol_version,
        tasks: join.tasks.into_iter().map(|task| (cut(task.name, NAME_BYTES_MAX), task.schema)).collect(),
        fingerprint: fixed("Join.fingerprint", &join.fingerprint)?,
        build: cut(join.build, NAME_BYTES_MAX),
        name: cut(join.name, NAME_BYTES_MAX),
        device: cut(join.device, DEVICE_BYTES_MAX),
        slot: join.slot,
        pid: join.pid,
        instance: join.instance,
        run: join.run.map(|run| fixed("Join.run", &run).map(RunId)).transpose()?,
        holds: join.holds.as_ref().map(held_in).transpose()?,
    })
}

fn ready_in(ready: proto::Ready) -> Result<Ready, BadMessage> {
    bounded("Ready.sums", ready.sums.len(), SUMS_MAX)?;
    let timings = ready.timings.unwrap_or_default();
    Ok(Ready {
        key: key_in(required("Ready.key", ready.key)?)?,
        sums: ready.sums,
        squared_norm: ready.squared_norm,
        finite: ready.finite,
        hash: ready.hash,
        state_check: ready.state_check,
        timings: Timings {
            data_us: timings.data_us,
            compute_us: timings.compute_us,
            exchange_us: timings.exchange_us,
            apply_us: timings.apply_us,
            snapshot_us: timings.snapshot_us,
            samples: timings.samples,
        },
    })
}

fn failure_out(failure: Failure) -> proto::Failure {
    proto::Failure { code: u32::from(failure.code), message: failure.message }
}

fn failure_in(failure: proto::Failure) -> Result<Failure, BadMessage> {
    let code = u8::try_from(failure.code).or_else(|_| bad("Failure.code", format!("is {}", failure.code)))?;
    // The process exits with this code: a failure must not look like success.
    if code == 0 {
        return bad("Failure.code", "is 0, which is no failure");
    }
    Ok(Failure { code, message: cut(failure.message, TEXT_MAX) })
}

fn key_out(key: StepKey) -> proto::StepKey {
    proto::StepKey { view: key.view.0, step: key.step, phase: phase_out(key.phase).into() }
}

fn key_in(key: proto::StepKey) -> Result<StepKey, BadMessage> {
    let phase = phase_in(key.phase)?;
    Ok(StepKey { view: ViewId(key.view), step: step_in("StepKey.step", key.step, phase)?, phase })
}

/// Training steps count from 1: no batch belongs to step 0, and asking for its samples is a bug.
fn step_in(message: &'static str, step: u64, phase: Phase) -> Result<u64, BadMessage> {
    if step == 0 && phase == Phase::Train { bad(message, "is 0 in training") } else { Ok(step) }
}

/// Encodes the kind of an upload.
#[must_use]
pub fn upload_kind_out(kind: UploadKind) -> proto::UploadKind {
    match kind {
        UploadKind::Version => proto::UploadKind::Version,
        UploadKind::Export => proto::UploadKind::Export,
        UploadKind::State => proto::UploadKind::State,
    }
}

/// Decodes the kind of an upload.
///
/// # Errors
/// When the value is unknown.
pub fn upload_kind_in(message: &'static str, kind: i32) -> Result<UploadKind, BadMessage> {
    match proto::UploadKind::try_from(kind) {
        Ok(proto::UploadKind::Version) => Ok(UploadKind::Version),
        Ok(proto::UploadKind::Export) => Ok(UploadKind::Export),
        Ok(proto::UploadKind::State) => Ok(UploadKind::State),
        _ => bad(message, format!("is {kind}")),
    }
}

fn phase_out(phase: Phase) -> proto::Phase {
    match phase {
        Phase::Train => proto::Phase::Train,
        Phase::Evaluate => proto::Phase::Evaluate,
    }
}

fn phase_in(phase: i32) -> Result<Phase, BadMessage> {
    match proto::Phase::try_from(phase) {
        Ok(proto::Phase::Train) => Ok(Phase::Train),
        Ok(proto::Phase::Evaluate) => Ok(Phase::Evaluate),
        _ => bad("phase", format!("is {phase}")),
    }
}

/// Encodes a message of the coordinator.
#[must_use]
pub fn to_worker_out(message: ToWorker) -> proto::ToWorker {
    use proto::to_worker::Message as M;
    let message = match message {
        ToWorker::Welcome(welcome) => M::Welcome(proto::Welcome {
            run: welcome.run.0.to_vec(),
            run_name: welcome.run_name,
            member: welcome.member.0,
            name: welcome.name,
            config: welcome.config,
            data_plan: welcome.data_plan,
            data_port: u32::from(welcome.data_port),
            heartbeat_ms: welcome.heartbeat_ms,
            key: welcome.key.0.to_vec(),
        }),
        ToWorker::Refused(failure) => M::Refused(failure_out(failure)),
        ToWorker::Evicted { reason, forget } => M::Evicted(proto::Evicted { reason, forget }),
        ToWorker::Recover(commit) => M::Recover(commit_out(&commit)),
        ToWorker::Initialise => M::Initialise(proto::Initialise {}),
        ToWorker::Load { step } => M::Load(proto::Load { step }),
        ToWorker::View(view) => M::View(view_out(view)),
        ToWorker::Commit(commit) => M::Commit(commit_out(&commit)),
        ToWorker::SendState { step } => M::SendState(proto::SendState { step }),
        ToWorker::FetchState { step } => M::FetchState(proto::FetchState { step }),
        ToWorker::WriteVersion { step } => M::WriteVersion(proto::WriteVersion { step }),
        ToWorker::Export { step } => M::Export(proto::Export { step }),
        ToWorker::End { reason, message } => {
            let reason = match reason {
                EndReason::Completed => proto::EndReason::Completed,
                EndReason::Interrupted => proto::EndReason::Interrupted,
                EndReason::Failed => proto::EndReason::Failed,
            };
            M::End(proto::End { reason: reason.into(), message })
        }
        ToWorker::Alive => M::Alive(proto::Alive {}),
    };
    proto::ToWorker { message: Some(message) }
}

/// Decodes a message of the coordinator.
///
/// # Errors
/// When a field is missing, too long or has an invalid value.
pub fn to_worker_in(message: proto::ToWorker) -> Result<ToWorker, BadMessage> {
    use proto::to_worker::Message as M;
    Ok(match required("ToWorker", message.message)? {
        M::Welcome(welcome) => ToWorker::Welcome(welcome_in(welcome)?),
        M::Refused(failure) => ToWorker::Refused(failure_in(failure)?),
        M::Evicted(evicted) => {
            ToWorker::Evicted { reason: text("Evicted.reason", evicted.reason)?, forget: evicted.forget }
        }
        M::Recover(commit) => ToWorker::Recover(commit_in(commit)?),
        M::Initialise(_) => ToWorker::Initialise,
        M::Load(load) => ToWorker::Load { step: load.step },
        M::View(view) => ToWorker::View(view_in(view)?),
        M::Commit(commit) => ToWorker::Commit(commit_in(commit)?),
        M::SendState(show) => ToWorker::SendState { step: show.step },
        M::FetchState(take) => ToWorker::FetchState { step: take.step },
        M::WriteVersion(write) => ToWorker::WriteVersion { step: write.step },
        M::Export(export) => ToWorker::Export { step: export.step },
        M::End(end) => {
            ToWorker::End { reason: end_in(end.reason)?, message: text("End.message", end.message)? }
        }
        M::Alive(_) => ToWorker::Alive,
    })
}

fn end_in(reason: i32) -> Result<EndReason, BadMessage> {
    match proto::EndReason::try_from(reason) {
        Ok(proto::EndReason::Completed) => Ok(EndReason::Completed),
        Ok(proto::EndReason::Interrupted) => Ok(EndReason::Interrupted),
        Ok(proto::EndReason::Failed) => Ok(EndReason::Failed),
        _ => bad("End.reason", format!("is {reason}")),
    }
}

fn welcome_in(welcome: proto::Welcome) -> Result<Welcome, BadMessage> {
    let data_port = u16::try_from(welcome.data_port)
        .or_else(|_| bad("Welcome.data_port", format!("is {}", welcome.data_port)))?;
    Ok(Welcome {
        run: RunId(fixed("Welcome.run", &welcome.run)?),
        run_name: text("Welcome.run_name", welcome.run_name)?,
        member: MemberId(welcome.member),
        name: text("Welcome.name", welcome.name)?,
        config: welcome.config,
        data_plan: welcome.data_plan,
        data_port,
        heartbeat_ms: welcome.heartbeat_ms,
        key: MemberKey(fixed("Welcome.key", &welcome.key)?),
    })
}

fn view_out(view: View) -> proto::View {
    proto::View {
        id: view.id.0,
        members: view
            .members
            .into_iter()
            .map(|m| proto::Member { member: m.member.0, name: m.name, share: m.share })
            .collect(),
        reduce: match view.reduce {
            ReduceAt::Coordinator => proto::ReduceAt::Coordinator,
            ReduceAt::Alone => proto::ReduceAt::Alone,
        }
        .into(),
        step: view.step,
        phase: phase_out(view.phase).into(),
        dealt: view.dealt.into_iter().map(dealt_out).collect(),
    }
}

fn dealt_out(ranges: Vec<Range<u32>>) -> proto::Dealt {
    proto::Dealt { ranges: ranges.into_iter().flat_map(|range| [range.start, range.end]).collect() }
}

/// Decodes ranges, which must be in order and must not touch.
fn dealt_in(dealt: &proto::Dealt) -> Result<Vec<Range<u32>>, BadMessage> {
    bounded("Dealt.ranges", dealt.ranges.len(), 2 * RANGES_MAX)?;
    let (pairs, []) = dealt.ranges.as_chunks::<2>() else {
        return bad("Dealt.ranges", "has an odd number of ends");
    };
    let ranges: Vec<Range<u32>> = pairs.iter().map(|[start, end]| *start..*end).collect();
    let is_in_order = ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
    if !is_in_order || ranges.iter().any(Range::is_empty) {
        return bad("Dealt.ranges", "has ranges that are empty, touch, or are out of order");
    }
    Ok(ranges)
}

fn view_in(view: proto::View) -> Result<View, BadMessage> {
    bounded("View.members", view.members.len(), MEMBERS_MAX)?;
    if view.members.is_empty() {
        return bad("View.members", "is empty");
    }
    let reduce = match proto::ReduceAt::try_from(view.reduce) {
        Ok(proto::ReduceAt::Coordinator) => ReduceAt::Coordinator,
        Ok(proto::ReduceAt::Alone) => ReduceAt::Alone,
        _ => return bad("View.reduce", format!("is {}", view.reduce)),
    };
    let members: Vec<MemberInfo> = view
        .members
        .into_iter()
        .map(|m| {
            Ok(MemberInfo { member: MemberId(m.member), name: text("Member.name", m.name)?, share: m.share })
        })
        .collect::<Result<_, BadMessage>>()?;
    let phase = phase_in(view.phase)?;
    let step = step_in("View.step", view.step, phase)?;
    let dealt: Vec<Vec<Range<u32>>> = view.dealt.iter().map(dealt_in).collect::<Result<_, _>>()?;
    if !dealt.is_empty() && dealt.len() != members.len() {
        return bad("View.dealt", format!("has {} entries for {} members", dealt.len(), members.len()));
    }
    Ok(View { id: ViewId(view.id), members, reduce, step, phase, dealt })
}

fn commit_out(commit: &Commit) -> proto::Commit {
    let verdict = match commit.verdict {
        Verdict::Apply => proto::Verdict::Apply,
        Verdict::Skip => proto::Verdict::Skip,
    };
    proto::Commit {
        key: Some(key_out(commit.key)),
        verdict: verdict.into(),
        hash: commit.hash,
        scalars: Some(proto::UpdateScalars {
            learning_rate: commit.scalars.learning_rate.to_bits(),
            clip_factor: commit.scalars.clip_factor.to_bits(),
            bias_correction1: commit.scalars.bias_correction1.to_bits(),
            bias_correction2_sqrt: commit.scalars.bias_correction2_sqrt.to_bits(),
            first: commit.scalars.first,
        }),
        next: Some(proto::Next {
            version: commit.next.version.map(|member| member.0),
            evaluate: commit.next.evaluate,
            last: commit.next.last,
            hold: commit.next.hold,
        }),
        applied: commit.applied,
    }
}

fn commit_in(commit: proto::Commit) -> Result<Commit, BadMessage> {
    let verdict = match proto::Verdict::try_from(commit.verdict) {
        Ok(proto::Verdict::Apply) => Verdict::Apply,
        Ok(proto::Verdict::Skip) => Verdict::Skip,
        _ => return bad("Commit.verdict", format!("is {}", commit.verdict)),
    };
    let scalars = required("Commit.scalars", commit.scalars)?;
    let next = required("Commit.next", commit.next)?;
    Ok(Commit {
        key: key_in(required("Commit.key", commit.key)?)?,
        verdict,
        hash: commit.hash,
        applied: commit.applied,
        scalars: UpdateScalars {
            learning_rate: f32::from_bits(scalars.learning_rate),
            clip_factor: f32::from_bits(scalars.clip_factor),
            bias_correction1: f32::from_bits(scalars.bias_correction1),
            bias_correction2_sqrt: f32::from_bits(scalars.bias_correction2_sqrt),
            first: scalars.first,
        },
        next: Next {
            version: next.version.map(MemberId),
            evaluate: next.evaluate,
            last: next.last,
            hold: next.hold,
        },
    })
}
