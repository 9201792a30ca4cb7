//! The `datasets` command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use datasets::{Column, DataError, Feature, Output, Plan, Profile, Role};

/// Texts of a column that are shown.
const TEXTS_SHOWN_MAX: usize = 8;
/// Labels that are shown with their counts.
const LABELS_SHOWN_MAX: usize = 50;

/// Looks at datasets.
#[derive(Parser)]
#[command(name = "datasets", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what a table is: rows, columns, what each is taken for, the split
    Show {
        /// A csv file
        path: PathBuf,
        /// The column that is predicted; the last one if none is named
        #[arg(long)]
        target: Option<String>,
    },
}

fn main() -> ExitCode {
    let Command::Show { path, target } = Cli::parse().command;
    match show(&path, target) {
        Ok(text) => {
            // A reader that went away is no failure.
            let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("datasets: {error}");
            ExitCode::from(3)
        }
    }
}

fn show(path: &Path, target: Option<String>) -> Result<String, DataError> {
    let config = configs::Dataset { uri: path.display().to_string(), target, ..configs::Dataset::default() };
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

/// A field that can't break a line of the table, nor be too long for it.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.char_indices().nth(32) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain,
    }
}

/// Cells in columns of one width, the last one as long as it is.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
