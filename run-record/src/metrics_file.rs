//! `metrics.jsonl`: one line per (key, step); the first wins; a torn tail is cut on reopening.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::number;

/// One value of one metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// Committed steps over the whole run.
    pub step: u64,
    /// The step's epoch, from 0, with its fraction.
    pub epoch: f64,
    /// Samples counted over the whole run.
    pub samples: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// The metric's key, such as `train/loss`.
    pub key: String,
    /// The value; not always finite.
    pub value: f64,
}

impl Metric {
    /// The JSON line, without its newline. JSON has no NaN and no infinity: they are strings.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        let value = number::to_json(self.value);
        json!({
            "step": self.step, "epoch": self.epoch, "samples": self.samples, "time": self.time,
            "key": self.key, "value": value,
        })
        .to_string()
    }

    /// Parses a line.
    #[must_use]
    pub fn from_json_line(line: &str) -> Option<Self> {
        let parsed: Value = serde_json::from_str(line).ok()?;
        let value = match &parsed["value"] {
            Value::String(word) => number::from_word(word)?,
            Value::Number(near) => exact(line, near.as_f64()?),
            _ => return None,
        };
        Some(Self {
            step: parsed["step"].as_u64()?,
            epoch: parsed["epoch"].as_f64()?,
            samples: parsed["samples"].as_u64()?,
            time: parsed["time"].as_f64()?,
            key: parsed["key"].as_str()?.to_owned(),
            value,
        })
    }
}

/// The value to the last bit: `serde_json`'s fast path may miss the last bit, so the original text is parsed again.
/// For a foreign line with fields in another order, `serde_json`'s value is kept.
fn exact(line: &str, near: f64) -> f64 {
    line.rsplit_once("\"value\":")
        .and_then(|(_, text)| text.trim().strip_suffix('}')?.trim().parse::<f64>().ok())
        .filter(|value| (value - near).abs() <= near.abs() * (4.0 * f64::EPSILON))
        .unwrap_or(near)
}

/// Why metrics can't be stored.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A file system operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The path of the file, for display.
        path: String,
        /// The underlying error.
        source: std::io::Error,
    },
    /// A line before the last is not a metric.
    #[error("{path}, line {line}: not a metric ({text:?}); move the file away or mend the line")]
    Line {
        /// The path of the file, for display.
        path: String,
        /// The line's number, from 1.
        line: usize,
        /// The beginning of the line.
        text: String,
    },
}

/// The steps of each key, in order: eight bytes per value, since a long run has millions.
#[derive(Debug, Default)]
struct Known(HashMap<String, Vec<u64>>);

impl Known {
    /// Inserts a value; false if this key already has one at this step.
    fn insert(&mut self, key: &str, step: u64) -> bool {
        let Some(steps) = self.0.get_mut(key) else {
            self.0.insert(key.to_owned(), vec![step]);
            return true;
        };
        match steps.binary_search(&step) {
            Ok(_) => false,
            Err(at) => {
                steps.insert(at, step);
                true
            }
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    path: PathBuf,
    known: Known,
    whole: u64,
    torn: bool,
    /// Values of failed writes, retried before the next ones.
    waiting: Vec<Metric>,
    left_out: u64,
}

/// Maximum number of values that wait for the disk: days of a run, in a few megabytes. Beyond it the oldest are
/// dropped, since the newer ones still show how the run goes.
const WAITING_MAX: usize = 100_000;

impl MetricsFile {
    /// Opens or creates the file, truncates a torn last line and reads the existing keys and steps.
    ///
    /// # Errors
    /// When the file can't be read or written, or a line before the last is not a metric.
    pub fn open(path: &Path) -> Result<Self, MetricsError> {
        let io = |source| MetricsError::Io { path: path.display().to_string(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = whole_lines(&bytes);
        let mut known = Known::default();
        for metric in parse(whole, path)? {
            known.insert(&metric.key, metric.step);
        }
        // Only after every line has proved to be a metric: somebody else's file is never truncated.
        if whole.len() < bytes.len() {
            file.set_len(whole.len() as u64).map_err(io)?;
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            known,
            whole: whole.len() as u64,
            torn: false,
            waiting: Vec::new(),
            left_out: 0,
        })
    }

    /// The number of values that were dropped because too many waited for the disk.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Appends the new values in one write and returns the values written: a step that is replayed after a resume
    /// doesn't count twice.
    ///
    /// # Errors
    /// When the file can't be written. The next call, even one with nothing new, retries the failed values; only once
    /// 100,000 values wait are the oldest [left out](Self::left_out).
    pub fn append(&mut self, metrics: Vec<Metric>) -> Result<Vec<Metric>, MetricsError> {
        let is_fresh = |metric: &Metric| self.known.insert(&metric.key, metric.step);
        let fresh: Vec<Metric> = metrics.into_iter().filter(is_fresh).collect();
        self.waiting.extend(fresh);
        let surplus = self.waiting.len().saturating_sub(WAITING_MAX);
        self.waiting.drain(..surplus);
        self.left_out += surplus as u64;
        if self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        let mut text = String::new();
        for metric in &self.waiting {
            text.push_str(&metric.to_json_line());
            text.push('\n');
        }
        self.write(text.as_bytes())
            .map_err(|source| MetricsError::Io { path: self.path.display().to_string(), source })?;
        Ok(std::mem::take(&mut self.waiting))
    }

    /// Flushes the written values to the disk.
    ///
    /// # Errors
    /// When the sync fails.
    pub fn sync(&self) -> Result<(), MetricsError> {
        let io = |source| MetricsError::Io { path: self.path.display().to_string(), source };
        self.file.sync_data().map_err(io)
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.whole)?;
        }
        self.file.seek(SeekFrom::Start(self.whole))?;
        self.torn = true;
        self.file.write_all(bytes)?;
        self.whole += bytes.len() as u64;
        self.torn = false;
        Ok(())
    }

    /// Reads a whole file, in its order; of several lines with one key and step, the first wins.
    ///
    /// # Errors
    /// When it can't be read or a line before the last is not a metric.
    pub fn read(path: &Path) -> Result<Vec<Metric>, MetricsError> {
        let bytes = std::fs::read(path)
            .map_err(|source| MetricsError::Io { path: path.display().to_string(), source })?;
        let mut metrics = parse(whole_lines(&bytes), path)?;
        let mut named = HashSet::new();
        metrics.retain(|metric| named.insert((metric.step, metric.key.clone())));
        Ok(metrics)
    }
}

/// The bytes up to the last newline: a line without one is torn.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)]
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Metric>, MetricsError> {
    let text = String::from_utf8_lossy(bytes);
    let mut metrics = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let metric = Metric::from_json_line(line).ok_or_else(|| MetricsError::Line {
            path: path.display().to_string(),
            line: index + 1,
            text: line.chars().take(60).collect(),
        })?;
        metrics.push(metric);
    }
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metric(step: u64, key: &str, value: f64) -> Metric {
        Metric { step, epoch: 0.5, samples: step / 2, time: 1.25, key: key.to_owned(), value }
    }

