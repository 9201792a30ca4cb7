//! `--supervise`: a parent process that starts the coordinator again when it dies.
//!
//! What ends with an exit code of the contract has said what it had to say; what is killed or panics is started again
//! with `--resume`, where its workers wait for it: on the run that it held, whatever other runs are there.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use store::RunDir;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};

use crate::cli::RunArgs;
use crate::commands::reproduce::toml_string;
use crate::run;
use crate::run::prepare::StartError;
use crate::run::resume;

/// Deaths in a row, each soon after its start, after which nothing is gained by another.
const QUICK_DEATHS_MAX: u32 = 5;
/// A coordinator that lived so long did not die of its start.
const QUICK: Duration = Duration::from_secs(30);
/// Pause before another start.
const PAUSE: Duration = Duration::from_millis(200);
/// The exit code of a run that was told to end.
const INTERRUPTED: u8 = 130;

/// Runs this program without `--supervise` until it ends in order; its exit code.
pub(crate) async fn supervise(args: &RunArgs) -> Result<u8, StartError> {
    let program = std::env::current_exe()
        .map_err(|why| StartError::failed(format!("the coordinator's own path can't be had: {why}")))?;
    let arguments: Vec<_> =
        std::env::args_os().skip(1).filter(|argument| argument != "--supervise").collect();
    // Of a configuration that can't be read the coordinator says what is wrong.
    let runs = run::resolve(args).ok().map(|resolved| resolved.config.run.dir);
    let mut again: Vec<OsString> = Vec::new();
    // Watched before there is a coordinator, and between two of them: none is left behind, none is started again.
    let mut signals = ShutdownSignals::watch()?;
    let mut quick_deaths = 0;
    loop {
        let (began, began_at) = (Instant::now(), SystemTime::now());
        let child = Command::new(&program)
            .args(&arguments)
            .args(&again)
            .env(resume::SUPERVISED, "1")
            .spawn()
            .map_err(|why| StartError::failed(format!("{} can't be started: {why}", program.display())))?;
        let pid = child.id();
        let status = signals
            .until_end_of(child)
            .await
            .map_err(|why| StartError::failed(format!("the coordinator is lost: {why}")))?;
        if let Some(code) = last_word(status) {
            return Ok(code);
        }
        quick_deaths = if began.elapsed() < QUICK { quick_deaths + 1 } else { 1 };
        if quick_deaths > QUICK_DEATHS_MAX {
            return Err(StartError::failed(format!(
                "the coordinator died {quick_deaths} times in a row ({status})"
            )));
        }
        // One that died before it held a run is started as it was.
        let held = runs.as_ref().zip(pid).and_then(|(runs, pid)| RunDir::held_by(runs, pid, began_at));
        if signals.within(PAUSE).await {
            let line = resume::line(args, held.as_deref().unwrap_or_default(), held.is_none());
            printable::error_line(format_args!(
                "coordinator: it died ({status}), and was to end; go on with\n  {line}"
            ));
            return Ok(INTERRUPTED);
        }
        printable::error_line(format_args!("coordinator: it died ({status}); starting it again"));
        if let Some(name) = held {
            again = vec!["--set".into(), format!("run.name={}", toml_string(&name)).into()];
            again.extend((!args.resume).then(|| "--resume".into()));
        }
    }
}

/// Signals by which people, shells and service managers end a program, and whether one came.
struct ShutdownSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    to_end: bool,
}

impl ShutdownSignals {
    fn watch() -> Result<Self, StartError> {
        let watch =
            |kind| signal(kind).map_err(|why| StartError::failed(format!("signals can't be watched: {why}")));
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            to_end: false,
        })
    }

    /// The next one, as it is passed on.
    async fn next(&mut self) -> Signal {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::TERM,
        };
        self.to_end = true;
        signal
    }

    /// Passes signals on for as long as the process lives. On a terminal Ctrl-C reaches it by itself too: it takes two
    /// signals at once for one.
    async fn until_end_of(&mut self, mut child: Child) -> std::io::Result<ExitStatus> {
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        loop {
            tokio::select! {
                status = child.wait() => return status,
                signal = self.next() => {
                    // It may have ended this very moment: nobody has waited for it yet, so that the id is still its own.
                    let _ = pid.map(|pid| kill_process(pid, signal));
                }
            }
        }
    }

    /// Whether one has come, or comes so soon.
    async fn within(&mut self, pause: Duration) -> bool {
        if !self.to_end {
            let _ = tokio::time::timeout(pause, self.next()).await;
        }
        self.to_end
    }
}

/// The exit code, if it is one of the contract.
fn last_word(status: ExitStatus) -> Option<u8> {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| matches!(code, 0 | 2 | 3 | 4 | 130))
}
