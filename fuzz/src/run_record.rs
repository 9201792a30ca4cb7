//! `run.json`: of an older or newer version, or changed by hand.

use run_record::RunRecord;

/// What is read can be written and read again, to the same bytes.
pub fn run(data: &[u8]) {
    let Ok(record) = RunRecord::from_bytes(data) else { return };
    let written = record.to_bytes();
    let again = RunRecord::from_bytes(&written).expect("what was written");
    assert_eq!(String::from_utf8(again.to_bytes()), String::from_utf8(written));
}
