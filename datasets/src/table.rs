//! Reading a csv file as rows of text, with line numbers.

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use crate::error::DataError;

/// Columns of a table at most: a guard against a file that is no csv.
const COLUMNS_MAX: usize = 100_000;

/// How a csv file is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) delimiter: char,
    pub(crate) header: bool,
}

/// The path of `uri`: as it stands (from the working directory), else beside the configuration.
///
/// # Errors
/// When neither is a file.
pub fn resolve(uri: &str, config_dir: Option<&Path>) -> Result<PathBuf, DataError> {
    let plain = uri.strip_prefix("file://").unwrap_or(uri);
    let beside = config_dir.map(|dir| dir.join(plain));
    let candidates = [Some(PathBuf::from(plain)), beside];
    let found = candidates.iter().flatten().find(|path| path.is_file());
    found.cloned().ok_or_else(|| {
        let tried: Vec<String> = candidates.iter().flatten().map(|path| path.display().to_string()).collect();
        DataError::Absent { uri: uri.to_owned(), tried: tried.join(", ") }
    })
}

/// Reads a table: the column names, then each row with its line by `each`.
pub(crate) fn read(
    path: &Path,
    form: Form,
    mut each: impl FnMut(u64, &StringRecord) -> Result<(), DataError>,
) -> Result<Vec<String>, DataError> {
    let file = path.display().to_string();
    let opened = File::open(path).map_err(|source| DataError::Io { file: file.clone(), source })?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(form.delimiter as u8)
        .has_headers(false)
        .flexible(true)
        .from_reader(opened);
    let mut names: Option<Vec<String>> = None;
    let mut record = StringRecord::new();
    let mut rows = 0u64;
    while reader.read_record(&mut record).map_err(|why| broken(&file, &why))? {
        let line = record.position().map_or(0, csv::Position::line);
        if let Some(names) = &names {
            if record.len() != names.len() {
                let problem = format!("{} fields where the table has {} columns", record.len(), names.len());
                return Err(DataError::Line { file, line, problem });
            }
        } else {
            let own = column_names(&file, line, &record, form.header)?;
            names = Some(own);
            if form.header {
                continue;
            }
        }
        rows += 1;
        each(line, &record)?;
    }
    match names {
        Some(names) if rows > 0 => Ok(names),
        Some(_) => {
            Err(DataError::File { file, problem: "the table has a first line and no rows".to_owned() })
        }
        None => Err(DataError::File { file, problem: "the file is empty".to_owned() }),
    }
}

fn column_names(
    file: &str,
    line: u64,
    record: &StringRecord,
    header: bool,
) -> Result<Vec<String>, DataError> {
    let problem = |problem: String| DataError::Line { file: file.to_owned(), line, problem };
    if record.len() > COLUMNS_MAX {
        return Err(problem(format!("{} columns, at most {COLUMNS_MAX} are read", record.len())));
    }
    if !header {
        return Ok((0..record.len()).map(|index| format!("c{index}")).collect());
    }
    let names: Vec<String> = record.iter().map(|name| name.trim().to_owned()).collect();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(problem(format!(
                "column {} has no name (dataset.header = false if it is a row)",
                index + 1
            )));
        }
        if names[..index].contains(name) {
            return Err(problem(format!("two columns are named {name:?}")));
        }
    }
    Ok(names)
}

fn broken(file: &str, why: &csv::Error) -> DataError {
    let line = why.position().map_or(0, csv::Position::line);
    let problem = match why.kind() {
        csv::ErrorKind::Utf8 { err, .. } => format!("field {} is not UTF-8", err.field() + 1),
        csv::ErrorKind::Io(source) => {
            return DataError::File { file: file.to_owned(), problem: source.to_string() };
        }
        _ => why.to_string(),
    };
    DataError::Line { file: file.to_owned(), line, problem }
}
