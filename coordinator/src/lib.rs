//! The coordinator: drives the protocol's coordinator state machine.
//!
//! This crate owns the driver loop, the rpc server, the reducer threads, the local worker processes, the run's records
//! and its display. It makes no decisions about steps and members: `protocol` does. It never imports burn or `trainer`,
//! so it runs on a small machine.

mod checkpoints;
mod cli;
mod clock;
mod commands;
mod control;
mod display;
mod driver;
mod event;
mod files;
mod local;
mod record;
mod reduction;
mod run;
mod signals;
mod sync;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::{Cli, Command, TokenCommand, TrackerCommand};
use crate::run::prepare::StartError;

/// Runs the `coordinator` command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let _log = start_log();
    files::raise_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return refuse(&StartError::failed(format!("threads can't be started: {why}"))),
    };
    let outcome = match cli.command {
        None if cli.run.supervise => runtime.block_on(local::supervise::supervise(&cli.run)),
        None => runtime.block_on(run::run(&cli.run)),
        Some(Command::Check { config, set }) => {
            runtime.block_on(commands::check::check(&config, &set)).map(|()| 0)
        }
        Some(Command::Reproduce(args)) => commands::reproduce::reproduce(&args),
        Some(Command::Status(target)) => runtime.block_on(commands::client::status(&target)).map(|()| 0),
        Some(Command::Stop(target)) => runtime.block_on(commands::client::stop(&target)).map(|()| 0),
        Some(Command::Checkpoint(target)) => {
            runtime.block_on(commands::client::checkpoint(&target)).map(|()| 0)
        }
        Some(Command::Key { command }) => commands::keys::command(&command).map(|()| 0),
        Some(Command::Token { command }) => token(&command).map(|()| 0),
        Some(Command::Tracker { command: TrackerCommand::Serve(args) }) => {
            commands::tracking::serve(&args).map(|()| 0)
        }
        Some(Command::Tracker { command: TrackerCommand::Push(args) }) => {
            record::run_sinks::push(&args).map(|()| 0)
        }
    };
    // Threads that still wait for the network have no work left.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => refuse(&refusal),
    }
}

fn token(command: &TokenCommand) -> Result<(), StartError> {
    match command {
        TokenCommand::Create(args) => {
            commands::token::create(args, &commands::client::run_dir(args.run_dir.as_deref())?)
        }
        TokenCommand::List { run_dir, output } => {
            commands::token::list(&commands::client::run_dir(run_dir.as_deref())?, *output)
        }
        TokenCommand::Revoke(args) => {
            commands::token::revoke(args, &commands::client::run_dir(args.run_dir.as_deref())?)
        }
    }
}

fn refuse(refusal: &StartError) -> ExitCode {
    printable::error_line(format_args!("coordinator: {}", refusal.message));
    ExitCode::from(refusal.code)
}

/// See <https://no-color.org>.
fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Logs go to stderr: errors, or the levels that RUST_LOG selects. If nobody reads stderr, up to 128,000 lines are
/// buffered; further lines are dropped, and the run continues. On drop, the guard has a second to flush.
fn start_log() -> WorkerGuard {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    let colours = std::io::stderr().is_terminal() && colours_are_wanted();
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let writer = move || printable::Log::new(writer.make_writer(), colours);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours).init();
    guard
}
