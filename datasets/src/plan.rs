//! The plan of a dataset: what its columns are, which rows are held out, and how fields become numbers. Made once,
//! shipped to every worker, saved with the model.

use std::collections::BTreeSet;
use std::path::Path;

use configs::{ColumnKind, DatasetKind, Normalise};
use serde::{Deserialize, Serialize};

use crate::digest::md5_of_file;
use crate::error::DataError;
use crate::infer::{CATEGORIES_MAX, Seen, number, ordered};
use crate::split::split;
use crate::table::{Form, read, resolve};

/// What a column is to the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Role {
    Feature,
    Target,
    Ignored,
}

/// How a feature's field becomes numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// `(x - offset) / scale`; a missing field is `fill` before that.
    Numeric {
        /// Mean or minimum over the training split, or 0.
        offset: f64,
        /// Standard deviation or range over the training split, or 1.
        scale: f64,
        /// Mean over the training split.
        fill: f64,
    },
    /// One of these (1 in its place), or none of them (1 in the last place).
    Categorical {
        /// The distinct fields of the training split; a missing field is the category "".
        categories: Vec<String>,
    },
}

/// One column of the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it is to the model.
    pub role: Role,
    /// For features.
    pub feature: Option<Feature>,
}

/// What is predicted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// One of these labels.
    Classes {
        /// In the order of the model's outputs.
        labels: Vec<String>,
    },
    /// A number; the model learns `(y - offset) / scale`.
    Values {
        /// Mean over the training split.
        offset: f64,
        /// Standard deviation over the training split.
        scale: f64,
    },
}

/// All that is needed to turn a file's rows into samples, and predictions back into the target's own terms.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Name for people.
    pub name: String,
    /// As configured.
    pub uri: String,
    /// Where the coordinator found the file: a worker on the same machine finds it there too.
    pub path: String,
    /// MD5 of the file.
    pub digest: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows of the file.
    pub rows: u64,
    /// Character between fields.
    pub delimiter: char,
    /// Whether the first line names the columns.
    pub header: bool,
    /// Fields that mean a missing value.
    pub missing: Vec<String>,
    /// Columns, in the file's order.
    pub columns: Vec<Column>,
    /// What is predicted.
    pub output: Output,
    /// Fraction that is held out.
    pub validation: f64,
    /// Seed of the split.
    pub split_seed: u64,
    /// [channels, height, width] of the features, for models of images.
    pub image_shape: Option<[usize; 3]>,
}

impl Plan {
    /// Looks at the data and plans: infers columns, splits, takes statistics from the training split.
    ///
    /// # Errors
    /// All that can be wrong with the file, with file and line.
    pub fn prepare(config: &configs::Dataset, config_dir: Option<&Path>) -> Result<Self, DataError> {
        let path = resolve(&config.uri, config_dir)?;
        let path = path.canonicalize().unwrap_or(path);
        let (names, seen, rows) = survey(&path, config)?;
        let file = config.uri.clone();
        let target = target_column(config, &names, &file)?;
        check_columns(config, &names, &file)?;
        let numeric: Vec<bool> = names
            .iter()
            .zip(&seen)
            .enumerate()
            .map(|(index, (name, seen))| is_numeric(config, name, seen, index == target, &file))
            .collect::<Result<_, _>>()?;
        let (training, _) = split(rows, config.validation, config.split_seed);
        let statistics = Statistics::gather(&path, config, &names, &numeric, &training)?;
        let output = output(config, &names[target], &seen[target], &statistics.columns[target], &file)?;
        let columns = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let ignored = config.columns.get(name) == Some(&ColumnKind::Ignore);
                let role = match index {
                    _ if index == target => Role::Target,
                    _ if ignored => Role::Ignored,
                    _ => Role::Feature,
                };
                let feature = statistics.columns[index].feature(numeric[index], config.normalise);
                Column { name: name.clone(), role, feature: (role == Role::Feature).then_some(feature) }
            })
            .collect();
        let stem =
            path.file_stem().map_or_else(|| "data".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let plan = Self {
            name: config.name.clone().unwrap_or(stem),
            uri: config.uri.clone(),
            digest: md5_of_file(&path)?,
            path: path.display().to_string(),
            bytes,
            rows,
            delimiter: config.delimiter,
            header: config.header,
            missing: config.missing.clone(),
            columns,
            output,
            validation: config.validation,
            split_seed: config.split_seed,
            image_shape: config.image_shape,
        };
        plan.check_features(&file)?;
        Ok(plan)
    }

    /// Numbers that a row becomes.
    #[must_use]
    pub fn features(&self) -> usize {
        self.columns.iter().filter_map(|column| column.feature.as_ref()).map(Feature::width).sum()
    }

    /// Rows of the training and of the validation split.
    #[must_use]
    pub fn split_lengths(&self) -> (u64, u64) {
        let (training, validation) = split(self.rows, self.validation, self.split_seed);
        (training.len() as u64, validation.len() as u64)
    }

    /// `name@` and the digest's first 8 characters.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}@{}", self.name, self.digest.get(..8).unwrap_or(&self.digest))
    }

    pub(crate) fn form(&self) -> Form {
        Form { delimiter: self.delimiter, header: self.header }
    }

    fn check_features(&self, file: &str) -> Result<(), DataError> {
        let problem = |problem: String| Err(DataError::File { file: file.to_owned(), problem });
        if self.features() == 0 {
            return problem("no column is left to predict from".to_owned());
        }
        if let Some([channels, height, width]) = self.image_shape
            && channels * height * width != self.features()
        {
            return problem(format!(
                "dataset.image_shape = [{channels}, {height}, {width}] is {} numbers, but a row has {}",
                channels * height * width,
                self.features()
            ));
        }
        if self.rows < 2 {
            return problem(format!("{} row is too few: one is held out and one trained on", self.rows));
        }
        Ok(())
    }
}

