//! Reading a csv file as rows of text, one at a time, with the line of each where something is wrong.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use csv::StringRecord;

use crate::digest::Hashed;
use crate::error::DataError;
use crate::form::Skipped;

/// Columns of a table at most: a guard against a file that is no csv.
const COLUMNS_MAX: usize = 100_000;
/// Bytes of the buffer between the file and the parser.
const BUFFER_BYTES: usize = 1 << 16;

/// Lines of rows that are left out which a plan names.
const SKIPPED_LISTED_MAX: usize = 100;

/// How a csv file is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) delimiter: char,
    pub(crate) header: bool,
}

/// What happens at a row with too many or too few fields, or one that is not UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnRagged {
    Stop,
    Skip,
}

/// A csv file that is being read. Spaces around a field do not count, quoted or not; empty lines are no rows.
pub(crate) struct CsvTable {
    path: PathBuf,
    reader: csv::Reader<Hashed<File>>,
    names: Vec<String>,
    record: StringRecord,
    /// Whether `record` is a row that was read already, for want of a header.
    is_ahead: bool,
    rows: u64,
    on_ragged: OnRagged,
    /// Rows that were left out, and where the first of them begin.
    left_out: u64,
    left_out_at: Vec<u64>,
}

impl CsvTable {
    /// Opens a table and reads its first line: the names, or the first row of a table without a header.
    pub(crate) fn open(path: &Path, form: Layout, on_ragged: OnRagged) -> Result<Self, DataError> {
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
            .from_reader(Hashed::new(opened));
        let record = StringRecord::new();
        let mut table = Self {
            path: path.to_owned(),
            reader,
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
        table.is_ahead = !form.header;
        Ok(table)
    }

    /// Names of the columns: the header's, or c0, c1, ...
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Goes to the next row; false after the last one.
    pub(crate) fn advance(&mut self) -> Result<bool, DataError> {
        loop {
            let read = if std::mem::take(&mut self.is_ahead) { Ok(true) } else { self.read_record() };
            let may_skip = self.on_ragged == OnRagged::Skip;
            // Only a row that stops has its line looked up: it takes a reading of the file.
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
        // A quote that is never closed swallows what follows, line ends and all.
        let swallowed = self.record.iter().any(|field| field.contains('\n'));
        let way_out = if swallowed { ": is a quote left open?" } else { "" };
        let (found, expected) = (fields(self.record.len()), self.names.len());
        self.error(format!("{found} where the table has {expected} columns{way_out}"))
    }

    /// The rows that were left out so far.
    pub(crate) fn skipped(&self) -> Skipped {
        let line = |place: &u64| line_at(&self.path, *place).map(|line| format!("line {line}")).ok();
        Skipped { count: self.left_out, listed: self.left_out_at.iter().filter_map(line).collect() }
    }

    /// A field of the current row, without the spaces around it.
    pub(crate) fn field(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default().trim()
    }

    /// Where the current row begins, for [`CsvTable::error_at`].
    pub(crate) fn place(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::byte)
    }

    /// Something is wrong with the current row.
    pub(crate) fn error(&self, problem: String) -> DataError {
        self.error_at(self.place(), problem)
    }

    /// Something is wrong with the row at this place.
    pub(crate) fn error_at(&self, place: u64, problem: String) -> DataError {
        line_error(&self.path, place, problem)
    }

    /// Rows that were read, the digest of the file's bytes, and their number. To be called after the last row.
    pub(crate) fn finish(self) -> Result<(u64, String, u64), DataError> {
        if self.rows == 0 {
            let file = self.path.display().to_string();
            let problem = "the table has a first line and no rows".to_owned();
            return Err(DataError::File { file, problem });
        }
        let (digest, bytes) = self.reader.into_inner().digest();
        Ok((self.rows, digest, bytes))
    }

    fn read_record(&mut self) -> Result<bool, csv::Error> {
        self.reader.read_record(&mut self.record)
    }

    fn unreadable(&self, why: csv::Error) -> DataError {
        let place = place_of(&why);
        let problem = match why.kind() {
            csv::ErrorKind::Utf8 { err, .. } => match self.names.get(err.field()) {
                Some(name) => format!("column {name:?} is not UTF-8 here"),
                None => format!("field {} is not UTF-8", err.field() + 1),
            },
            _ => why.to_string(),
        };
        match why.into_kind() {
            csv::ErrorKind::Io(source) => DataError::Io { file: self.path.display().to_string(), source },
            _ => self.error_at(place, problem),
        }
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
                return Err(self.error(format!("two columns are named {name:?}")));
            }
        }
        Ok(self.record.iter().map(|name| name.trim().to_owned()).collect())
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

/// Something is wrong with the row that begins at this byte.
pub(crate) fn line_error(path: &Path, place: u64, problem: String) -> DataError {
    let file = path.display().to_string();
    match line_at(path, place) {
        Ok(line) => DataError::Line { file, line, problem },
        // The file went away meanwhile: the problem is still the thing to say.
        Err(_) => DataError::File { file, problem },
    }
}

/// The line, from 1, of the first record at or after a byte. Counted anew where it is needed: the parser's own count
/// stands before the line ends that it skips, so it is wrong after empty lines and in every file with CRLF.
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

    /// Lines of all rows.
    fn lines(text: &str) -> Vec<u64> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("t.csv");
        std::fs::write(&path, text).expect("written");
        let mut table =
            CsvTable::open(&path, Layout { delimiter: ',', header: true }, OnRagged::Stop).expect("opened");
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
        let path = dir.path().join("t.csv");
        // More than a few buffers, and a last line without an end.
        let text = format!("a,b{}", "\n12345678,x".repeat(30_000));
        std::fs::write(&path, &text).expect("written");
        let mut table =
            CsvTable::open(&path, Layout { delimiter: ',', header: true }, OnRagged::Stop).expect("opened");
        while table.advance().expect("read") {}
        let digest = crate::md5_of_file(&path).expect("read");
        assert_eq!(table.finish().expect("rows"), (30_000, digest, text.len() as u64));
    }
}
