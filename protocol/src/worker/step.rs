//! A member's step: view, compute, Ready, commit, apply, and what follows.

use super::Output;
use super::machine::{AfterUpdate, State, Worker};
use crate::ids::{MemberId, Phase, StepKey, ViewId};
use crate::journal::CommitRecord;
use crate::messages::{Commit, FromWorker, Next, Ready, View};

impl Worker {
    pub(super) fn on_view(&mut self, view: View) {
        if self.view.is_some_and(|current| view.id <= current) || self.is_of_the_past(view.id) {
            return; // Older than this member's view: a late message of another membership.
        }
        match &mut self.state {
            State::Applying { then: next, .. } | State::Loading { next, .. } => {
                *next = Some(AfterUpdate::View(Box::new(view)));
            }
            State::Idle | State::Computing { .. } | State::Ready { .. } | State::Holding => self.enter(view),
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
        self.prepared = None;
        self.state = State::Computing { key };
        self.put(Output::Compute(key));
    }

    pub(super) fn on_reduced(&mut self, ready: Ready) {
        if self.state != (State::Computing { key: ready.key }) {
            return; // It belongs to an abandoned view.
        }
        self.state = State::Ready { key: ready.key, hash: ready.hash };
        self.reduced = Some((ready.sums.clone(), ready.squared_norm, ready.state_check));
        self.send(FromWorker::Ready(ready));
    }

    pub(super) fn on_commit(&mut self, commit: Commit) {
        let current = match &self.state {
            State::Computing { key } | State::Ready { key, .. } => Some(*key),
            _ => None,
        };
        let is_old = self.view.is_some_and(|view| commit.key.view < view)
            || self.is_of_the_past(commit.key.view)
            || self.committed.is_some_and(|committed| commit.key <= committed)
            || current.is_some_and(|current| commit.key < current);
        match &self.state {
            _ if is_old => {} // A late message; it doesn't decide on this member's prepared step.
            State::Ready { key, hash } if *key == commit.key && *hash == commit.hash => {
                self.apply(commit, false);
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

    /// A step that was prepared under a lost coordinator is committed.
    pub(super) fn on_recover(&mut self, commit: Commit) {
        let is_prepared = self.prepared == Some((commit.key.step, commit.hash));
        match self.state {
            State::Idle if is_prepared => self.apply(commit, true),
            _ => self.refuse(&format!("a commit of step {} to recover", commit.key.step)),
        }
    }

    fn apply(&mut self, commit: Commit, recovers: bool) {
        self.committed = Some(commit.key);
        self.put(Output::Apply(commit.clone()));
        self.state = State::Applying { commit: Box::new(commit), recovers, then: None };
    }

    /// Whether a view was opened before this member was admitted: ids of both come from one counter.
    fn is_of_the_past(&self, view: ViewId) -> bool {
        self.member.is_none_or(|MemberId(member)| view.0 < member)
    }

    pub(super) fn on_applied(&mut self, step: u64, state_check: u64) {
        if let Some(commit) = self.applying.take() {
            // The coordinator was lost in the meantime; it may be back and wait for Join.
            self.hold(&commit, step, state_check);
            if self.state == State::Joining {
                self.join();
            }
            return;
        }
        let State::Applying { commit, .. } = &self.state else { return };
        if commit.key.step != step {
            return self.refuse(&format!("the driver's update of step {step} as if it were"));
        }
        let State::Applying { commit, recovers, then } = std::mem::replace(&mut self.state, State::Holding)
        else {
            return;
        };
        self.hold(&commit, step, state_check);
        if recovers {
            self.state = State::Idle;
            self.send(FromWorker::Applied { step, state_check });
            if let Some(AfterUpdate::Load(order)) = then {
                self.load(order); // It took too long: the others have continued from another state.
            }
            return;
        }
        if commit.next.version.is_some() && commit.next.version == self.member {
            self.put(Output::WriteVersion { step });
        }
        if let Some(requested) = self.requested.take() {
            self.put(requested);
        }
        match then {
            Some(AfterUpdate::View(view)) => self.enter(*view),
            Some(AfterUpdate::Load(order)) => self.load(order),
            None => self.follow(commit.key, commit.next, state_check),
        }
    }

    /// The state of a commit is in memory.
    fn hold(&mut self, commit: &Commit, step: u64, state_check: u64) {
        self.held = Some((step, state_check));
        self.prepared = None;
        if commit.key.phase == Phase::Evaluate {
            return;
        }
        // A recovered commit's sums were reduced under the lost coordinator: they are still those of the last Ready.
        let (sums, squared_norm, before) = self.reduced.take().unwrap_or_default();
        self.commit = Some(Box::new(CommitRecord {
            key: commit.key,
            hash: commit.hash,
            verdict: commit.verdict,
            applied: commit.applied,
            scalars: commit.scalars,
            next: commit.next,
            sums,
            squared_norm,
            state_check: before,
        }));
    }

    /// Continues after a commit, in the order of [`Next`].
    fn follow(&mut self, key: StepKey, next: Next, state_check: u64) {
        match next.step_after(key) {
            Some(next) => self.compute(next),
            None if next.last => self.send(FromWorker::Applied { step: key.step, state_check }),
            None => {}
        }
    }

    /// Executes SendState, WriteVersion and Export only for the state that this member still holds.
    pub(super) fn on_held_request(&mut self, step: u64, output: Output) {
        let holds = self.held.is_some_and(|(held, _)| held == step);
        match &self.state {
            // It will hold that state in a moment.
            State::Applying { commit, .. } if commit.key.step == step => self.requested = Some(output),
            // A step in progress doesn't change the state before its commit.
            State::Holding | State::Idle | State::Computing { .. } | State::Ready { .. } if holds => {
                self.put(output);
            }
            _ => self.refuse(&format!("a request for state {step}")),
        }
    }
}
