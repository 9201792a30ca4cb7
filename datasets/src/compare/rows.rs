//! Which rows came and went, whatever their order.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::error::DataError;
use crate::format::Format;
use crate::memory_budget::{MemoryBudget, OverBudget};
use crate::table::Table;

/// What a different row takes: its hash and its count, in a map that is half empty after it has grown and is there twice while
/// it does.
const ROW_BYTES: u64 = 160;

/// Rows of two tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RowCounts {
    /// Rows of the first.
    pub rows_before: u64,
    /// Rows of the second.
    pub rows_after: u64,
    /// Rows of the second that the first has not, or not so often.
    pub rows_added: u64,
    /// Rows of the first that the second has not, or not so often.
    pub rows_removed: u64,
}

/// Counts the rows that came and went, looking at these columns alone. A row is known by the 128-bit xxh3 of its
/// fields, so two different ones are taken for the same once in 10^20 tables of 10^9 rows; 32 bytes are kept for each.
///
/// # Errors
/// When a file can't be read, is no table, lacks one of the columns, or has more rows than there is memory for.
pub(super) fn compare_rows(
    a: &Path,
    b: &Path,
    form: &Format,
    columns: &[String],
    memory: &MemoryBudget,
) -> Result<RowCounts, DataError> {
    let mut balance: HashMap<u128, i64> = HashMap::new();
    let mut add = |row: u128, more: i64| {
        let known = balance.len();
        *balance.entry(row).or_default() += more;
        if balance.len() > known { memory.hold(ROW_BYTES) } else { Ok(()) }
    };
    let rows_before = count(a, form, columns, memory, |row| add(row, -1))?;
    let rows_after = count(b, form, columns, memory, |row| add(row, 1))?;
    let (mut rows_added, mut rows_removed) = (0, 0);
    for more in balance.into_values() {
        if more > 0 {
            rows_added += more.unsigned_abs();
        } else {
            rows_removed += more.unsigned_abs();
        }
    }
    Ok(RowCounts { rows_before, rows_after, rows_added, rows_removed })
}

/// Hands each row's hash on, and returns their number.
fn count(
    path: &Path,
    form: &Format,
    columns: &[String],
    memory: &MemoryBudget,
    mut each: impl FnMut(u128) -> Result<(), OverBudget>,
) -> Result<u64, DataError> {
    let mut table = Table::open(form, path, false, memory)?;
    let places = columns.iter().map(|name| table.names().iter().position(|own| own == name));
    let places: Option<Vec<usize>> = places.collect();
    let Some(places) = places else {
        let file = path.display().to_string();
        let problem = "it lacks one of the columns that the other has".to_owned();
        return Err(DataError::File { file, problem });
    };
    while table.advance()? {
        let mut hasher = Xxh3::new();
        for place in &places {
            let field = table.field(*place);
            // The length first: "ab","c" is not "a","bc".
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        each(hasher.digest128()).map_err(|why| why.of(path))?;
    }
    Ok(table.finish()?.0)
}
