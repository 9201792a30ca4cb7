//! Reads one column of a row group, value by value, as text.

use std::fmt::Write;

use parquet::column::page::Page;
use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::errors::ParquetError;
use parquet::file::reader::RowGroupReader;
use parquet::record::Field;
use parquet::schema::types::ColumnDescPtr;

use super::pages::{ChunkMemory, delta_counts};

/// Maximum bytes of a decimal: 150 digits. Formatting takes quadratic time.
const NUMBER_BYTES_MAX: usize = 64;

pub(super) struct Column {
    descr: ColumnDescPtr,
    reader: ColumnReader,
    values: Values,
    /// 1 for each row of the batch that has a value; empty if all have.
    levels: Vec<i16>,
    /// Number of rows in the batch, the next row, and the next value.
    rows: usize,
    row: usize,
    value: usize,
    batch: usize,
}

/// The values of a batch, in their physical types.
enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    Fixed(Vec<FixedLenByteArray>),
}

impl Column {
    pub(super) fn open(
        group: &dyn RowGroupReader,
        leaf: usize,
        takes: &ChunkMemory,
        batch: usize,
    ) -> Result<Self, ParquetError> {
        let descr = group.metadata().schema_descr().column(leaf);
        if takes.has_lengths {
            check_lengths(group, leaf, &descr, takes)?;
        }
        let reader = group.get_column_reader(leaf)?;
        let values = match &reader {
            ColumnReader::BoolColumnReader(_) => Values::Bool(Vec::new()),
            ColumnReader::Int32ColumnReader(_) => Values::Int32(Vec::new()),
            ColumnReader::Int64ColumnReader(_) => Values::Int64(Vec::new()),
            ColumnReader::Int96ColumnReader(_) => Values::Int96(Vec::new()),
            ColumnReader::FloatColumnReader(_) => Values::Float(Vec::new()),
            ColumnReader::DoubleColumnReader(_) => Values::Double(Vec::new()),
            ColumnReader::ByteArrayColumnReader(_) => Values::Bytes(Vec::new()),
            ColumnReader::FixedLenByteArrayColumnReader(_) => Values::Fixed(Vec::new()),
        };
        Ok(Self { descr, reader, values, levels: Vec::new(), rows: 0, row: 0, value: 0, batch })
    }

    /// Writes the next row's field as a csv file would have it, or returns why it can't.
    pub(super) fn next(&mut self, null: &str, text: &mut String) -> Result<(), String> {
        if self.row == self.rows {
            self.fill().map_err(|why| format!("can't be read ({why})"))?;
        }
        let is_there = self.levels.get(self.row).is_none_or(|level| *level == self.descr.max_def_level());
        self.row += 1;
        if !is_there {
            text.push_str(null);
            return Ok(());
        }
        self.value += 1;
        self.put(self.value - 1, text)
    }

    fn fill(&mut self) -> Result<(), ParquetError> {
        self.levels.clear();
        (self.rows, self.row, self.value) = (0, 0, 0);
        let levels = (self.descr.max_def_level() > 0).then_some(&mut self.levels);
        macro_rules! read {
            ($reader:expr, $values:expr) => {{
                $values.clear();
                $reader.read_records(self.batch, levels, None, $values)?
            }};
        }
        let (rows, values, _) = match (&mut self.reader, &mut self.values) {
            (ColumnReader::BoolColumnReader(reader), Values::Bool(values)) => read!(reader, values),
            (ColumnReader::Int32ColumnReader(reader), Values::Int32(values)) => read!(reader, values),
            (ColumnReader::Int64ColumnReader(reader), Values::Int64(values)) => read!(reader, values),
            (ColumnReader::Int96ColumnReader(reader), Values::Int96(values)) => read!(reader, values),
            (ColumnReader::FloatColumnReader(reader), Values::Float(values)) => read!(reader, values),
            (ColumnReader::DoubleColumnReader(reader), Values::Double(values)) => read!(reader, values),
            (ColumnReader::ByteArrayColumnReader(reader), Values::Bytes(values)) => read!(reader, values),
            (ColumnReader::FixedLenByteArrayColumnReader(reader), Values::Fixed(values)) => {
                read!(reader, values)
            }
            _ => return Err(damaged("its type changes")),
        };
        let there = match self.levels.as_slice() {
            [] => rows,
            levels => levels.iter().filter(|level| **level == self.descr.max_def_level()).count(),
        };
        if rows == 0 || values != there || !matches!(self.levels.len(), 0) && self.levels.len() != rows {
            return Err(damaged("it has fewer values than rows"));
        }
        self.rows = rows;
        Ok(())
    }

    fn put(&self, at: usize, text: &mut String) -> Result<(), String> {
        let descr = &self.descr;
        let field = match &self.values {
            Values::Bool(values) => Field::convert_bool(descr, values[at]),
            Values::Int32(values) => Field::convert_int32(descr, values[at]),
            Values::Int64(values) => Field::convert_int64(descr, values[at]),
            Values::Int96(values) => Field::convert_int96(descr, values[at]),
            Values::Float(values) => Field::Float(values[at]),
            Values::Double(values) => Field::Double(values[at]),
            Values::Bytes(values) if descr.converted_type() != parquet::basic::ConvertedType::DECIMAL => {
                let value = std::str::from_utf8(values[at].data()).map_err(|_| "is not UTF-8")?;
                text.push_str(value);
                return Ok(());
            }
            Values::Bytes(values) => convert(descr, values[at].clone())?,
            Values::Fixed(values) => convert(descr, values[at].clone().into())?,
        };
        // Writing to a String can't fail; an out-of-range date or time panics, which the caller catches.
        let _ = match field {
            Field::Float(value) => write!(text, "{value}"),
            Field::Double(value) => write!(text, "{value}"),
            other => write!(text, "{other}"),
        };
        Ok(())
    }
}

fn convert(descr: &ColumnDescPtr, value: ByteArray) -> Result<Field, String> {
    if value.len() > NUMBER_BYTES_MAX {
        return Err(format!("has a number of {} bytes, at most {NUMBER_BYTES_MAX} are read,", value.len()));
    }
    Field::convert_byte_array(descr, value).map_err(|why| format!("can't be read ({why})"))
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

/// Reads all pages once to check the declared numbers of lengths, for which the decoder allocates.
fn check_lengths(
    group: &dyn RowGroupReader,
    leaf: usize,
    descr: &ColumnDescPtr,
    takes: &ChunkMemory,
) -> Result<(), ParquetError> {
    for page in group.get_column_page_reader(leaf)? {
        let page = page?;
        let start = match &page {
            Page::DictionaryPage { .. } => continue,
            Page::DataPage { .. } if descr.max_def_level() == 0 => 0,
            Page::DataPage { buf, .. } => {
                let length = buf.get(..4).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
                4 + length.ok_or_else(|| damaged("a page is too short"))? as usize
            }
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                (def_levels_byte_len + rep_levels_byte_len) as usize
            }
        };
        use parquet::basic::Encoding::{DELTA_BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY};
        if !matches!(page.encoding(), DELTA_BYTE_ARRAY | DELTA_LENGTH_BYTE_ARRAY) {
            continue;
        }
        let values = page.buffer().get(start..).unwrap_or_default();
        let has_prefixes = takes.has_prefixes && page.encoding() == DELTA_BYTE_ARRAY;
        let counts =
            delta_counts(values, has_prefixes).ok_or_else(|| damaged("a page's lengths are damaged"))?;
        if counts.iter().any(|count| *count > u64::from(page.num_values())) {
            return Err(damaged("a page has more lengths than values"));
        }
    }
    Ok(())
}
