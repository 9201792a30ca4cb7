//! A step: begin, gather Readies, compare, decide, journal, commit.

use std::collections::{BTreeMap, BTreeSet};

use super::journal_queue::AfterAppend;
use super::machine::{CommittedState, Coordinator, State};
use super::phase_state::{DecidedStep, Step, UncommittedWork};
use super::roster::some_of;
use super::verdict;
use super::{Committed, Output};
use crate::Millis;
use crate::ids::{MemberId, Phase, StepKey};
use crate::journal::{CommitRecord, Record};
use crate::messages::{Commit, Next, Ready, Timings, ToWorker, UpdateScalars, Verdict};
use crate::schedule::update_scalars;

/// After this multiple of the usual step duration, missing members count as lost.
const SLOWEST_FACTOR: u64 = 10;
/// After this multiple of the usual step duration, a step is reported as late, with the members that block it,
const LATE_FACTOR: u64 = 5;
/// but not before this time, in milliseconds,
const LATE_MS: u64 = 2_000;
/// and a run's first steps, which compile, not before this.
const FIRST_LATE_MS: u64 = 10_000;
impl Coordinator {
    pub(super) fn begin_step(&mut self, now: Millis, key: StepKey) {
        let pace = *self.pace.of(key.phase);
        let first_ms = self.plan.load_timeout_ms;
        let budget_ms = pace.map_or(first_ms, |slowest| {
            self.plan.step_timeout_ms.max(slowest.saturating_mul(SLOWEST_FACTOR))
        });
        let late_ms = pace.map_or(FIRST_LATE_MS, |slowest| LATE_MS.max(slowest.saturating_mul(LATE_FACTOR)));
        self.state = State::Stepping(Step {
            key,
            until: now.saturating_add(budget_ms),
            newcomers_until: now.saturating_add(budget_ms.max(first_ms)),
            started: now,
            late_at: now.saturating_add(late_ms),
            late: String::new(),
            computed: BTreeSet::new(),
            behind: Vec::new(),
            readies: BTreeMap::new(),
        });
    }

    pub(super) fn on_computed(&mut self, id: MemberId, key: StepKey) {
        if let State::Stepping(step) = &mut self.state
            && step.key == key
        {
            step.computed.insert(id);
        }
    }

    pub(super) fn on_behind(&mut self, key: StepKey, members: Vec<MemberId>) {
        if let State::Stepping(step) = &mut self.state
            && step.key == key
        {
            step.behind = members;
        }
    }

    pub(super) fn on_ready(&mut self, now: Millis, id: MemberId, ready: Ready) {
        let current = match &self.state {
            State::Stepping(step) => Some(step.key),
            State::Committing(decided) => Some(decided.record.key),
            // Between steps, and after the last: it belongs to a step that is over or was given up.
            _ => return,
        };
        if current.is_some_and(|current| ready.key < current) || !self.is_in_view(id) {
            return;
        }
        let State::Stepping(step) = &mut self.state else {
            if current != Some(ready.key) {
                self.reject(now, id, &format!("it said Ready for step {} early", ready.key.step));
            }
            return;
        };
        if ready.key != step.key {
            return self.reject(now, id, &format!("it said Ready for step {} early", ready.key.step));
        }
        step.readies.entry(id).or_insert(ready);
        let ready = step.readies.len();
        if self.view.as_ref().is_some_and(|view| view.members.len() == ready) {
            self.decide(now);
        }
    }

