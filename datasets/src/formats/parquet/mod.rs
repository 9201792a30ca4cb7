//! Reads a parquet file row by row as text.

mod column;
mod pages;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::Type;

use self::column::Column;
use self::pages::ChunkMemory;
use crate::column::ColumnType;
use crate::digest::Digests;
use crate::error::DataError;
use crate::memory_budget::{HeldMemory, MemoryBudget, OverBudget, read_whole};
use crate::quote::quoted;

/// Rows of a column read at once.
const BATCH_ROWS: usize = 1_024;
/// Memory per value in a batch; for text, a reference into its page.
const VALUE_BYTES: u64 = 40;
/// Memory for a batch of values that may each be as long as a page; larger pages are read one value at a time.
const PREFIXES_BYTES: u64 = 16_000_000;
/// Memory for the parsed footer, in multiples of its size: entries of a few bytes become structs of a few hundred.
const METADATA_TIMES: u64 = 64;
/// End of a file: the length of its metadata, and the magic bytes.
const END_BYTES: usize = 8;

/// A parquet file being read. It is held in memory, so that the digest is of the very bytes that are parsed.
pub(crate) struct ParquetTable {
    path: PathBuf,
    file: Bytes,
    reader: SerializedFileReader<Bytes>,
    names: Vec<String>,
    types: Vec<ColumnType>,
    /// Schema leaf of each column; `None` if the column can't be read.
    leaves: Vec<Option<usize>>,
    /// Readers of the current row group's columns; `None` if the column can't be read.
    columns: Vec<Option<Column>>,
    /// Rows left in the current group, and the index of the next group.
    rows_left: u64,
    next_group: usize,
    /// The current row's fields as text.
    fields: Vec<String>,
    /// Text of a null.
    null: String,
    row: u64,
    digests: Digests,
    memory: MemoryBudget,
    /// Memory of the file and its metadata, and of the current row group.
    _file: Vec<HeldMemory>,
    group: Option<HeldMemory>,
}

impl ParquetTable {
    pub(crate) fn open(path: &Path, null: &str, memory: &MemoryBudget) -> Result<Self, DataError> {
        let file = || path.display().to_string();
        let (bytes, holding) = read_whole(path, memory, 1)?;
        let digests = Digests::of_bytes(&bytes);
        let metadata = metadata_bytes(&bytes).saturating_mul(METADATA_TIMES);
        let metadata = memory.holding(metadata).map_err(|why| why.of(path))?;
        let refuse = |problem: String| DataError::File { file: file(), problem };
        if !footer(&bytes).is_none_or(pages::is_sound) {
            return Err(refuse("this can't be read as parquet: its footer is damaged".to_owned()));
        }
        let bytes = Bytes::from(bytes);
        let reader = guarded(|| SerializedFileReader::new(bytes.clone()))
            .map_err(|why| refuse(format!("this can't be read as parquet: {why}")))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let columns = schema.root_schema().get_fields();
        let names: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
        let mut seen = BTreeSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(refuse(format!("two columns are named {}", quoted(name))));
        }
        let types: Vec<ColumnType> = columns.iter().map(|column| typed(column)).collect();
        let mut leaves = vec![None; names.len()];
        for leaf in 0..schema.num_columns() {
            let column = schema.get_column_root_idx(leaf);
            if types.get(column).is_some_and(|kind| *kind != ColumnType::Unusable) {
                leaves[column] = Some(leaf);
            }
        }
        Ok(Self {
            path: path.to_owned(),
            file: bytes,
            columns: names.iter().map(|_| None).collect(),
            fields: vec![String::new(); names.len()],
            reader,
            names,
            types,
            leaves,
            rows_left: 0,
            next_group: 0,
            null: null.to_owned(),
            row: 0,
            digests,
            memory: memory.clone(),
            _file: vec![holding, metadata],
            group: None,
        })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn types(&self) -> &[ColumnType] {
        &self.types
    }

    pub(crate) fn advance(&mut self) -> Result<bool, DataError> {
        while self.rows_left == 0 {
            if self.next_group == self.reader.num_row_groups() {
                self.row += 1;
                return Ok(false);
            }
            self.open_group()?;
        }
        self.row += 1;
        self.rows_left -= 1;
        let mut problem = None;
        for (at, column) in self.columns.iter_mut().enumerate() {
            let Some(column) = column else { continue };
            let text = &mut self.fields[at];
            text.clear();
            let put = guarded(|| Ok(column.next(&self.null, text)));
            if let Err(why) = put.unwrap_or_else(|_| Err("has a value that can't be written".to_owned())) {
                problem = Some(format!("column {} {why} here", quoted(&self.names[at])));
                break;
            }
        }
        problem.map_or(Ok(true), |problem| Err(self.error(problem)))
    }

