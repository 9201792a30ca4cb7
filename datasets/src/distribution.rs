//! Distributions of a table's columns over all rows: for display, and to compare two versions.
//!
//! Counts, means and ranges cover all rows. Quantiles and histograms cover all numbers as long as they fit, else a
//! uniform sample with a fixed seed, so that results are reproducible.

use std::path::Path;

use crate::error::DataError;
use crate::format::{Csv, Format, Parquet};
use crate::infer::{ColumnEvidence, is_missing};
use crate::memory_budget::MemoryBudget;
use crate::number::number;
use crate::plan::DataPlan;
use crate::survey::keep;
use crate::table::Table;

/// Numbers kept for quantiles, over all columns: 64 MB.
const KEPT_MAX: usize = 8_000_000;
/// Minimum quantile sample of a column.
const KEPT_OF_A_COLUMN_MIN: usize = 1_000;
/// Maximum number of columns with distributions; of a wider table, only the first ones are shown.
const COLUMNS_MAX: usize = 4_000;

/// Distributions of a table's columns.
#[derive(Clone, Debug)]
pub struct Distributions {
    /// Number of rows.
    pub rows: u64,
    /// The first 4,000 columns, in file order.
    pub columns: Vec<Distribution>,
}

/// Distribution of one column.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// Column name.
    pub name: String,
    /// Number of missing fields.
    pub missing: u64,
    /// Present for numeric columns.
    pub numbers: Option<NumberSummary>,
    /// How often each text occurs, if the column looks categorical and has at most 10,000 categories.
    pub counts: Option<Vec<(String, u64)>>,
}

/// Summary statistics of a column's numbers.
#[derive(Clone, Debug)]
pub struct NumberSummary {
    /// Number of values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Population standard deviation (divided by `count`).
    pub deviation: f64,
    /// Minimum.
    pub least: f64,
    /// Maximum.
    pub greatest: f64,
    /// All values, or a sample of them, sorted. Never empty.
    pub values: Vec<f64>,
}

impl Distributions {
    /// Distributions of a data plan's file.
    ///
    /// # Errors
    /// If the file can't be read, or is no longer a table.
    pub fn of_plan(plan: &DataPlan) -> Result<Self, DataError> {
        Self::of_form(Path::new(&plan.path), &plan.form, &MemoryBudget::megabytes(plan.memory_mb))
    }

    /// Distributions of a parquet or csv file, by its extension (tsv too); csv needs a header.
    ///
    /// # Errors
    /// If the file can't be read, or isn't a table.
    pub fn of_file(path: &Path) -> Result<Self, DataError> {
        Self::of_form(path, &form_of(path), &MemoryBudget::megabytes(configs::Dataset::default().memory_mb))
    }

    /// Distributions of a table in this format.
    pub(crate) fn of_form(path: &Path, form: &Format, memory: &MemoryBudget) -> Result<Self, DataError> {
        let missing = match form {
            Format::Csv(csv) => csv.missing.as_slice(),
            Format::Parquet(parquet) => parquet.missing.as_slice(),
            Format::Idx(_) | Format::Images(_) | Format::Text(_) => &[],
        };
        let mut table = Table::open(form, path, false, memory)?;
        let names: Vec<String> = table.names().iter().take(COLUMNS_MAX).cloned().collect();
        let kept_max = (KEPT_MAX / names.len().max(1)).max(KEPT_OF_A_COLUMN_MIN);
        let mut columns: Vec<ColumnCollector> =
            (0u64..).take(names.len()).map(|column| ColumnCollector::new(column, kept_max)).collect();
        while table.advance()? {
            let mut more = 0;
            for (column, text) in columns.iter_mut().zip(table.fields()) {
                more += column.field(table.place(), text, is_missing(missing, text));
            }
            if more > 0 {
                keep(memory, more, || columns.iter_mut().map(|column| column.seen.forget_numbers()).sum())
                    .map_err(|why| why.of(path))?;
            }
        }
        let (rows, _) = table.finish()?;
        let columns = names.into_iter().zip(columns).map(|(name, column)| column.finish(name)).collect();
        Ok(Self { rows, columns })
    }
}

/// The format by file extension: `.parquet`, tabs in `.tsv`, commas otherwise.
pub(crate) fn form_of(path: &Path) -> Format {
    let ends = |end: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(end));
    let missing = configs::Dataset::default().missing;
    if ends("parquet") {
        return Format::Parquet(Parquet { missing, columns: Vec::new() });
    }
    Format::Csv(Csv {
        delimiter: if ends("tsv") { '\t' } else { ',' },
        header: true,
        missing,
        columns: Vec::new(),
        skipped: None,
    })
}

/// Statistics of a column while it is read.
struct ColumnCollector {
    seen: ColumnEvidence,
    mean: f64,
    squares: f64,
    count: u64,
    kept: Vec<f64>,
    kept_max: usize,
    random: u64,
}

impl ColumnCollector {
    fn new(column: u64, kept_max: usize) -> Self {
        let seen = ColumnEvidence::default();
        Self { seen, mean: 0.0, squares: 0.0, count: 0, kept: Vec::new(), kept_max, random: column }
    }