    /// All members are ready: compare, decide, and append to the journal.
    fn decide(&mut self, now: Millis) {
        let State::Stepping(step) = &self.state else { return };
        let key = step.key;
        let in_rank_order: Vec<(String, &Ready)> = self
            .roster
            .ranks()
            .iter()
            .filter_map(|member| step.readies.get(&member.id).map(|ready| (member.name.clone(), ready)))
            .collect();
        if let Err(disagreement) = verdict::compare(key.step, &in_rank_order) {
            return self.on_disagreement(now, &disagreement);
        }
        let Some((_, ready)) = in_rank_order.first() else { return };
        let ready = (*ready).clone();
        self.disagreements = 0;
        if ready.state_check != 0 && !self.may_be_outvoted(now) {
            // The checks cover the state before a training step, and the evaluated state.
            self.proven_step = self.proven_step.max(self.position.step.saturating_sub(1));
        }
        if let Err(message) = self.check_replay(key, ready.hash) {
            return self.on_other_replay(now, key.step, &message);
        }
        let verdict = match key.phase {
            Phase::Evaluate => Verdict::Apply,
            Phase::Train => match verdict::decide(key.step, &ready, self.plan.on_nan) {
                Ok((verdict, reason)) => {
                    reason.into_iter().for_each(|reason| self.warn(reason));
                    verdict
                }
                Err(message) => return self.fail(4, &message),
            },
        };
        let State::Stepping(step) = &self.state else { return };
        let took_ms = now.saturating_sub(step.started);
        let timings: Vec<(MemberId, Timings)> = self
            .roster
            .ranks()
            .iter()
            .filter_map(|member| step.readies.get(&member.id).map(|ready| (member.id, ready.timings)))
            .collect();
        let record = self.record(now, &ready, verdict);
        // Members can bring back lost training commits, but not an evaluation that decides on the end.
        let is_decisive = key.phase == Phase::Evaluate && self.plan.early_stopping.is_some();
        self.append(Record::Commit(record.clone()), is_decisive, AfterAppend::Commit);
        let decided = DecidedStep { record, took_ms, timings };
        self.state = State::Committing(Box::new(decided));
    }

    /// A step that was committed before a rewind must be replayed with the same hash.
    fn check_replay(&self, key: StepKey, hash: u64) -> Result<(), String> {
        let fingerprint = self.roster.shared_fingerprint();
        match self.history.expected_hash(key.step, key.phase, fingerprint) {
            Some(expected) if expected != hash => Err(format!(
                "the replay of step {} ({:?}) gave hash {hash:016x}, but the journal has {expected:016x} for it: \
                 the data, the version or the workers are not what they were",
                key.step, key.phase
            )),
            _ => Ok(()),
        }
    }

    fn record(&self, now: Millis, ready: &Ready, verdict: Verdict) -> CommitRecord {
        let key = ready.key;
        let applies = key.phase == Phase::Train && verdict == Verdict::Apply;
        let applied = self.position.applied + u64::from(applies);
        let scalars = match key.phase {
            Phase::Train => self.scalars(key.step, applied.max(1), ready.squared_norm),
            Phase::Evaluate => UpdateScalars::default(),
        };
        CommitRecord {
            key,
            hash: ready.hash,
            verdict,
            applied,
            scalars,
            next: self.next_after(now, key, &ready.sums),
            sums: ready.sums.clone(),
            squared_norm: ready.squared_norm,
            state_check: ready.state_check,
        }
    }

    fn scalars(&self, step: u64, applied: u64, squared_norm: f64) -> UpdateScalars {
        let plan = &self.plan;
        update_scalars(&plan.schedule, step, applied, plan.betas, plan.clip_norm, squared_norm)
    }

    /// What follows a commit: a pure function of configuration, step, requests, joiners and leavers.
    fn next_after(&self, now: Millis, key: StepKey, sums: &[f64]) -> Next {
        let step = key.step;
        let (is_over, is_best) = self.standing_after(key, sums);
        let last = step >= self.plan.total_steps || self.stop.is_some() || is_over;
        let evaluate = key.phase == Phase::Train && self.stop.is_none() && self.plan.evaluation_due(step);
        let leaves = |member: &super::roster::Member| member.leaving.is_some() && self.is_in_view(member.id);
        let has_leavers = self.roster.iter().any(leaves);
        let has_joiners = self.joiners(now).next().is_some();
        // The best state so far is kept: as a checkpoint at once, or as soon as the upload in flight is complete.
        let wants_best = is_best && !self.uploads.has_asked(step);
        let waits_for_best = wants_best && self.uploads.in_flight().is_some();
        let hold =
            !last && !evaluate && (has_leavers || has_joiners || self.wants_balance() || waits_for_best);
        let is_due = last
            || self.uploads.is_owed()
            || wants_best
            || key.phase == Phase::Train && self.plan.version_due(step, self.uploads.since_ms(now));
        let uploader = self.roster.uploader(|member| self.is_in_view(member.id));
        let version = uploader.map(|(id, _)| id).filter(|_| is_due && self.uploads.can_ask(step));
        Next { version, evaluate, last, hold }
    }

