//! Reading a file of metrics while somebody else appends to it: offset in, whole lines and a new offset out.
//!
//! Nothing is held between two reads, so whoever keeps the offset can go on after any crash.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::Metric;

/// Bytes that are read at once: a few thousand lines.
const CHUNK_BYTES: usize = 256 << 10;

/// Characters of a bad line that are repeated in a message.
const SHOWN_CHARS: usize = 60;

/// A metric and where its line stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its newline.
    pub end: u64,
    /// What it says.
    pub metric: Metric,
}

/// A whole line that is no metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// Offset of its first byte.
    pub start: u64,
    /// Its beginning.
    pub text: String,
}

/// What a read found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Chunk {
    /// The metrics, in the file's order.
    pub lines: Vec<Line>,
    /// What was passed over.
    pub bad: Vec<BadLine>,
    /// Where to go on: behind the last whole line that was looked at.
    pub end: u64,
    /// Whether more may be there already.
    pub is_more: bool,
}

/// Why a file can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The file system said no.
    #[error("{path}, offset {offset}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Where.
        offset: u64,
        /// What it said.
        source: std::io::Error,
    },
    /// The file is shorter than what was read of it: a machine lost what its disk had not yet, or somebody cut it.
    #[error("{path} has {length} bytes, and {offset} of it were read before: it was cut or replaced")]
    Cut {
        /// The file.
        path: String,
        /// What was read before.
        offset: u64,
        /// What is there.
        length: u64,
    },
}

/// Reads at most `lines_max` whole lines from `offset` on. A file that is not there yet has none.
///
/// # Errors
/// When the file can't be read, or is shorter than the offset.
pub fn read(path: &Path, offset: u64, lines_max: usize) -> Result<Chunk, FollowError> {
    let name = || path.display().to_string();
    let io = |source| FollowError::Io { path: name(), offset, source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == ErrorKind::NotFound && offset == 0 => return Ok(Chunk::default()),
        Err(why) if why.kind() == ErrorKind::NotFound => {
            return Err(FollowError::Cut { path: name(), offset, length: 0 });
        }
        Err(why) => return Err(io(why)),
    };
    let length = file.metadata().map_err(io)?.len();
    if length < offset {
        return Err(FollowError::Cut { path: name(), offset, length });
    }
    file.seek(SeekFrom::Start(offset)).map_err(io)?;
    let mut bytes = Vec::with_capacity(CHUNK_BYTES.min((length - offset) as usize));
    let mut budget = CHUNK_BYTES as u64;
    loop {
        let taken = (&mut file).take(budget).read_to_end(&mut bytes).map_err(io)?;
        let is_full = taken as u64 == budget;
        if !is_full || bytes.contains(&b'\n') {
            let chunk = parse(&bytes, offset, lines_max);
            return Ok(Chunk { is_more: chunk.is_more || is_full, ..chunk });
        }
        // One line that is longer than a chunk.
        budget = bytes.len() as u64;
    }
}

