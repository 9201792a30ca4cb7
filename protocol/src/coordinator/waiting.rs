//! Between views: gather members, choose the state to continue from, and have everybody load it.

use super::Output;
use super::disconnected::DisconnectedMember;
use super::loss::STUCK_MAX;
use super::machine::{Coordinator, State};
use super::phase_state::Initialising;
use super::roster::Member;
use crate::Millis;
use crate::ids::{MemberId, Phase};
use crate::messages::{Failure, ToWorker};

impl Coordinator {
    /// How many workers the run needs now: the configured start number, then `min_workers`.
    pub(super) fn needed(&self) -> usize {
        if self.has_begun { self.plan.min_workers.max(1) as usize } else { self.plan.workers_needed() }
    }

    pub(super) fn on_prepared(&mut self, now: Millis, id: MemberId, elements: u64) {
        let others = self.roster.iter().find_map(|member| member.elements.filter(|other| *other != elements));
        if let Some(first) = others {
            let message = format!(
                "worker {}'s model has {elements} elements and the others' have {first}; use one build",
                self.roster.name(id)
            );
            return if self.has_begun { self.refuse(now, id, 2, &message) } else { self.fail(2, &message) };
        }
        if let Some(member) = self.roster.get_mut(id) {
            member.elements = Some(elements);
        }
        self.advance(now);
    }

    /// Turns a member away for good.
    pub(super) fn refuse(&mut self, now: Millis, id: MemberId, code: u8, message: &str) {
        let Some(connection) = self.roster.get(id).map(|member| member.connection) else { return };
        self.send(connection, ToWorker::Refused(Failure { code, message: message.to_owned() }));
        self.put(Output::Close { connection });
        self.lose(now, id, message);
    }

    /// Does what is possible now, while no view is at work.
    pub(super) fn advance(&mut self, now: Millis) {
        match self.state {
            State::Gathering { .. } => self.advance_gathering(now),
            State::Loading { .. } => self.advance_loading(now),
            State::Handover { .. } => self.advance_handover(now),
            _ => {}
        }
    }

    /// Too few members are present, or none has been asked yet: reports which are missing.
    pub(super) fn gather(&mut self, now: Millis) {
        self.begin_hold(now);
        self.lift_bars();
        self.start_gathering(now);
        self.advance_gathering(now);
        self.keep_state(now);
    }

    pub(super) fn start_gathering(&mut self, now: Millis) {
        let until = now.saturating_add(self.plan.join_timeout_ms);
        self.state = State::Gathering { until, is_extended: false };
    }

    fn advance_gathering(&mut self, now: Millis) {
        let here = self.roster.available().count();
        if here < self.needed()
            || self.waits_for_orphans(now)
            || self.waits_for_journal()
            || self.adopt_lost_tail()
        {
            return;
        }
        if self.compare_claims(now, true) {
            return;
        }
        let step = self.position.step;
        if self.recover_prepared(step) || self.roster.iter().any(|member| member.can_enter(step)) {
            return self.load_from(now, step);
        }
        if self.holder_until().is_none_or(|until| now >= until) {
            self.restore(now);
        }
    }

    /// Whether to wait for the journal to record a usable state: a complete checkpoint counts as soon as it is
    /// recorded.
    fn waits_for_journal(&self) -> bool {
        self.adopting.is_some() || self.uploads.is_recording() || self.waits_for_disk()
    }

    /// Members that are not ready yet and hold a newer state than the run could continue from now, or are prepared
    /// for the committed one.
    fn holders_to_be(&self) -> impl Iterator<Item = &Member> {
        let (step, newest) = (self.position.step, self.newest_to_go_on_from());
        let hash = self.history.last_commit(step).map(|commit| commit.hash);
        self.roster.iter().filter(move |member| {
            let prepared = member.claim.as_ref().and_then(|held| held.prepared);
            let reaches = member.holds.is_some_and(|holds| holds + 1 == step)
                && prepared.is_some_and(|(to, with)| to == step && Some(with) == hash);
            let is_newer = member.holds.is_some_and(|holds| holds <= step && Some(holds) > newest);
            member.elements.is_none() && member.leaving.is_none() && (is_newer || reaches)
        })
    }

