//! A plan applied to its file: samples by ordinal, gathered into reused buffers.

use std::path::Path;

use crate::digest::md5_of_file;
use crate::encode::Encoder;
use crate::error::DataError;
use crate::plan::Plan;
use crate::split::split;
use crate::table::Table;

/// Samples, row by row.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batch {
    /// Samples.
    pub count: usize,
    /// `count` x features.
    pub features: Vec<f32>,
    /// Index of the label of each (classification).
    pub labels: Vec<u32>,
    /// Standardised target of each (regression): see [`crate::Output::Values`].
    pub values: Vec<f32>,
}

/// A file's rows as samples.
#[derive(Debug)]
pub struct Dataset {
    width: usize,
    rows: Batch,
    training: Vec<u64>,
    validation: Vec<u64>,
}

impl Dataset {
    /// Opens the file of a plan: its digest must be the plan's.
    ///
    /// # Errors
    /// When the file can't be read, has changed, or has a row that doesn't fit the plan.
    pub fn open(plan: &Plan, path: &Path) -> Result<Self, DataError> {
        let file = || path.display().to_string();
        let changed = |found| DataError::Changed { file: file(), found, expected: plan.digest.clone() };
        let bytes = std::fs::metadata(path).map_err(|source| DataError::Io { file: file(), source })?.len();
        if bytes != plan.bytes {
            return Err(changed(md5_of_file(path)?));
        }
        let rows = match read_rows(plan, path, true) {
            // The digest is that of the bytes that became these rows, so nothing can change in between.
            Ok((rows, digest)) if digest == plan.digest => rows,
            Ok((_, digest)) => return Err(changed(digest)),
            Err(why) => {
                let digest = md5_of_file(path)?;
                return Err(if digest == plan.digest { why } else { changed(digest) });
            }
        };
        if rows.count as u64 != plan.rows {
            let problem = format!("{} rows, where the plan has {}", rows.count, plan.rows);
            return Err(DataError::File { file: file(), problem });
        }
        let (training, validation) = split(rows.count as u64, plan.validation, plan.split_seed);
        Ok(Self { width: plan.features(), rows, training, validation })
    }

    /// Samples of the training split.
    #[must_use]
    pub fn training_len(&self) -> u64 {
        self.training.len() as u64
    }

    /// Samples of the validation split.
    #[must_use]
    pub fn evaluation_len(&self) -> u64 {
        self.validation.len() as u64
    }

    /// Puts the training samples of these ordinals into a reused batch, without allocation once it was as large.
    ///
    /// # Panics
    /// If an ordinal is not below [`Dataset::training_len`]: an error of the program.
    pub fn gather_training(&self, ordinals: &[u64], out: &mut Batch) {
        self.gather(&self.training, ordinals, out);
    }

    /// Puts the validation samples of these ordinals into a reused batch, without allocation once it was as large.
    ///
    /// # Panics
    /// If an ordinal is not below [`Dataset::evaluation_len`]: an error of the program.
    pub fn gather_evaluation(&self, ordinals: &[u64], out: &mut Batch) {
        self.gather(&self.validation, ordinals, out);
    }

    fn gather(&self, split: &[u64], ordinals: &[u64], out: &mut Batch) {
        out.features.clear();
        out.labels.clear();
        out.values.clear();
        out.count = ordinals.len();
        for ordinal in ordinals {
            let row = split[*ordinal as usize] as usize;
            out.features.extend_from_slice(&self.rows.features[row * self.width..(row + 1) * self.width]);
            out.labels.extend(self.rows.labels.get(row));
            out.values.extend(self.rows.values.get(row));
        }
    }
}

impl Plan {
    /// Reads a table for prediction: the target column need not be there, columns are found by name. A table without a
    /// header has all columns in the order of the training data, or all but the target.
    ///
    /// # Errors
    /// When the file can't be read, lacks a feature, or has a row that doesn't fit the plan.
    pub fn read_for_prediction(&self, path: &Path) -> Result<Batch, DataError> {
        read_rows(self, path, false).map(|(rows, _)| rows)
    }

    /// Reads a table with its target: all rows, those of another file too.
    ///
    /// # Errors
    /// As [`Plan::read_for_prediction`], and when a target is missing, no number, or a label that the plan doesn't know.
    pub fn read_for_evaluation(&self, path: &Path) -> Result<Batch, DataError> {
        read_rows(self, path, true).map(|(rows, _)| rows)
    }
}

/// All rows as samples, and the digest of the bytes that were read.
fn read_rows(plan: &Plan, path: &Path, with_target: bool) -> Result<(Batch, String), DataError> {
    let mut table = Table::open(path, plan.form())?;
    let encoder = Encoder::new(plan, table.names(), with_target)
        .map_err(|problem| DataError::File { file: path.display().to_string(), problem })?;
    let mut batch = Batch::default();
    while table.advance()? {
        encoder.encode(&table, &mut batch).map_err(|problem| table.error(problem))?;
    }
    let (_, digest, _) = table.finish()?;
    Ok((batch, digest))
}