/// The whole lines in a file's bytes, of which the first stands at `offset`: at most `lines_max`, bad ones included.
#[must_use]
pub fn parse(bytes: &[u8], offset: u64, lines_max: usize) -> Chunk {
    let mut chunk = Chunk { end: offset, ..Chunk::default() };
    for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        if chunk.lines.len() + chunk.bad.len() == lines_max {
            chunk.is_more = true;
            break;
        }
        let (start, end) = (chunk.end, chunk.end + line.len() as u64);
        let text = String::from_utf8_lossy(&line[..line.len() - 1]);
        match Metric::from_json_line(&text) {
            Some(metric) => chunk.lines.push(Line { start, end, metric }),
            None => chunk.bad.push(BadLine { start, text: text.chars().take(SHOWN_CHARS).collect() }),
        }
        chunk.end = end;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn line(step: u64) -> String {
        let metric = Metric { step, epoch: 0.5, samples: 1, time: 2.0, key: "k".into(), value: 1.5 };
        metric.to_json_line() + "\n"
    }

    fn steps(chunk: &Chunk) -> Vec<u64> {
        chunk.lines.iter().map(|line| line.metric.step).collect()
    }

    #[test]
    fn a_torn_line_waits_and_a_bad_one_is_named_with_its_offset() {
        let text = format!("{}nonsense\n{}{}", line(1), line(2), &line(3)[..9]);
        let chunk = parse(text.as_bytes(), 100, 10);
        assert_eq!(steps(&chunk), [1, 2]);
        let bad_at = 100 + line(1).len() as u64;
        assert_eq!(chunk.bad, [BadLine { start: bad_at, text: "nonsense".into() }]);
        assert_eq!(chunk.end, 100 + text.len() as u64 - 9);
        assert_eq!(chunk.lines[1].start, bad_at + 9);
        assert!(!chunk.is_more);
    }

    #[test]
    fn files_that_are_absent_cut_or_have_endless_lines() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("metrics.jsonl");
        assert_eq!(read(&path, 0, 10).expect("nothing yet"), Chunk::default());
        assert!(matches!(read(&path, 5, 10), Err(FollowError::Cut { length: 0, .. })));
        std::fs::write(&path, line(1)).expect("written");
        let cut = read(&path, 1000, 10).expect_err("cut").to_string();
        assert!(cut.contains("metrics.jsonl") && cut.contains("1000"), "{cut}");

        let endless = "x".repeat(3 * CHUNK_BYTES);
        std::fs::write(&path, format!("{}{endless}", line(1))).expect("written");
        let first = read(&path, 0, 10).expect("read");
        assert_eq!(steps(&first), [1]);
        let waits = read(&path, first.end, 10).expect("read");
        assert_eq!((waits.end, waits.bad.len(), waits.is_more), (first.end, 0, false));
        std::fs::write(&path, format!("{}{endless}\n{}", line(1), line(2))).expect("written");
        let whole = read(&path, first.end, 10).expect("read");
        assert_eq!((whole.bad.len(), steps(&whole)), (1, vec![2]));
    }

    proptest! {
        /// Whatever is appended in whatever pieces and read in whatever portions: each whole line is seen once, in
        /// order, and offsets are those of the lines.
        #[test]
        fn every_line_is_seen_once(
            lines in proptest::collection::vec(prop_oneof![3 => (0..99u64).prop_map(Some), 1 => Just(None)], 0..30),
            cuts in proptest::collection::vec(0..4000usize, 0..8),
            lines_max in 1..7usize,
        ) {
            let text: String = lines.iter().map(|step| step.map_or_else(|| "{bad}\n".to_owned(), line)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("m");
            let mut file = File::create(&path).expect("created");
            let (mut offset, mut written) = (0, 0);
            let (mut seen, mut bad) = (Vec::new(), 0);
            for cut in cuts {
                file.write_all(&text.as_bytes()[written..cut]).expect("written");
                written = cut;
                loop {
                    let chunk = read(&path, offset, lines_max).expect("read");
                    prop_assert!(chunk.end >= offset && chunk.end <= cut as u64);
                    prop_assert!(chunk.lines.len() + chunk.bad.len() <= lines_max);
                    for line in &chunk.lines {
                        let bytes = &text.as_bytes()[line.start as usize..line.end as usize];
                        prop_assert_eq!(bytes.last(), Some(&b'\n'));
                        let written = line.metric.to_json_line();
                        prop_assert_eq!(written.as_bytes(), &bytes[..bytes.len() - 1]);
                    }
                    seen.extend(steps(&chunk));
                    bad += chunk.bad.len();
                    offset = chunk.end;
                    if !chunk.is_more {
                        break;
                    }
                }
            }
            prop_assert_eq!(seen, lines.iter().flatten().copied().collect::<Vec<_>>());
            prop_assert_eq!(bad, lines.iter().filter(|step| step.is_none()).count());
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), offset in 0..1u64 << 40) {
            let chunk = parse(&bytes, offset, 5);
            prop_assert!(chunk.end - offset <= bytes.len() as u64);
        }
    }
}