    /// A lost worker with a newer state than the run could continue from now. If only its stream broke, it rejoins in
    /// a moment.
    fn lost_holder(&self) -> Option<&DisconnectedMember> {
        let step = self.position.step;
        self.disconnected.last_holder(step).filter(|_| self.newest_to_go_on_from() != Some(step))
    }

    /// How long to wait for either before history is rewound for lack of their state.
    fn holder_until(&self) -> Option<Millis> {
        let here =
            self.holders_to_be().map(|member| member.joined_at.saturating_add(self.plan.load_timeout_ms));
        let gone = self.lost_holder().map(|lost| lost.at.saturating_add(self.plan.rejoin_ms));
        here.chain(gone).max()
    }

    /// No member has the committed state: continue from the newest available, a member's or a checkpoint's; else from
    /// the seed.
    fn restore(&mut self, now: Millis) {
        let committed = self.position.step;
        let Some(step) = self.newest_to_go_on_from() else { return self.initialise(now) };
        if step < committed {
            let reason = format!("state {committed} is lost with the workers that held it");
            self.rewind(step, false, &reason);
        }
        self.load_from(now, step);
    }

    /// The newest available state: a checkpoint's, or a member's.
    fn newest_to_go_on_from(&self) -> Option<u64> {
        let committed = self.position.step;
        let held = self.roster.available().filter_map(|member| member.holds);
        self.uploads.durable_step().into_iter().chain(held).filter(|step| *step <= committed).max()
    }

    /// Has all available members load this state.
    pub(super) fn load_from(&mut self, now: Millis, step: u64) {
        self.state = State::Loading { until: now.saturating_add(self.plan.load_timeout_ms), step };
        if self.shown_digest(step).is_some() {
            self.order_loads(now, step, &ToWorker::FetchState { step });
        } else if self.uploads.durable_step() == Some(step) {
            self.order_loads(now, step, &ToWorker::Load { step });
        }
        self.advance_loading(now);
    }

    fn initialise(&mut self, now: Millis) {
        if self.position.step > 0 {
            self.rewind(0, false, "no version and no member has a state of this run");
        }
        let Some((by, connection)) = self.roster.uploader(Member::is_available) else { return };
        let until = now.saturating_add(self.plan.load_timeout_ms);
        self.state = State::Initialising(Initialising { by, until, loaded: None });
        if let Some(member) = self.roster.get_mut(by) {
            member.ordered = Some(0);
            member.holds = None;
        }
        let digest = self.expected_version(0);
        self.put(Output::ExpectVersion { step: 0, from: by, digest });
        self.send(connection, ToWorker::Initialise);
    }

    /// Orders all available members that lack the state to load it.
    fn order_loads(&mut self, now: Millis, step: u64, order: &ToWorker) {
        let is_wanted = |member: &Member| {
            member.is_available()
                && member.holds != Some(step)
                && member.ordered != Some(step)
                && member.penalty.not_before <= now
        };
        let mut connections = Vec::new();
        for member in self.roster.iter_mut().filter(|member| is_wanted(member)) {
            member.ordered = Some(step);
            member.holds = None;
            connections.push(member.connection);
        }
        for connection in connections {
            self.send(connection, order.clone());
        }
    }

    pub(super) fn on_loaded(&mut self, now: Millis, id: MemberId, step: u64, digest: [u8; 32]) {
        let ordered = self.roster.get(id).and_then(|member| member.ordered);
        if let State::Initialising(state) = &mut self.state
            && state.by == id
            && step == 0
        {
            state.loaded = Some(digest);
            return self.on_initialised(now);
        }
        let (version, shown) = (self.uploads.digest(step), self.shown_digest(step));
        match version.or(shown) {
            // Postponed in the meantime, or already ordered to load another state.
            _ if ordered.is_some_and(|ordered| ordered != step) => {}
            // Too late: the state that it was to load is obsolete.
            None => {
                if let Some(member) = self.roster.get_mut(id) {
                    member.ordered = None;
                }
                self.advance(now);
            }
            Some(_) if ![version, shown].contains(&Some(digest)) => self.on_other_digest(now, id, step),
            Some(_) => {
                if let Some(member) = self.roster.get_mut(id) {
                    member.ordered = None;
                    member.holds = Some(step);
                }
                self.advance(now);
            }
        }
    }

