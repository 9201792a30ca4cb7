//! Shutdown signals of a run: Ctrl-C, and the ones that service managers send.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::event::DriverEvent;

/// Minimum interval between two signals that count as separate: people send them further apart.
const SIGNALS_APART: Duration = Duration::from_millis(200);

/// SIGINT and SIGTERM streams; these signals don't end the process by default any more.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Installs the handlers: a signal that arrives before [`Signals::pass_on`] is kept.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Turns signals into [`DriverEvent::Stop`]. Ctrl-C at a terminal reaches a supervisor and its coordinator, and the
    /// supervisor forwards it: signals in quick succession count as one.
    pub(crate) async fn pass_on(mut self, driver_events: mpsc::Sender<DriverEvent>) {
        let mut last: Option<Instant> = None;
        loop {
            let name = self.next().await;
            if last.is_some_and(|last| last.elapsed() < SIGNALS_APART) {
                continue;
            }
            last = Some(Instant::now());
            if driver_events.send(DriverEvent::Stop { reason: name.to_owned(), signal: true }).await.is_err()
            {
                return;
            }
        }
    }
}

/// Waits for a shutdown signal; for ever if the handlers can't be installed.
pub(crate) async fn told_to_end() {
    match Signals::listen() {
        Ok(mut signals) => {
            signals.next().await;
        }
        Err(_) => std::future::pending().await,
    }
}
