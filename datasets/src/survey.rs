//! Makes the data plan of a table in two passes: one to infer the columns, one for statistics of the training split.

use std::path::PathBuf;

use configs::{ColumnKind, DatasetKind};

use crate::column::{Column, ColumnType, Role};
use crate::digest::Digests;
use crate::error::DataError;
use crate::format::{Csv, Format, Parquet, Skipped};
use crate::infer::{CATEGORIES_MAX, ColumnEvidence, hint, is_missing};
use crate::labels::LABELS_MAX;
use crate::listing::FileEntry;
use crate::memory_budget::{MemoryBudget, OverBudget};
use crate::number::{no_number, number};
use crate::plan::{DataPlan, Output, named};
use crate::quote::quoted;
use crate::rounding::settled;
use crate::split::split;
use crate::statistics::Statistics;
use crate::table::{self, Table};

/// Memory per row number while the rows are split.
pub(crate) const ROW_BYTES: u64 = 16;

/// Holds more memory for column evidence; drops evidence of numeric columns before refusing.
pub(crate) fn keep(memory: &MemoryBudget, more: u64, forget: impl FnOnce() -> u64) -> Result<(), OverBudget> {
    if memory.hold(more).is_ok() {
        return Ok(());
    }
    memory.release(forget());
    memory.hold(more)
}

/// Profile of a column over all rows, for display.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// Number of missing fields.
    pub missing: u64,
    /// Minimum and maximum, if the column has numbers.
    pub range: Option<(f64, f64)>,
    /// Distinct fields, sorted, with their counts; at most the first 10,000 encountered.
    pub distinct: Vec<(String, u64)>,
    /// Whether there are more distinct fields.
    pub has_more: bool,
}

impl Profile {
    fn of(seen: &ColumnEvidence) -> Self {
        let counted = |label: String| {
            let count = seen.distinct.get(&label).copied().unwrap_or(0);
            (label, count)
        };
        Self {
            missing: seen.missing,
            range: (seen.numbers > 0).then_some((seen.least, seen.greatest)),
            distinct: seen.labels().into_iter().map(counted).collect(),
            has_more: seen.is_overflown,
        }
    }
}

/// A table after the first pass.
pub(crate) struct Survey<'a> {
    config: &'a configs::Dataset,
    memory: MemoryBudget,
    path: PathBuf,
    names: Vec<String>,
    /// Type of each column as declared by the file.
    types: Vec<ColumnType>,
    /// Field values that mean a missing value.
    missing: Vec<String>,
    seen: Vec<ColumnEvidence>,
    rows: u64,
    digests: Digests,
    skipped: Option<Skipped>,
}

impl<'a> Survey<'a> {
    pub(crate) fn take(
        config: &'a configs::Dataset,
        path: PathBuf,
        memory: &MemoryBudget,
    ) -> Result<Self, DataError> {
        let mut table = Table::open_new(config, &path, memory)?;
        let (names, types) = (table.names().to_vec(), table.types());
        let missing = table::missing(config);
        let mut seen = vec![ColumnEvidence::default(); names.len()];
        while table.advance()? {
            let mut more = 0;
            for (column, text) in seen.iter_mut().zip(table.fields()) {
                more += column.field(table.place(), text, is_missing(&missing, text));
            }
            if more > 0 {
                keep(memory, more, || seen.iter_mut().map(ColumnEvidence::forget_numbers).sum())
                    .map_err(|why| why.of(&path))?;
            }
        }
        let skipped = table.skipped();
        let (rows, digests) = table.finish()?;
        Ok(Self { config, memory: memory.clone(), path, names, types, missing, seen, rows, digests, skipped })
    }

    pub(crate) fn profiles(&self) -> Vec<Profile> {
        self.seen.iter().map(Profile::of).collect()
    }

