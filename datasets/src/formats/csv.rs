//! Reads a csv file row by row as text; errors give the line number.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use csv::StringRecord;

use crate::digest::{Digests, Hashed};
use crate::error::DataError;
use crate::format::Skipped;
use crate::memory_budget::{MemoryBudget, OverBudget};
use crate::quote::quoted;

/// Maximum number of columns: guards against files that aren't csv.
const COLUMNS_MAX: usize = 100_000;
/// Size of the buffer between file and parser, in bytes.
const BUFFER_BYTES: usize = 1 << 16;

/// Memory of a row while it is read, in multiples of its length: the record doubles as it grows, next to its old copy.
const ROW_TIMES: u64 = 4;
/// Memory of a column in addition to its name: its place in a row and its inferred properties.
const COLUMN_BYTES: u64 = 512;
/// Maximum number of skipped lines listed in a data plan.
const SKIPPED_LISTED_MAX: usize = 100;

/// csv dialect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) delimiter: char,
    pub(crate) header: bool,
}

/// What to do at a row with the wrong number of fields or invalid UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnRagged {
    Stop,
    Skip,
}

/// A csv file being read. Whitespace around fields is ignored, quoted or not; empty lines are skipped.
pub(crate) struct CsvTable {
    path: PathBuf,
    reader: csv::Reader<LimitedFile>,
    /// Maximum length of a row in bytes, given the memory budget.
    row_max: u64,
    memory: MemoryBudget,
    names: Vec<String>,
    record: StringRecord,
    /// Whether `record` holds a row that was read early because there is no header.
    is_ahead: bool,
    rows: u64,
    on_ragged: OnRagged,
    /// Number of skipped rows, and the byte offsets of the first of them.
    left_out: u64,
    left_out_at: Vec<u64>,
}

impl CsvTable {
    /// Opens a table and reads its first line: the header, or the first row if there is none.
    pub(crate) fn open(
        path: &Path,
        form: Layout,
        on_ragged: OnRagged,
        memory: &MemoryBudget,
    ) -> Result<Self, DataError> {
        let file = || path.display().to_string();
        let Some(delimiter) = u8::try_from(form.delimiter).ok().filter(|byte| is_delimiter(*byte)) else {
            let problem = format!(
                "dataset.delimiter = {:?}: expected one ASCII character, no quote and no end of line",
                form.delimiter
            );
            return Err(DataError::File { file: file(), problem });
        };
        let opened = File::open(path).map_err(|source| DataError::Io { file: file(), source })?;
        let reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(LimitedFile { inner: Hashed::new(opened), left: 0 });
        let record = StringRecord::new();
        let mut table = Self {
            path: path.to_owned(),
            reader,
            row_max: memory.left() / ROW_TIMES,
            memory: memory.clone(),
            names: Vec::new(),
            record,
            is_ahead: false,
            rows: 0,
            on_ragged,
            left_out: 0,
            left_out_at: Vec::new(),
        };
        if !table.read_record().map_err(|why| table.unreadable(why))? {
            return Err(DataError::File { file: file(), problem: "the file is empty".to_owned() });
        }
        table.names = table.first_line(form.header)?;
        let names: u64 = table.names.iter().map(|name| name.len() as u64 + COLUMN_BYTES).sum();
        memory.hold(names).map_err(|why| why.of(path))?;
        table.is_ahead = !form.header;
        Ok(table)
    }

    /// Column names from the header, or c0, c1, ...
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Advances to the next row; false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool, DataError> {
        loop {
            let read = if std::mem::take(&mut self.is_ahead) { Ok(true) } else { self.read_record() };
            let may_skip = self.on_ragged == OnRagged::Skip;
            // Look up the line number only for rows that are errors: it takes another pass over the file.
            let place = match read {
                Ok(false) => return Ok(false),
                Ok(true) if self.record.len() == self.names.len() => break,
                Ok(true) if may_skip => self.place(),
                Ok(true) => return Err(self.ragged()),
                Err(why) if may_skip && matches!(why.kind(), csv::ErrorKind::Utf8 { .. }) => place_of(&why),
                Err(why) => return Err(self.unreadable(why)),
            };
            self.left_out += 1;
            if self.left_out_at.len() < SKIPPED_LISTED_MAX {
                self.left_out_at.push(place);
            }
        }
        self.rows += 1;
        Ok(true)
    }

