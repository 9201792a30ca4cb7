//! A journal's records are one history, or an error that locates the first record that isn't.

use protocol::history::{History, HistoryError};
use protocol::ids::{MemberId, Phase, RunId, StepKey, ViewId};
use protocol::journal::{CommitRecord, EndRecord, Record, TermRecord, ViewRecord};
use protocol::messages::{EndReason, MemberInfo, Next, ReduceAt, UpdateScalars, Verdict, View};

fn term(term: u32) -> Record {
    let (config_digest, data_digest) = ("c".to_owned(), "d".to_owned());
    Record::Term(TermRecord { term, run: RunId([1; 16]), config_digest, data_digest })
}

fn view(term: u64, step: u64, fingerprint: Option<u8>) -> Record {
    let member = MemberInfo { member: MemberId(term << 32 | 1), name: "w".to_owned(), share: 1 };
    let view = View {
        id: ViewId(term << 32 | 2),
        members: vec![member],
        reduce: ReduceAt::Alone,
        step,
        phase: Phase::Train,
        dealt: Vec::new(),
    };
    Record::View(ViewRecord { view, fingerprint: fingerprint.map(|byte| [byte; 32]), reason: String::new() })
}

fn commit(term: u64, step: u64, phase: Phase, applied: u64) -> Record {
    Record::Commit(CommitRecord {
        key: StepKey { view: ViewId(term << 32 | 2), step, phase },
        hash: step * 10,
        verdict: Verdict::Apply,
        applied,
        scalars: UpdateScalars::default(),
        next: Next::default(),
        sums: vec![],
        squared_norm: 0.0,
        state_check: 0,
    })
}

fn version(step: u64) -> Record {
    Record::Version { step, digest: [u8::try_from(step).unwrap(); 32] }
}

fn rewind(to_step: u64, void: bool) -> Record {
    Record::Rewind { to_step, void, reason: String::new() }
}

fn end(reason: EndReason) -> Record {
    Record::End(EndRecord { reason, code: 0, message: String::new(), step: 0 })
}

/// Term 1 with steps 1 to 4, checkpoints 0 and 2, and a skipped step 2.
fn first_term() -> Vec<Record> {
    use Phase::Train;
    vec![
        term(1),
        version(0),
        view(1, 1, Some(7)),
        commit(1, 1, Train, 1),
        commit(1, 2, Train, 1),
        commit(1, 2, Phase::Evaluate, 1),
        version(2),
        commit(1, 3, Train, 2),
        commit(1, 4, Train, 3),
    ]
}

#[test]
fn applied_steps_and_versions_are_those_of_the_step() {
    let mut history = History::replay(&first_term()).unwrap();
    assert_eq!((history.last_step(), history.term()), (4, 1));
    assert_eq!(history.versions().map(|(step, _)| step).collect::<Vec<_>>(), [2, 0]);
    assert_eq!((history.applied(2), history.applied(4), history.applied(0)), (1, 3, 0));
    assert!(history.is_evaluated(2) && !history.is_evaluated(4));
    assert!(history.is_exact() && !history.is_completed());
    history.resume_from(2, [2; 32]).unwrap();
    assert_eq!(history.resume().unwrap().step, 2);
}

#[test]
fn a_version_must_be_the_journalled_one() {
    let mut history = History::replay(&first_term()).unwrap();
    assert!(matches!(history.resume_from(3, [3; 32]), Err(HistoryError::UnknownVersion { step: 3, .. })));
    assert_eq!(history.resume_from(2, [9; 32]), Err(HistoryError::OtherDigest { step: 2 }));
    assert_eq!(history.resume(), None);
}

#[test]
fn a_rewind_takes_steps_back_and_they_may_come_again() {
    let mut records = first_term();
    records.extend([term(2), rewind(2, false), view(2, 3, Some(7)), commit(2, 3, Phase::Train, 2)]);
    let history = History::replay(&records).unwrap();
    assert_eq!((history.last_step(), history.applied(3)), (3, 2));
    assert!(history.is_evaluated(2), "what was evaluated stays so");
    records.push(commit(2, 3, Phase::Train, 2));
    assert!(matches!(History::replay(&records), Err(HistoryError::Twice { step: 3, .. })));
}

#[test]
fn versions_beyond_a_void_rewind_are_gone_for_good() {
    let mut records = first_term();
    records.extend([rewind(0, true), end(EndReason::Failed), term(2), view(2, 1, Some(7))]);
    records.extend((1..=3).map(|step| commit(2, step, Phase::Train, step)));
    let mut history = History::replay(&records).unwrap();
    assert_eq!(history.last_step(), 3);
    assert_eq!(history.versions().map(|(step, _)| step).collect::<Vec<_>>(), [0]);
    assert!(history.resume_from(2, [2; 32]).is_err(), "its manifest may still lie on the disk");
}

#[test]
fn a_version_ahead_of_the_history_waits_for_its_replay() {
    // Checkpoint 2 was found damaged, the run was rewound to 0 and killed after step 1.
    let mut records = first_term();
    records.extend([term(2), rewind(0, false), view(2, 1, Some(7)), commit(2, 1, Phase::Train, 1)]);
    let mut history = History::replay(&records).unwrap();
    assert!(history.resume_from(2, [2; 32]).is_err());
    assert_eq!(history.versions().map(|(step, _)| step).collect::<Vec<_>>(), [0]);
    records.push(commit(2, 2, Phase::Train, 1));
    assert_eq!(History::replay(&records).unwrap().versions().count(), 2);
}

#[test]
fn what_is_no_history_is_refused_with_its_place() {
    let check = |extra: &[Record], index: usize| {
        let mut records = first_term();
        records.extend_from_slice(extra);
        let message = History::replay(&records).unwrap_err().to_string();
        assert!(message.contains(&format!("record {index}")), "{message}");
    };
    check(&[commit(1, 6, Phase::Train, 4)], 9);
    check(&[commit(1, 4, Phase::Train, 3)], 9);
    check(&[commit(1, 3, Phase::Evaluate, 3)], 9);
    check(&[term(1)], 9);
    check(&[term(2), commit(1, 5, Phase::Train, 4)], 10);
    check(&[version(9)], 9);
    assert!(History::replay(&[commit(1, 1, Phase::Train, 1)]).is_err());
}

#[test]
fn completed_until_another_term_and_exact_until_fingerprints_differ() {
    let mut records = first_term();
    records.push(end(EndReason::Completed));
    assert!(History::replay(&records).unwrap().is_completed());
    records.extend([term(2), view(2, 5, None)]);
    let history = History::replay(&records).unwrap();
    assert!(!history.is_completed() && !history.is_exact());
}
