//! The `datasets` command.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let outcome = cli::Cli::parse().run();
    // A reader that went away is no failure.
    let _ = std::io::stdout().lock().write_all(outcome.text.as_bytes());
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("datasets: {}", failure.line);
            ExitCode::from(failure.code)
        }
    }
}
