//! The driver of the protocol's worker machine.
//!
//! This crate owns a member's threads: the control stream on a small runtime, the driver's loop, the compute thread
//! with the engine and the flat buffers, the data feed, and the exchange of gradients. It decides nothing about a run
//! (`protocol` does), has no arithmetic of its own (`protocol` and `trainer` have it), and never imports the
//! coordinator. Begin with [`main`]; a binary with custom models is
//! `worker::main(Registry::builtin().with::<MyTask>("my-model"))`.

mod captured_stderr;
mod channel;
mod check;
mod cli;
mod compute;
mod data;
mod driver;
mod exchange;
mod failure;
mod feed;
mod member;
mod metrics;
mod reachability;
mod reduced;
mod session;
mod spans;
mod state;
mod step;
mod transfer;
mod versions;
mod worker_info;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::messages::{EndReason, Failure, Join};
use protocol::worker::{Options, Worker};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::fmt::MakeWriter;
use trainer::Registry;
use wire::tls::Security;

use crate::channel::{COMMANDS_MAX, Command, DriverEvent, EVENTS_MAX};
pub use crate::cli::Cli;
use crate::compute::OpenedDevice;
use crate::driver::{Driver, WorkerEnd};
use crate::failure::fail;
use crate::session::CoordinatorAddress;
use crate::worker_info::WorkerInfo;

/// How long the compute thread may take to release its device.
const QUIT_DEADLINE: Duration = Duration::from_secs(1);
/// Polling interval for the compute thread's end.
const QUIT_POLL: Duration = Duration::from_millis(5);
/// Time for the last log line when the process exits at once.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// The `worker` command with these models: parses the command line, works until the run ends, and returns the exit
/// code.
#[must_use]
pub fn main(registry: Registry) -> ExitCode {
    let cli = Cli::parse();
    if cli.list_devices {
        let listed =
            captured_stderr::quietly(|| Ok::<_, std::convert::Infallible>(trainer::device::list_devices()));
        for device in listed.unwrap_or_default() {
            let software = if device.software { " (software)" } else { "" };
            printable::print_line(format_args!("{}  {}{software}", device.spec, device.name));
        }
        return ExitCode::SUCCESS;
    }
    let _log = start_log();
    if cli.check_task {
        return check::main(&registry, &cli.device);
    }
    store::raise_open_files();
    match run(&cli, registry) {
        Ok(WorkerEnd { code, message, reason: EndReason::Completed }) => {
            tracing::info!("{message}");
            ExitCode::from(code)
        }
        Ok(WorkerEnd { code, message, reason: EndReason::Interrupted })
        | Err(Failure { code: code @ 130, message }) => {
            tracing::warn!("{message}");
            ExitCode::from(code)
        }
        Ok(WorkerEnd { code, message, reason: EndReason::Failed }) | Err(Failure { code, message }) => {
            tracing::error!("{message}");
            ExitCode::from(code)
        }
    }
}

/// Logs go to standard error, filtered by RUST_LOG. If standard error isn't read, up to 128,000 lines are buffered;
/// further ones are dropped, and work continues. At the end the guard gets a second to flush.
fn start_log() -> WorkerGuard {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Keep a log that a custom main has already started.
    let colours = std::io::stderr().is_terminal() && colours_are_wanted();
    let (writer, guard) = match captured_stderr::own_stderr() {
        Ok(file) => tracing_appender::non_blocking(file),
        Err(stderr) => tracing_appender::non_blocking(stderr),
    };
    let writer = move || printable::Log::new(writer.make_writer(), colours);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    let _ = log.try_init();
    guard
}

