//! Reads a metrics file while another process appends to it: takes an offset, returns whole lines and the new offset.
//!
//! Nothing is held between two reads, so a caller that stores the offset can continue after any crash.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::Metric;

/// Bytes per read: a few thousand lines. A longer line is not a metric.
const CHUNK_BYTES: usize = 256 << 10;

/// Characters of a bad line that are quoted in a message.
const SHOWN_CHARS: usize = 60;

/// The most bytes that these characters can occupy in UTF-8.
const SHOWN_BYTES: usize = 4 * SHOWN_CHARS;

/// A metric and its line's position in the file.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset after its newline.
    pub end: u64,
    /// The metric that it holds.
    pub metric: Metric,
}

/// A whole line that is not a metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// Offset of its first byte.
    pub start: u64,
    /// The beginning of the line.
    pub text: String,
}

/// The result of one read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Chunk {
    /// The metrics, in the file's order.
    pub lines: Vec<Line>,
    /// Lines that were skipped.
    pub bad: Vec<BadLine>,
    /// Where to continue: after the last whole line that was parsed, or inside an overlong one.
    pub end: u64,
    /// Whether the file may already hold more lines.
    pub is_more: bool,
}

/// Why a file can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A file system operation failed.
    #[error("{path}, offset {offset}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Where the read began.
        offset: u64,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The file is shorter than the part already read: a machine lost unsynced data, or somebody truncated the file.
    #[error("{path} has {length} bytes, and {offset} of it were read before: it was cut or replaced")]
    Cut {
        /// The file.
        path: String,
        /// The offset already read.
        offset: u64,
        /// The file's length.
        length: u64,
    },
}

/// Reads at most `lines_max` whole lines from `offset` on. A missing file has none. A line of more than 256 KiB counts
/// as bad as soon as that much of it has been written; further reads skip the rest of it.
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
    let is_line_begun = offset > 0 && {
        let mut before = [0];
        file.seek(SeekFrom::Start(offset - 1)).and_then(|_| file.read_exact(&mut before)).map_err(io)?;
        before != *b"\n"
    };
    let mut bytes = Vec::with_capacity(CHUNK_BYTES.min((length - offset) as usize));
    file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes).map_err(io)?;
    let is_more = bytes.len() == CHUNK_BYTES;
    let newline = bytes.iter().position(|byte| *byte == b'\n');
    let passed_over = match newline {
        // The rest of an overlong line.
        Some(newline) if is_line_begun => newline + 1,
        None if is_line_begun || is_more => bytes.len(),
        _ => 0,
    };
    let mut chunk = parse(&bytes[passed_over..], offset + passed_over as u64, lines_max);
    if !is_line_begun && passed_over > 0 {
        let text = String::from_utf8_lossy(&bytes[..SHOWN_BYTES]).chars().take(SHOWN_CHARS).collect();
        chunk.bad.push(BadLine { start: offset, text });
    }
    Ok(Chunk { is_more: chunk.is_more || is_more, ..chunk })
}

/// Parses the whole lines in `bytes`, which begin at `offset` in the file: at most `lines_max`, bad ones included.
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

        let long = "x".repeat(CHUNK_BYTES - 1);
        std::fs::write(&path, format!("{}{long}", line(1))).expect("written");
        let first = read(&path, 0, 10).expect("read");
        assert_eq!(steps(&first), [1]);
        let waits = read(&path, first.end, 10).expect("read");
        assert_eq!((waits.end, waits.bad.len(), waits.is_more), (first.end, 0, false));
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_once_and_piece_by_piece() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("metrics.jsonl");
        let mut file = File::create(&path).expect("created");
        let begin = line(1).len() as u64;
        // The overlong line ends in text that would be a metric at the start of a line.
        let endless = "x".repeat(3 * CHUNK_BYTES - line(7).len() + 1) + line(7).trim_end();
        file.write_all(format!("{}{endless}", line(1)).as_bytes()).expect("written");
        let first = read(&path, 0, 10).expect("read");
        assert_eq!((steps(&first), first.end, first.is_more), (vec![1], begin, true));
        let (mut offset, mut bad) = (first.end, Vec::new());
        for number in 1..=3 {
            let piece = read(&path, offset, 10).expect("read");
            assert!(piece.lines.is_empty() && piece.end == begin + number * CHUNK_BYTES as u64, "{piece:?}");
            (offset, bad) = (piece.end, [bad, piece.bad].concat());
        }
        assert_eq!(bad, [BadLine { start: begin, text: "x".repeat(SHOWN_CHARS) }]);
        let waits = read(&path, offset, 10).expect("read");
        assert_eq!((waits.end, waits.bad.len(), waits.is_more), (offset, 0, false));
        file.write_all(format!("\n{}", line(2)).as_bytes()).expect("written");
        let next = read(&path, offset, 10).expect("read");
        assert_eq!((steps(&next), next.bad.len()), (vec![2], 0));
    }

    proptest! {
        /// For any appended pieces and any read sizes: each whole line is seen once, in order, and the offsets are
        /// those of the lines.
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