    pub(crate) fn plan(&self) -> Result<DataPlan, DataError> {
        let config = self.config;
        let validation = settled(config.validation);
        let (columns, output, label_counts) = self.columns(validation)?;
        let missing = self.missing.clone();
        let form = if config.format == "parquet" {
            Format::Parquet(Parquet { missing, columns })
        } else {
            let (delimiter, header, skipped) = (config.delimiter, config.header, self.skipped.clone());
            Format::Csv(Csv { delimiter, header, missing, columns, skipped })
        };
        let plan = named(config, &self.path, |name, path| {
            let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
            DataPlan {
                name,
                uri: config.uri.clone(),
                path: path.display().to_string(),
                digest: self.digests.md5.clone(),
                bytes: self.digests.bytes,
                files: vec![FileEntry::new(file.unwrap_or_default(), self.digests.clone())],
                rows: self.rows,
                form,
                output,
                validation,
                split_seed: config.split_seed,
                image_shape: config.image_shape,
                augment: configs::Augment::default(),
                sampling: config.sampling,
                label_counts,
                memory_mb: config.memory_mb,
            }
        });
        self.check_features(&plan)?;
        Ok(plan)
    }

    /// Roles and encodings of the columns, the output, and label counts over the training split.
    fn columns(&self, validation: f64) -> Result<(Vec<Column>, Output, Vec<u64>), DataError> {
        self.check_names()?;
        let target = self.target()?;
        let is_classes = self.target_is_classes(target)?;
        let roles: Vec<Role> = (0..self.names.len()).map(|column| self.role(column, target)).collect();
        let is_used = |column: usize| roles[column] != Role::Ignored;
        if let Some(column) = (0..roles.len()).find(|c| is_used(*c) && self.types[*c] == ColumnType::Unusable)
        {
            let name = quoted(&self.names[column]);
            let problem = format!("column {name} is nested or binary: ignore it with dataset.columns");
            return self.refuse(problem);
        }
        let mut numeric = Vec::with_capacity(roles.len());
        for (column, role) in roles.iter().enumerate() {
            numeric.push(match role {
                Role::Ignored => false,
                Role::Target => self.check_kind(column, !is_classes)?,
                Role::Weight => self.check_kind(column, true)?,
                Role::Feature => self.check_kind(column, self.feature_is_numeric(column))?,
            });
        }
        if self.rows < 2 {
            return self.refuse("one row is too few to learn from".to_owned());
        }
        // All row numbers, shuffled, and those of both splits; and the texts again for the statistics and the plan.
        let texts: u64 =
            self.seen.iter().zip(&numeric).filter(|(_, is)| !**is).map(|(seen, _)| 2 * seen.kept).sum();
        let held = self.rows.saturating_mul(ROW_BYTES).saturating_add(texts);
        self.memory.hold(held).map_err(|why| why.of(&self.path))?;
        let (training, _) = split(self.rows, validation, self.config.split_seed);
        let statistics = self.statistics(&roles, &numeric, &training)?;
        self.check_weights(&roles, &statistics)?;
        let output = self.output(target, is_classes, &statistics[target])?;
        let label_counts = match &output {
            Output::Classes { labels } => labels.iter().map(|l| statistics[target].count_of(l)).collect(),
            Output::Values { .. } | Output::Tokens { .. } => Vec::new(),
        };
        let mut columns = Vec::with_capacity(roles.len());
        for (column, (role, statistics)) in roles.into_iter().zip(statistics).enumerate() {
            let name = self.names[column].clone();
            let feature = match (role, numeric[column]) {
                (Role::Feature, true) if statistics.is_empty() => {
                    return self.refuse(format!(
                        "column {} has no number in the training split: ignore it with dataset.columns",
                        quoted(&name)
                    ));
                }
                (Role::Feature, true) => {
                    // Missing pixels are only replaced by the mean: an image has no room for indicators.
                    let indicated = self.config.image_shape.is_none();
                    Some(statistics.numeric(self.config.normalise, indicated))
                }
                (Role::Feature, false) => Some(statistics.categorical()),
                (Role::Target | Role::Weight | Role::Ignored, _) => None,
            };
            columns.push(Column { name, role, feature });
        }
        Ok((columns, output, label_counts))
    }

