//! `metrics.jsonl`: one line per (key, step); the first wins; a torn tail is cut on reopening.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// One value of one metric.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// Commits over the whole run.
    pub step: u64,
    /// The step's epoch, from 0, with its fraction.
    pub epoch: f64,
    /// Samples counted over the whole run.
    pub samples: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// Such as `train/loss`.
    pub key: String,
    /// The value; not always finite.
    pub value: f64,
}

impl Metric {
    /// The line, without its newline. JSON has no NaN and no infinity: they are strings.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        let value = match self.value {
            v if v.is_nan() => json!("NaN"),
            v if v.is_infinite() => json!(if v > 0.0 { "Infinity" } else { "-Infinity" }),
            v => json!(v),
        };
        json!({
            "step": self.step, "epoch": self.epoch, "samples": self.samples, "time": self.time,
            "key": self.key, "value": value,
        })
        .to_string()
    }

    /// Reads a line.
    #[must_use]
    pub fn from_json_line(line: &str) -> Option<Self> {
        let parsed: Value = serde_json::from_str(line).ok()?;
        let value = match &parsed["value"] {
            Value::String(word) => match word.as_str() {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                "-Infinity" => f64::NEG_INFINITY,
                _ => return None,
            },
            number => number.as_f64()?,
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

/// Why metrics can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// A line in the middle is no metric.
    #[error("{path}, line {line}: not a metric ({text:?}); move the file away or mend the line")]
    Line {
        /// The file.
        path: String,
        /// Its line, from 1.
        line: usize,
        /// The line's beginning.
        text: String,
    },
}

/// The open file.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    path: PathBuf,
    known: HashSet<(u64, String)>,
    whole: u64,
    torn: bool,
}

impl MetricsFile {
    /// Opens or creates the file, cuts off a torn last line and takes note of what is there.
    ///
    /// # Errors
    /// When the file can't be read or written, or a line in the middle is no metric.
    pub fn open(path: &Path) -> Result<Self, MetricsError> {
        let io = |source| MetricsError::Io { path: path.display().to_string(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let known =
            parse(&bytes[..whole], path)?.into_iter().map(|metric| (metric.step, metric.key)).collect();
        let torn = whole < bytes.len();
        Ok(Self { file, path: path.to_owned(), known, whole: whole as u64, torn })
    }

    /// Appends those that are new, in one write, and returns them: a step that is replayed after a resume doesn't
    /// count twice.
    ///
    /// # Errors
    /// When the file can't be written; the next call writes over what a failed one left behind.
    pub fn append(&mut self, metrics: Vec<Metric>) -> Result<Vec<Metric>, MetricsError> {
        let fresh: Vec<Metric> =
            metrics.into_iter().filter(|m| !self.known.contains(&(m.step, m.key.clone()))).collect();
        if fresh.is_empty() {
            return Ok(fresh);
        }
        let mut text = String::new();
        for metric in &fresh {
            text.push_str(&metric.to_json_line());
            text.push('\n');
        }
        self.write(text.as_bytes())
            .map_err(|source| MetricsError::Io { path: self.path.display().to_string(), source })?;
        self.known.extend(fresh.iter().map(|metric| (metric.step, metric.key.clone())));
        Ok(fresh)
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

    /// Reads a whole file: (key, step) is unique in it.
    ///
    /// # Errors
    /// When it can't be read or a line in the middle is no metric.
    pub fn read(path: &Path) -> Result<Vec<Metric>, MetricsError> {
        let bytes = std::fs::read(path)
            .map_err(|source| MetricsError::Io { path: path.display().to_string(), source })?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        parse(&bytes[..whole], path)
    }
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

    proptest! {
        #[test]
        fn lines_round_trip(step: u64, key in "\\PC{0,20}", value in -1e300..1e300f64) {
            let line = metric(step, &key, value).to_json_line();
            let back = Metric::from_json_line(&line).expect("a metric");
            prop_assert_eq!(back.step, step);
            prop_assert_eq!(back.key, key);
            // Numbers are written exactly; reading them may be off by the last bit.
            let close = (back.value - value).abs() <= value.abs() * 1e-15;
            prop_assert!(close || back.value == value || (back.value.is_nan() && value.is_nan()));
        }

        #[test]
        fn any_line_is_read_or_refused(line in "\\PC{0,80}") {
            let _ = Metric::from_json_line(&line);
        }
    }
}
