//! Encodes a row of text as numbers, by a data plan.

use std::collections::HashMap;

use crate::batch::Batch;
use crate::column::{Column, Feature, Role};
use crate::format::Tabular;
use crate::infer::{CATEGORIES_MAX, hint, is_missing, missing_category};
use crate::number::{no_number, number};
use crate::plan::{DataPlan, Output};
use crate::quote::quoted;
use crate::table::Table;

/// A data plan resolved against a file's columns. Its errors describe the problem; the caller adds file and line.
pub(crate) struct Encoder<'a> {
    missing: &'a [String],
    features: Vec<Field<'a>>,
    target: Option<Target<'a>>,
    /// Index of the file's column of row weights.
    weight: Option<usize>,
}

struct Field<'a> {
    /// Index of the file's column.
    column: usize,
    name: &'a str,
    code: Code<'a>,
}

enum Code<'a> {
    Numeric {
        offset: f64,
        scale: f64,
        fill: f64,
        indicator: bool,
    },
    /// Codes from 1; 0 is for categories absent from the training split.
    Categorical(HashMap<&'a str, u16>),
}

struct Target<'a> {
    column: usize,
    name: &'a str,
    code: TargetCode<'a>,
}

enum TargetCode<'a> {
    Classes { labels: &'a [String], indices: HashMap<&'a str, u32> },
    Values { offset: f64, scale: f64 },
}

impl<'a> Encoder<'a> {
    /// Resolves the data plan's columns in a file.
    pub(crate) fn new(plan: &'a DataPlan, names: &[String], with_target: bool) -> Result<Self, String> {
        let tabular = plan.form.tabular().ok_or("the plan is not that of a table")?;
        let columns = ColumnPositions::new(tabular, names, with_target)?;
        let mut features = Vec::new();
        let (mut target, mut weight) = (None, None);
        for column in tabular.columns {
            let name = column.name.as_str();
            if let Some(feature) = &column.feature {
                let code = match feature {
                    &Feature::Numeric { offset, scale, fill, indicator } => {
                        Code::Numeric { offset, scale, fill, indicator }
                    }
                    Feature::Categorical { categories } if categories.len() > CATEGORIES_MAX => {
                        return Err(format!(
                            "column {} of the plan has more than {CATEGORIES_MAX} texts",
                            quoted(name)
                        ));
                    }
                    Feature::Categorical { categories } => {
                        Code::Categorical(categories.iter().map(String::as_str).zip(1..).collect())
                    }
                };
                let column = columns.of(name, "the model predicts from")?;
                features.push(Field { column, name, code });
            }
            // Files for evaluation or prediction need no weights.
            if column.role == Role::Weight {
                weight = columns.indices.get(name).copied();
            }
            if column.role == Role::Target && with_target {
                let code = match &plan.output {
                    Output::Classes { labels } => {
                        let indices = labels.iter().map(String::as_str).zip(0..).collect();
                        TargetCode::Classes { labels, indices }
                    }
                    Output::Values { offset, scale } => TargetCode::Values { offset: *offset, scale: *scale },
                    Output::Tokens { .. } => return Err("a table has no tokens".to_owned()),
                };
                target = Some(Target { column: columns.of(name, "is the target")?, name, code });
            }
        }
        Ok(Self { missing: tabular.missing, features, target, weight })
    }

    /// Sampling weight of the current row; NaN if it isn't a number.
    pub(crate) fn weight(&self, table: &Table) -> Option<f64> {
        self.weight.map(|column| number(table.field(column)).unwrap_or(f64::NAN))
    }

    /// Appends the current row to a batch.
    pub(crate) fn encode(&self, table: &Table, batch: &mut Batch) -> Result<(), String> {
        for field in &self.features {
            let text = table.field(field.column);
            let is_missing = is_missing(self.missing, text);
            match &field.code {
                Code::Numeric { offset, scale, fill, indicator } => {
                    let value = match number(text) {
                        _ if is_missing => *fill,
                        Some(value) => value,
                        None => return Err(no_number(field.name, text)),
                    };
                    batch.features.push(scaled(field.name, value, *offset, *scale)?);
                    if *indicator {
                        batch.features.push(f32::from(u8::from(is_missing)));
                    }
                }
                Code::Categorical(codes) => {
                    let category = if is_missing { missing_category(self.missing) } else { text };
                    batch.features.push(f32::from(codes.get(category).copied().unwrap_or(0)));
                }
            }
        }
        if let Some(target) = &self.target {
            target.encode(table, self.missing, batch)?;
        }
        batch.count += 1;
        Ok(())
    }
}

impl Target<'_> {
    fn encode(&self, table: &Table, missing: &[String], batch: &mut Batch) -> Result<(), String> {
        let (text, name) = (table.field(self.column), self.name);
        if is_missing(missing, text) {
            return Err(format!("the target {} is missing here", quoted(name)));
        }
        match &self.code {
            TargetCode::Classes { labels, indices } => {
                let label = indices.get(text).ok_or_else(|| {
                    let hint = hint(text, labels.iter().map(String::as_str), "labels");
                    format!("the target {} is {}, which is not a label{hint}", quoted(name), quoted(text))
                })?;
                batch.labels.push(*label);
            }
            TargetCode::Values { offset, scale } => {
                let value = number(text).ok_or_else(|| no_number(name, text))?;
                batch.values.push(scaled(name, value, *offset, *scale)?);
            }
        }
        Ok(())
    }
}

/// A number normalised for the model.
fn scaled(name: &str, value: f64, offset: f64, scale: f64) -> Result<f32, String> {
    let scaled = ((value - offset) / scale) as f32;
    if !scaled.is_finite() {
        let name = quoted(name);
        return Err(format!("column {name}: {value} is beyond f32 once it is scaled by 1/{scale}"));
    }
    Ok(scaled)
}

/// Positions of the data plan's columns in a file.
struct ColumnPositions<'a> {
    names: Vec<&'a str>,
    indices: HashMap<&'a str, usize>,
}

impl<'a> ColumnPositions<'a> {
    fn new(tabular: Tabular<'a>, names: &'a [String], with_target: bool) -> Result<Self, String> {
        let names: Vec<&str> = if tabular.is_named {
            names.iter().map(String::as_str).collect()
        } else {
            // Without a header, the number of columns decides whether the target is present.
            let all = tabular.columns.iter();
            let but_target = all.clone().filter(|column| column.role != Role::Target);
            let is_whole = names.len() == tabular.columns.len();
            if !is_whole && (with_target || names.len() != but_target.clone().count()) {
                let expected = tabular.columns.len();
                let without = if with_target { "" } else { ", or one less without the target" };
                return Err(format!(
                    "{} columns without names, where the plan has {expected}{without}",
                    names.len()
                ));
            }
            let name = |column: &'a Column| column.name.as_str();
            if is_whole { all.map(name).collect() } else { but_target.map(name).collect() }
        };
        let indices = names.iter().copied().zip(0..).collect();
        Ok(Self { names, indices })
    }

    fn of(&self, name: &str, what: &str) -> Result<usize, String> {
        self.indices.get(name).copied().ok_or_else(|| {
            let hint = hint(name, self.names.iter().copied(), "columns");
            format!("there is no column {}, which {what}{hint}", quoted(name))
        })
    }
}
