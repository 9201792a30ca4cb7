//! `--supervise`: a parent process that restarts the coordinator when it dies.
//!
//! An exit with one of the documented codes is final. A coordinator that is killed or panics is restarted with
//! `--resume` on the run that it held, whatever other runs exist; its workers wait for it.

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

/// Maximum number of quick deaths in a row, after which another start gains nothing.
const QUICK_DEATHS_MAX: u32 = 5;
/// A coordinator that lived at least this long did not die of its start.
const QUICK: Duration = Duration::from_secs(30);
/// Pause before a restart.
const PAUSE: Duration = Duration::from_millis(200);
/// Exit code of an interrupted run.
const INTERRUPTED: u8 = 130;

/// Runs this program without `--supervise` until it exits with a documented code, which is returned.
pub(crate) async fn supervise(args: &RunArgs) -> Result<u8, StartError> {
    let program = std::env::current_exe()
        .map_err(|why| StartError::failed(format!("the coordinator's own path can't be had: {why}")))?;
    let arguments: Vec<_> =
        std::env::args_os().skip(1).filter(|argument| argument != "--supervise").collect();
    // If the configuration can't be read, the coordinator reports the error.
    let runs = run::resolve(args).ok().map(|resolved| resolved.config.run.dir);
    let mut again: Vec<OsString> = Vec::new();
    // Watched before the first coordinator starts and between restarts: none is left behind, and none is restarted
    // after a signal.
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
        // A coordinator that died before it held a run is restarted with the original arguments.
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

/// The signals with which people, shells and service managers end a program, and whether one has arrived.
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

    /// The next signal, in the form in which it is forwarded.
    async fn next(&mut self) -> Signal {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::TERM,
        };
        self.to_end = true;
        signal
    }

    /// Waits for the child to exit and forwards signals to it meanwhile. On a terminal, Ctrl-C reaches the child
    /// directly too: it merges signals in quick succession.
    async fn until_end_of(&mut self, mut child: Child) -> std::io::Result<ExitStatus> {
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        loop {
            tokio::select! {
                status = child.wait() => return status,
                signal = self.next() => {
                    // The child may have just exited; it has not been reaped yet, so the id is still its own.
                    let _ = pid.map(|pid| kill_process(pid, signal));
                }
            }
        }
    }

    /// Whether a signal has arrived, or does so within the pause.
    async fn within(&mut self, pause: Duration) -> bool {
        if !self.to_end {
            let _ = tokio::time::timeout(pause, self.next()).await;
        }
        self.to_end
    }
}

/// The exit code, if it is a documented one.
fn last_word(status: ExitStatus) -> Option<u8> {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| matches!(code, 0 | 2 | 3 | 4 | 130))
}
