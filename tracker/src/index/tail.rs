//! Follows files that grow by whole lines from the last read position.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Bytes per read.
const CHUNK: usize = 8 << 20;

/// Maximum bytes of a line; Bonfire writes no longer one.
const LINE_MAX: usize = 64 << 20;

/// Bytes at the beginning and before the read position whose checksums detect a replaced file.
const SAMPLE: u64 = 256;

/// A file's read position, with enough to detect that the file was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mark {
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) mtime: i64,
    /// Read position: the end of a line.
    pub(super) offset: u64,
    /// CRC-32 of the first 256 bytes before the offset.
    pub(super) head: u32,
    /// CRC-32 of the last 256 bytes before the offset.
    pub(super) tail: u32,
    /// The number of invalid lines.
    pub(super) damaged: u64,
}

/// The change of a file since its mark.
pub(super) enum FileChange {
    Absent,
    Same,
    /// It was truncated or replaced: everything read from it is invalid.
    Replaced,
    /// Whole lines after the offset, and the mark after them. There may be more.
    Grown(Vec<u8>, Mark),
}

/// A file's inode, size and modification time, without opening it; `None` if it doesn't exist.
pub(super) fn look(path: &Path) -> std::io::Result<Option<(u64, u64, i64)>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(identity(&found))),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(why) => Err(why),
    }
}

fn identity(found: &std::fs::Metadata) -> (u64, u64, i64) {
    let mtime = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
    (found.ino(), found.len(), mtime)
}

/// Continues reading at the mark.
pub(super) fn follow(path: &Path, mark: &Mark) -> std::io::Result<FileChange> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(FileChange::Absent),
        Err(why) => return Err(why),
    };
    let (inode, size, mtime) = identity(&file.metadata()?);
    let is_same = (inode, size, mtime) == (mark.inode, mark.size, mark.mtime);
    if is_same && mark.offset == size {
        return Ok(FileChange::Same);
    }
    if mark.inode != 0
        && (inode != mark.inode
            || size < mark.offset
            || samples(&file, mark.offset)? != (mark.head, mark.tail))
    {
        return Ok(FileChange::Replaced);
    }
    let lines = whole_lines(&file, mark.offset, size)?;
    if lines.is_empty() && is_same {
        return Ok(FileChange::Same);
    }
    let offset = mark.offset + lines.len() as u64;
    let (head, tail) = samples(&file, offset)?;
    Ok(FileChange::Grown(lines, Mark { inode, size, mtime, offset, head, tail, damaged: mark.damaged }))
}

/// Reads from the offset to the last newline of the next chunk; a chunk without one is extended.
fn whole_lines(file: &File, offset: u64, size: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while offset + (bytes.len() as u64) < size && bytes.len() < LINE_MAX {
        let begin = bytes.len();
        let wanted = (size - offset - begin as u64).min(CHUNK as u64) as usize;
        bytes.resize(begin + wanted, 0);
        let read = read_at(file, &mut bytes[begin..], offset + begin as u64)?;
        bytes.truncate(begin + read);
        if let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') {
            bytes.truncate(last + 1);
            return Ok(bytes);
        }
        if read == 0 {
            break;
        }
    }
    if bytes.len() >= LINE_MAX {
        // Too long for any writer's line: skipped as a damaged one, piece by piece.
        return Ok(bytes);
    }
    Ok(Vec::new())
}

fn read_at(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(read)
}

fn samples(file: &File, offset: u64) -> std::io::Result<(u32, u32)> {
    let length = offset.min(SAMPLE);
    let mut bytes = vec![0; length as usize];
    let read = read_at(file, &mut bytes, 0)?;
    let head = crc32fast::hash(&bytes[..read]);
    let read = read_at(file, &mut bytes, offset - length)?;
    Ok((head, crc32fast::hash(&bytes[..read])))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn all(path: &Path, mark: &mut Mark) -> String {
        let mut read = String::new();
        loop {
            match follow(path, mark).expect("followed") {
                FileChange::Grown(bytes, next) => {
                    let is_end = bytes.is_empty();
                    read.push_str(&String::from_utf8_lossy(&bytes));
                    *mark = next;
                    if is_end {
                        return read;
                    }
                }
                FileChange::Same => return read,
                FileChange::Absent => return "absent".into(),
                FileChange::Replaced => return "replaced".into(),
            }
        }
    }

    #[test]
    fn only_whole_lines_are_read_and_each_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        let mut mark = Mark::default();
        assert_eq!(all(&path, &mut mark), "absent");
        std::fs::write(&path, "one\ntw").expect("written");
        assert_eq!(all(&path, &mut mark), "one\n");
        assert_eq!(all(&path, &mut mark), "");
        let mut file = File::options().append(true).open(&path).expect("opened");
        file.write_all(b"o\nthree\n").expect("written");
        assert_eq!(all(&path, &mut mark), "two\nthree\n");
        assert!(matches!(follow(&path, &mark), Ok(FileChange::Same)));
    }

    #[test]
    fn a_cut_a_changed_and_a_replaced_file_are_noticed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("f");
        let mut mark = Mark::default();
        std::fs::write(&path, "one\ntwo\n").expect("written");
        all(&path, &mut mark);
        for (content, what) in
            [("one\n", "cut"), ("one\ntwx\nthree\n", "changed"), ("One\ntwo\nthree\n", "changed")]
        {
            std::fs::write(&path, content).expect("written");
            assert_eq!(all(&path, &mut mark), "replaced", "{what}");
        }
        std::fs::write(dir.path().join("g"), "one\ntwo\n").expect("written");
        std::fs::rename(dir.path().join("g"), &path).expect("renamed");
        assert_eq!(all(&path, &mut mark), "replaced");
    }

    proptest! {
        /// However the file grows, its whole lines are read once and in order.
        #[test]
        fn reading_is_incremental(pieces in proptest::collection::vec("[ab\\n]{0,12}", 0..12)) {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let path = dir.path().join("f");
            let (mut mark, mut read, mut whole) = (Mark::default(), String::new(), String::new());
            for piece in pieces {
                let mut file = File::options().append(true).create(true).open(&path).expect("opened");
                file.write_all(piece.as_bytes()).expect("written");
                whole.push_str(&piece);
                read.push_str(&all(&path, &mut mark));
                let end = whole.rfind('\n').map_or(0, |at| at + 1);
                prop_assert_eq!(&read, &whole[..end]);
            }
        }
    }
}
