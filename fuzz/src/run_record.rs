//! Fuzzes `run.json`, which an older or newer release or a person may have written.

use run_record::RunRecord;

/// An accepted record must survive being written and read again, to the same bytes.
pub fn run(data: &[u8]) {
    let Ok(record) = RunRecord::from_bytes(data) else { return };
    let written = record.to_bytes();
    let again = RunRecord::from_bytes(&written).expect("what was written");
    assert_eq!(String::from_utf8(again.to_bytes()), String::from_utf8(written));
}