    /// Checks that weighted sampling, if configured, is possible.
    fn check_weights(&self, roles: &[Role], statistics: &[Statistics]) -> Result<(), DataError> {
        let weight = roles.iter().position(|role| *role == Role::Weight);
        match (&self.config.weight_column, weight) {
            (Some(_), Some(column)) if statistics[column].greatest() > 0.0 => Ok(()),
            (Some(name), Some(_)) => self.refuse(format!(
                "dataset.weight_column = {name:?}: all weights of the training split are 0, there is nothing to draw"
            )),
            (Some(name), None) if self.names.contains(name) => {
                self.refuse(format!("dataset.weight_column = {name:?} is what is predicted: set dataset.target"))
            }
            (Some(name), None) => {
                let hint = hint(name, self.names(), "columns");
                self.refuse(format!("dataset.weight_column = {name:?}: no such column{hint}"))
            }
            (None, _) => Ok(()),
        }
    }

    fn refuse<T>(&self, problem: String) -> Result<T, DataError> {
        Err(DataError::File { file: self.path.display().to_string(), problem })
    }

    fn refuse_line<T>(&self, place: u64, problem: String) -> Result<T, DataError> {
        Err(table::error_at(self.config, &self.path, place, problem))
    }

    fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.iter().map(String::as_str)
    }

    fn declared(&self, column: usize) -> Option<ColumnKind> {
        // Text that looks like numbers stays text if the file declares it so.
        let of_file = (self.types[column] == ColumnType::Text).then_some(ColumnKind::Categorical);
        self.config.columns.get(&self.names[column]).copied().or(of_file)
    }

    fn check_names(&self) -> Result<(), DataError> {
        match self.config.columns.keys().find(|name| !self.names.contains(name)) {
            None => Ok(()),
            Some(name) => {
                let hint = hint(name, self.names(), "columns");
                self.refuse(format!("dataset.columns.{name}: no such column{hint}"))
            }
        }
    }

    /// The target column: the configured one, else the last that is not ignored.
    fn target(&self) -> Result<usize, DataError> {
        let is_ignored =
            |column: usize| self.declared(column) == Some(ColumnKind::Ignore) || self.is_weight(column);
        let Some(target) = &self.config.target else {
            return match (0..self.names.len()).rfind(|column| !is_ignored(*column)) {
                Some(column) => Ok(column),
                None => self.refuse("all columns are ignored by dataset.columns".to_owned()),
            };
        };
        match self.names.iter().position(|name| name == target) {
            Some(column) if is_ignored(column) => {
                self.refuse(format!("dataset.target = {target:?}: dataset.columns ignores it"))
            }
            Some(column) => Ok(column),
            None => {
                let hint = hint(target, self.names(), "columns");
                self.refuse(format!("dataset.target = {target:?}: no such column{hint}"))
            }
        }
    }

    fn is_weight(&self, column: usize) -> bool {
        self.config.weight_column.as_ref() == Some(&self.names[column])
    }

    fn role(&self, column: usize, target: usize) -> Role {
        match self.declared(column) {
            _ if column == target => Role::Target,
            _ if self.is_weight(column) => Role::Weight,
            Some(ColumnKind::Ignore) => Role::Ignored,
            _ => Role::Feature,
        }
    }

    fn target_is_classes(&self, target: usize) -> Result<bool, DataError> {
        match (self.config.kind, self.declared(target)) {
            (Some(DatasetKind::Regression), Some(ColumnKind::Categorical)) => self.refuse(format!(
                "dataset.kind = \"regression\", but dataset.columns.{} = \"categorical\": remove one of them",
                self.names[target]
            )),
            (Some(kind), _) => Ok(kind == DatasetKind::Classification),
            (None, Some(ColumnKind::Numeric)) => Ok(false),
            (None, Some(ColumnKind::Categorical)) => Ok(true),
            (None, _) => Ok(self.seen[target].looks_like_classes()),
        }
    }

    fn feature_is_numeric(&self, column: usize) -> bool {
        match self.declared(column) {
            Some(kind) => kind == ColumnKind::Numeric,
            None => self.seen[column].looks_numeric(),
        }
    }

    /// Checks that the column fits its inferred kind.
    fn check_kind(&self, column: usize, is_numeric: bool) -> Result<bool, DataError> {
        let (name, seen) = (&self.names[column], &self.seen[column]);
        let spots = [&seen.first_text, &seen.first_unusable];
        let first = spots.into_iter().flatten().min_by_key(|(place, _)| *place);
        if is_numeric && let Some((place, text)) = first {
            return self.refuse_line(*place, no_number(name, text));
        }
        if is_numeric && seen.numbers == 0 {
            let name = quoted(name);
            let problem = format!("column {name} has no number in any row: ignore it with dataset.columns");
            return self.refuse(problem);
        }
        if !is_numeric && seen.is_forgotten {
            return self.refuse(format!(
                "column {} has more different texts than fit into dataset.memory_mb = {}: set it higher, or ignore the \
                 column with dataset.columns",
                quoted(name),
                self.config.memory_mb
            ));
        }
        if !is_numeric && seen.is_overflown {
            return self.refuse(format!(
                "column {} has more than {CATEGORIES_MAX} different texts: ignore it with dataset.columns",
                quoted(name)
            ));
        }
        Ok(is_numeric)
    }

    /// Reads the file again for statistics over the training rows.
    fn statistics(
        &self,
        roles: &[Role],
        numeric: &[bool],
        training: &[u64],
    ) -> Result<Vec<Statistics>, DataError> {
        let missing = &self.missing;
        let mut columns: Vec<Statistics> = roles.iter().map(|_| Statistics::default()).collect();
        let mut training = training.iter().copied().peekable();
        let mut table = Table::open_new(self.config, &self.path, &self.memory)?;
        let mut row = 0;
        while table.advance()? {
            if training.next_if_eq(&row).is_some() {
                for (column, text) in table.fields().enumerate().take(columns.len()) {
                    let is_missing = is_missing(missing, text);
                    let is_weight = roles[column] == Role::Weight;
                    if is_weight && (is_missing || number(text).is_none_or(|weight| weight < 0.0)) {
                        let problem = format!(
                            "column {} has the weights of rows, but this one is {}: expected a number from 0",
                            quoted(&self.names[column]),
                            quoted(text)
                        );
                        return Err(table.error(problem));
                    }
                    match (is_missing, numeric[column]) {
                        _ if roles[column] == Role::Ignored => {}
                        (true, true) => columns[column].missing_number(),
                        (false, true) => columns[column].number(text),
                        (is_missing, false) => columns[column].category(text, is_missing, missing),
                    }
                }
            }
            row += 1;
        }
        let (_, digests) = table.finish()?;
        if digests != self.digests {
            return self.refuse("the file changed while it was read".to_owned());
        }
        Ok(columns)
    }

    fn output(&self, target: usize, is_classes: bool, statistics: &Statistics) -> Result<Output, DataError> {
        let (name, seen) = (quoted(&self.names[target]), &self.seen[target]);
        if let Some((place, _)) = &seen.first_missing {
            let rows = if seen.missing == 1 { "1 row".to_owned() } else { format!("{} rows", seen.missing) };
            return self.refuse_line(
                *place,
                format!("the target {name} is missing here ({rows} in all): remove such rows"),
            );
        }
        if !is_classes {
            return Ok(statistics.values());
        }
        let labels = seen.labels();
        if labels.len() < 2 {
            return self.refuse(format!(
                "the target {name} has one label only ([{}]): there is nothing to learn",
                labels.iter().map(|label| quoted(label)).collect::<Vec<_>>().join(", ")
            ));
        }
        if labels.len() > LABELS_MAX {
            return self.refuse(format!(
                "the target {name} has {} labels, at most {LABELS_MAX}: is it a number (dataset.kind = \"regression\")?",
                labels.len()
            ));
        }
        Ok(Output::Classes { labels })
    }

    fn check_features(&self, plan: &DataPlan) -> Result<(), DataError> {
        let features = plan.features();
        if features == 0 {
            return self.refuse("no column is left to predict from".to_owned());
        }
        let Some([channels, height, width]) = plan.image_shape else { return Ok(()) };
        let numbers = channels.checked_mul(height).and_then(|rows| rows.checked_mul(width));
        if numbers != Some(features) {
            let numbers = numbers.map_or_else(|| "too many".to_owned(), |numbers| numbers.to_string());
            return self.refuse(format!(
                "dataset.image_shape = [{channels}, {height}, {width}] is {numbers} numbers, but a row has {features}"
            ));
        }
        Ok(())
    }
}
