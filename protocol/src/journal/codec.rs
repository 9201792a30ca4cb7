//! Encodes and decodes records. Decoding never panics and never allocates more than the bytes it was given.

use xxhash_rust::xxh3::xxh3_64;

use super::{CommitRecord, EndRecord, Record, TermRecord, ViewRecord};
use crate::ids::{MemberId, Phase, RunId, StepKey, ViewId};
use crate::messages::{EndReason, MemberInfo, Next, ReduceAt, UpdateScalars, Verdict, View};

/// Version of the encoding, the first byte of every payload.
const FORMAT: u8 = 2;
/// len u32, check u32, hash u64.
const HEADER_BYTES: usize = 16;
/// The largest payload: a confusion matrix of 2,000 classes fits.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// A journal that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("journal damaged at byte {offset}: {reason}")]
pub struct JournalError {
    /// Offset of the bad frame.
    pub offset: usize,
    /// The defect.
    pub reason: String,
}

/// The contents of a journal.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Decoded {
    /// The intact records.
    pub records: Vec<Record>,
    /// Bytes of the intact records. The file must be truncated to this length before the next append.
    pub good_bytes: usize,
    /// Why the remaining bytes, if any, were classified as a torn tail.
    pub torn: Option<String>,
}

/// Encodes a record as a frame.
///
/// # Panics
/// When a record is larger than 64 MiB, which no run's is.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.push(FORMAT);
    put_record(&mut Encoder(&mut bytes), record);
    let payload = &bytes[HEADER_BYTES..];
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a journal record of {} bytes", payload.len());
    #[allow(clippy::cast_possible_truncation)] // Bounded by the line above.
    let len = payload.len() as u32;
    let hash = xxh3_64(payload);
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes[4..8].copy_from_slice(&length_check(len).to_le_bytes());
    bytes[8..16].copy_from_slice(&hash.to_le_bytes());
    bytes
}

/// Reads a whole journal. A tail that a crash tore (an incomplete last frame, a last frame with a wrong hash, or
/// nothing but zeros) is left out and reported.
///
/// # Errors
/// When a record in the middle is damaged, with its offset: what follows it may be history.
pub fn decode(bytes: &[u8]) -> Result<Decoded, JournalError> {
    let mut decoded = Decoded::default();
    while decoded.good_bytes < bytes.len() {
        let offset = decoded.good_bytes;
        let rest = &bytes[offset..];
        match frame(rest) {
            Frame::Whole(payload) => {
                let mut take = Decoder(payload);
                let record = take_record(&mut take).filter(|_| take.0.is_empty()).ok_or_else(|| {
                    JournalError { offset, reason: "a whole frame doesn't hold a known record".to_owned() }
                })?;
                decoded.records.push(record);
                decoded.good_bytes += HEADER_BYTES + payload.len();
            }
            Frame::Torn(reason) => {
                decoded.torn = Some(format!("{} bytes from byte {offset} on: {reason}", rest.len()));
                break;
            }
            Frame::Damaged(reason) => return Err(JournalError { offset, reason: reason.to_owned() }),
        }
    }
    Ok(decoded)
}

