//! The machine itself: its states, its deadlines, and the one `match` that dispatches events to the phases' files.

use std::collections::VecDeque;

use super::disconnected::Disconnected;
use super::journal_queue::{AfterAppend, JournalQueue};
use super::penalties::Penalties;
use super::phase_state::{
    Balance, Closing, DecidedStep, Initialising, StateTransfer, Step, StepDurations, UncommittedWork,
};
use super::roster::Roster;
use super::uploads::Uploads;
use super::{Event, Outcome, Output, RunEvent, RunPlan};
use crate::Millis;
use crate::history::History;
use crate::ids::{MemberId, ViewId};
use crate::journal::{CommitRecord, Record, TermRecord};
use crate::messages::{ToWorker, View};

/// After this many failed attempts to append the record of the run's end, the machine ends without it.
const END_APPENDS_MAX: u32 = 3;
/// A tick that is later than this (or half a lease, if that is more) means that this process was paused.
const PAUSE_MS: u64 = 1_000;
/// A tick is on time if it is no later than a lease divided by this.
const PUNCTUAL: u64 = 50;

/// The state of the run. Each variant names what it waits for.
#[derive(Debug)]
pub(super) enum State {
    /// Too few workers have joined, or the members of the last view may still rejoin.
    Gathering {
        until: Millis,
        /// The member with the newest state has been granted more time.
        is_extended: bool,
    },
    /// One member creates state 0 and uploads it.
    Initialising(Initialising),
    /// Members load or recover the state from which the run continues.
    Loading { until: Millis, step: u64 },
    /// The run is held while a member sends the committed state to those that lack it, or uploads it as a checkpoint
    /// if it has to outlast the members.
    Handover { until: Millis, step: u64, attempts: usize, as_version: bool },
    /// A view's record is being appended to the journal.
    Opening,
    /// The members work on a step.
    Stepping(Step),
    /// A decided step's record is being appended to the journal.
    Committing(Box<DecidedStep>),
    /// All steps are done: the last checkpoint and the exports remain.
    Closing(Closing),
    /// The record of the end is being appended to the journal.
    Ending(Outcome),
    /// Nothing follows.
    Finished(Outcome),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CommittedState {
    pub(super) step: u64,
    /// Adam's t.
    pub(super) applied: u64,
    /// Whether this state was evaluated.
    pub(super) evaluated: bool,
}

/// The coordinator's state machine (its phases are in the module's other files).
#[derive(Debug)]
pub struct Coordinator {
    pub(super) plan: RunPlan,
    pub(super) history: History,
    pub(super) state: State,
    pub(super) roster: Roster,
    pub(super) uploads: Uploads,
    /// The state transfer to members that lack the state.
    pub(super) shown: Option<StateTransfer>,
    pub(super) view: Option<View>,
    /// Whether a view was opened in this term.
    pub(super) has_begun: bool,
    /// Members of the last term's last view, until this term opens a view of its own.
    pub(super) orphans: usize,
    pub(super) rejoin_until: Millis,
    /// Members of that view that had not rejoined when this term's first view opened, and until when they may.
    pub(super) unheard: (usize, Millis),
    /// The last state claimed at Join, until a commit confirms it.
    pub(super) claimed_until: Option<u64>,
    /// A commit that the journal had lost and that is being appended again.
    pub(super) adopting: Option<CommitRecord>,
    /// Members' microbatches of a step that no view works on.
    pub(super) kept: UncommittedWork,
    /// Since when the run is held between two steps.
    pub(super) held_since: Option<Millis>,
    /// When another view must replace a broken data connection, and why.
    pub(super) broken_edges: Option<(Millis, String)>,
    /// How often in a row members disagreed on the reduced values.
    pub(super) disagreements: u32,
    /// The last step at which states differed and no member could be blamed.
    pub(super) doubted: Option<u64>,
    /// Lost members that may rejoin.
    pub(super) disconnected: Disconnected,
    /// Penalties of members that are gone.
    pub(super) penalties: Penalties,
    /// When the first quarantined worker may enter.
    pub(super) bars_until: Option<Millis>,
    /// Members whose initial checkpoint could not be written; an attempt that was lost with its member doesn't count.
    pub(super) first_version_failed: Vec<(MemberId, String)>,
    /// How often in a row all members computed a step and none became ready.
    pub(super) stuck: u32,
    pub(super) balance: Balance,
    /// The time of the current event.
    pub(super) clock: Millis,
    pub(super) position: CommittedState,
    /// The latest state that cannot derive from a deviant replica: all members reported the same check of the state
    /// after it, so its upload is the state from which everybody continued.
    pub(super) proven_step: u64,
    /// The requester of the end after the step in flight, if there is one.
    pub(super) stop: Option<String>,
    /// How long steps take, for the deadline of the next one.
    pub(super) pace: StepDurations,
    pub(super) term: u32,
    ids: u32,
    pub(super) journal_queue: JournalQueue,
    outputs: VecDeque<Output>,
    waiting: String,
}

impl Coordinator {
    /// Creates a coordinator that has taken `term` on the run. Its first output appends the term's record; workers
    /// may join at once.
    ///
    /// # Panics
    /// When `term` is not above [`History::term`]: the driver took it by creating `terms/N` exclusively.
    #[must_use]
    pub fn new(plan: RunPlan, term: u32, history: History, now: Millis) -> Self {
        assert!(term > history.term(), "term {term} is not above the journal's {}", history.term());
        let resume = history.resume();
        let step = history.last_step();
        let position =
            CommittedState { step, applied: history.applied(step), evaluated: history.is_evaluated(step) };
        let until = now.saturating_add(plan.join_timeout_ms);
        let orphans = history.orphans();
        // With workers still active, their number is known; a fresh start waits for the configured number.
        let has_begun = orphans > 0;
        let mut machine = Self {
            state: State::Gathering { until, is_extended: false },
            roster: Roster::default(),
            uploads: Uploads::new(resume, history.fallbacks(), now),
            shown: None,
            view: None,
            has_begun,
            orphans,
            rejoin_until: now.saturating_add(plan.rejoin_ms),
            unheard: (0, now),
            claimed_until: None,
            adopting: None,
            kept: UncommittedWork::default(),
            held_since: None,
            broken_edges: None,
            disagreements: 0,
            doubted: None,
            disconnected: Disconnected::default(),
            penalties: Penalties::default(),
            bars_until: None,
            first_version_failed: Vec::new(),
            stuck: 0,
            balance: Balance::default(),
            clock: now,
            position,
            proven_step: resume.map_or(0, |resume| resume.step).min(history.proven_step()),
            stop: None,
            pace: StepDurations::default(),
            term,
            ids: 0,
            journal_queue: JournalQueue::default(),
            outputs: VecDeque::new(),
            waiting: String::new(),
            plan,
            history,
        };
        machine.open_term();
        machine.note_waiting();
        machine
    }

