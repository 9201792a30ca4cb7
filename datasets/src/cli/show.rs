//! `datasets show` of a table.

use std::path::Path;

use datasets::{Column, DataError, DataPlan, Distribution, Distributions, Feature, Output, Profile, Role};

use serde_json::json;

use super::DataArguments;
use super::show_overview::histogram;
use super::text::{aligned, blocks, counted, one_line, short};

const TEXTS_SHOWN_MAX: usize = 8;
const LABELS_SHOWN_MAX: usize = 50;
const BINS: usize = 16;
const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// An inspected table.
pub(super) struct TableSeen {
    plan: DataPlan,
    profiles: Vec<Profile>,
    distributions: Distributions,
}

impl TableSeen {
    /// Inspects a table; the file extension selects the format.
    pub(super) fn of(path: &Path, name: Option<String>, asked: DataArguments) -> Result<Self, DataError> {
        let ends = |end: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(end));
        let DataArguments { target, memory_mb } = asked;
        let uri = path.display().to_string();
        let mut config = configs::Dataset { uri, name, target, memory_mb, ..Default::default() };
        config.format = if ends("parquet") { "parquet" } else { "csv" }.to_owned();
        config.delimiter = if ends("tsv") { '\t' } else { config.delimiter };
        let (plan, profiles) = DataPlan::prepare_with_profiles(&config, None)?;
        let distributions = Distributions::of_plan(&plan)?;
        Ok(Self { plan, profiles, distributions })
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let (plan, all) = (&self.plan, &self.distributions);
        let columns = plan.columns().iter().zip(&self.profiles).enumerate().map(|(at, (column, profile))| {
            let (kind, _) = describe(plan, column, profile);
            let found = all.columns.get(at);
            let numbers = found.and_then(|found| found.numbers.as_ref()).map(|numbers| {
                json!({
                    "count": numbers.count, "mean": numbers.mean, "std": numbers.deviation, "min": numbers.least,
                    "max": numbers.greatest, "histogram": numbers.histogram(BINS), "sampled": numbers.is_sampled(),
                    "quantiles": QUANTILES.map(|at| (at.to_string(), numbers.quantile(at))).into_iter()
                        .collect::<std::collections::BTreeMap<_, _>>(),
                })
            });
            let counts = found.and_then(|found| found.counts.as_ref());
            json!({ "name": column.name, "kind": kind, "missing": profile.missing, "numbers": numbers, "counts": counts })
        });
        let (training, validation) = plan.split_lengths();
        json!({
            "version": plan.version(), "format": plan.form.name(), "digest": plan.digest, "bytes": plan.bytes,
            "rows": plan.rows, "training": training, "held_out": validation, "features": plan.features(),
            "columns": columns.collect::<Vec<_>>(),
        })
    }

    pub(super) fn text(&self) -> String {
        table(&self.plan, &self.profiles, &self.distributions)
    }
}

/// Summary of a table and the distributions of its columns.
fn table(plan: &DataPlan, profiles: &[Profile], all: &Distributions) -> String {
    let (training, validation) = plan.split_lengths();
    let mut text = format!(
        "{}  md5 {}, {} bytes\n{} rows: {training} for training, {validation} held out\n{} columns, {} numbers a sample\n\n",
        plan.version(),
        plan.digest,
        plan.bytes,
        plan.rows,
        plan.columns().len(),
        plan.features()
    );
    let mut rows = vec![["column", "kind", "missing", "values"].map(str::to_owned)];
    for (column, profile) in plan.columns().iter().zip(profiles) {
        let (kind, values) = describe(plan, column, profile);
        rows.push([one_line(&column.name), kind.to_owned(), profile.missing.to_string(), values]);
    }
    text.push_str(&aligned(&rows));
    let target = plan.columns().iter().zip(profiles).find(|(column, _)| column.role == Role::Target);
    if let (Some((column, profile)), Output::Classes { .. }) = (target, &plan.output) {
        text.push_str(&format!("\nlabels of {}\n", printable::line(&column.name)));
        text.push_str(&histogram(&profile.distinct, LABELS_SHOWN_MAX));
    }
    text.push_str(&distributions(all));
    text
}