    #[test]
    fn the_first_value_of_a_key_and_step_wins() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path).expect("opened");
        assert_eq!(file.append(vec![metric(1, "a", 1.0), metric(1, "b", 2.0)]).expect("written").len(), 2);
        assert_eq!(file.append(vec![metric(1, "a", 9.0)]).expect("written").len(), 0);
        drop(file);
        let mut file = MetricsFile::open(&path).expect("opened again");
        assert_eq!(file.append(vec![metric(1, "a", 9.0), metric(2, "a", 3.0)]).expect("written").len(), 1);
        let values: Vec<f64> = MetricsFile::read(&path).expect("read").into_iter().map(|m| m.value).collect();
        assert_eq!(values, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_torn_tail_is_cut_and_a_damaged_middle_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path).expect("opened");
        file.append(vec![metric(1, "a", 1.0), metric(2, "a", 2.0)]).expect("written");
        drop(file);
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, &text[..text.len() - 5]).expect("torn");
        let mut file = MetricsFile::open(&path).expect("opened");
        file.append(vec![metric(2, "a", 4.0)]).expect("written");
        let values: Vec<f64> = MetricsFile::read(&path).expect("read").into_iter().map(|m| m.value).collect();
        assert_eq!(values, [1.0, 4.0]);

        std::fs::write(&path, "nonsense\n{}\n").expect("damaged");
        let error = MetricsFile::open(&path).expect_err("no metric").to_string();
        assert!(error.contains("line 1") && error.contains("nonsense"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_no_trace_of_itself() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path).expect("opened");
        file.append(vec![metric(1, "a", 1.0)]).expect("written");
        // As on a full disk: the write failed after part of the line.
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, [&whole[..], b"{\"step\":2,"].concat()).expect("a part");
        file.torn = true;
        file.append(vec![metric(3, "a", 3.0)]).expect("written");
        let steps: Vec<u64> = MetricsFile::read(&path).expect("read").into_iter().map(|m| m.step).collect();
        assert_eq!(steps, [1, 3]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_full_disk_refused_is_written_later() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path).expect("opened");
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let good = std::mem::replace(&mut file.file, full);
        file.append(vec![metric(1, "a", 1.0)]).expect_err("the disk is full");
        file.file = good;
        let written = file.append(vec![metric(1, "a", 9.0), metric(2, "a", 2.0)]).expect("written");
        assert_eq!(bits(&written), bits(&[metric(1, "a", 1.0), metric(2, "a", 2.0)]));
        assert_eq!(bits(&MetricsFile::read(&path).expect("read")), bits(&written));
        assert!(file.append(Vec::new()).expect("nothing waits").is_empty());
        assert_eq!(file.left_out(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_disk_that_stays_full_costs_the_oldest_and_that_is_counted() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut file = MetricsFile::open(&dir.path().join("metrics.jsonl")).expect("opened");
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let good = std::mem::replace(&mut file.file, full);
        let many = |from: u64| (from..from + WAITING_MAX as u64).map(|step| metric(step, "a", 1.0)).collect();
        file.append(many(0)).expect_err("the disk is full");
        assert_eq!(file.left_out(), 0);
        file.append(vec![metric(WAITING_MAX as u64, "a", 1.0)]).expect_err("it is still full");
        assert_eq!(file.left_out(), 1);
        file.file = good;
        let written = file.append(Vec::new()).expect("written");
        assert_eq!((written.len(), written[0].step, file.left_out()), (WAITING_MAX, 1, 1));
    }

    #[test]
    fn a_line_is_as_the_contract_says() {
        let line = metric(12, "train/loss", 0.1).to_json_line();
        assert_eq!(line, r#"{"step":12,"epoch":0.5,"samples":6,"time":1.25,"key":"train/loss","value":0.1}"#);
        for (value, text) in
            [(f64::NAN, "NaN"), (f64::INFINITY, "Infinity"), (f64::NEG_INFINITY, "-Infinity")]
        {
            let line = metric(1, "k", value).to_json_line();
            assert!(line.ends_with(&format!("\"value\":\"{text}\"}}")), "{line}");
            let back = Metric::from_json_line(&line).expect("a metric").value;
            assert!(back == value || (back.is_nan() && value.is_nan()));
        }
        let others = r#"{ "key": "k", "value": 2, "time": 0, "samples": 1, "epoch": 3, "step": 4 }"#;
        assert_eq!(Metric::from_json_line(others).map(|m| (m.step, m.epoch, m.value)), Some((4, 3.0, 2.0)));
    }

    fn any_metric() -> impl Strategy<Value = Metric> {
        // Few keys and steps, so that they collide; values of all bit patterns, except NaN payloads.
        let value = any::<u64>().prop_map(f64::from_bits);
        (0..6u64, "[ab\"\\\\é]{0,2}", value).prop_map(|(step, key, value)| metric(step, &key, value))
    }

    fn bits(metrics: &[Metric]) -> Vec<(u64, String, u64)> {
        let value = |m: &Metric| if m.value.is_nan() { f64::NAN.to_bits() } else { m.value.to_bits() };
        metrics.iter().map(|m| (m.step, m.key.clone(), value(m))).collect()
    }

    proptest! {
        /// For any appended pieces, with a crash that tears the file at any byte between them: reading returns the
        /// first value of each key and step, among the whole lines, to the last bit.
        #[test]
        fn the_file_is_unique_by_key_and_step(
            batches in proptest::collection::vec((proptest::collection::vec(any_metric(), 0..5), 0..200usize), 1..6),
        ) {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let path = dir.path().join("metrics.jsonl");
            let mut expected: Vec<(Metric, usize)> = Vec::new();
            for (batch, torn) in batches {
                let mut file = MetricsFile::open(&path).expect("opened");
                let fresh = file.append(batch.clone()).expect("written");
                let mut wanted = Vec::new();
                for new in batch {
                    let names = |m: &Metric| m.key == new.key && m.step == new.step;
                    if !expected.iter().any(|(m, _)| names(m)) && !wanted.iter().any(names) {
                        wanted.push(new);
                    }
                }
                prop_assert_eq!(bits(&fresh), bits(&wanted));
                let mut end = expected.last().map_or(0, |(_, end)| *end);
                for new in wanted {
                    end += new.to_json_line().len() + 1;
                    expected.push((new, end));
                }
                prop_assert_eq!(std::fs::metadata(&path).expect("there").len(), end as u64);
                let left = end.saturating_sub(torn);
                drop(file);
                std::fs::File::options().write(true).open(&path).expect("opened").set_len(left as u64).expect("torn");
                expected.retain(|(_, end)| *end <= left);
                let read = MetricsFile::read(&path).expect("read");
                let kept: Vec<Metric> = expected.iter().map(|(m, _)| m.clone()).collect();
                prop_assert_eq!(bits(&read), bits(&kept));
            }
        }

        #[test]
        fn lines_round_trip_to_the_last_bit(step: u64, key in "\\PC{0,20}", value: u64) {
            let wanted = metric(step, &key, f64::from_bits(value));
            let line = wanted.to_json_line();
            prop_assert!(!line.contains('\n'));
            let back = Metric::from_json_line(&line).expect("a metric");
            prop_assert_eq!(bits(&[back]), bits(&[wanted]));
        }

        #[test]
        fn any_line_is_read_or_refused(line in "\\PC{0,80}") {
            let _ = Metric::from_json_line(&line);
        }

        #[test]
        fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let path = dir.path().join("metrics.jsonl");
            std::fs::write(&path, &bytes).expect("written");
            let _ = MetricsFile::read(&path);
            let _ = MetricsFile::open(&path);
        }
    }
}
