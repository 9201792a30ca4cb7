//! The driver's loop: wait for a trigger, pass it to the machine, execute the machine's outputs.
//!
//! It decides nothing about a run: `protocol::worker::Worker` does.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use protocol::messages::{EndReason, Failure};
use protocol::worker::{Event, Output, Worker};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::channel::{Command, CoordinatorLink, DriverEvent, Problem, Session};
use crate::failure::fail;
use crate::session::CoordinatorAddress;

/// How the worker ended.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    /// How the run ended for this worker.
    pub(crate) reason: EndReason,
    /// Process exit code, of the table at [`protocol::messages::Failure::code`].
    pub(crate) code: u8,
    /// Explanation, for display.
    pub(crate) message: String,
}

/// The machine and the channels for its outputs.
pub(crate) struct Driver {
    pub(crate) machine: Worker,
    pub(crate) address: CoordinatorAddress,
    pub(crate) session: Option<Session>,
    /// For attempts to open another control stream.
    pub(crate) events: mpsc::Sender<DriverEvent>,
    pub(crate) compute: SyncSender<Command>,
    pub(crate) started: Instant,
    /// The last logged reason for rejoining.
    pub(crate) said: String,
    /// Attempts to open another control stream so far. Only the newest counts: if the compute thread's connection
    /// breaks together with the control stream, both report it, and two streams of one worker would evict each other.
    pub(crate) attempts: u64,
    /// The newest attempt, while it is in progress.
    pub(crate) attempt: Option<AbortHandle>,
}

impl Driver {
    /// Runs until the machine emits Exit.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<DriverEvent>) -> WorkerEnd {
        loop {
            while let Some(output) = self.machine.poll_output() {
                match self.carry_out(output).await {
                    Ok(None) => {}
                    Ok(Some(end)) => {
                        if let Some(session) = self.session.take() {
                            session.close().await;
                        }
                        return end;
                    }
                    Err(failure) => self.machine.handle(self.now(), Event::Failed(failure)),
                }
            }
            let event = match self.next(&mut events).await {
                None => Event::Tick,
                Some(DriverEvent::Control(message)) => Event::Message(message),
                // A stream that was abandoned, or an attempt that was superseded.
                Some(DriverEvent::Reconnected { attempt, .. } | DriverEvent::ControlLost { attempt, .. })
                    if attempt != self.attempts =>
                {
                    continue;
                }
                Some(DriverEvent::ControlLost { reason, .. }) => Event::Disconnected { reason },
                Some(DriverEvent::Reconnected { result: Err(Problem::Denied(failure)), .. }) => {
                    Event::Failed(failure)
                }
                Some(DriverEvent::Reconnected {
                    result: Err(Problem::Passing(failure) | Problem::Lasting(failure)),
                    ..
                }) => Event::Disconnected { reason: failure.message },
                Some(DriverEvent::Reconnected { result: Ok(session), .. }) => {
                    match self.connected(*session) {
                        Ok(()) => Event::Connected,
                        Err(failure) => Event::Failed(failure),
                    }
                }
                Some(DriverEvent::Worked(event)) => event,
                Some(DriverEvent::Signalled { signal }) => {
                    tracing::warn!("{signal}: leaving after the step in flight; once more ends at once");
                    Event::LeaveRequested { reason: format!("{signal} at the worker") }
                }
            };
            self.machine.handle(self.now(), event);
        }
    }

    /// The next trigger, or `None` when the machine's deadline comes first.
    async fn next(&self, events: &mut mpsc::Receiver<DriverEvent>) -> Option<DriverEvent> {
        let closed = || DriverEvent::ControlLost {
            attempt: self.attempts,
            reason: "the worker's own channels are closed".to_owned(),
        };
        let Some(due_ms) = self.machine.next_deadline() else {
            return Some(events.recv().await.unwrap_or_else(closed));
        };
        let left = Duration::from_millis(due_ms.saturating_sub(self.now()));
        match tokio::time::timeout(left, events.recv()).await {
            Ok(trigger) => Some(trigger.unwrap_or_else(closed)),
            Err(_) => None,
        }
    }

    /// Executes one output; returns the end, if it is Exit.
    async fn carry_out(&mut self, output: Output) -> Result<Option<WorkerEnd>, Failure> {
        let command = match output {
            Output::Send(message) => {
                // The reader of a closed stream reports it as ControlLost.
                if let Some(session) = &self.session {
                    let _ = session.outbox.send(message).await;
                }
                return Ok(None);
            }
            Output::Reconnect { after_ms, reason } => {
                self.reconnect(Duration::from_millis(after_ms), &reason);
                return Ok(None);
            }
            Output::Exit { reason, code, message } => return Ok(Some(WorkerEnd { reason, code, message })),
            Output::Prepare(welcome) => {
                tracing::info!(run = %welcome.run_name, name = %welcome.name, "admitted");
                self.address.about.admitted(&welcome);
                Command::Prepare(welcome)
            }
            Output::Initialise => Command::Initialise,
            Output::Load { step } => Command::Load { step },
            Output::FetchState { step } => Command::FetchState { step },
            Output::SendState { step } => Command::SendState { step },
            Output::EnterView(view) => {
                tracing::info!(view = view.id.0, members = view.members.len(), step = view.step, "view");
                Command::EnterView(view)
            }
            Output::Compute(key) => Command::Compute(key),
            Output::Apply(commit) => Command::Apply(commit),
            Output::WriteVersion { step } => Command::WriteVersion { step },
            Output::Export { step } => Command::Export { step },
        };
        self.order(command).map(|()| None)
    }

    /// A control stream is open: the compute thread gets its own link over it.
    pub(crate) fn connected(&mut self, session: Session) -> Result<(), Failure> {
        let link = Box::new(CoordinatorLink {
            client: session.files.clone(),
            token: session.token.clone(),
            tls: session.tls.clone(),
            host: self.address.host.clone(),
            runtime: tokio::runtime::Handle::current(),
        });
        self.session = Some(session);
        self.said.clear();
        self.order(Command::Connected(link))
    }

    /// Abandons the control stream and tries to open another one.
    fn reconnect(&mut self, pause: Duration, reason: &str) {
        self.session = None;
        // A stream that the old attempt opens later would be a duplicate.
        if let Some(before) = self.attempt.take() {
            before.abort();
        }
        // Each attempt may fail for the same reason: log it once.
        if self.said != reason {
            tracing::warn!("{reason}; trying to join again");
            reason.clone_into(&mut self.said);
        }
        self.attempts += 1;
        let attempt = self.attempts;
        let (address, events) = (self.address.clone(), self.events.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let result = address.reconnect(attempt, &events).await.map(Box::new);
            // A driver that has exited needs no stream.
            let _ = events.send(DriverEvent::Reconnected { attempt, result }).await;
        });
        self.attempt = Some(task.abort_handle());
    }

    fn order(&self, command: Command) -> Result<(), Failure> {
        self.compute.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => fail(4, "the compute thread takes no more orders"),
            TrySendError::Disconnected(_) => fail(4, "the compute thread is gone (see the log above)"),
        })
    }

    fn now(&self) -> protocol::Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
