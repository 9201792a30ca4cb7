//! `run.json`: written by an older or newer version, or edited by hand.

use run_record::RunRecord;

/// A record that was read can be written and read again, to the same bytes but for the last bits of its numbers: `serde_json`
/// without its feature `float_roundtrip` may miss them.
pub fn run(data: &[u8]) {
    let Ok(record) = RunRecord::from_bytes(data) else { return };
    let written = String::from_utf8(record.to_bytes()).expect("JSON");
    let again = RunRecord::from_bytes(written.as_bytes()).expect("what was written");
    let again = String::from_utf8(again.to_bytes()).expect("JSON");
    let ((text, numbers), (text_again, numbers_again)) = (split(&written), split(&again));
    assert_eq!(text, text_again);
    assert_eq!(numbers.len(), numbers_again.len());
    for (one, other) in numbers.iter().zip(&numbers_again) {
        assert!(one == other || ((one - other) / one).abs() < 1e-15, "{one} became {other}");
    }
}

/// The text without what looks like numbers, and these.
fn split(json: &str) -> (String, Vec<f64>) {
    let (mut text, mut numbers) = (String::new(), Vec::new());
    for (index, part) in json.split([' ', ',', '\n']).enumerate() {
        match part.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => text.push_str(&format!("{index} {part}\n")),
        }
    }
    (text, numbers)
}
