//! `--supervise`: a parent process that starts the coordinator again when it dies.
//!
//! What ends with an exit code of the contract has said what it had to say; what is killed or panics is started again
//! with `--resume`, where its workers wait for it.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::prepare::Refusal;

/// Deaths in a row, each soon after its start, after which nothing is gained by another.
const QUICK_DEATHS_MAX: u32 = 5;
/// A coordinator that lived so long did not die of its start.
const QUICK: Duration = Duration::from_secs(30);
/// Pause before another start.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs this program without `--supervise` until it ends in order; its exit code.
pub(crate) fn supervise() -> Result<u8, Refusal> {
    let program = std::env::current_exe()
        .map_err(|why| Refusal::failed(format!("the coordinator's own path can't be had: {why}")))?;
    let mut arguments: Vec<_> =
        std::env::args_os().skip(1).filter(|argument| argument != "--supervise").collect();
    let mut quick_deaths = 0;
    loop {
        let began = Instant::now();
        let mut child = Command::new(&program)
            .args(&arguments)
            .spawn()
            .map_err(|why| Refusal::failed(format!("{} can't be started: {why}", program.display())))?;
        let signals = forward_signals(child.id())?;
        let status =
            child.wait().map_err(|why| Refusal::failed(format!("the coordinator is lost: {why}")))?;
        signals.abort();
        if let Some(code) = last_word(status) {
            return Ok(code);
        }
        quick_deaths = if began.elapsed() < QUICK { quick_deaths + 1 } else { 1 };
        if quick_deaths > QUICK_DEATHS_MAX {
            return Err(Refusal::failed(format!(
                "the coordinator died {quick_deaths} times in a row ({status})"
            )));
        }
        eprintln!("coordinator: it died ({status}); starting it again");
        std::thread::sleep(PAUSE);
        if !arguments.iter().any(|argument| argument == "--resume") {
            arguments.push("--resume".into());
        }
    }
}

/// The exit code, if it is one of the contract.
fn last_word(status: ExitStatus) -> Option<u8> {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| matches!(code, 0 | 2 | 3 | 4 | 130))
}

/// SIGTERM is passed on. SIGINT is not: on a terminal Ctrl-C reaches both processes by itself, and a second one would
/// end the run at once.
fn forward_signals(pid: u32) -> Result<tokio::task::JoinHandle<()>, Refusal> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch =
        |kind| signal(kind).map_err(|why| Refusal::failed(format!("signals can't be watched: {why}")));
    let (mut terminate, mut interrupt) = (watch(SignalKind::terminate())?, watch(SignalKind::interrupt())?);
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {
                    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                        // It may have ended this very moment.
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    }
                }
                _ = interrupt.recv() => {}
            }
        }
    }))
}