    pub(super) fn on_commit_journalled(&mut self, now: Millis) {
        let State::Committing(decided) = std::mem::replace(&mut self.state, State::Opening) else { return };
        let DecidedStep { record, took_ms, timings } = *decided;
        let (key, next) = (record.key, record.next);
        let is_evaluation = key.phase == Phase::Evaluate;
        self.position = CommittedState { step: key.step, applied: record.applied, evaluated: is_evaluation };
        self.history.note_commit(&record);
        self.kept = UncommittedWork::default();
        self.stuck = 0;
        self.note_members(key.step);
        // As it was when the commit was decided.
        let wants_balance = self.wants_balance();
        if !is_evaluation {
            self.measure(now, &timings);
        }
        self.put(Output::Committed(self.committed(&record, timings)));
        let due = !is_evaluation && self.plan.version_due(key.step, self.uploads.since_ms(now));
        match next.version.filter(|from| self.roster.get(*from).is_some()) {
            Some(from) => self.expect_version(now, key.step, from),
            None if due => self.uploads.owe(),
            None => {}
        }
        let (verdict, hash, applied, scalars) = (record.verdict, record.hash, record.applied, record.scalars);
        self.send_to_view(&ToWorker::Commit(Commit { key, verdict, hash, applied, scalars, next }));
        self.pace.record(key.phase, took_ms);
        match next.step_after(key) {
            Some(next) => self.begin_step(now, next),
            None => {
                if next.last {
                    self.start_closing(now);
                } else {
                    if wants_balance {
                        self.emit(super::RunEvent::Warning { message: self.describe_balance() });
                    }
                    self.hold(now);
                }
                self.compare_new_claims(now, key.step);
                return;
            }
        }
        // Joiners may hold a state that differs from the one this commit confirms.
        if !self.compare_new_claims(now, key.step) && !self.is_view_whole() {
            let lost = "a member was lost while the step before was committed";
            let reason = self.broken_edges.as_ref().map_or_else(|| lost.to_owned(), |(_, edge)| edge.clone());
            self.retry(now, &reason);
        }
    }

    /// The members of the view hold the committed state, or will before they do anything else.
    fn note_members(&mut self, step: u64) {
        let view = self.view.as_ref();
        let ids: BTreeSet<MemberId> =
            view.iter().flat_map(|view| &view.members).map(|info| info.member).collect();
        for member in self.roster.iter_mut().filter(|member| ids.contains(&member.id)) {
            member.holds = Some(step);
            member.penalty.is_back();
            if !member.edge_is_broken {
                member.edge_failures = 0;
            }
        }
    }

    fn committed(&self, record: &CommitRecord, timings: Vec<(MemberId, Timings)>) -> Committed {
        let key = record.key;
        let (epoch, samples) = self.plan.progress(key.step);
        let plan = self.plan.geometry.plan(key.step, key.phase);
        Committed {
            key,
            epoch,
            samples,
            batch: plan.samples,
            sums: record.sums.clone(),
            gradient_norm: record.squared_norm.sqrt(),
            learning_rate: record.scalars.learning_rate,
            skipped: record.verdict == Verdict::Skip,
            timings,
            next: record.next.step_after(key),
        }
    }

    /// Reports which members block the step: soon, and again when it has taken twice as long.
    pub(super) fn on_late_step(&mut self, now: Millis) {
        let State::Stepping(step) = &self.state else { return };
        let late = self.describe_step(step);
        let State::Stepping(step) = &mut self.state else { return };
        step.late = late;
        step.late_at = now.saturating_add(now.saturating_sub(step.started).max(1));
    }

    /// Members whose part isn't at the reducer; if all parts are, members that haven't received the result.
    pub(super) fn describe_step(&self, step: &Step) -> String {
        let ranks = self.roster.ranks();
        let names = |is_meant: &dyn Fn(MemberId) -> bool| -> Vec<&str> {
            let members = ranks.iter().filter(|member| self.is_in_view(member.id) && is_meant(member.id));
            members.map(|member| member.name.as_str()).collect()
        };
        let what = match step.key.phase {
            Phase::Train => format!("step {}", step.key.step),
            Phase::Evaluate => format!("the evaluation of state {}", step.key.step),
        };
        let behind = names(&|id| !step.has_computed(id));
        if !behind.is_empty() {
            return format!("{} to compute its part of {what}", some_of(&behind));
        }
        let unready = names(&|id| !step.readies.contains_key(&id));
        format!("{} to be ready with {what}", some_of(&unready))
    }
}
