//! `system.jsonl`: lines as in `metrics.jsonl`, except that `step` counts readings, as in MLflow's system metrics.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use run_record::{Metric, MetricsError};

/// The run's progress when a reading was taken.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ReadingContext {
    /// The run's epoch, from 0, with its fraction.
    pub epoch: f64,
    /// Samples counted.
    pub samples: u64,
    /// Seconds since 1970.
    pub time: f64,
}

/// The open file. It keeps nothing it wrote in memory: readings go on for as long as the run does.
#[derive(Debug)]
pub struct SystemFile {
    file: File,
    path: PathBuf,
    whole: u64,
    torn: bool,
    next: u64,
}

impl SystemFile {
    /// The file's name in a run's directory.
    pub const FILE: &str = "system.jsonl";

    /// Opens or creates the file, truncates a torn last line, and continues counting.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn open(path: &Path) -> Result<Self, MetricsError> {
        let io = |source| MetricsError::Io { path: path.display().to_string(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(io)?;
        }
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let last = text.lines().rev().find_map(Metric::from_json_line);
        let next = last.map_or(1, |metric| metric.step + 1);
        Ok(Self { file, path: path.to_owned(), whole: whole as u64, torn: false, next })
    }

    /// Appends a reading, in one write.
    ///
    /// # Errors
    /// When the file can't be written; the next call overwrites the remains of a failed one.
    pub fn append(&mut self, at: ReadingContext, values: Vec<(String, f64)>) -> Result<(), MetricsError> {
        if values.is_empty() {
            return Ok(());
        }
        let ReadingContext { epoch, samples, time } = at;
        let mut text = String::new();
        for (key, value) in values {
            text.push_str(&Metric { step: self.next, epoch, samples, time, key, value }.to_json_line());
            text.push('\n');
        }
        self.write(text.as_bytes())
            .map_err(|source| MetricsError::Io { path: self.path.display().to_string(), source })?;
        self.next += 1;
        Ok(())
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use run_record::MetricsFile;

    #[test]
    fn readings_are_counted_on_after_a_torn_end() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(SystemFile::FILE);
        let values = |value| vec![("system/a".to_owned(), value), ("system/b".to_owned(), 2.0)];
        let mut file = SystemFile::open(&path).expect("opened");
        file.append(ReadingContext::default(), values(1.0)).expect("written");
        file.append(ReadingContext::default(), Vec::new()).expect("nothing to write");
        file.append(ReadingContext { epoch: 0.5, samples: 9, time: 3.0 }, values(2.0)).expect("written");
        drop(file);
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(&path, &text[..text.len() - 5]).expect("torn");
        let mut file = SystemFile::open(&path).expect("opened again");
        file.append(ReadingContext::default(), values(3.0)).expect("written");
        let read = MetricsFile::read(&path).expect("the lines of metrics.jsonl");
        let found: Vec<(u64, &str, f64)> = read.iter().map(|m| (m.step, m.key.as_str(), m.value)).collect();
        let expected = [
            (1, "system/a", 1.0),
            (1, "system/b", 2.0),
            (2, "system/a", 2.0),
            (3, "system/a", 3.0),
            (3, "system/b", 2.0),
        ];
        assert_eq!(found, expected);
        assert_eq!((read[2].epoch, read[2].samples, read[2].time), (0.5, 9, 3.0));
    }
}
