//! The machine itself: its states, its deadlines, and the one `match` that dispatches events to the phases' files.

use std::collections::VecDeque;

use super::{Event, Options, Output};
use crate::Millis;
use crate::ids::{MemberId, RunId, StepKey, ViewId};
use crate::journal::CommitRecord;
use crate::messages::{Commit, EndReason, Failure, FromWorker, Join, Sums, ToWorker, View};

/// A coordinator that is silent for this many heartbeats, each of which it should answer, is lost.
const SILENT_HEARTBEATS: u64 = 12;
/// A tick is on time if it is no later than that silence divided by this.
const PUNCTUAL: u64 = 100;

/// The state of a member. Each variant names what it waits for.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum State {
    /// The coordinator is unreachable; waits for a new stream until `until`.
    Lost { until: Millis, attempts: u32 },
    /// Join is sent, or is about to be; waits for Welcome or Refused.
    Joining,
    /// The driver builds model and data; waits for Prepared.
    Preparing,
    /// Waits for an order, or for a view that its state fits.
    Idle,
    /// The driver creates or fetches a state; waits for Loaded. Another order may have arrived in the meantime, or a
    /// view, if this member reloads a state after a late Loaded.
    Loading { order: Order, next: Option<AfterUpdate> },
    /// The driver computes and exchanges; waits for Reduced.
    Computing { key: StepKey },
    /// Ready is sent; waits for Commit.
    Ready { key: StepKey, hash: u64 },
    /// The driver applies; waits for Applied. What arrived in the meantime follows in `then`.
    Applying { commit: Box<Commit>, recovers: bool, then: Option<AfterUpdate> },
    /// The membership changes or the last step is done; waits for a view, WriteVersion, Export or End.
    Holding,
    /// Exit was emitted.
    Exited,
}

/// What follows the update in progress.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum AfterUpdate {
    View(Box<View>),
    Load(Order),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Create state 0 from the seed.
    Initialise,
    /// Fetch this checkpoint.
    Load(u64),
    /// Fetch the state that another member has sent.
    Take(u64),
}

/// The worker's state machine.
#[derive(Debug)]
pub struct Worker {
    pub(super) state: State,
    pub(super) join: Join,
    pub(super) run: Option<RunId>,
    pub(super) member: Option<MemberId>,
    pub(super) view: Option<ViewId>,
    /// The committed state in memory: its step and state check.
    pub(super) held: Option<(u64, u64)>,
    /// The commit that produced it.
    pub(super) commit: Option<Box<CommitRecord>>,
    /// A training step prepared before the coordinator was lost, with its hash.
    pub(super) prepared: Option<(u64, u64)>,
    /// Sums, squared norm and state check of the last Ready.
    pub(super) reduced: Option<(Sums, f64, u64)>,
    /// A commit whose update was in progress when the coordinator was lost.
    pub(super) applying: Option<Box<Commit>>,
    /// A request for the state whose update is in progress.
    pub(super) requested: Option<Output>,
    /// The last received commit.
    pub(super) committed: Option<StepKey>,
    pub(super) leaving: bool,
    outputs: VecDeque<Output>,
    pub(super) join_timeout_ms: u64,
    pub(super) heartbeat_ms: Option<u64>,
    heartbeat_at: Millis,
    pub(super) heard_at: Millis,
}

impl Worker {
    /// Creates a worker whose control stream is open. Its first output sends Join.
    #[must_use]
    pub fn new(options: Options, now: Millis) -> Self {
        let mut machine = Self {
            state: State::Joining,
            join: options.join,
            run: None,
            member: None,
            view: None,
            held: None,
            commit: None,
            prepared: None,
            reduced: None,
            applying: None,
            requested: None,
            committed: None,
            leaving: false,
            outputs: VecDeque::new(),
            join_timeout_ms: options.join_timeout_ms.max(1),
            heartbeat_ms: None,
            heartbeat_at: now,
            heard_at: now,
        };
        machine.join();
        machine
    }

    /// Handles one event at time `now`.
    pub fn handle(&mut self, now: Millis, event: Event) {
        if self.state == State::Exited {
            return;
        }
        self.forgive_own_pause(now);
        match event {
            // Messages on an abandoned stream are obsolete.
            Event::Message(_) if matches!(self.state, State::Lost { .. }) => {}
            Event::Message(message) => {
                self.heard_at = now;
                self.on_message(now, message);
            }
            Event::Connected => self.on_connected(now),
            Event::Disconnected { reason } => self.lose_coordinator(now, &reason),
            Event::Prepared { elements } => self.on_prepared(elements),
            Event::Loaded { step, digest, state_check } => self.on_loaded(step, digest, state_check),
            Event::Reduced { key, sums, squared_norm, finite, hash, timings } => {
                self.on_reduced(crate::messages::Ready {
                    key,
                    sums,
                    squared_norm,
                    finite,
                    hash,
                    state_check: self.held.map_or(0, |(_, check)| check),
                    timings,
                });
            }
            Event::Applied { step, state_check } => self.on_applied(step, state_check),
            // A coordinator that was lost in the meantime has no use for it.
            Event::NotUploaded { .. } if matches!(self.state, State::Joining | State::Lost { .. }) => {}
            Event::NotUploaded { kind, step, reason } => {
                self.send(FromWorker::NotUploaded { kind, step, reason });
            }
            Event::Failed(failure) => {
                self.send(FromWorker::Failed(failure.clone()));
                self.exit(EndReason::Failed, failure.code, failure.message);
            }
            Event::LeaveRequested { reason } => self.on_leave_requested(reason),
            Event::Tick => self.on_tick(now),
        }
    }

