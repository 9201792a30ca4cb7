//! The machine itself: its states, its deadlines, and the one `match` that sends events to the phases' files.

use std::collections::VecDeque;

use super::{Event, Options, Output};
use crate::Millis;
use crate::ids::{MemberId, StepKey, ViewId};
use crate::messages::{Commit, EndReason, Failure, FromWorker, ToWorker, View};

/// Where a member stands. Each state names what it waits for.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum State {
    /// Join is sent; waits for Welcome or Refused.
    Joining,
    /// The driver builds model and data; waits for Prepared. What to load may be known already.
    Preparing { order: Option<Order> },
    /// Waits to be told what to load.
    Prepared,
    /// The driver makes or fetches the state; waits for Loaded.
    Loading { order: Order },
    /// Waits for a view.
    Loaded,
    /// The driver computes and exchanges; waits for Reduced.
    Computing { key: StepKey },
    /// Ready is said; waits for Commit.
    Ready { key: StepKey, hash: u64 },
    /// The driver applies; waits for Applied. A view that came meanwhile is entered after it.
    Applying { commit: Box<Commit>, view: Option<Box<View>> },
    /// The last step is done; waits for WriteVersion, Export or End.
    Holding,
    /// Exit was put out.
    Exited,
}

/// Which state to load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Make state 0 from the seed.
    Initialise,
    /// Fetch this version.
    Load(u64),
}

/// The machine.
#[derive(Debug)]
pub struct Worker {
    pub(super) state: State,
    pub(super) member: Option<MemberId>,
    pub(super) view: Option<ViewId>,
    /// The committed state in memory: its step and state check.
    pub(super) held: Option<(u64, u64)>,
    /// The last commit that was taken in.
    pub(super) committed: Option<StepKey>,
    pub(super) leaving: bool,
    outputs: VecDeque<Output>,
    join_timeout_ms: u64,
    heartbeat_ms: Option<u64>,
    heartbeat_at: Millis,
    heard_at: Millis,
}

impl Worker {
    /// A worker whose control stream is open. Its first output sends Join.
    #[must_use]
    pub fn new(options: Options, now: Millis) -> Self {
        let join = Output::Send(FromWorker::Join(options.join));
        Self {
            state: State::Joining,
            member: None,
            view: None,
            held: None,
            committed: None,
            leaving: false,
            outputs: VecDeque::from([join]),
            join_timeout_ms: options.join_timeout_ms.max(1),
            heartbeat_ms: None,
            heartbeat_at: now,
            heard_at: now,
        }
    }

    /// Takes in one event at a time `now`.
    pub fn handle(&mut self, now: Millis, event: Event) {
        if self.state == State::Exited {
            return;
        }
        self.forgive_own_pause(now);
        match event {
            Event::Message(message) => {
                self.heard_at = now;
                self.on_message(now, message);
            }
            Event::Disconnected { reason } => self.lose_coordinator(&reason),
            Event::Prepared => self.on_prepared(),
            Event::Loaded { step, digest, state_check, elements } => {
                self.on_loaded(step, digest, state_check, elements);
            }
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
            Event::Failed(failure) => {
                self.send(FromWorker::Failed(failure.clone()));
                self.exit(EndReason::Failed, failure.code, failure.message);
            }
            Event::LeaveRequested { reason } => self.on_leave_requested(reason),
            Event::Tick => self.on_tick(now),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Event::Tick`] is due next; `None` after Exit.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.state == State::Exited {
            return None;
        }
        let silence = self.silence_at();
        Some(self.heartbeat_ms.map_or(silence, |_| silence.min(self.heartbeat_at)))
    }

    /// What this worker waits for, for people.
    #[must_use]
    pub fn waits_for(&self) -> String {
        match &self.state {
            State::Joining => "the coordinator's answer to Join".to_owned(),
            State::Preparing { .. } => "its own model and data".to_owned(),
            State::Prepared => "the coordinator to say which state to load".to_owned(),
            State::Loading { order: Order::Initialise } => "its own state 0".to_owned(),
            State::Loading { order: Order::Load(step) } => format!("version {step}"),
            State::Loaded => "a view".to_owned(),
            State::Computing { key } => format!("the reduced gradient of step {}", key.step),
            State::Ready { key, .. } => format!("the commit of step {}", key.step),
            State::Applying { commit, .. } => format!("its own update of step {}", commit.key.step),
            State::Holding => "the end of the run".to_owned(),
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
            ToWorker::Initialise => self.on_order(Order::Initialise),
            ToWorker::Load { step } => self.on_order(Order::Load(step)),
            ToWorker::View(view) => self.on_view(view),
            ToWorker::Commit(commit) => self.on_commit(commit),
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
        if self.state == State::Joining {
            self.exit(EndReason::Interrupted, 130, reason);
        } else if !self.leaving {
            self.leaving = true;
            self.send(FromWorker::Leaving { reason });
        }
    }

    fn on_tick(&mut self, now: Millis) {
        if now >= self.silence_at() {
            let waited_ms = self.join_timeout_ms;
            let what = self.waits_for();
            let message =
                format!("nothing was heard from the coordinator for {waited_ms} ms while waiting for {what}");
            self.exit(EndReason::Failed, 4, message);
        } else if let Some(every_ms) = self.heartbeat_ms
            && now >= self.heartbeat_at
        {
            self.heartbeat_at = now.saturating_add(every_ms);
            self.send(FromWorker::Heartbeat);
        }
    }

    fn lose_coordinator(&mut self, reason: &str) {
        let what = self.waits_for();
        let message = format!("lost the coordinator while waiting for {what}: {reason}");
        let (end, code) = if self.leaving { (EndReason::Interrupted, 130) } else { (EndReason::Failed, 4) };
        self.exit(end, code, message);
    }

    fn silence_at(&self) -> Millis {
        self.heard_at.saturating_add(self.join_timeout_ms)
    }

    /// A worker that was paused itself has heard nothing for a reason of its own: the messages of the meantime
    /// may still wait in the socket.
    fn forgive_own_pause(&mut self, now: Millis) {
        let late_ms = self.next_deadline().map_or(0, |due| now.saturating_sub(due));
        if late_ms > self.join_timeout_ms / 2 {
            self.heard_at = now;
        }
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

    /// The coordinator said something that can't be in this state: one of the two has a bug, and going on could
    /// make a second history.
    pub(super) fn refuse(&mut self, what: &str) {
        let waits = self.waits_for();
        let message = format!("the coordinator sent {what} while this worker waited for {waits}");
        self.send(FromWorker::Failed(Failure { code: 4, message: message.clone() }));
        self.exit(EndReason::Failed, 4, message);
    }
}