/// As no-color.org defines it.
fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn run(cli: &Cli, registry: Registry) -> Result<WorkerEnd, Failure> {
    let url = cli.coordinator.as_deref().unwrap_or_default();
    let security = Security {
        ca: cli.tls_ca.clone(),
        certificate: cli.tls_cert.clone(),
        key: cli.tls_key.clone(),
        insecure: cli.insecure,
    };
    let address = CoordinatorAddress::parse(url, cli.token_file.clone(), security)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fail(4, format!("the runtime can't be started: {error}")))?;
    let end = runtime.block_on(work(cli, &address, registry));
    // Abandoned uploads are cancelled.
    runtime.shutdown_background();
    end
}

async fn work(cli: &Cli, address: &CoordinatorAddress, registry: Registry) -> Result<WorkerEnd, Failure> {
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    watch_signals(events.clone())?;
    let (orders, commands) = sync_channel(COMMANDS_MAX);
    let (ready, opened) = oneshot::channel();
    let (metrics, _served) = metrics::serve(cli)?;
    let (program, spans) = (worker_info::hash_program(), metrics.spans.clone());
    let (device, answers, own) = (cli.device, events.clone(), orders.clone());
    let thread = compute::spawn(registry, device, metrics, ready, commands, (own, answers))?;
    let opened = match opened.await {
        Ok(opened) => opened?,
        Err(_) => return Err(fail(4, "the compute thread ended before it had a device (see the log above)")),
    };
    tracing::info!(device = %opened.device, "ready to join {}", address.url);
    let address = &address.clone().with(WorkerInfo::new(&opened.driver, program, spans));

    let session = address.join(cli.join_timeout, &events, &mut inbox).await?;
    let options = Options {
        join: join(cli, opened)?,
        join_timeout_ms: u64::try_from(cli.join_timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let mut driver = Driver {
        machine: Worker::new(options, 0),
        address: address.clone(),
        session: None,
        events,
        compute: orders.clone(),
        started: Instant::now(),
        said: String::new(),
        attempts: session::FIRST,
        attempt: None,
    };
    driver.connected(session)?;
    let end = driver.run(inbox).await;
    address.about.flush().await;
    // A device should be closed by its own thread, but don't wait for one that is busy with a step.
    if orders.try_send(Command::Quit).is_ok() {
        let deadline = Instant::now() + QUIT_DEADLINE;
        while !thread.is_finished() && Instant::now() < deadline {
            tokio::time::sleep(QUIT_POLL).await;
        }
    }
    Ok(end)
}

/// Builds this worker's Join message.
fn join(cli: &Cli, opened: OpenedDevice) -> Result<Join, Failure> {
    let pid = std::process::id();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "worker".to_owned());
    let host = host.trim();
    let name = cli.name.clone().unwrap_or_else(|| format!("{host}-{pid}"));
    if name.is_empty() || name.contains(printable::is_harmful) {
        let shown = printable::line(&name);
        return Err(fail(
            2,
            format!(
                "--name \"{shown}\": a name is shown to people; it has a character at least, and none that controls a terminal"
            ),
        ));
    }
    let instance = wire::random_bytes().map_err(|why| fail(4, format!("no random bytes: {why}")))?;
    Ok(Join {
        protocol_version: protocol::PROTOCOL_VERSION,
        tasks: opened.tasks,
        fingerprint: opened.fingerprint,
        build: protocol::BUILD.to_owned(),
        name,
        device: opened.device,
        slot: cli.slot,
        pid,
        instance: u64::from_le_bytes(instance),
        run: None,
        holds: None,
    })
}

/// SIGINT and SIGTERM become events; a second one ends the process at once, whatever the driver does.
fn watch_signals(events: mpsc::Sender<DriverEvent>) -> Result<(), Failure> {
    let watch = |kind| signal(kind).map_err(|error| fail(4, format!("signals can't be watched: {error}")));
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    tokio::spawn(async move {
        for count in 0.. {
            let signal = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if count > 0 {
                tracing::warn!("a second {signal}: ended at once");
                // The log is written by its own thread.
                tokio::time::sleep(LAST_WORDS).await;
                std::process::exit(130);
            }
            if events.send(DriverEvent::Signalled { signal }).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
