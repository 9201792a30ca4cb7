//! From the first worker to the first view: gather, make or load the state, open the view.

use super::Output;
use super::appends::After;
use super::machine::{Coordinator, State};
use crate::Millis;
use crate::ids::{MemberId, Phase, StepKey};
use crate::journal::{Record, ViewRecord};
use crate::messages::{MemberInfo, ReduceAt, ToWorker, View};

/// One member makes state 0.
#[derive(Debug)]
pub(super) struct Initialising {
    pub(super) by: MemberId,
    pub(super) until: Millis,
    /// What the member says that it holds.
    loaded: Option<[u8; 32]>,
}

impl Coordinator {
    pub(super) fn on_joined(&mut self, now: Millis) {
        match &self.state {
            State::Gathering { .. } if self.roster.len() >= self.plan.workers_needed() => self.begin(now),
            State::Loading { step, .. } => self.order_loads(*step),
            _ => {}
        }
    }

    /// Enough workers are here: load the state that the run starts from, or make it.
    fn begin(&mut self, now: Millis) {
        let until = now.saturating_add(self.plan.load_timeout_ms);
        if let Some((step, digest)) = self.start_state() {
            self.state = State::Loading { until, step, digest };
            self.order_loads(step);
            return self.open_when_loaded(now);
        }
        let Some((by, connection)) = self.roster.ranks().first().map(|first| (first.id, first.connection))
        else {
            return;
        };
        self.state = State::Initialising(Initialising { by, until, loaded: None });
        if let Some(member) = self.roster.by_connection(connection) {
            member.ordered = true;
        }
        self.put(Output::ExpectVersion { step: 0, from: by });
        self.send(connection, ToWorker::Initialise);
    }

    fn start_state(&self) -> Option<(u64, [u8; 32])> {
        let resume = self.history.resume().map(|resume| (resume.step, resume.digest));
        resume.or(self.uploads.durable())
    }

