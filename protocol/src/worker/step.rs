//! A step at a member: view, compute, Ready, commit, apply, and what comes next.

use super::Output;
use super::machine::{State, Worker};
use crate::ids::{Phase, StepKey, ViewId};
use crate::messages::{Commit, FromWorker, Next, Ready, View};

impl Worker {
    pub(super) fn on_view(&mut self, view: View) {
        if self.view.is_some_and(|current| view.id <= current) || self.is_of_older_term(view.id) {
            return; // Older than what this member works in: a late message of another membership.
        }
        match &mut self.state {
            State::Applying { view: pending, .. } => *pending = Some(Box::new(view)),
            State::Loaded | State::Computing { .. } | State::Ready { .. } | State::Holding => {
                self.enter(view);
            }
            _ => self.refuse("a view"),
        }
    }

    fn enter(&mut self, view: View) {
        let step = self.held.map(|(step, _)| step);
        let fits = match view.phase {
            Phase::Train => step.and_then(|step| step.checked_add(1)) == Some(view.step),
            Phase::Evaluate => step == Some(view.step),
        };
        if !fits {
            let holds = step.map_or("none".to_owned(), |step| step.to_string());
            let what =
                format!("a view for {:?} of step {} (this worker's state: {holds})", view.phase, view.step);
            return self.refuse(&what);
        }
        if !view.members.iter().any(|info| Some(info.member) == self.member) {
            return self.refuse("a view that this worker is not in");
        }
        let key = StepKey { view: view.id, step: view.step, phase: view.phase };
        self.view = Some(view.id);
        self.put(Output::EnterView(view));
        self.compute(key);
    }

    fn compute(&mut self, key: StepKey) {
        self.state = State::Computing { key };
        self.put(Output::Compute(key));
    }

    pub(super) fn on_reduced(&mut self, ready: Ready) {
        if self.state != (State::Computing { key: ready.key }) {
            return; // Of an abandoned view.
        }
        self.state = State::Ready { key: ready.key, hash: ready.hash };
        self.send(FromWorker::Ready(ready));
    }

    pub(super) fn on_commit(&mut self, commit: Commit) {
        let current = match &self.state {
            State::Computing { key } | State::Ready { key, .. } => Some(*key),
            _ => None,
        };
        let is_old = self.view.is_some_and(|view| commit.key.view < view)
            || self.is_of_older_term(commit.key.view)
            || self.committed.is_some_and(|committed| commit.key <= committed)
            || current.is_some_and(|current| commit.key < current);
        match &self.state {
            _ if is_old => {} // A late message; what it decided is not what this member has prepared.
            State::Ready { key, hash } if *key == commit.key && *hash == commit.hash => {
                self.committed = Some(*key);
                self.put(Output::Apply(commit.clone()));
                self.state = State::Applying { commit: Box::new(commit), view: None };
            }
            State::Ready { key, hash } if *key == commit.key => {
                let what = format!(
                    "a commit of step {} with hash {:016x}, not the {hash:016x} that is prepared",
                    key.step, commit.hash
                );
                self.refuse(&what);
            }
            _ => self.refuse(&format!("a commit of step {}", commit.key.step)),
        }
    }

    /// Whether a view was opened before the coordinator that admitted this member took its term.
    fn is_of_older_term(&self, view: ViewId) -> bool {
        self.member.is_some_and(|member| view.0 >> 32 < member.0 >> 32)
    }

    pub(super) fn on_applied(&mut self, step: u64, state_check: u64) {
        let State::Applying { commit, .. } = &self.state else { return };
        if commit.key.step != step {
            return self.refuse(&format!("the driver's update of step {step} as if it were"));
        }
        self.held = Some((step, state_check));
        let State::Applying { commit, view } = std::mem::replace(&mut self.state, State::Holding) else {
            return;
        };
        if commit.next.version.is_some() && commit.next.version == self.member {
            self.put(Output::WriteVersion { step });
        }
        if let Some(view) = view {
            return self.enter(*view);
        }
        self.follow(commit.key, commit.next, state_check);
    }

    /// What comes after a commit, in the order of [`Next`].
    fn follow(&mut self, key: StepKey, next: Next, state_check: u64) {
        if next.evaluate {
            self.compute(StepKey { phase: Phase::Evaluate, ..key });
        } else if next.last {
            self.send(FromWorker::Applied { step: key.step, state_check });
        } else {
            self.compute(StepKey { step: key.step.saturating_add(1), phase: Phase::Train, ..key });
        }
    }

    /// WriteVersion and Export: only of the state that this member holds still.
    pub(super) fn on_held_request(&mut self, step: u64, output: Output) {
        let holds = self.held.is_some_and(|(held, _)| held == step);
        match self.state {
            State::Holding | State::Loaded if holds => self.put(output),
            _ => self.refuse(&format!("a request for state {step}")),
        }
    }
}
