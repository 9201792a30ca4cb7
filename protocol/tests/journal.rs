//! The journal's encoding round-trips; no truncation or mutation causes a panic or a wrong record.

#![allow(clippy::single_range_in_vec_init, reason = "a member may well have one range of microbatches")]

use proptest::prelude::*;
use protocol::ids::{MemberId, Phase, RunId, StepKey, ViewId};
use protocol::journal::{CommitRecord, EndRecord, Record, TermRecord, ViewRecord, decode, encode};
use protocol::messages::{EndReason, MemberInfo, Next, ReduceAt, UpdateScalars, Verdict, View};

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![Just(Phase::Train), Just(Phase::Evaluate)]
}

fn view() -> impl Strategy<Value = Record> {
    let member = (any::<u64>(), ".{0,12}", any::<u32>()).prop_map(|(id, name, share)| MemberInfo {
        member: MemberId(id),
        name,
        share,
    });
    let members = prop::collection::vec(member, 0..4);
    (any::<u64>(), any::<u64>(), phase(), any::<bool>(), members, any::<Option<[u8; 32]>>(), ".{0,9}")
        .prop_map(|(id, step, phase, alone, members, fingerprint, reason)| {
            let reduce = if alone { ReduceAt::Alone } else { ReduceAt::Coordinator };
            let view =
                View { id: ViewId(id), members, reduce, step, phase, dealt: vec![vec![1..3, 5..9], vec![]] };
            Record::View(ViewRecord { view, fingerprint, reason })
        })
}

fn commit() -> impl Strategy<Value = Record> {
    let key = (any::<u64>(), any::<u64>(), phase()).prop_map(|(view, step, phase)| StepKey {
        view: ViewId(view),
        step,
        phase,
    });
    // Finite values, as the test compares for equality; NaN bits have their own test.
    let scalars = (-1e9f32..1e9, -1e9f32..1e9, any::<bool>()).prop_map(|(rate, clip, first)| UpdateScalars {
        learning_rate: rate,
        clip_factor: clip,
        bias_correction1: 0.5,
        bias_correction2_sqrt: -0.0,
        first,
    });
    let next = (any::<Option<u64>>(), any::<bool>(), any::<bool>()).prop_map(|(member, evaluate, last)| {
        Next { version: member.map(MemberId), evaluate, last, hold: evaluate != last }
    });
    let sums = prop::collection::vec(-1e12f64..1e12, 0..6);
    (key, any::<u64>(), any::<bool>(), any::<u64>(), scalars, next, sums, (0f64..1e30, any::<u64>()))
        .prop_map(|(key, hash, applies, applied, scalars, next, sums, (squared_norm, state_check))| {
            let verdict = if applies { Verdict::Apply } else { Verdict::Skip };
            Record::Commit(CommitRecord {
                key,
                hash,
                verdict,
                applied,
                scalars,
                next,
                sums,
                squared_norm,
                state_check,
            })
        })
}

fn record() -> impl Strategy<Value = Record> {
    let term =
        (any::<u32>(), any::<[u8; 16]>(), ".{0,20}", ".{0,20}").prop_map(|(term, run, config, data)| {
            Record::Term(TermRecord { term, run: RunId(run), config_digest: config, data_digest: data })
        });
    let version =
        (any::<u64>(), any::<[u8; 32]>()).prop_map(|(step, digest)| Record::Version { step, digest });
    let rewind = (any::<u64>(), any::<bool>(), ".{0,20}")
        .prop_map(|(to_step, void, reason)| Record::Rewind { to_step, void, reason });
    let stop = ".{0,20}".prop_map(|reason| Record::Stop { reason });
    let reason =
        prop_oneof![Just(EndReason::Completed), Just(EndReason::Interrupted), Just(EndReason::Failed)];
    let end = (reason, any::<u8>(), ".{0,20}", any::<u64>())
        .prop_map(|(reason, code, message, step)| Record::End(EndRecord { reason, code, message, step }));
    let adopted = commit().prop_map(|record| match record {
        Record::Commit(commit) => Record::Adopted(commit),
        other => other,
    });
    prop_oneof![term, view(), commit(), adopted, version, rewind, stop, end]
}