    fn ragged(&self) -> DataError {
        // An unclosed quote swallows what follows, newlines included.
        let swallowed = self.record.iter().any(|field| field.contains('\n'));
        let way_out = if swallowed { ": is a quote left open?" } else { "" };
        let (found, expected) = (fields(self.record.len()), self.names.len());
        self.error(format!("{found} where the table has {expected} columns{way_out}"))
    }

    /// The rows skipped so far.
    pub(crate) fn skipped(&self) -> Skipped {
        let line = |place: &u64| line_at(&self.path, *place).map(|line| format!("line {line}")).ok();
        Skipped { count: self.left_out, listed: self.left_out_at.iter().filter_map(line).collect() }
    }

    /// A trimmed field of the current row.
    pub(crate) fn field(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default().trim()
    }

    /// Byte offset of the current row, for [`CsvTable::error_at`].
    pub(crate) fn place(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::byte)
    }

    /// An error in the current row.
    pub(crate) fn error(&self, problem: String) -> DataError {
        self.error_at(self.place(), problem)
    }

    /// An error in the row at byte offset `place`.
    pub(crate) fn error_at(&self, place: u64, problem: String) -> DataError {
        line_error(&self.path, place, problem)
    }

    /// Number of rows read, and the digests of the file. Call it after the last row.
    pub(crate) fn finish(self) -> Result<(u64, Digests), DataError> {
        if self.rows == 0 {
            let file = self.path.display().to_string();
            let problem = "the table has a first line and no rows".to_owned();
            return Err(DataError::File { file, problem });
        }
        Ok((self.rows, self.reader.into_inner().inner.digests()))
    }

    fn read_record(&mut self) -> Result<bool, csv::Error> {
        // Memory kept for earlier rows is not available to this one.
        self.row_max = self.memory.left() / ROW_TIMES;
        self.reader.get_mut().left = self.row_max.max(BUFFER_BYTES as u64);
        self.reader.read_record(&mut self.record)
    }

    fn unreadable(&self, why: csv::Error) -> DataError {
        let place = place_of(&why);
        let problem = match why.kind() {
            csv::ErrorKind::Utf8 { err, .. } => match self.names.get(err.field()) {
                Some(name) => format!("column {} is not UTF-8 here", quoted(name)),
                None => format!("field {} is not UTF-8", err.field() + 1),
            },
            _ => why.to_string(),
        };
        match why.into_kind() {
            csv::ErrorKind::Io(source) if source.kind() == std::io::ErrorKind::FileTooLarge => {
                // A lower bound: the end of the row is unknown.
                let takes = self.row_max.saturating_add(1).saturating_mul(ROW_TIMES);
                let takes = takes.saturating_add(self.memory.limit() - self.memory.left());
                self.too_long(OverBudget { takes, limit: self.memory.limit() })
            }
            csv::ErrorKind::Io(source) => DataError::Io { file: self.path.display().to_string(), source },
            _ => self.error_at(place, problem),
        }
    }

    /// An error for an overlong row: usually an unclosed quote, or a file in another format.
    fn too_long(&self, why: OverBudget) -> DataError {
        let line = line_at(&self.path, self.place()).unwrap_or(1);
        let file = format!(
            "{}, line {line} (a row of more than {} bytes: is a quote left open?)",
            self.path.display(),
            self.row_max
        );
        DataError::Memory { file, takes: why.takes, limit: why.limit }
    }

    fn first_line(&self, header: bool) -> Result<Vec<String>, DataError> {
        let count = self.record.len();
        if count > COLUMNS_MAX {
            return Err(self.error(format!("{count} columns, at most {COLUMNS_MAX} are read")));
        }
        if !header {
            return Ok((0..count).map(|index| format!("c{index}")).collect());
        }
        let mut seen = BTreeSet::new();
        for (index, name) in self.record.iter().map(str::trim).enumerate() {
            if name.is_empty() {
                let problem =
                    format!("column {} has no name (dataset.header = false if it is a row)", index + 1);
                return Err(self.error(problem));
            }
            if !seen.insert(name) {
                return Err(self.error(format!("two columns are named {}", quoted(name))));
            }
        }
        Ok(self.record.iter().map(|name| name.trim().to_owned()).collect())
    }
}

