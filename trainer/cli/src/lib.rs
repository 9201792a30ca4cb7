//! The `trainer` command: works on a run's versions without a coordinator.
//!
//! This crate owns offline evaluation, prediction, text sampling and export from a run's directory. It never trains,
//! never writes anything but exports, and never imports protocol, wire, coordinator or worker: it only reads what a run
//! left behind. A binary with custom models is `trainer_cli::main(Registry::builtin().with::<MyTask>("my-model"))`.

mod alphabet;
mod cli;
mod evaluate;
mod export;
mod failure;
mod model;
mod predict;
mod run;
mod sample;
mod samples;
mod version_selector;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use trainer::Registry;

pub use crate::cli::Cli;
use crate::cli::Command;
pub use crate::failure::Failure;

/// The `trainer` command with these models: parses the command line, runs the command, and returns the exit code.
#[must_use]
#[expect(
    clippy::needless_pass_by_value,
    reason = "a main is written as a worker's is, which keeps its registry"
)]
pub fn main(registry: Registry) -> ExitCode {
    let cli = Cli::parse();
    start_log();
    // As in a worker, so that an evaluation reproduces the bits that the run logged.
    trainer::device::use_one_thread();
    let answer = match &cli.command {
        // Text is streamed.
        Command::Sample(ask) => {
            let out = std::io::stdout();
            let shown = match out.is_terminal() {
                true => sample::sample(ask, &registry, &mut printable::Log::new(out.lock(), false)),
                // Raw bytes, to be read as data by other programs.
                false => sample::sample(ask, &registry, &mut out.lock()),
            };
            shown.map(|()| String::new())
        }
        _ => answer(&cli, &registry),
    };
    match answer {
        Ok(text) => print(&text),
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// With the exit code of the failure.
pub fn answer(cli: &Cli, registry: &Registry) -> Result<String, Failure> {
    match &cli.command {
        Command::Export(ask) => export::export(ask, registry),
        Command::Eval(ask) => evaluate::evaluate(ask, registry),
        Command::Predict(ask) => predict::predict(ask, registry),
        Command::Sample(ask) => {
            let mut text = Vec::new();
            sample::sample(ask, registry, &mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
    }
}

/// Logs to standard error, filtered by RUST_LOG.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal();
    // Keeps a subscriber that a custom main has installed.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || printable::Log::new(std::io::stderr(), colours))
        .with_ansi(colours)
        .without_time()
        .with_target(false)
        .try_init();
}

fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(printable::text(text).as_bytes()).and_then(|()| out.flush()) {
        // The reader has closed the pipe.
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => {
            tracing::error!("standard output: {why}");
            ExitCode::from(4)
        }
        _ => ExitCode::SUCCESS,
    }
}