    /// Adds a field and returns how many more bytes of memory it keeps.
    fn field(&mut self, place: u64, text: &str, is_missing: bool) -> u64 {
        let more = self.seen.field(place, text, is_missing);
        let Some(value) = number(text).filter(|_| !is_missing) else { return more };
        // Welford's running mean and squared deviations (Technometrics 1962).
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
        if self.kept.len() < self.kept_max {
            self.kept.push(value);
            return more;
        }
        // Vitter's algorithm R ("Random sampling with a reservoir", ACM TOMS 1985).
        let place = usize::try_from(self.draw() % self.count).unwrap_or(usize::MAX);
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = value;
        }
        more
    }

    /// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn finish(mut self, name: String) -> Distribution {
        let numbers = self.seen.looks_numeric().then(|| {
            self.kept.sort_by(f64::total_cmp);
            NumberSummary {
                count: self.count,
                mean: self.mean,
                deviation: (self.squares / self.count as f64).sqrt(),
                least: self.seen.least,
                greatest: self.seen.greatest,
                values: self.kept,
            }
        });
        let is_countable = self.seen.looks_like_classes() && !self.seen.is_overflown;
        let counted = |label: String| {
            let count = self.seen.distinct.get(&label).copied().unwrap_or(0);
            (label, count)
        };
        let counts = is_countable.then(|| self.seen.labels().into_iter().map(counted).collect());
        Distribution { name, missing: self.seen.missing, numbers, counts }
    }
}

impl NumberSummary {
    /// The quantile at level `at` (0 to 1), interpolated linearly: type 7 of Hyndman and Fan ("Sample quantiles in
    /// statistical packages", The American Statistician 1996), as in numpy.
    #[must_use]
    pub fn quantile(&self, at: f64) -> f64 {
        let place = at.clamp(0.0, 1.0) * self.values.len().saturating_sub(1) as f64;
        let value = |index: f64| self.values.get(index as usize).copied().unwrap_or(self.greatest);
        let (below, above) = (value(place.floor()), value(place.ceil()));
        // Exact if both neighbours are equal.
        below + (above - below) * place.fract()
    }

    /// Counts of the kept values in `bins` bins of equal width.
    #[must_use]
    pub fn histogram(&self, bins: usize) -> Vec<u64> {
        let mut counts = vec![0; bins];
        let width = (self.greatest - self.least) / bins as f64;
        for value in &self.values {
            let bin = if width > 0.0 { ((value - self.least) / width) as usize } else { 0 };
            if let Some(count) = counts.get_mut(bin.min(bins.saturating_sub(1))) {
                *count += 1;
            }
        }
        counts
    }

    /// Whether [`NumberSummary::values`] is a sample.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        (self.values.len() as u64) < self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Distributions {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("t.csv");
        std::fs::write(&path, text).expect("written");
        Distributions::of_file(&path).expect("read")
    }

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([1, 2, 4, 8], [0, 0.05, 0.25, 0.5, 0.75, 1])
        let all = of("x\n8\n1\n4\n2\n");
        let numbers = all.columns[0].numbers.as_ref().expect("numbers");
        let quantiles = [0.0, 0.05, 0.25, 0.5, 0.75, 1.0].map(|at| numbers.quantile(at));
        assert_eq!(quantiles, [1.0, 1.15, 1.75, 3.0, 5.0, 8.0]);
        assert_eq!((numbers.mean, numbers.deviation), (3.75, 7.1875_f64.sqrt()));
        assert_eq!(numbers.histogram(7), [1, 1, 0, 1, 0, 0, 1]);
    }

    #[test]
    fn missing_fields_and_texts_have_their_own_counts() {
        let all = of("x,c\n1.5,a\n,b\nNA,a\n2.5,\n");
        assert_eq!(all.rows, 4);
        let [x, c] = all.columns.as_slice() else { panic!("two columns") };
        assert_eq!((x.missing, x.counts.is_none(), x.numbers.as_ref().map(|n| n.count)), (2, true, Some(2)));
        assert_eq!((c.missing, c.numbers.is_none()), (1, true));
        assert_eq!(c.counts.as_deref(), Some(&[("a".to_owned(), 2), ("b".to_owned(), 1)][..]));
    }

    #[test]
    fn a_sample_stands_for_all_and_is_the_same_every_time() {
        let sample = |kept_max| {
            let mut column = ColumnCollector::new(0, kept_max);
            for value in 0..100_000 {
                column.field(0, &value.to_string(), false);
            }
            column.finish("x".to_owned()).numbers.expect("numbers")
        };
        let numbers = sample(2_000);
        assert!(numbers.is_sampled() && numbers.values.len() == 2_000);
        assert_eq!(numbers.values, sample(2_000).values);
        // The median of 2,000 of 100,000 lies within 5 standard errors (1,118 each) of the true one.
        assert!((numbers.quantile(0.5) - 50_000.0).abs() < 5_600.0, "{}", numbers.quantile(0.5));
        assert_eq!((numbers.least, numbers.greatest), (0.0, 99_999.0));
    }

    #[test]
    fn one_value_has_a_histogram_of_one_bin() {
        let all = of("x\n3\n3\n");
        assert_eq!(all.columns[0].numbers.as_ref().expect("numbers").histogram(4), [2, 0, 0, 0]);
    }
}