/// A file that limits the bytes read at a time: the parser buffers whole rows, however long.
struct LimitedFile {
    inner: Hashed<File>,
    left: u64,
}

impl Read for LimitedFile {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let read = self.inner.read(into)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

fn place_of(why: &csv::Error) -> u64 {
    why.position().map_or(0, csv::Position::byte)
}

fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0)
}

fn fields(count: usize) -> String {
    if count == 1 { "1 field".to_owned() } else { format!("{count} fields") }
}

/// An error in the row that begins at byte offset `place`.
pub(crate) fn line_error(path: &Path, place: u64, problem: String) -> DataError {
    let file = path.display().to_string();
    match line_at(path, place) {
        Ok(line) => DataError::Line { file, line, problem },
        // The file is gone by now: report the problem without the line.
        Err(_) => DataError::File { file, problem },
    }
}

/// Line number, from 1, of the first record at or after a byte offset. Counted anew on demand: the parser counts before
/// the newlines it skips, so its number is wrong after empty lines and in every file with CRLF.
fn line_at(path: &Path, place: u64) -> std::io::Result<u64> {
    let (mut line, mut after_return) = (1, false);
    for (at, byte) in (0u64..).zip(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?).bytes()) {
        let byte = byte?;
        if at >= place && !matches!(byte, b'\n' | b'\r') {
            break;
        }
        line += u64::from(byte == b'\r' || (byte == b'\n' && !after_return));
        after_return = byte == b'\r';
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(dir: &Path, text: &str) -> CsvTable {
        let path = dir.join("t.csv");
        std::fs::write(&path, text).expect("written");
        let layout = Layout { delimiter: ',', header: true };
        CsvTable::open(&path, layout, OnRagged::Stop, &MemoryBudget::megabytes(100)).expect("opened")
    }

    /// Line numbers of all rows.
    fn lines(text: &str) -> Vec<u64> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut table = table(dir.path(), text);
        let mut lines = Vec::new();
        while table.advance().expect("read") {
            let DataError::Line { line, .. } = table.error(String::new()) else { panic!("no line") };
            lines.push(line);
        }
        lines
    }

    #[test]
    fn lines_are_those_that_an_editor_shows() {
        let check = |text: &str, expected: &[u64]| assert_eq!(lines(text), expected, "{text:?}");
        check("a,b\n1,2\n3,4\n", &[2, 3]);
        check("a,b\r\n1,2\r\n3,4", &[2, 3]);
        check("a,b\r1,2\r3,4", &[2, 3]);
        check("a,b\n\n\n1,2\n\n3,4\n\n", &[4, 6]);
        check("\r\na,b\r\n\r\n1,2\r\n\r\n\r\n3,4\r\n", &[4, 7]);
        check("a,b\n\"1\n\n\",2\n3,4\n", &[2, 5]);
        check("a,b\r\n\"1\r\n\",2\r\n3,4\r\n", &[2, 4]);
        check("\u{feff}a,b\r\n1,2\r\n", &[2]);
    }

    #[test]
    fn the_digest_is_of_all_bytes_whatever_their_number() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // Longer than a few buffers, with no newline at the end.
        let text = format!("a,b{}", "\n12345678,x".repeat(30_000));
        let mut table = table(dir.path(), &text);
        while table.advance().expect("read") {}
        assert_eq!(table.finish().expect("rows"), (30_000, Digests::of_bytes(text.as_bytes())));
    }
}