enum Frame<'a> {
    Whole(&'a [u8]),
    Torn(&'static str),
    Damaged(&'static str),
}

fn frame(rest: &[u8]) -> Frame<'_> {
    if is_zeros(rest) {
        return Frame::Torn("nothing but zeros");
    }
    let mut take = Decoder(rest);
    let (Some(len), Some(check), Some(hash)) = (take.u32(), take.u32(), take.u64()) else {
        return Frame::Torn("the file ends inside a header");
    };
    if check != length_check(len) || len as usize > PAYLOAD_BYTES_MAX {
        // A crash of the host may leave the file with its full length and zeros where bytes hadn't reached the disk.
        return match is_zeros(take.0) {
            true => Frame::Torn("a header ends in zeros, and nothing but zeros follows"),
            false => Frame::Damaged("the length of a record is damaged"),
        };
    }
    let Some(payload) = take.bytes(len as usize) else {
        return Frame::Torn("the file ends inside a record");
    };
    if xxh3_64(payload) == hash {
        Frame::Whole(payload)
    } else if is_zeros(take.0) {
        Frame::Torn("the last record's hash is wrong")
    } else {
        Frame::Damaged("a record's hash is wrong and more records follow")
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Never zero, even for a length of zero, so that zeros are not a valid frame.
fn length_check(len: u32) -> u32 {
    let hash = xxh3_64(&len.to_le_bytes());
    #[allow(clippy::cast_possible_truncation)] // Half of the hash is enough for four bytes.
    let check = hash as u32;
    check | 1
}

fn put_record(put: &mut Encoder<'_>, record: &Record) {
    match record {
        Record::Term(term) => {
            put.u8(1).u32(term.term).raw(&term.run.0).text(&term.config_digest).text(&term.data_digest);
        }
        Record::View(record) => put_view(put.u8(2), record),
        Record::Commit(commit) => put_commit(put.u8(3), commit),
        Record::Adopted(commit) => put_commit(put.u8(8), commit),
        Record::Version { step, digest } => {
            put.u8(4).u64(*step).raw(digest);
        }
        Record::Rewind { to_step, void, reason } => {
            put.u8(5).u64(*to_step).flag(*void).text(reason);
        }
        Record::Stop { reason } => {
            put.u8(6).text(reason);
        }
        Record::End(end) => {
            let reason = match end.reason {
                EndReason::Completed => 0,
                EndReason::Interrupted => 1,
                EndReason::Failed => 2,
            };
            put.u8(7).u8(reason).u8(end.code).text(&end.message).u64(end.step);
        }
    }
}

fn put_view(put: &mut Encoder<'_>, record: &ViewRecord) {
    let view = &record.view;
    put.u64(view.id.0).u64(view.step).phase(view.phase).flag(view.reduce == ReduceAt::Alone);
    put.count(view.members.len());
    for member in &view.members {
        put.u64(member.member.0).text(&member.name).u32(member.share);
    }
    put.count(view.dealt.len());
    for ranges in &view.dealt {
        put.count(ranges.len());
        for range in ranges {
            put.u32(range.start).u32(range.end);
        }
    }
    put.flag(record.fingerprint.is_some());
    if let Some(fingerprint) = &record.fingerprint {
        put.raw(fingerprint);
    }
    put.text(&record.reason);
}

fn put_commit(put: &mut Encoder<'_>, commit: &CommitRecord) {
    put.u64(commit.key.view.0).u64(commit.key.step).phase(commit.key.phase);
    put.u64(commit.hash).flag(commit.verdict == Verdict::Apply).u64(commit.applied);
    let scalars = &commit.scalars;
    put.u32(scalars.learning_rate.to_bits()).u32(scalars.clip_factor.to_bits());
    put.u32(scalars.bias_correction1.to_bits()).u32(scalars.bias_correction2_sqrt.to_bits());
    put.flag(scalars.first);
    put.flag(commit.next.version.is_some()).u64(commit.next.version.map_or(0, |member| member.0));
    put.flag(commit.next.evaluate).flag(commit.next.last).flag(commit.next.hold);
    put.count(commit.sums.len());
    for sum in &commit.sums {
        put.u64(sum.to_bits());
    }
    put.u64(commit.squared_norm.to_bits());
    // If it is unknown, the record has the format of earlier versions.
    if commit.state_check != 0 {
        put.u64(commit.state_check);
    }
}

fn take_record(take: &mut Decoder<'_>) -> Option<Record> {
    if take.u8()? != FORMAT {
        return None;
    }
    Some(match take.u8()? {
        1 => Record::Term(TermRecord {
            term: take.u32()?,
            run: RunId(take.array()?),
            config_digest: take.text()?,
            data_digest: take.text()?,
        }),
        2 => Record::View(take_view(take)?),
        3 => Record::Commit(take_commit(take)?),
        8 => Record::Adopted(take_commit(take)?),
        4 => Record::Version { step: take.u64()?, digest: take.array()? },
        5 => Record::Rewind { to_step: take.u64()?, void: take.flag()?, reason: take.text()? },
        6 => Record::Stop { reason: take.text()? },
        7 => Record::End(EndRecord {
            reason: match take.u8()? {
                0 => EndReason::Completed,
                1 => EndReason::Interrupted,
                2 => EndReason::Failed,
                _ => return None,
            },
            code: take.u8()?,
            message: take.text()?,
            step: take.u64()?,
        }),
        _ => return None,
    })
}

fn take_view(take: &mut Decoder<'_>) -> Option<ViewRecord> {
    let (id, step, phase) = (ViewId(take.u64()?), take.u64()?, take.phase()?);
    let reduce = if take.flag()? { ReduceAt::Alone } else { ReduceAt::Coordinator };
    // A count never determines an allocation: each member takes bytes that must be present.
    let mut members = Vec::new();
    for _ in 0..take.u32()? {
        let member = MemberId(take.u64()?);
        members.push(MemberInfo { member, name: take.text()?, share: take.u32()? });
    }
    let mut dealt = Vec::new();
    for _ in 0..take.u32()? {
        let mut ranges = Vec::new();
        for _ in 0..take.u32()? {
            ranges.push(take.u32()?..take.u32()?);
        }
        dealt.push(ranges);
    }
    let fingerprint = if take.flag()? { Some(take.array()?) } else { None };
    let view = View { id, members, reduce, step, phase, dealt };
    Some(ViewRecord { view, fingerprint, reason: take.text()? })
}

fn take_commit(take: &mut Decoder<'_>) -> Option<CommitRecord> {
    let key = StepKey { view: ViewId(take.u64()?), step: take.u64()?, phase: take.phase()? };
    let hash = take.u64()?;
    let verdict = if take.flag()? { Verdict::Apply } else { Verdict::Skip };
    let applied = take.u64()?;
    let scalars = UpdateScalars {
        learning_rate: f32::from_bits(take.u32()?),
        clip_factor: f32::from_bits(take.u32()?),
        bias_correction1: f32::from_bits(take.u32()?),
        bias_correction2_sqrt: f32::from_bits(take.u32()?),
        first: take.flag()?,
    };
    let version = match (take.flag()?, take.u64()?) {
        (true, member) => Some(MemberId(member)),
        (false, 0) => None,
        (false, _) => return None,
    };
    let next = Next { version, evaluate: take.flag()?, last: take.flag()?, hold: take.flag()? };
    let mut sums = Vec::new();
    for _ in 0..take.u32()? {
        sums.push(f64::from_bits(take.u64()?));
    }
    let squared_norm = f64::from_bits(take.u64()?);
    // Records of earlier versions end here.
    let state_check = if take.0.is_empty() { 0 } else { take.u64().filter(|check| *check != 0)? };
    Some(CommitRecord { key, hash, verdict, applied, scalars, next, sums, squared_norm, state_check })
}

struct Encoder<'a>(&'a mut Vec<u8>);

impl Encoder<'_> {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn phase(&mut self, phase: Phase) -> &mut Self {
        self.flag(phase == Phase::Evaluate)
    }

    fn count(&mut self, count: usize) -> &mut Self {
        // A larger count would not fit into PAYLOAD_BYTES_MAX, which encode asserts.
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).raw(text.as_bytes())
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn phase(&mut self) -> Option<Phase> {
        Some(if self.flag()? { Phase::Evaluate } else { Phase::Train })
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        String::from_utf8(self.bytes(len)?.to_vec()).ok()
    }
}
