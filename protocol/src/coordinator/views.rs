//! Views: opened, journalled, announced; and the microbatches of a step that an earlier view gave up.

use std::ops::Range;

use super::journal_queue::AfterAppend;
use super::machine::{Coordinator, State};
use super::phase_state::UncommittedWork;
use super::{Output, RunEvent};
use crate::Millis;
use crate::assignment::{deal_again, of_view};
use crate::ids::{MemberId, Phase, StepKey};
use crate::journal::{Record, ViewRecord};
use crate::messages::{MemberInfo, ReduceAt, ToWorker, View};

impl Coordinator {
    pub(super) fn is_in_view(&self, id: MemberId) -> bool {
        let view = self.view.as_ref().map(|view| view.id);
        view.is_some() && self.roster.get(id).is_some_and(|member| member.view == view)
    }

    /// Whether all members of the view are still present, each with its data connection.
    pub(super) fn is_view_whole(&self) -> bool {
        let is_well = |id: MemberId| self.roster.get(id).is_some_and(|member| !member.edge_is_broken);
        self.view.as_ref().is_none_or(|view| view.members.iter().all(|info| is_well(info.member)))
    }

    /// Opens a view of all members that hold the committed state, from this step on. Members keep the microbatches of
    /// the step that they have already computed.
    pub(super) fn open_view(&mut self, step: u64, phase: Phase) {
        let committed = self.position.step;
        let speeds: Vec<(MemberId, String, f64)> = self
            .roster
            .ranks()
            .iter()
            .filter(|member| member.can_enter(committed))
            .map(|member| (member.id, member.name.clone(), member.speed))
            .collect();
        let shares = Self::shares(&speeds.iter().map(|(_, _, speed)| *speed).collect::<Vec<f64>>());
        let members: Vec<MemberInfo> = speeds
            .into_iter()
            .zip(&shares)
            .map(|((member, name, _), share)| MemberInfo { member, name, share: *share })
            .collect();
        let reduce = if members.len() == 1 { ReduceAt::Alone } else { ReduceAt::Coordinator };
        let dealt = self.deal(step, phase, &members);
        let names: Vec<&str> = members.iter().map(|info| info.name.as_str()).collect();
        let reason = format!("{} from state {committed}", names.join(", "));
        let view = View { id: self.fresh_view(), members, reduce, step, phase, dealt };
        let fingerprint = self.view_fingerprint(&view);
        for info in &view.members {
            if let Some(member) = self.roster.get_mut(info.member) {
                member.view = Some(view.id);
            }
        }
        self.state = State::Opening;
        self.view = Some(view.clone());
        let record = ViewRecord { view, fingerprint, reason };
        self.history.note_view(&record);
        self.append(Record::View(record), true, AfterAppend::OpenView);
    }

    fn view_fingerprint(&self, view: &View) -> Option<[u8; 32]> {
        let mut prints = view
            .members
            .iter()
            .filter_map(|info| self.roster.get(info.member))
            .map(|member| member.fingerprint);
        let first = prints.next()?;
        prints.all(|print| print == first).then_some(first)
    }

    fn deal(&self, step: u64, phase: Phase, members: &[MemberInfo]) -> Vec<Vec<Range<u32>>> {
        if (self.kept.step, self.kept.phase) != (step, Some(phase)) {
            return Vec::new();
        }
        let kept = |info: &MemberInfo| self.kept.sets.get(&info.member).cloned().unwrap_or_default();
        let held: Vec<Vec<Range<u32>>> = members.iter().map(kept).collect();
        let shares: Vec<u32> = members.iter().map(|info| info.share).collect();
        deal_again(&held, &shares, self.plan.geometry.plan(step, phase).microbatches)
    }

    /// The view gives this step up: its members keep their microbatches of it.
    pub(super) fn keep_sets(&mut self, key: StepKey) {
        let Some(view) = &self.view else { return };
        let microbatches = self.plan.geometry.plan(key.step, key.phase).microbatches;
        let sets = of_view(view, key, microbatches).into_iter().collect();
        self.kept = UncommittedWork { step: key.step, phase: Some(key.phase), sets };
    }

    pub(super) fn on_view_journalled(&mut self, now: Millis) {
        let (State::Opening, Some(view)) = (&self.state, self.view.clone()) else { return };
        let key = StepKey { view: view.id, step: view.step, phase: view.phase };
        let everybody = view.members.iter().all(|info| self.roster.get(info.member).is_some());
        if !everybody {
            // A member was lost during the append: no member has heard of this view.
            self.keep_sets_of_present(key);
            self.view = None;
            return self.gather(now);
        }
        self.put(Output::OpenView(view.clone()));
        self.shown = None;
        let who = match view.members.len() {
            1 => "1 member works".to_owned(),
            members => format!("{members} members work"),
        };
        let reason = format!("{who} from step {}", view.step);
        self.emit(RunEvent::ViewOpened { view: view.id, reason });
        for info in &view.members {
            if let Some(member) = self.roster.get_mut(info.member) {
                member.edge_is_broken = false;
                let connection = member.connection;
                self.send(connection, ToWorker::View(view.clone()));
            }
        }
        self.broken_edges = None;
        self.end_hold(now);
        if !self.has_begun {
            self.has_begun = true;
            self.uploads.start_clock(now);
        }
        self.note_unheard(now, view.members.len());
        self.view_began(now);
        self.begin_step(now, key);
    }

    /// A view that was never announced has changed nothing at its members: earlier work counts.
    fn keep_sets_of_present(&mut self, key: StepKey) {
        if (self.kept.step, self.kept.phase) != (key.step, Some(key.phase)) {
            self.kept = UncommittedWork::default();
        }
    }

    /// Retries the step in flight with the present members.
    pub(super) fn retry(&mut self, now: Millis, reason: &str) {
        let State::Stepping(step) = &self.state else { return };
        let (key, lost_ms) = (step.key, now.saturating_sub(step.started));
        self.keep_sets(key);
        self.emit(RunEvent::Retry { step: key.step, reason: reason.to_owned(), lost_ms });
        self.view = None;
        if self.leaves_too_few() {
            return self.hold(now);
        }
        self.dismiss_leavers();
        let committed = self.position.step;
        let holders = self.roster.iter().filter(|member| member.can_enter(committed)).count();
        if holders >= self.needed() {
            self.open_view(key.step, key.phase);
        } else {
            self.gather(now);
        }
    }
}