/// A column's kind and its values.
fn describe(plan: &DataPlan, column: &Column, profile: &Profile) -> (&'static str, String) {
    match (column.role, &column.feature, &plan.output) {
        (Role::Ignored, _, _) => ("ignored", String::new()),
        (Role::Weight, _, _) => ("weight", range(profile)),
        (Role::Target, _, Output::Classes { labels }) => ("target", format!("{} labels", labels.len())),
        (Role::Target, _, Output::Values { .. } | Output::Tokens { .. }) => ("target", range(profile)),
        (Role::Feature, Some(Feature::Categorical { .. }), _) => ("categorical", texts(profile)),
        (Role::Feature, _, _) => ("numeric", range(profile)),
    }
}

fn range(profile: &Profile) -> String {
    profile.range.map_or_else(String::new, |(least, greatest)| format!("{least} to {greatest}"))
}

fn texts(profile: &Profile) -> String {
    let more = if profile.has_more { "more than " } else { "" };
    let shown: Vec<String> =
        profile.distinct.iter().take(TEXTS_SHOWN_MAX).map(|(text, _)| one_line(text)).collect();
    let rest = if profile.distinct.len() > TEXTS_SHOWN_MAX { ", ..." } else { "" };
    format!("{more}{}: {}{rest}", profile.distinct.len(), shown.join(", "))
}

/// One line per numeric column and one per categorical column.
fn distributions(all: &Distributions) -> String {
    let mut text = String::new();
    let head = ["numbers", "mean", "std", "min", "5%", "25%", "median", "75%", "95%", "max", "histogram"];
    let rows: Vec<_> = all.columns.iter().filter_map(numbers).collect();
    if !rows.is_empty() {
        let lines: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
        text.push_str(&format!("\n{}", aligned(&lines)));
    }
    let is_sampled =
        |column: &Distribution| column.numbers.as_ref().is_some_and(datasets::NumberSummary::is_sampled);
    if let Some(sample) = all.columns.iter().find(|column| is_sampled(column)) {
        let kept = sample.numbers.as_ref().map_or(0, |numbers| numbers.values.len() as u64);
        text.push_str(&format!("quantiles and histograms are of a sample of {}\n", counted(kept, "row")));
    }
    let is_text = |column: &&Distribution| column.numbers.is_none() && column.counts.is_some();
    let texts: Vec<_> =
        all.columns.iter().filter(is_text).map(|column| categories(column, all.rows)).collect();
    if !texts.is_empty() {
        let head = ["texts", "most frequent", "histogram"].map(str::to_owned);
        let lines: Vec<_> = std::iter::once(head).chain(texts).collect();
        text.push_str(&format!("\n{}", aligned(&lines)));
    }
    text
}

fn numbers(column: &Distribution) -> Option<[String; 11]> {
    let own = column.numbers.as_ref()?;
    let quantile = |at: f64| short(own.quantile(at));
    Some([
        one_line(&column.name),
        short(own.mean),
        short(own.deviation),
        short(own.least),
        quantile(0.05),
        quantile(0.25),
        quantile(0.5),
        quantile(0.75),
        quantile(0.95),
        short(own.greatest),
        blocks(&own.histogram(BINS)),
    ])
}

/// The most frequent category with its share, and a histogram of the most frequent ones.
fn categories(column: &Distribution, rows: u64) -> [String; 3] {
    let mut counts: Vec<&(String, u64)> = column.counts.iter().flatten().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let first = counts.first().map_or_else(String::new, |(text, count)| {
        format!("{} ({:.1} %)", one_line(text), 100.0 * *count as f64 / rows as f64)
    });
    let shown: Vec<u64> = counts.iter().take(BINS).map(|(_, count)| *count).collect();
    [one_line(&column.name), first, blocks(&shown)]
}
