//! The `datasets` command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use datasets::{DataError, Feature, Output, Plan, Role};

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
    let plan = Plan::prepare(&config, None)?;
    let (training, validation) = plan.split_lengths();
    let mut text = format!(
        "{}\n{} rows: {training} for training, {validation} held out\n{} columns, {} numbers a sample\n\n",
        plan.version(),
        plan.rows,
        plan.columns.len(),
        plan.features()
    );
    for column in &plan.columns {
        let what = match (&column.role, &column.feature) {
            (Role::Target, _) => match &plan.output {
                Output::Classes { labels } => format!("target, {} labels: {}", labels.len(), some(labels)),
                Output::Values { offset, scale } => format!("target, mean {offset:.4}, deviation {scale:.4}"),
            },
            (_, Some(Feature::Numeric { fill, scale, .. })) => {
                format!("numeric, mean {fill:.4}, deviation {scale:.4}")
            }
            (_, Some(Feature::Categorical { categories })) => {
                format!("categorical, {}: {}", categories.len(), some(categories))
            }
            (_, None) => "ignored".to_owned(),
        };
        text.push_str(&format!("{:<24} {what}\n", column.name));
    }
    Ok(text)
}

fn some(words: &[String]) -> String {
    let shown: Vec<&str> = words.iter().take(10).map(String::as_str).collect();
    format!("{}{}", shown.join(", "), if words.len() > 10 { ", ..." } else { "" })
}
