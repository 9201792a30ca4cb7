//! Reads tables of any format row by row as text.

use std::path::Path;

use configs::{Dataset as Config, OnBad};

use crate::column::ColumnType;
use crate::digest::Digests;
use crate::error::DataError;
use crate::format::{Csv, Format, Skipped};
use crate::formats::csv::{CsvTable, Layout, OnRagged, line_error};
use crate::formats::parquet::ParquetTable;
use crate::infer::missing_category;
use crate::memory_budget::MemoryBudget;

pub(crate) enum Table {
    Csv { table: CsvTable, on_ragged: OnRagged },
    Parquet(ParquetTable),
}

impl Table {
    /// Opens a table for planning.
    pub(crate) fn open_new(config: &Config, path: &Path, memory: &MemoryBudget) -> Result<Self, DataError> {
        if config.format == "parquet" {
            let missing = missing(config);
            return ParquetTable::open(path, missing_category(&missing), memory).map(Self::Parquet);
        }
        let on_ragged = if config.on_bad == OnBad::Skip { OnRagged::Skip } else { OnRagged::Stop };
        let layout = Layout { delimiter: config.delimiter, header: config.header };
        Ok(Self::Csv { table: CsvTable::open(path, layout, on_ragged, memory)?, on_ragged })
    }

    /// Opens a table in the plan's format. Bad rows are skipped only if the plan skips such rows itself, and only when
    /// reading targets: every row needs a prediction.
    pub(crate) fn open(
        form: &Format,
        path: &Path,
        with_target: bool,
        memory: &MemoryBudget,
    ) -> Result<Self, DataError> {
        match form {
            Format::Csv(Csv { delimiter, header, skipped, .. }) => {
                let may_skip = with_target && skipped.is_some();
                let on_ragged = if may_skip { OnRagged::Skip } else { OnRagged::Stop };
                let layout = Layout { delimiter: *delimiter, header: *header };
                Ok(Self::Csv { table: CsvTable::open(path, layout, on_ragged, memory)?, on_ragged })
            }
            Format::Parquet(parquet) => {
                ParquetTable::open(path, missing_category(&parquet.missing), memory).map(Self::Parquet)
            }
            Format::Idx(_) | Format::Images(_) | Format::Text(_) => {
                let problem = format!("the plan is of {}, not of a table", form.name());
                Err(DataError::File { file: path.display().to_string(), problem })
            }
        }
    }

    pub(crate) fn names(&self) -> &[String] {
        match self {
            Self::Csv { table, .. } => table.names(),
            Self::Parquet(table) => table.names(),
        }
    }

    /// Declared type of each column.
    pub(crate) fn types(&self) -> Vec<ColumnType> {
        match self {
            Self::Csv { table, .. } => vec![ColumnType::Open; table.names().len()],
            Self::Parquet(table) => table.types().to_vec(),
        }
    }

    /// Advances to the next row; false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool, DataError> {
        match self {
            Self::Csv { table, .. } => table.advance(),
            Self::Parquet(table) => table.advance(),
        }
    }

    /// Trimmed fields of the current row.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        (0..self.names().len()).map(|column| self.field(column))
    }

    /// A trimmed field of the current row.
    pub(crate) fn field(&self, column: usize) -> &str {
        match self {
            Self::Csv { table, .. } => table.field(column),
            Self::Parquet(table) => table.field(column),
        }
    }

    /// Byte offset or number of the current row, for [`error_at`].
    pub(crate) fn place(&self) -> u64 {
        match self {
            Self::Csv { table, .. } => table.place(),
            Self::Parquet(table) => table.place(),
        }
    }

    /// An error in the current row.
    pub(crate) fn error(&self, problem: String) -> DataError {
        match self {
            Self::Csv { table, .. } => table.error(problem),
            Self::Parquet(table) => table.error(problem),
        }
    }

    /// The rows skipped so far; `None` if bad rows are errors.
    pub(crate) fn skipped(&self) -> Option<Skipped> {
        match self {
            Self::Csv { table, on_ragged: OnRagged::Skip } => Some(table.skipped()),
            Self::Csv { .. } | Self::Parquet(_) => None,
        }
    }

    /// Number of rows read, and the digests of the file. Call it after the last row.
    pub(crate) fn finish(self) -> Result<(u64, Digests), DataError> {
        match self {
            Self::Csv { table, .. } => table.finish(),
            Self::Parquet(table) => table.finish(),
        }
    }
}

/// Field values that mean a missing value. Typed formats always have at least one, as which a null reads.
pub(crate) fn missing(config: &Config) -> Vec<String> {
    if config.format == "parquet" && config.missing.is_empty() {
        return vec![String::new()];
    }
    config.missing.clone()
}

/// An error in the row at `place`.
pub(crate) fn error_at(config: &Config, path: &Path, place: u64, problem: String) -> DataError {
    if config.format == "parquet" {
        return DataError::Row { file: path.display().to_string(), row: place, problem };
    }
    line_error(path, place, problem)
}
