//! Fuzzes `metrics.jsonl`: appended by a run, followed by the tracker and its sinks, torn by crashes.

use run_record::{Metric, follow};

/// Lines are parsed or skipped; a parsed one must survive being written and read again, to the last bit.
pub fn run(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some(metric) = Metric::from_json_line(line) else { continue };
        let again = Metric::from_json_line(&metric.to_json_line()).expect("what was written");
        assert_eq!((again.step, &again.key), (metric.step, &metric.key));
        let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
        assert_eq!(bits(again.value), bits(metric.value), "{line}");
    }
    let mut offset = 0;
    // Takes a few lines at a time, as a follower of the file does.
    loop {
        let chunk = follow::parse(&data[offset..], offset as u64, 2);
        let next = usize::try_from(chunk.end).expect("within the file");
        assert!(next >= offset && next <= data.len());
        if next == offset {
            break;
        }
        offset = next;
    }
}