    fn on_other_digest(&mut self, now: Millis, id: MemberId, step: u64) {
        let message = format!(
            "worker {} holds a state {step} with another digest than the one that it was to load: what came is not what \
             was uploaded",
            self.roster.name(id)
        );
        if self.has_begun && self.roster.iter().any(|member| member.holds == Some(step)) {
            self.warn(message.clone());
            // A holder of the state sends it to the next one: no member is directed to a damaged checkpoint again.
            self.uploads.forget(step);
            return self.evict(now, id, &message, true);
        }
        if self.pass_version_over(step, &message) {
            return self.gather(now);
        }
        self.fail(3, &message);
    }

    /// State 0 is created, uploaded and journalled, in whichever order the events arrive.
    pub(super) fn on_initialised(&mut self, now: Millis) {
        let State::Initialising(state) = &self.state else { return };
        let (Some(digest), Some(written)) = (state.loaded, self.uploads.digest(0)) else { return };
        let by = state.by;
        if digest != written {
            return self.on_other_digest(now, by, 0);
        }
        if let Some(member) = self.roster.get_mut(by) {
            member.ordered = None;
            member.holds = Some(0);
        }
        self.load_from(now, 0);
    }

    /// All ordered members have the state: they continue if they are enough.
    pub(super) fn advance_loading(&mut self, now: Millis) {
        let State::Loading { step, .. } = self.state else { return };
        if self.roster.available().any(|member| member.ordered == Some(step)) {
            return;
        }
        let holders = self.roster.iter().filter(|member| member.can_enter(step)).count();
        let here = self.roster.available().count();
        if holders >= self.needed() {
            return self.go_on(now);
        }
        match holders {
            // A holder sends it to the others.
            1.. if here >= self.needed() && self.joiners(now).next().is_some() => self.hand_over(now),
            _ => self.pause(now),
        }
    }

    /// Pauses the run: there are too few members to continue.
    pub(super) fn pause(&mut self, now: Millis) {
        self.end_hold(now);
        self.lift_bars();
        self.start_gathering(now);
        self.keep_state(now);
    }

    /// A run that begins to wait writes a checkpoint: the remaining members may be lost, too, before others join.
    fn keep_state(&mut self, now: Millis) {
        let step = self.position.step;
        let waits = self.has_begun && matches!(self.state, State::Gathering { .. });
        let is_kept = self.uploads.is_busy() || self.uploads.durable_step() == Some(step);
        if waits
            && !is_kept
            && let Some((from, connection)) = self.roster.uploader(|member| member.can_show(step))
        {
            self.expect_version(now, step, from);
            self.send(connection, ToWorker::WriteVersion { step });
        }
    }

    /// What follows the committed state; `None` if all steps are done, or the run ends early.
    pub(super) fn first_work(&self) -> Option<(u64, Phase)> {
        let position = self.position;
        if self.plan.evaluation_due(position.step) && !position.evaluated {
            Some((position.step, Phase::Evaluate))
        } else if position.step < self.plan.total_steps && !self.has_ended_early() {
            Some((position.step + 1, Phase::Train))
        } else {
            None
        }
    }

    /// Continues from the committed state, with all members that hold it.
    pub(super) fn go_on(&mut self, now: Millis) {
        match self.first_work() {
            Some((step, phase)) => self.open_view(step, phase),
            None => self.start_closing(now),
        }
    }

    pub(super) fn on_gathering_tick(&mut self, now: Millis) {
        let State::Gathering { until, is_extended } = self.state else { return };
        self.advance_gathering(now);
        if !matches!(self.state, State::Gathering { .. }) || now < until {
            return;
        }
        let waited = format!("waited {} ms for {}", self.plan.join_timeout_ms, self.waits_for());
        if self.waits_for_journal() {
            // A run that has begun stays paused while its journal can't be written; before that, a person is present.
            return match self.has_begun {
                true => self.start_gathering(now),
                false => self.fail(4, &format!("{waited} and gave up")),
            };
        }
        if self.roster.available().count() >= self.needed() {
            // Enough are present, and the holder of the newest state still has time; but not each time that it
            // rejoins.
            let holder_until = self.holder_until().filter(|until| now < *until && !is_extended);
            if let Some(until) = holder_until {
                self.state = State::Gathering { until, is_extended: true };
                return;
            }
            self.warn(format!("{waited}; those that are here go on without"));
            return self.restore(now);
        }
        if !self.has_begun && self.roster.available().count() >= self.plan.min_workers.max(1) as usize {
            self.warn(format!("{waited}; those that are here begin"));
            self.has_begun = true;
            return self.advance_gathering(now);
        }
        if self.has_begun {
            // Keep waiting, so that a person finds the run alive in the morning.
            self.warn(format!("{waited}, and waits on"));
            return self.start_gathering(now);
        }
        self.fail(4, &format!("{waited} and gave up"));
    }