impl Feature {
    /// Numbers that the field becomes.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Numeric { .. } => 1,
            Self::Categorical { categories } => categories.len() + 1,
        }
    }
}

/// Reads the file once: names, what was seen of each column, rows.
fn survey(path: &Path, config: &configs::Dataset) -> Result<(Vec<String>, Vec<Seen>, u64), DataError> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut rows = 0;
    let names = read(path, Form { delimiter: config.delimiter, header: config.header }, |line, record| {
        seen.resize(record.len(), Seen::default());
        rows += 1;
        for (column, text) in seen.iter_mut().zip(record) {
            let text = text.trim();
            column.field(line, text, config.missing.iter().any(|missing| missing == text));
        }
        Ok(())
    })?;
    Ok((names, seen, rows))
}

fn target_column(config: &configs::Dataset, names: &[String], file: &str) -> Result<usize, DataError> {
    let Some(target) = &config.target else { return Ok(names.len() - 1) };
    names.iter().position(|name| name == target).ok_or_else(|| DataError::File {
        file: file.to_owned(),
        problem: format!("dataset.target = {target:?}: no such column{}", hint(target, names)),
    })
}

fn check_columns(config: &configs::Dataset, names: &[String], file: &str) -> Result<(), DataError> {
    for name in config.columns.keys() {
        if !names.contains(name) {
            let problem = format!("dataset.columns.{name}: no such column{}", hint(name, names));
            return Err(DataError::File { file: file.to_owned(), problem });
        }
    }
    Ok(())
}

/// The nearest name, or some of them.
fn hint(word: &str, names: &[String]) -> String {
    let lower = word.to_lowercase();
    let near = names.iter().map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name));
    match near.filter(|(similarity, _)| *similarity > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, name)) => format!("; did you mean {name:?}?"),
        None => {
            let some: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
            let more = if names.len() > 12 { ", ..." } else { "" };
            format!("; columns are {}{more}", some.join(", "))
        }
    }
}

fn is_numeric(
    config: &configs::Dataset,
    name: &str,
    seen: &Seen,
    is_target: bool,
    file: &str,
) -> Result<bool, DataError> {
    let declared = match (is_target, config.kind) {
        (true, Some(DatasetKind::Regression)) => Some(ColumnKind::Numeric),
        (true, Some(DatasetKind::Classification)) => Some(ColumnKind::Categorical),
        (true, None) if seen.looks_like_classes() => Some(ColumnKind::Categorical),
        _ => config.columns.get(name).copied(),
    };
    let numeric = match declared {
        Some(ColumnKind::Ignore) => return Ok(true),
        Some(ColumnKind::Numeric) => true,
        Some(ColumnKind::Categorical) => false,
        None => seen.is_numeric(),
    };
    if numeric && let Some((line, text)) = &seen.first_not_number {
        let problem = format!("column {name:?} is numeric, but this field is {text:?}");
        return Err(DataError::Line { file: file.to_owned(), line: *line, problem });
    }
    if numeric && seen.numbers == 0 {
        let problem = format!("column {name:?} has no number in any row: ignore it with dataset.columns");
        return Err(DataError::File { file: file.to_owned(), problem });
    }
    if !numeric && seen.overflown {
        let problem = format!(
            "column {name:?} has more than {CATEGORIES_MAX} different texts: ignore it with dataset.columns"
        );
        return Err(DataError::File { file: file.to_owned(), problem });
    }
    Ok(numeric)
}

