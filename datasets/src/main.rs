//! The `datasets` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let outcome = cli::Cli::parse().run();
    printable::print(&outcome.text);
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            printable::error_line(format_args!("datasets: {}", failure.line));
            ExitCode::from(failure.code)
        }
    }
}
