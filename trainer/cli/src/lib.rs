//! The `trainer` command: what can be done with a run's versions when no coordinator is there.
//!
//! This crate owns evaluation, prediction, sampling of text and export offline, from a run's directory. It never trains, never writes
//! anything but exports, and never imports protocol, wire, coordinator or worker: it reads what a run left behind. A
//! binary with models of one's own is `trainer_cli::main(Registry::builtin().with::<MyTask>("my-model"))`.

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

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use trainer::Registry;

pub use crate::cli::Cli;
use crate::cli::Command;
pub use crate::failure::Failure;

/// The `trainer` command over these models: reads the command line, does it, and gives the exit code.
#[must_use]
#[expect(
    clippy::needless_pass_by_value,
    reason = "a main is written as a worker's is, which keeps its registry"
)]
pub fn main(registry: Registry) -> ExitCode {
    let cli = Cli::parse();
    start_log();
    // As a worker has it, so that an evaluation gives the bits that the run logged.
    trainer::device::use_one_thread();
    let answer = match &cli.command {
        // Text is shown as it comes.
        Command::Sample(ask) => {
            let out = std::io::stdout();
            let shown = match out.is_terminal() {
                true => sample::sample(ask, &registry, &mut printable::Log::new(out.lock(), false)),
                // Bytes that others read as data.
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

/// What the command line asks for: the text for standard output.
///
/// # Errors
/// With the exit code that the failure means.
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

/// Logs go to standard error; RUST_LOG chooses which.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal();
    // A log that a user's own main has started already stays.
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
        // Whoever reads has seen enough.
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => {
            tracing::error!("standard output: {why}");
            ExitCode::from(4)
        }
        _ => ExitCode::SUCCESS,
    }
}