/// Statistics of a column over the training split.
#[derive(Default)]
struct ColumnStatistics {
    count: f64,
    mean: f64,
    squares: f64,
    least: f64,
    greatest: f64,
    categories: BTreeSet<String>,
}

struct Statistics {
    columns: Vec<ColumnStatistics>,
}

impl Statistics {
    fn gather(
        path: &Path,
        config: &configs::Dataset,
        names: &[String],
        numeric: &[bool],
        training: &[u64],
    ) -> Result<Self, DataError> {
        let mut columns: Vec<ColumnStatistics> = names.iter().map(|_| ColumnStatistics::default()).collect();
        let (mut row, mut next) = (0u64, training.iter().copied().peekable());
        read(path, Form { delimiter: config.delimiter, header: config.header }, |_, record| {
            let is_training = next.next_if_eq(&row).is_some();
            row += 1;
            if is_training {
                for ((column, text), is_numeric) in columns.iter_mut().zip(record).zip(numeric) {
                    let text = text.trim();
                    let missing = config.missing.iter().any(|missing| missing == text);
                    column.take(text, missing, *is_numeric);
                }
            }
            Ok(())
        })?;
        Ok(Self { columns })
    }
}

impl ColumnStatistics {
    /// Welford's running mean and squared deviations ("Note on a method for calculating corrected sums of squares and
    /// products", Technometrics 1962).
    fn take(&mut self, text: &str, missing: bool, is_numeric: bool) {
        if !is_numeric {
            let category = if missing { "" } else { text };
            if !self.categories.contains(category) {
                self.categories.insert(category.to_owned());
            }
            return;
        }
        let Some(value) = number(text).filter(|_| !missing) else { return };
        if self.count == 0.0 {
            (self.least, self.greatest) = (value, value);
        }
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }

    fn deviation(&self) -> f64 {
        positive((self.squares / self.count.max(1.0)).sqrt())
    }

    fn feature(&self, is_numeric: bool, normalise: Normalise) -> Feature {
        if !is_numeric {
            return Feature::Categorical { categories: ordered(self.categories.clone()) };
        }
        let (offset, scale) = match normalise {
            Normalise::Standard => (self.mean, self.deviation()),
            Normalise::Minmax => (self.least, positive(self.greatest - self.least)),
            Normalise::None => (0.0, 1.0),
        };
        Feature::Numeric { offset, scale, fill: self.mean }
    }
}

/// A column that never changes is left unscaled.
fn positive(scale: f64) -> f64 {
    if scale > 0.0 && scale.is_finite() { scale } else { 1.0 }
}

fn output(
    config: &configs::Dataset,
    name: &str,
    seen: &Seen,
    statistics: &ColumnStatistics,
    file: &str,
) -> Result<Output, DataError> {
    let problem = |problem: String| Err(DataError::File { file: file.to_owned(), problem });
    if seen.missing > 0 {
        return problem(format!(
            "the target {name:?} is missing in {} rows: remove them, or choose another dataset.target",
            seen.missing
        ));
    }
    let classes = match config.kind {
        Some(kind) => kind == DatasetKind::Classification,
        None => seen.looks_like_classes(),
    };
    if !classes {
        return Ok(Output::Values { offset: statistics.mean, scale: statistics.deviation() });
    }
    let labels = seen.labels();
    if labels.len() < 2 {
        return problem(format!(
            "the target {name:?} has one label only ({labels:?}): there is nothing to learn"
        ));
    }
    if labels.len() > 1_000 {
        return problem(format!(
            "the target {name:?} has {} labels, at most 1000: is it a number (dataset.kind = \"regression\")?",
            labels.len()
        ));
    }
    Ok(Output::Classes { labels })
}
