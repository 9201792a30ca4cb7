//! A plan applied to its file: samples by ordinal, gathered into reused buffers.

use std::collections::HashMap;
use std::path::Path;

use csv::StringRecord;

use crate::digest::md5_of_file;
use crate::error::DataError;
use crate::infer::number;
use crate::plan::{Feature, Output, Plan, Role};
use crate::split::split;
use crate::table::read;

/// Samples, row by row.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batch {
    /// Samples.
    pub count: usize,
    /// `count` x features.
    pub features: Vec<f32>,
    /// Index of the label of each (classification).
    pub labels: Vec<u32>,
    /// Standardised target of each (regression).
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
        let found = md5_of_file(path)?;
        if found != plan.digest {
            let file = path.display().to_string();
            return Err(DataError::Changed { file, found, expected: plan.digest.clone() });
        }
        let rows = read_rows(plan, path, true)?;
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

    /// Puts the training samples of these ordinals into a reused batch.
    ///
    /// # Panics
    /// If an ordinal is not below [`Dataset::training_len`]: an error of the program.
    pub fn gather_training(&self, ordinals: &[u64], out: &mut Batch) {
        self.gather(&self.training, ordinals, out);
    }

    /// Puts the validation samples of these ordinals into a reused batch.
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
    /// Reads a table for prediction: the target column need not be there, columns are found by name.
    ///
    /// # Errors
    /// When the file can't be read, lacks a feature, or has a row that doesn't fit the plan.
    pub fn read_for_prediction(&self, path: &Path) -> Result<Batch, DataError> {
        read_rows(self, path, false)
    }
}

fn read_rows(plan: &Plan, path: &Path, with_target: bool) -> Result<Batch, DataError> {
    let file = path.display().to_string();
    let mut batch = Batch::default();
    let mut encoder = None;
    // Names come after the rows from `read`, so the first line is looked at separately.
    let names = first_line(plan, path)?;
    read(path, plan.form(), |line, record| {
        if encoder.is_none() {
            encoder = Some(Encoder::new(plan, &names, with_target, &file)?);
        }
        if let Some(encoder) = &encoder {
            encoder.encode(record, &mut batch).map_err(|problem| DataError::Line {
                file: file.clone(),
                line,
                problem,
            })?;
        }
        Ok(())
    })?;
    Ok(batch)
}

fn first_line(plan: &Plan, path: &Path) -> Result<Vec<String>, DataError> {
    let error = |source| DataError::Io { file: path.display().to_string(), source };
    if !plan.header {
        return Ok(plan.columns.iter().map(|column| column.name.clone()).collect());
    }
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(plan.delimiter as u8)
        .has_headers(false)
        .from_reader(std::fs::File::open(path).map_err(error)?);
    let mut record = StringRecord::new();
    let read = reader.read_record(&mut record).map_err(|why| DataError::Line {
        file: path.display().to_string(),
        line: 1,
        problem: why.to_string(),
    })?;
    if read { Ok(record.iter().map(|name| name.trim().to_owned()).collect()) } else { Ok(Vec::new()) }
}

/// How a record of this file becomes numbers.
struct Encoder<'a> {
    plan: &'a Plan,
    /// For each feature column of the plan: its place in the file.
    places: Vec<(usize, &'a str, &'a Feature, HashMap<&'a str, usize>)>,
    target: Option<(usize, &'a str, HashMap<&'a str, u32>)>,
}

impl<'a> Encoder<'a> {
    fn new(plan: &'a Plan, names: &[String], with_target: bool, file: &str) -> Result<Self, DataError> {
        let place = |name: &str| {
            names.iter().position(|own| own == name).ok_or_else(|| DataError::File {
                file: file.to_owned(),
                problem: format!("there is no column {name:?}, which the model predicts from"),
            })
        };
        let mut places = Vec::new();
        for column in &plan.columns {
            if let Some(feature) = &column.feature {
                let index = match feature {
                    Feature::Numeric { .. } => HashMap::new(),
                    Feature::Categorical { categories } => {
                        categories.iter().enumerate().map(|(i, category)| (category.as_str(), i)).collect()
                    }
                };
                places.push((place(&column.name)?, column.name.as_str(), feature, index));
            }
        }
        let target = plan.columns.iter().find(|column| column.role == Role::Target && with_target);
        let target = match target {
            None => None,
            Some(column) => {
                let labels = match &plan.output {
                    Output::Classes { labels } => {
                        labels.iter().zip(0u32..).map(|(label, i)| (label.as_str(), i)).collect()
                    }
                    Output::Values { .. } => HashMap::new(),
                };
                Some((place(&column.name)?, column.name.as_str(), labels))
            }
        };
        Ok(Self { plan, places, target })
    }

    fn encode(&self, record: &StringRecord, batch: &mut Batch) -> Result<(), String> {
        for (place, name, feature, index) in &self.places {
            let text = record.get(*place).unwrap_or_default().trim();
            let missing = self.plan.missing.iter().any(|missing| missing == text);
            match feature {
                Feature::Numeric { offset, scale, fill } => {
                    let value = match number(text) {
                        _ if missing => *fill,
                        Some(value) => value,
                        None => {
                            return Err(format!("column {name:?} is numeric, but this field is {text:?}"));
                        }
                    };
                    batch.features.push(((value - offset) / scale) as f32);
                }
                Feature::Categorical { categories } => {
                    let category = index.get(if missing { "" } else { text });
                    let start = batch.features.len();
                    batch.features.resize(start + categories.len() + 1, 0.0);
                    batch.features[start + category.copied().unwrap_or(categories.len())] = 1.0;
                }
            }
        }
        if let Some((place, name, labels)) = &self.target {
            self.encode_target(record.get(*place).unwrap_or_default().trim(), name, labels, batch)?;
        }
        batch.count += 1;
        Ok(())
    }

    fn encode_target(
        &self,
        text: &str,
        name: &str,
        labels: &HashMap<&str, u32>,
        batch: &mut Batch,
    ) -> Result<(), String> {
        match &self.plan.output {
            Output::Classes { labels: known } => {
                let label = labels.get(text).ok_or_else(|| {
                    format!(
                        "the target {name:?} is {text:?}, which is none of the labels {}",
                        known.join(", ")
                    )
                })?;
                batch.labels.push(*label);
            }
            Output::Values { offset, scale } => {
                let value = number(text)
                    .ok_or_else(|| format!("the target {name:?} is {text:?}, which is not a number"))?;
                batch.values.push(((value - offset) / scale) as f32);
            }
        }
        Ok(())
    }
}
