//! From Join to the first view, and from a lost coordinator back to Join.

use super::Output;
use super::machine::{AfterUpdate, Order, State, Worker};
use crate::Millis;
use crate::messages::{FromWorker, Held, Welcome};

/// First pause before another attempt to reach the coordinator; it doubles up to [`RECONNECT_MS_MAX`].
const RECONNECT_MS: u64 = 50;
/// Upper bound of the pause before a returning coordinator is reached.
const RECONNECT_MS_MAX: u64 = 2_000;
/// An evicted worker pauses before it rejoins, so that the others can continue undisturbed.
const EVICTED_MS: u64 = 1_000;

impl Worker {
    /// The coordinator is lost: held state is kept, and the worker reconnects until the join timeout.
    pub(super) fn lose_coordinator(&mut self, now: Millis, reason: &str) {
        if self.leaving {
            let message = format!("left while the coordinator was lost: {reason}");
            return self.exit(crate::messages::EndReason::Interrupted, 130, message);
        }
        let (until, attempts) = match self.state {
            State::Lost { until, attempts } => (until, attempts + 1),
            _ => {
                self.set_aside();
                (now.saturating_add(self.join_timeout_ms), 0)
            }
        };
        if now >= until {
            let waited_ms = self.join_timeout_ms;
            let message = format!("no coordinator was reached for {waited_ms} ms: {reason}");
            return self.exit(crate::messages::EndReason::Failed, 4, message);
        }
        self.state = State::Lost { until, attempts };
        let after_ms = (RECONNECT_MS << attempts.min(10)).min(RECONNECT_MS_MAX).min(until - now);
        self.put(Output::Reconnect { after_ms, reason: reason.to_owned() });
    }

    pub(super) fn on_evicted(&mut self, now: Millis, reason: &str, forget: bool) {
        if self.leaving {
            let message = format!("left, as the others go on without it: {reason}");
            return self.exit(crate::messages::EndReason::Interrupted, 130, message);
        }
        self.set_aside();
        if forget {
            self.forget_state();
        }
        self.state = State::Lost { until: now.saturating_add(self.join_timeout_ms), attempts: 0 };
        self.put(Output::Reconnect { after_ms: EVICTED_MS, reason: format!("evicted: {reason}") });
    }

    /// Keeps the work in progress that counts without a coordinator.
    fn set_aside(&mut self) {
        if let State::Ready { key, hash } = &self.state
            && key.phase == crate::ids::Phase::Train
        {
            self.prepared = Some((key.step, *hash));
        }
        self.heartbeat_ms = None;
        self.requested = None;
        self.view = None;
        self.member = None;
        if let State::Applying { commit, .. } = std::mem::replace(&mut self.state, State::Joining) {
            self.applying = Some(commit);
        }
    }

    pub(super) fn forget_state(&mut self) {
        self.held = None;
        self.commit = None;
        self.prepared = None;
    }

    pub(super) fn on_connected(&mut self, now: Millis) {
        let State::Lost { .. } = self.state else { return };
        self.state = State::Joining;
        self.heard_at = now;
        // The held state is known only once a pending commit is applied.
        if self.applying.is_none() {
            self.join();
        }
    }

    pub(super) fn join(&mut self) {
        let holds = self.held.map(|(step, state_check)| Held {
            step,
            state_check,
            prepared: self.prepared,
            commit: self.commit.clone(),
        });
        self.send(FromWorker::Join(crate::messages::Join { holds, run: self.run, ..self.join.clone() }));
    }

    pub(super) fn on_welcome(&mut self, welcome: Welcome) {
        if self.state != State::Joining {
            return self.refuse("a second Welcome");
        }
        if self.run.is_some_and(|run| run != welcome.run) {
            self.forget_state();
            // Every run counts its views from the same number.
            self.committed = None;
        }
        self.run = Some(welcome.run);
        self.member = Some(welcome.member);
        self.state = State::Preparing;
        self.put(Output::Prepare(Box::new(welcome)));
    }

    pub(super) fn on_prepared(&mut self, elements: u64) {
        // Otherwise the answer is no longer expected.
        if self.state == State::Preparing {
            self.state = State::Idle;
            self.send(FromWorker::Prepared { elements });
        }
    }

    /// Loads a state, whatever is held: the run starts, rewinds, or has continued without this member.
    pub(super) fn on_order(&mut self, order: Order) {
        match &mut self.state {
            State::Idle | State::Holding | State::Computing { .. } | State::Ready { .. } => self.load(order),
            State::Loading { next, .. } => *next = Some(AfterUpdate::Load(order)),
            State::Applying { then, .. } => *then = Some(AfterUpdate::Load(order)),
            _ => self.refuse("an order to load a state"),
        }
    }

    pub(super) fn load(&mut self, order: Order) {
        self.forget_state();
        self.state = State::Loading { order, next: None };
        self.put(match order {
            Order::Initialise => Output::Initialise,
            Order::Load(step) => Output::Load { step },
            Order::Take(step) => Output::FetchState { step },
        });
    }

    pub(super) fn on_loaded(&mut self, step: u64, digest: [u8; 32], state_check: u64) {
        let State::Loading { next, .. } = &mut self.state else {
            return; // A coordinator that was lost in the meantime requested it: no commit vouches for it.
        };
        let next = next.take();
        if let Some(AfterUpdate::Load(order)) = next {
            return self.load(order);
        }
        self.held = Some((step, state_check));
        self.state = State::Idle;
        self.send(FromWorker::Loaded { step, digest });
        if let Some(AfterUpdate::View(view)) = next {
            self.on_view(*view);
        }
    }
}