    /// The next output, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Event::Tick`] is due next; `None` after Exit.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.state == State::Exited {
            return None;
        }
        if let State::Lost { until, .. } = self.state {
            return Some(until);
        }
        let silence = self.silence_at();
        Some(self.heartbeat_ms.map_or(silence, |_| silence.min(self.heartbeat_at)))
    }

    /// What this worker waits for, for display.
    #[must_use]
    pub fn waits_for(&self) -> String {
        match &self.state {
            State::Lost { .. } => "a coordinator that can be reached".to_owned(),
            State::Joining => "the coordinator's answer to Join".to_owned(),
            State::Preparing => "its own model and data".to_owned(),
            State::Idle => "the coordinator to say which state to load, or a view".to_owned(),
            State::Loading { order: Order::Initialise, .. } => "its own state 0".to_owned(),
            State::Loading { order: Order::Load(step), .. } => format!("version {step}"),
            State::Loading { order: Order::Take(step), .. } => format!("another member's state {step}"),
            State::Computing { key } => format!("the reduced gradient of step {}", key.step),
            State::Ready { key, .. } => format!("the commit of step {}", key.step),
            State::Applying { commit, .. } => format!("its own update of step {}", commit.key.step),
            State::Holding => "a view, or the end of the run".to_owned(),
            State::Exited => "nothing".to_owned(),
        }
    }

    fn on_message(&mut self, now: Millis, message: ToWorker) {
        match message {
            ToWorker::Welcome(welcome) => {
                self.heartbeat_ms = Some(welcome.heartbeat_ms.max(1));
                self.heartbeat_at = now.saturating_add(welcome.heartbeat_ms.max(1));
                self.on_welcome(welcome);
            }
            ToWorker::Refused(failure) => self.exit(EndReason::Failed, failure.code, failure.message),
            ToWorker::Evicted { reason, forget } => self.on_evicted(now, &reason, forget),
            ToWorker::Initialise => self.on_order(Order::Initialise),
            ToWorker::Recover(commit) => self.on_recover(commit),
            ToWorker::Load { step } => self.on_order(Order::Load(step)),
            ToWorker::FetchState { step } => self.on_order(Order::Take(step)),
            ToWorker::View(view) => self.on_view(view),
            ToWorker::Commit(commit) => self.on_commit(commit),
            ToWorker::SendState { step } => self.on_held_request(step, Output::SendState { step }),
            ToWorker::WriteVersion { step } => self.on_held_request(step, Output::WriteVersion { step }),
            ToWorker::Export { step } => self.on_held_request(step, Output::Export { step }),
            ToWorker::End { reason, message } => {
                let code = match reason {
                    _ if self.leaving => 130,
                    EndReason::Completed => 0,
                    EndReason::Interrupted => 130,
                    EndReason::Failed => 4,
                };
                self.exit(reason, code, message);
            }
            ToWorker::Alive => {}
        }
    }

    fn on_leave_requested(&mut self, reason: String) {
        if matches!(self.state, State::Joining | State::Lost { .. }) {
            self.exit(EndReason::Interrupted, 130, reason);
        } else if !self.leaving {
            self.leaving = true;
            self.send(FromWorker::Leaving { reason });
        }
    }

    fn on_tick(&mut self, now: Millis) {
        if let State::Lost { until, .. } = self.state {
            if now >= until {
                self.lose_coordinator(now, "nobody answers at its address");
            }
        } else if now >= self.silence_at() {
            let (silent_ms, what) = (self.silence_ms(), self.waits_for());
            self.lose_coordinator(
                now,
                &format!("nothing was heard for {silent_ms} ms while waiting for {what}"),
            );
        } else if let Some(every_ms) = self.heartbeat_ms
            && now >= self.heartbeat_at
        {
            self.heartbeat_at = now.saturating_add(every_ms);
            self.send(FromWorker::Heartbeat);
        }
    }

    fn silence_ms(&self) -> u64 {
        let heartbeats = self.heartbeat_ms.map(|every_ms| every_ms.saturating_mul(SILENT_HEARTBEATS));
        heartbeats.unwrap_or(u64::MAX).min(self.join_timeout_ms)
    }

    fn silence_at(&self) -> Millis {
        self.heard_at.saturating_add(self.silence_ms())
    }

    /// A worker that was paused itself has heard nothing through no fault of the coordinator: messages may still wait
    /// in the socket.
    fn forgive_own_pause(&mut self, now: Millis) {
        let late_ms = self.next_deadline().map_or(0, |due| now.saturating_sub(due));
        // Timers of a busy machine are late all the time: if that were forgiven, no coordinator would ever be lost.
        if late_ms <= self.silence_ms() / PUNCTUAL {
            return;
        }
        let late_ms = if late_ms > self.silence_ms() / 2 { now } else { late_ms.saturating_mul(2) };
        self.heard_at = self.heard_at.saturating_add(late_ms).min(now);
    }

    pub(super) fn send(&mut self, message: FromWorker) {
        self.outputs.push_back(Output::Send(message));
    }

    pub(super) fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn exit(&mut self, reason: EndReason, code: u8, message: String) {
        self.state = State::Exited;
        self.put(Output::Exit { reason, code, message });
    }

    /// The coordinator sent something impossible in this state: one of the two has a bug, and continuing could create
    /// a second history.
    pub(super) fn refuse(&mut self, what: &str) {
        let waits = self.waits_for();
        let message = format!("the coordinator sent {what} while this worker waited for {waits}");
        self.send(FromWorker::Failed(Failure { code: 4, message: message.clone() }));
        self.exit(EndReason::Failed, 4, message);
    }
}
