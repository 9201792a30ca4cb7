//! Ctrl-C and what service managers send, to a run.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;

use crate::driver::Trigger;

/// Two signals that a person sends are at least so far apart.
const SIGNALS_APART: Duration = Duration::from_millis(200);

/// SIGINT and SIGTERM become triggers. Ctrl-C at a terminal reaches a supervisor and its coordinator, and the supervisor
/// passes it on: what comes at once is one signal.
pub(crate) async fn pass_on(triggers: mpsc::Sender<Trigger>) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        warn!("signals can't be listened to");
        return;
    };
    let mut last: Option<Instant> = None;
    loop {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if last.is_some_and(|last| last.elapsed() < SIGNALS_APART) {
            continue;
        }
        last = Some(Instant::now());
        if triggers.send(Trigger::Stop { reason: name.to_owned(), signal: true }).await.is_err() {
            return;
        }
    }
}
