//! Ctrl-C and what service managers send, to a run.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::event::DriverEvent;

/// Two signals that a person sends are at least so far apart.
const SIGNALS_APART: Duration = Duration::from_millis(200);

/// SIGINT and SIGTERM, which don't end this process by themselves any more.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens to them from now on: one that comes before they are passed on is kept.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next one's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Makes driver_events of them. Ctrl-C at a terminal reaches a supervisor and its coordinator, and the supervisor passes it on:
    /// what comes at once is one signal.
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

/// Waits for one of them; for ever where the system lets nobody listen.
pub(crate) async fn told_to_end() {
    match Signals::listen() {
        Ok(mut signals) => {
            signals.next().await;
        }
        Err(_) => std::future::pending().await,
    }
}