    /// A member takes too long to create or load a state.
    pub(super) fn on_loading_expired(&mut self, now: Millis) {
        let waited_ms = self.plan.load_timeout_ms;
        let message = format!("waited {waited_ms} ms for {}", self.waits_for());
        let waits_for_disk = self.has_begun && self.waits_for_disk();
        if let State::Initialising(state) = &mut self.state
            && waits_for_disk
        {
            state.until = now.saturating_add(waited_ms);
            return;
        }
        let State::Loading { step, .. } = self.state else {
            return self.on_version_failed(now, 0, &message);
        };
        let holders = self.roster.iter().filter(|member| member.can_enter(step)).count();
        // As at a start with some workers missing.
        self.has_begun |= holders >= self.plan.min_workers.max(1) as usize;
        let is_enough = holders >= self.needed();
        self.stuck += u32::from(!is_enough);
        if !is_enough && self.stuck > STUCK_MAX {
            return self.fail(4, &format!("{message} and gave up"));
        }
        if !is_enough && self.roster.iter().any(|member| member.recovers == Some(step)) {
            // No other member may have the state that it is about to reach.
            self.warn(format!("{message}, and waits on"));
            self.state = State::Loading { until: now.saturating_add(waited_ms), step };
            return;
        }
        self.warn(format!("{message}; {}", if is_enough { "the others go on" } else { "others may come" }));
        for member in self.roster.iter_mut().filter(|member| member.ordered == Some(step)) {
            // A member that was to reach it by a recovered commit has left its old state and not reached the new one.
            (member.ordered, member.holds) = (None, None);
            member.penalty.put_off(now);
        }
        self.advance_loading(now);
    }

    /// The deadline of a pause that awaits more than new members.
    pub(super) fn gathering_deadline(&self, until: Millis) -> Millis {
        let clock = self.clock;
        if self.waits_for_orphans(clock) {
            return until.min(self.rejoin_until);
        }
        let holder_until = self.holder_until().filter(|until| clock < *until);
        if let Some(holder_until) = holder_until {
            return until.min(holder_until);
        }
        if self.roster.available().count() < self.needed() || self.waits_for_journal() {
            return until;
        }
        // At once if there is a worker to try; else when the next postponed transfer may be retried.
        let step = self.position.step;
        let holders = self.roster.iter().filter(|member| member.can_enter(step)).count();
        if holders >= self.needed() {
            return clock.min(until);
        }
        self.roster
            .available()
            .filter(|member| !member.can_enter(step))
            .map(|member| member.penalty.not_before.max(clock))
            .min()
            .map_or(until, |at| at.min(until))
    }

    pub(super) fn describe_gathering(&self, now: Millis) -> String {
        let (here, needed) = (self.roster.available().count(), self.needed());
        if self.waits_for_orphans(now) {
            let had = self.orphans;
            return format!("the {had} workers of the last view to come back ({here} workers are ready)");
        }
        let missing = needed.saturating_sub(self.roster.len());
        let holders: Vec<&str> = self.holders_to_be().map(|member| member.name.as_str()).collect();
        match missing {
            0 if here >= needed && !holders.is_empty() => {
                format!("{} to be ready, with the newest state", holders.join(", "))
            }
            0 if here >= needed
                && let Some(lost) = self.lost_holder() =>
            {
                format!("{} to come back with state {}, which nobody else has", lost.name, self.position.step)
            }
            0 => format!("the workers to be ready ({here} of {needed} are)"),
            1 => format!("1 more worker to join ({} of {needed} are here)", self.roster.len()),
            _ => format!("{missing} more workers to join ({} of {needed} are here)", self.roster.len()),
        }
    }

    pub(super) fn names_not_loaded(&self, step: u64) -> String {
        let ranks = self.roster.ranks();
        let names: Vec<&str> = ranks
            .iter()
            .filter(|member| member.ordered == Some(step))
            .map(|member| member.name.as_str())
            .collect();
        names.join(", ")
    }
}