    /// Handles one event at time `now`.
    pub fn handle(&mut self, now: Millis, event: Event) {
        if matches!(self.state, State::Finished(_)) {
            return self.on_late(now, &event);
        }
        self.forgive_own_pause(now);
        self.clock = now;
        self.check_bars(now);
        match event {
            Event::Message { connection, message } => self.on_message(now, connection, message),
            Event::Disconnected { connection, reason } => self.on_disconnected(now, connection, &reason),
            Event::Journalled => self.on_journalled(now),
            Event::JournalFailed { reason } => self.on_journal_failed(now, &reason),
            Event::VersionWritten { step, digest } => self.on_version_written(now, step, digest),
            Event::VersionDeviates { step } => self.on_version_deviates(now, step),
            Event::VersionFailed { step, reason } => self.on_version_failed(now, step, &reason),
            Event::StateShown { step, digest } => self.on_state_shown(now, step, digest),
            Event::StateNotShown { step, reason } => self.on_state_not_shown(now, step, &reason),
            Event::Exported => self.on_exported(now),
            Event::ExportFailed { reason } => self.on_export_failed(now, &reason),
            Event::StopRequested { reason } => self.on_stop(now, reason),
            Event::CheckpointRequested => self.uploads.request(),
            Event::Computed { member, key } => self.on_computed(member, key),
            Event::DataPlaneLost { member, reason } => self.on_data_plane_lost(now, member, &reason),
            Event::Behind { key, members } => self.on_behind(key, members),
            Event::ProtocolBroken { member, what } => self.reject(now, member, &what),
            // A run that has begun waits for workers, local or remote: one failed launch is no reason to end it.
            Event::LaunchFailed { reason, .. } if self.has_begun => {
                self.warn(format!("a local worker failed: {reason}"));
            }
            Event::LaunchFailed { code, reason } => {
                self.fail(code, &format!("a local worker failed: {reason}"));
            }
            Event::VersionsLost { reason } => self.on_versions_lost(now, reason),
            Event::NobodyLeft { reason } => self.fail(4, &reason),
            Event::Tick => self.on_tick(now),
        }
        self.note_waiting();
    }

