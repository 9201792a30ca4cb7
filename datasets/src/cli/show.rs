//! `datasets show` of a table.

use std::path::Path;

use datasets::{Column, DataError, Distribution, Distributions, Feature, Output, Plan, Profile, Role};

use super::text::{aligned, blocks, counted, one_line, short};

/// Texts of a column that are shown.
const TEXTS_SHOWN_MAX: usize = 8;
/// Labels that are shown with their counts.
const LABELS_SHOWN_MAX: usize = 50;
/// Bins of a histogram of numbers.
const BINS: usize = 16;

/// What a table is, and how its columns are distributed.
pub(super) fn table(path: &Path, name: Option<String>, target: Option<String>) -> Result<String, DataError> {
    let uri = path.display().to_string();
    let config = configs::Dataset { uri, name, target, ..configs::Dataset::default() };
    let (plan, profiles) = Plan::prepare_with_profiles(&config, None)?;
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
    for (column, profile) in plan.columns().iter().zip(&profiles) {
        let (kind, values) = describe(&plan, column, profile);
        rows.push([column.name.clone(), kind.to_owned(), profile.missing.to_string(), values]);
    }
    text.push_str(&aligned(&rows));
    let target = plan.columns().iter().zip(&profiles).find(|(column, _)| column.role == Role::Target);
    if let (Some((column, profile)), Output::Classes { .. }) = (target, &plan.output) {
        text.push_str(&format!("\nlabels of {}\n", column.name));
        text.push_str(&label_counts(profile, plan.rows));
    }
    text.push_str(&distributions(&Distributions::of_plan(&plan)?));
    Ok(text)
}

/// Kind of a column, and the values that it has.
fn describe(plan: &Plan, column: &Column, profile: &Profile) -> (&'static str, String) {
    match (column.role, &column.feature, &plan.output) {
        (Role::Ignored, _, _) => ("ignored", String::new()),
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

fn label_counts(profile: &Profile, rows: u64) -> String {
    let row = |(label, count): &(String, u64)| {
        let percent = 100.0 * *count as f64 / rows as f64;
        [format!("  {}", one_line(label)), count.to_string(), format!("{percent:.1} %")]
    };
    let shown: Vec<_> = profile.distinct.iter().take(LABELS_SHOWN_MAX).map(row).collect();
    let rest = profile.distinct.len() - shown.len();
    let rest = if rest > 0 { format!("  and {rest} more\n") } else { String::new() };
    format!("{}{rest}", aligned(&shown))
}

/// How the numbers of each column are distributed, and the categories: a line each.
fn distributions(all: &Distributions) -> String {
    let mut text = String::new();
    let head = ["numbers", "mean", "std", "min", "5%", "25%", "median", "75%", "95%", "max", "histogram"];
    let rows: Vec<_> = all.columns.iter().filter_map(numbers).collect();
    if !rows.is_empty() {
        let lines: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
        text.push_str(&format!("\n{}", aligned(&lines)));
    }
    let is_sampled =
        |column: &Distribution| column.numbers.as_ref().is_some_and(datasets::Numbers::is_sampled);
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

/// The most frequent text with its share, and a block for each of the most frequent ones.
fn categories(column: &Distribution, rows: u64) -> [String; 3] {
    let mut counts: Vec<&(String, u64)> = column.counts.iter().flatten().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let first = counts.first().map_or_else(String::new, |(text, count)| {
        format!("{} ({:.1} %)", one_line(text), 100.0 * *count as f64 / rows as f64)
    });
    let shown: Vec<u64> = counts.iter().take(BINS).map(|(_, count)| *count).collect();
    [one_line(&column.name), first, blocks(&shown)]
}