fn journal(records: &[Record]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (Vec::new(), vec![0]);
    for record in records {
        bytes.extend(encode(record));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn round_trips_and_survives_truncation_at_every_byte(records in prop::collection::vec(record(), 0..6)) {
        let (bytes, ends) = journal(&records);
        for cut in 0..=bytes.len() {
            let decoded = decode(&bytes[..cut]).expect("a torn tail is no error");
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            prop_assert_eq!(&decoded.records, &records[..whole]);
            prop_assert_eq!(decoded.good_bytes, ends[whole]);
            prop_assert_eq!(decoded.torn.is_some(), cut != ends[whole]);
        }
    }

    #[test]
    fn a_mutated_byte_is_never_read_as_another_record(
        records in prop::collection::vec(record(), 1..6), at in any::<prop::sample::Index>(), flip in 1u8..=255,
    ) {
        let (mut bytes, ends) = journal(&records);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let hit = ends.iter().filter(|end| **end <= at).count() - 1;
        match decode(&bytes) {
            // Only the last record's payload or hash may be classified as a torn tail.
            Ok(decoded) => {
                prop_assert_eq!(hit, records.len() - 1);
                prop_assert_eq!(&decoded.records, &records[..hit]);
                prop_assert!(decoded.torn.is_some());
            }
            Err(error) => prop_assert_eq!(error.offset, ends[hit]),
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn zeros_behind_the_records_are_a_torn_tail(records in prop::collection::vec(record(), 0..3), zeros in 1usize..64) {
        let (mut bytes, ends) = journal(&records);
        bytes.resize(bytes.len() + zeros, 0);
        let decoded = decode(&bytes).expect("zeros are what a host's crash leaves");
        prop_assert_eq!(decoded.good_bytes, ends[records.len()]);
        prop_assert!(decoded.torn.is_some());
    }
}

/// A crash of the host may leave the file with its full length and zeros where bytes hadn't reached the disk.
#[test]
fn a_tail_that_ends_in_zeros_at_any_byte_is_torn() {
    let records: Vec<Record> =
        ["SIGINT", "a person", "SIGTERM"].map(|why| Record::Stop { reason: why.to_owned() }).to_vec();
    let (bytes, ends) = journal(&records);
    for cut in 0..bytes.len() {
        let mut torn = bytes.clone();
        torn[cut..].fill(0);
        let decoded = decode(&torn).unwrap_or_else(|why| panic!("zeros from byte {cut} on: {why}"));
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        assert!(decoded.records.len() >= whole && decoded.good_bytes >= ends[whole]);
        assert_eq!(decoded.records, records[..decoded.records.len()]);
    }
}

#[test]
fn bits_of_nan_and_minus_zero_survive() {
    let key = StepKey { view: ViewId(1), step: 1, phase: Phase::Train };
    let odd = f64::from_bits(0x7ff8_dead_beef_0001);
    let record = CommitRecord {
        key,
        hash: 1,
        verdict: Verdict::Skip,
        applied: 0,
        scalars: UpdateScalars { learning_rate: -0.0, ..UpdateScalars::default() },
        next: Next::default(),
        sums: vec![odd, -0.0],
        squared_norm: f64::INFINITY,
        state_check: 7,
    };
    let decoded = decode(&encode(&Record::Commit(record))).expect("whole");
    let Some(Record::Commit(back)) = decoded.records.first() else { panic!("a commit") };
    assert_eq!(back.sums[0].to_bits(), odd.to_bits());
    assert_eq!(back.sums[1].to_bits(), (-0.0f64).to_bits());
    assert_eq!(back.scalars.learning_rate.to_bits(), (-0.0f32).to_bits());
}

/// A frame in the format before commits had the state check is readable; its check is unknown.
#[test]
fn a_commit_without_the_state_check_is_read() {
    let record = CommitRecord {
        key: StepKey { view: ViewId(1), step: 3, phase: Phase::Train },
        hash: 1,
        verdict: Verdict::Apply,
        applied: 3,
        scalars: UpdateScalars::default(),
        next: Next::default(),
        sums: vec![1.0, 2.0],
        squared_norm: 4.0,
        state_check: 0,
    };
    let old = encode(&Record::Commit(record.clone()));
    let new = encode(&Record::Commit(CommitRecord { state_check: 7, ..record.clone() }));
    assert_eq!(&new[16..old.len()], &old[16..], "what was written before comes first");
    assert_eq!(new.len(), old.len() + 8);
    let decoded = decode(&[old, new].concat()).expect("a journal").records;
    let checks: Vec<u64> = decoded
        .iter()
        .filter_map(|record| match record {
            Record::Commit(commit) => Some(commit.state_check),
            _ => None,
        })
        .collect();
    assert_eq!(checks, [0, 7]);
    assert_eq!(decoded[0], Record::Commit(record));
}

#[test]
fn a_last_record_with_a_wrong_hash_is_a_torn_tail_and_one_in_the_middle_is_damage() {
    let stop = encode(&Record::Stop { reason: "SIGINT".to_owned() });
    let mut bytes = [stop.clone(), stop.clone()].concat();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let decoded = decode(&bytes).expect("the host died before all pages were written");
    assert_eq!((decoded.records.len(), decoded.good_bytes), (1, stop.len()));
    assert!(decoded.torn.is_some());
    bytes.extend(&stop);
    assert_eq!(decode(&bytes).expect_err("a record follows").offset, stop.len());
}