    /// The next output, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn outputs_waiting(&self) -> usize {
        self.outputs.len()
    }

    /// When [`Event::Tick`] is due next; `None` when the run is over, or only the journal is pending.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let lease = self.roster.heard_since().map(|since| since.saturating_add(self.plan.lease_ms));
        let state = match &self.state {
            State::Gathering { until, .. } => Some(self.gathering_deadline(*until)),
            State::Loading { until, .. } | State::Handover { until, .. } => Some(*until),
            State::Initialising(initialising) => Some(initialising.until),
            State::Stepping(step) => Some(step.until.min(step.late_at)),
            State::Closing(closing) => closing.deadline(),
            State::Opening | State::Committing(_) => None,
            State::Ending(_) => return self.appends_deadline(),
            State::Finished(_) => return None,
        };
        let edges = self.broken_edges.as_ref().map(|(at, _)| *at);
        [lease, state, self.uploads.deadline(), self.appends_deadline(), edges].into_iter().flatten().min()
    }

    /// When an append is retried, or is so overdue that it is reported.
    fn appends_deadline(&self) -> Option<Millis> {
        let overdue = self.journal_queue.overdue_at().filter(|at| self.clock < *at);
        self.journal_queue.retry_at().into_iter().chain(overdue).min()
    }

    /// What the run waits for and why, for display.
    #[must_use]
    pub fn waits_for(&self) -> String {
        if self.journal_queue.is_failing() {
            return "the journal, which can't be written".to_owned();
        }
        if self.journal_queue.is_overdue(self.clock) {
            return "the journal, whose disk neither takes a record nor refuses it".to_owned();
        }
        match &self.state {
            State::Gathering { .. } => self.describe_gathering(self.clock),
            State::Initialising(initialising) => {
                format!("{} to make and upload the first state", self.roster.name(initialising.by))
            }
            State::Loading { step, .. } => {
                format!("{} to load state {step}", self.names_not_loaded(*step))
            }
            State::Handover { step, .. } => self.describe_handover(*step),
            State::Opening => "the journal to take a view".to_owned(),
            State::Stepping(step) => self.describe_step(step),
            State::Committing(decided) => {
                format!("the journal to take the commit of step {}", decided.record.key.step)
            }
            State::Closing(closing) => self.describe_closing(closing),
            State::Ending(_) => "the journal to take the end of the run".to_owned(),
            State::Finished(_) => "nothing".to_owned(),
        }
    }

    /// The model's element count, on which all members agree.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.roster.iter().find_map(|member| member.elements)
    }

    /// The step of the last committed state.
    #[must_use]
    pub fn committed_step(&self) -> u64 {
        self.position.step
    }

    fn open_term(&mut self) {
        let plan = &self.plan;
        let record = TermRecord {
            term: self.term,
            run: plan.run,
            config_digest: plan.config_digest.clone(),
            data_digest: plan.data_digest.clone(),
        };
        self.append(Record::Term(record), true, AfterAppend::Nothing);
    }

    fn on_journalled(&mut self, now: Millis) {
        let (after, next) = self.journal_queue.written(now);
        self.outputs.extend(next);
        match after {
            None => {}
            Some(AfterAppend::Nothing) => self.advance(now),
            Some(AfterAppend::OpenView) => self.on_view_journalled(now),
            Some(AfterAppend::Adopt) => self.on_adopted(now),
            Some(AfterAppend::Commit) => self.on_commit_journalled(now),
            Some(AfterAppend::Version { step, digest }) => self.on_version_journalled(now, step, digest),
            Some(AfterAppend::End) => self.finish(),
        }
    }

    fn on_journal_failed(&mut self, now: Millis, reason: &str) {
        let Some(failures) = self.journal_queue.failed(now) else { return };
        let message = format!("the journal can't be written: {reason}");
        match &self.state {
            State::Ending(_) if failures >= END_APPENDS_MAX => {
                self.warn(format!("{message}; the end of the run is not in it"));
                self.finish();
            }
            _ if self.stop.is_some() && !matches!(self.state, State::Ending(_)) => {
                self.end_interrupted(&format!("{message}, so the step in flight is not committed"));
            }
            _ if failures == 1 => self.warn(format!("{message}; the run pauses and tries again")),
            _ => {}
        }
    }

    fn on_tick(&mut self, now: Millis) {
        let retry = self.journal_queue.tick(now);
        self.outputs.extend(retry);
        self.check_leases(now);
        self.check_upload(now);
        self.check_edges(now);
        match &self.state {
            State::Gathering { .. } => self.on_gathering_tick(now),
            State::Initialising(state) if now >= state.until => self.on_loading_expired(now),
            State::Loading { until, .. } if now >= *until => self.on_loading_expired(now),
            State::Handover { until, .. } if now >= *until => {
                self.give_up_handover(now, "the transfer of the state took too long");
            }
            State::Stepping(step) if now >= step.until => self.on_step_expired(now),
            State::Stepping(step) if now >= step.late_at => self.on_late_step(now),
            State::Closing(_) => self.on_closing_tick(now),
            _ => {}
        }
    }

    /// After its own pause, a coordinator has heard nothing through no fault of the members: leases and deadlines
    /// restart, with enough time to read the messages that arrived meanwhile.
    fn forgive_own_pause(&mut self, now: Millis) {
        // The lateness of the event before is already forgiven.
        let late_ms = self.next_deadline().map_or(0, |due| now.saturating_sub(due.max(self.clock)));
        let lease_ms = self.plan.lease_ms;
        // Timers of a busy machine are late all the time: if that were forgiven, a lost member would never be
        // detected.
        if late_ms <= lease_ms / PUNCTUAL {
            return;
        }
        if late_ms <= PAUSE_MS.max(lease_ms / 2) {
            // Slightly more: a lease that ended meanwhile would expire now, before the queued messages are read.
            return self.roster.extend_leases(now, late_ms + late_ms.min(PAUSE_MS));
        }
        self.roster.forgive_pause(now, late_ms);
        let shift = |until: &mut Millis| {
            *until = until.saturating_add(late_ms).max(now.saturating_add(lease_ms));
        };
        match &mut self.state {
            State::Gathering { until, .. } | State::Loading { until, .. } | State::Handover { until, .. } => {
                shift(until);
            }
            State::Initialising(state) => shift(&mut state.until),
            State::Stepping(step) => {
                shift(&mut step.until);
                shift(&mut step.newcomers_until);
                shift(&mut step.late_at);
                step.started = step.started.saturating_add(late_ms).min(now);
            }
            State::Closing(closing) => closing.shift(shift),
            State::Opening | State::Committing(_) | State::Ending(_) | State::Finished(_) => {}
        }
        self.uploads.shift(shift);
        self.warn(format!("this coordinator was paused for {late_ms} ms; leases and deadlines start again"));
    }

    /// Whether the journal currently fails to append, or its disk hangs.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.journal_queue.is_failing() || self.journal_queue.is_overdue(self.clock)
    }

    fn note_waiting(&mut self) {
        if matches!(self.state, State::Finished(_)) {
            return; // The outcome was already reported.
        }
        let (reason, late_ms) = match &self.state {
            _ if self.waits_for_disk() => (self.waits_for(), None),
            State::Stepping(step) => (step.late.clone(), Some(self.clock.saturating_sub(step.started))),
            State::Committing(_) | State::Opening | State::Ending(_) => (String::new(), None),
            _ => (self.waits_for(), None),
        };
        if reason != self.waiting {
            self.waiting.clone_from(&reason);
            self.emit(RunEvent::Waiting { reason, late_ms });
        }
    }

    /// A fresh id for a member or a view: `term << 32 | counter`.
    fn fresh_id(&mut self) -> u64 {
        self.ids = self.ids.checked_add(1).unwrap_or_else(|| panic!("4 billion ids in one term"));
        u64::from(self.term) << 32 | u64::from(self.ids)
    }

    pub(super) fn fresh_member(&mut self) -> MemberId {
        MemberId(self.fresh_id())
    }

    pub(super) fn fresh_view(&mut self) -> ViewId {
        ViewId(self.fresh_id())
    }

    pub(super) fn append(&mut self, record: Record, durable: bool, after: AfterAppend) {
        let output = self.journal_queue.push(self.clock, record, durable, after);
        self.outputs.extend(output);
    }

    pub(super) fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn send(&mut self, connection: u64, message: ToWorker) {
        self.put(Output::Send { connection, message });
    }

    pub(super) fn send_to_view(&mut self, message: &ToWorker) {
        let Some(view) = &self.view else { return };
        let members = view.members.iter().filter_map(|info| self.roster.get(info.member));
        let connections: Vec<u64> = members.map(|member| member.connection).collect();
        for connection in connections {
            self.send(connection, message.clone());
        }
    }

    pub(super) fn emit(&mut self, event: RunEvent) {
        self.put(Output::RunEvent(event));
    }

    pub(super) fn warn(&mut self, message: String) {
        self.emit(RunEvent::Warning { message });
    }
}