    /// Opens the next row group, if its pages fit in memory.
    fn open_group(&mut self) -> Result<(), DataError> {
        let number = self.next_group;
        self.next_group += 1;
        self.columns.iter_mut().for_each(|column| *column = None);
        self.group = None;
        let refuse = |problem: String| DataError::File { file: self.path.display().to_string(), problem };
        let metadata = self.reader.metadata().row_group(number);
        let mut takes = vec![ChunkMemory::default(); self.leaves.len()];
        let mut sum = 0u64;
        for (takes, leaf) in takes.iter_mut().zip(&self.leaves) {
            let Some(leaf) = leaf else { continue };
            *takes = pages::takes(&self.file, metadata.column(*leaf))
                .map_err(|why| refuse(format!("row group {number} can't be read: {why}")))?;
            let batch = batch(takes) as u64;
            let values = batch.saturating_mul(if takes.has_prefixes { takes.page } else { VALUE_BYTES });
            // The page, and a text within it, which may be as long.
            let pages = takes.page.saturating_mul(2).saturating_add(takes.dictionary).saturating_add(values);
            sum = sum.saturating_add(pages);
        }
        let too_much = |why: OverBudget| why.of(&self.path);
        self.group = Some(self.memory.holding(sum).map_err(too_much)?);
        let rows = metadata.num_rows();
        let opened = guarded(|| {
            let group = self.reader.get_row_group(number)?;
            let open = |(leaf, takes): (&Option<usize>, &ChunkMemory)| {
                leaf.map(|leaf| Column::open(group.as_ref(), leaf, takes, batch(takes))).transpose()
            };
            self.leaves.iter().zip(&takes).map(open).collect::<Result<Vec<_>, _>>()
        });
        self.columns = opened.map_err(|why| refuse(format!("row group {number} can't be read: {why}")))?;
        self.rows_left =
            u64::try_from(rows).map_err(|_| refuse(format!("row group {number} has {rows} rows")))?;
        Ok(())
    }

    pub(crate) fn field(&self, column: usize) -> &str {
        self.fields.get(column).map_or("", |field| field.trim())
    }

    /// Row number, from 1.
    pub(crate) fn place(&self) -> u64 {
        self.row
    }

    pub(crate) fn error(&self, problem: String) -> DataError {
        DataError::Row { file: self.path.display().to_string(), row: self.row, problem }
    }

    pub(crate) fn finish(self) -> Result<(u64, Digests), DataError> {
        let rows = self.row.saturating_sub(1);
        if rows == 0 {
            let file = self.path.display().to_string();
            return Err(DataError::File { file, problem: "the table has no rows".to_owned() });
        }
        Ok((rows, self.digests))
    }
}

/// Rows of a column to read at once.
fn batch(takes: &ChunkMemory) -> usize {
    if !takes.has_prefixes {
        return BATCH_ROWS;
    }
    let fits = PREFIXES_BYTES.checked_div(takes.page).unwrap_or(u64::MAX);
    usize::try_from(fits).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
}

/// The footer's metadata, if the file is as long as it declares.
fn footer(file: &[u8]) -> Option<&[u8]> {
    let end = file.len().checked_sub(END_BYTES)?;
    file.get(end.checked_sub(usize::try_from(metadata_bytes(file)).ok()?)?..end)
}

/// Size of the footer's metadata, clipped to the file's length.
fn metadata_bytes(file: &[u8]) -> u64 {
    let end = file.len().checked_sub(END_BYTES).and_then(|at| file.get(at..at + 4));
    let said = end.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    u64::from(said).min(file.len() as u64)
}

/// Classifies a column by its type.
fn typed(column: &Type) -> ColumnType {
    let info = column.get_basic_info();
    if !column.is_primitive() || (info.has_repetition() && info.repetition() == Repetition::REPEATED) {
        return ColumnType::Unusable;
    }
    let is_decimal = info.converted_type() == ConvertedType::DECIMAL
        || matches!(info.logical_type_ref(), Some(LogicalType::Decimal { .. }));
    match column.get_physical_type() {
        Physical::BOOLEAN => ColumnType::Text,
        Physical::BYTE_ARRAY if !is_decimal => ColumnType::Text,
        Physical::FIXED_LEN_BYTE_ARRAY if !is_decimal => ColumnType::Unusable,
        _ => ColumnType::Open,
    }
}

/// Calls the parquet crate and turns its panics, which damaged files have caused, into errors.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())))
}