    fn order_loads(&mut self, step: u64) {
        let mut connections = Vec::new();
        for member in self.roster.iter_mut().filter(|member| !member.ordered) {
            member.ordered = true;
            connections.push(member.connection);
        }
        for connection in connections {
            self.send(connection, ToWorker::Load { step });
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        now: Millis,
        id: MemberId,
        step: u64,
        digest: [u8; 32],
        elements: u64,
    ) {
        let is_asked_for = match &self.state {
            State::Initialising(state) => state.by == id && step == 0,
            State::Loading { step: wanted, .. } => *wanted == step,
            _ => false,
        };
        if !is_asked_for {
            return self.reject(now, id, &format!("it said Loaded of state {step} unasked"));
        }
        if let Some(member) = self.roster.iter_mut().find(|member| member.id == id) {
            member.elements = Some(elements);
        }
        let others = self.roster.iter().find_map(|member| member.elements.filter(|other| *other != elements));
        if let Some(first) = others {
            let name = self.roster.name(id);
            return self.fail(
                2,
                &format!("worker {name}'s model has {elements} elements and the others' have {first}; use one build"),
            );
        }
        if let State::Initialising(state) = &mut self.state {
            state.loaded = Some(digest);
            return self.on_initialised(now);
        }
        self.check_loaded(id, step, digest);
        self.open_when_loaded(now);
    }

    /// State 0 is made, uploaded and journalled, in whichever order the news come.
    pub(super) fn on_initialised(&mut self, now: Millis) {
        let State::Initialising(state) = &self.state else { return };
        let (Some(digest), Some((step, written))) = (state.loaded, self.uploads.durable()) else { return };
        let (by, until) = (state.by, now.saturating_add(self.plan.load_timeout_ms));
        self.state = State::Loading { until, step, digest: written };
        self.check_loaded(by, step, digest);
        self.order_loads(step);
        self.open_when_loaded(now);
    }

    fn check_loaded(&mut self, id: MemberId, step: u64, digest: [u8; 32]) {
        let State::Loading { digest: expected, .. } = &self.state else { return };
        if digest != *expected {
            let name = self.roster.name(id);
            let message = format!(
                "worker {name} holds a state {step} with another digest than version {step}: the version's files \
                 are not what was uploaded"
            );
            return self.fail(3, &message);
        }
        if let Some(member) = self.roster.iter_mut().find(|member| member.id == id) {
            member.loaded = true;
        }
    }

    fn open_when_loaded(&mut self, now: Millis) {
        let State::Loading { .. } = self.state else { return };
        if self.roster.len() < self.plan.workers_needed() {
            return self.gather_again(now);
        }
        if self.roster.iter().any(|member| !member.loaded) {
            return;
        }
        match self.first_work() {
            Some((step, phase)) => self.open_view(step, phase),
            None => self.start_closing(now),
        }
    }

    /// What follows the state that was loaded; `None` if all steps are done.
    fn first_work(&self) -> Option<(u64, Phase)> {
        let position = self.position;
        if self.plan.evaluation_due(position.step) && !position.evaluated {
            Some((position.step, Phase::Evaluate))
        } else if position.step < self.plan.total_steps {
            Some((position.step + 1, Phase::Train))
        } else {
            None
        }
    }

    fn open_view(&mut self, step: u64, phase: Phase) {
        let ranks = self.roster.ranks();
        let members: Vec<MemberInfo> = ranks
            .iter()
            .map(|member| MemberInfo { member: member.id, name: member.name.clone(), share: 1 })
            .collect();
        let reduce = if members.len() == 1 { ReduceAt::Alone } else { ReduceAt::Coordinator };
        let reason = match self.history.resume() {
            Some(resume) => format!("all {} workers hold state {}", members.len(), resume.step),
            None => format!("all {} workers hold the first state", members.len()),
        };
        let view = View { id: self.fresh_view(), members, reduce, step, phase };
        let fingerprint = self.roster.shared_fingerprint();
        self.state = State::Opening;
        self.view = Some(view.clone());
        self.append(Record::View(ViewRecord { view, fingerprint, reason }), true, After::OpenView);
    }

    pub(super) fn on_view_journalled(&mut self, now: Millis) {
        let (State::Opening, Some(view)) = (&self.state, self.view.clone()) else { return };
        let key = StepKey { view: view.id, step: view.step, phase: view.phase };
        self.put(Output::OpenView(view.clone()));
        let reason = format!("{} members work from step {}", view.members.len(), view.step);
        self.note(super::Note::ViewOpened { view: view.id, reason });
        self.send_to_all(&ToWorker::View(view));
        self.uploads.start_clock(now);
        self.begin_step(now, key);
    }

    pub(super) fn on_lost_before_start(&mut self, now: Millis, id: MemberId) {
        let has_enough = self.roster.len() >= self.plan.workers_needed();
        match &self.state {
            State::Initialising(state) if state.by == id && has_enough => self.begin(now),
            State::Initialising(state) if state.by == id => self.gather_again(now),
            State::Loading { .. } => self.open_when_loaded(now),
            _ => {}
        }
    }

    fn gather_again(&mut self, now: Millis) {
        self.state = State::Gathering { until: now.saturating_add(self.plan.join_timeout_ms) };
    }

    pub(super) fn on_gathering_expired(&mut self) {
        let message =
            format!("waited {} ms for {} and gave up", self.plan.join_timeout_ms, self.describe_gathering());
        self.fail(4, &message);
    }

    pub(super) fn on_loading_expired(&mut self) {
        let message = format!("waited {} ms for {} and gave up", self.plan.load_timeout_ms, self.waits_for());
        self.fail(4, &message);
    }

    pub(super) fn describe_gathering(&self) -> String {
        let (here, needed) = (self.roster.len(), self.plan.workers_needed());
        format!("{} more workers to join ({here} of {needed} are here)", needed.saturating_sub(here))
    }

    pub(super) fn names_not_loaded(&self) -> String {
        let ranks = self.roster.ranks();
        let names: Vec<&str> =
            ranks.iter().filter(|member| !member.loaded).map(|member| member.name.as_str()).collect();
        names.join(", ")
    }
}
