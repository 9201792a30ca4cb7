//! Checks `[dataset]` and `[augment]`.

use super::within;
use crate::key_positions::Report;
use crate::types::{ColumnKind, Config, Dataset, DatasetKind, OnBad, Sampling, Shuffle};

pub(super) fn check(config: &Config, report: &mut Report) {
    dataset(&config.dataset, report);
    format(config, report);
    sampling(config, report);
}

fn dataset(dataset: &Dataset, report: &mut Report) {
    if dataset.uri.is_empty() {
        let message = "dataset.uri is missing: the path of the data, such as \"datasets/digits/digits.csv\"";
        report.add(&["dataset", "uri"], message.to_owned());
    }
    let held_out = dataset.validation;
    let is_part = (0.0..1.0).contains(&held_out);
    within(report, "dataset.validation", held_out, is_part, "a fraction, at least 0 and below 1");
    if matches!(dataset.delimiter, '"' | '\n' | '\r') {
        let message =
            format!("dataset.delimiter = {:?}: it ends a line or quotes a field", dataset.delimiter);
        report.add(&["dataset", "delimiter"], message);
    }
    let Some(target) = &dataset.target else { return };
    let message = match (dataset.columns.get(target), dataset.kind) {
        (Some(ColumnKind::Ignore), _) => {
            format!("column {target:?} is dataset.target, and ignored by dataset.columns: remove one of them")
        }
        (Some(ColumnKind::Categorical), Some(DatasetKind::Regression)) => format!(
            "the target {target:?} is categorical by dataset.columns, but dataset.kind = \"regression\": remove one of \
             them"
        ),
        _ => return,
    };
    report.add(&["dataset", "columns", target], message);
}

/// Rejects keys that the data's format doesn't use: they would have no effect.
fn format(config: &Config, report: &mut Report) {
    let dataset = &config.dataset;
    let format = dataset.format.as_str();
    let is_table = matches!(format, "csv" | "parquet");
    let is_image = matches!(format, "idx" | "images");
    let augment = &config.augment;
    for (path, is_set, is_used, of) in [
        ("dataset.target", dataset.target.is_some(), is_table, "tables"),
        ("dataset.kind", dataset.kind.is_some(), is_table, "tables"),
        ("dataset.columns", !dataset.columns.is_empty(), is_table, "tables"),
        ("dataset.image_shape", dataset.image_shape.is_some(), format != "text", "tables and images"),
        ("dataset.labels", dataset.labels.is_some(), format == "idx", "\"idx\""),
        ("dataset.tokenizer", dataset.tokenizer.is_some(), format == "text", "\"text\""),
        ("dataset.resize", dataset.resize, format == "images", "\"images\""),
        ("augment.shift", augment.shift > 0, is_image, "\"idx\" and \"images\""),
        ("augment.flip", augment.flip, is_image, "\"idx\" and \"images\""),
        ("augment.crop", augment.crop > 0, is_image, "\"idx\" and \"images\""),
        (
            "dataset.on_bad",
            dataset.on_bad == OnBad::Skip,
            matches!(format, "csv" | "images") || dataset.tokenizer.is_some(),
            "\"csv\", \"images\" and text with a dataset.tokenizer (what is bad of others is refused as a whole)",
        ),
    ] {
        if is_set && !is_used {
            report.add_all(
                &[path, "dataset.format"],
                format!("{path} is set, but dataset.format = \"{format}\": it is for {of}, remove it"),
            );
        }
    }
}

/// Contents and order of an epoch.
fn sampling(config: &Config, report: &mut Report) {
    let dataset = &config.dataset;
    let format = dataset.format.as_str();
    let (key, word) = match dataset.sampling {
        Sampling::Each => ("dataset.sampling", "each"),
        Sampling::Balanced => ("dataset.sampling", "balanced"),
        Sampling::Weighted => ("dataset.sampling", "weighted"),
    };
    let mut add = |keys: [&str; 2], why: String| report.add_all(&keys, why);
    match (dataset.sampling, &dataset.weight_column) {
        (Sampling::Weighted, _) if !matches!(format, "csv" | "parquet") => add(
            [key, "dataset.format"],
            format!(
                "dataset.sampling = \"weighted\", but dataset.format = \"{format}\": only tables have weights"
            ),
        ),
        (Sampling::Weighted, None) => add(
            [key, "dataset.weight_column"],
            "dataset.sampling = \"weighted\" needs dataset.weight_column: the column of the weights"
                .to_owned(),
        ),
        (Sampling::Each | Sampling::Balanced, Some(column)) => add(
            [key, "dataset.weight_column"],
            format!(
                "dataset.weight_column = {column:?} with dataset.sampling = \"{word}\": set it to \"weighted\", or remove \
                 the column"
            ),
        ),
        (Sampling::Balanced, None) if format == "text" => add(
            [key, "dataset.format"],
            "dataset.sampling = \"balanced\", but dataset.format = \"text\": a text has no labels".to_owned(),
        ),
        (Sampling::Balanced, None) if dataset.kind == Some(DatasetKind::Regression) => add(
            [key, "dataset.kind"],
            "dataset.sampling = \"balanced\" with dataset.kind = \"regression\", which has no labels"
                .to_owned(),
        ),
        (Sampling::Weighted, Some(column)) if dataset.target.as_ref() == Some(column) => add(
            ["dataset.weight_column", "dataset.target"],
            format!("dataset.weight_column = {column:?} is dataset.target too: name another one"),
        ),
        _ => {}
    }
    if dataset.sampling != Sampling::Each && dataset.shuffle != Shuffle::Full {
        let keys = ["dataset.shuffle", "dataset.sampling"];
        let why = format!(
            "dataset.shuffle is set with dataset.sampling = \"{word}\": draws come from everywhere and have no order of \
             their own, remove one of them"
        );
        report.add_all(&keys, why);
    }
}
