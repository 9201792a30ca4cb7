//! Reading a parquet file as rows of text, one at a time.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use crate::digest::md5_of_bytes;
use crate::error::DataError;
use crate::table::Typed;

/// A parquet file that is being read. It is held in memory, so that its digest is that of the bytes that are read.
pub(crate) struct ParquetTable {
    path: PathBuf,
    rows: RowIter<'static>,
    names: Vec<String>,
    types: Vec<Typed>,
    /// The current row's fields as text.
    fields: Vec<String>,
    /// What stands for a null.
    null: String,
    row: u64,
    digest: String,
    bytes: u64,
}

impl ParquetTable {
    pub(crate) fn open(path: &Path, null: &str) -> Result<Self, DataError> {
        let file = || path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| DataError::Io { file: file(), source })?;
        let (digest, length) = (md5_of_bytes(&bytes), bytes.len() as u64);
        let refuse = |problem: String| DataError::File { file: file(), problem };
        let reader = guarded(|| SerializedFileReader::new(Bytes::from(bytes)))
            .map_err(|why| refuse(format!("this can't be read as parquet: {why}")))?;
        let schema = reader.metadata().file_metadata().schema();
        let columns = schema.get_fields();
        let names: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
        let mut seen = BTreeSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(refuse(format!("two columns are named {name:?}")));
        }
        let types = columns.iter().map(|column| typed(column)).collect();
        Ok(Self {
            path: path.to_owned(),
            rows: RowIter::from_file_into(Box::new(reader)),
            fields: vec![String::new(); names.len()],
            names,
            types,
            null: null.to_owned(),
            row: 0,
            digest,
            bytes: length,
        })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn types(&self) -> &[Typed] {
        &self.types
    }

    pub(crate) fn advance(&mut self) -> Result<bool, DataError> {
        let next = guarded(|| self.rows.next().transpose());
        self.row += 1;
        let Some(row) = next.map_err(|why| self.error(format!("the row can't be read: {why}")))? else {
            return Ok(false);
        };
        if row.len() != self.names.len() {
            let (found, expected) = (row.len(), self.names.len());
            return Err(self.error(format!("{found} fields where the table has {expected} columns")));
        }
        let mut problem = None;
        for (at, (name, field)) in row.get_column_iter().enumerate() {
            let text = &mut self.fields[at];
            text.clear();
            if self.types[at] == Typed::Unusable {
                continue;
            }
            if let Err(why) = put(field, &self.null, text) {
                problem.get_or_insert_with(|| format!("column {name:?} {why} here"));
            }
        }
        problem.map_or(Ok(true), |problem| Err(self.error(problem)))
    }

    pub(crate) fn field(&self, column: usize) -> &str {
        self.fields.get(column).map_or("", |field| field.trim())
    }

    /// The row's number, from 1.
    pub(crate) fn place(&self) -> u64 {
        self.row
    }

    pub(crate) fn error(&self, problem: String) -> DataError {
        DataError::Row { file: self.path.display().to_string(), row: self.row, problem }
    }

    pub(crate) fn finish(self) -> Result<(u64, String, u64), DataError> {
        let rows = self.row.saturating_sub(1);
        if rows == 0 {
            let file = self.path.display().to_string();
            return Err(DataError::File { file, problem: "the table has no rows".to_owned() });
        }
        Ok((rows, self.digest, self.bytes))
    }
}

/// What a column's type says.
fn typed(column: &Type) -> Typed {
    if !column.is_primitive() {
        return Typed::Unusable;
    }
    let info = column.get_basic_info();
    let is_decimal = info.converted_type() == ConvertedType::DECIMAL
        || matches!(info.logical_type_ref(), Some(LogicalType::Decimal { .. }));
    match column.get_physical_type() {
        Physical::BOOLEAN => Typed::Text,
        Physical::BYTE_ARRAY if !is_decimal => Typed::Text,
        Physical::FIXED_LEN_BYTE_ARRAY if !is_decimal => Typed::Unusable,
        _ => Typed::Open,
    }
}

/// Writes a field as text, as a csv file would have it; what is wrong with it if it is none.
fn put(field: &Field, null: &str, text: &mut String) -> Result<(), &'static str> {
    // Writing to a String can't fail.
    let _ = match field {
        Field::Null => write!(text, "{null}"),
        Field::Str(value) => write!(text, "{value}"),
        Field::Float(value) => write!(text, "{value}"),
        Field::Double(value) => write!(text, "{value}"),
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            Ok(value) => write!(text, "{value}"),
            Err(_) => return Err("is not UTF-8"),
        },
        // A day or a moment that no calendar has.
        other => guarded(|| Ok(write!(text, "{other}"))).map_err(|_| "has a value that can't be written")?,
    };
    Ok(())
}

/// Reads by the parquet crate. Its reader of damaged files has asserted in places: that is an error of the file here.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())))
}
