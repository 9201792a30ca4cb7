//! The coordinator's driver in the simulation: thin, like the real one.

use std::collections::BTreeMap;

use protocol::coordinator::{Coordinator, Event, Output, RunEvent};
use protocol::history::History;
use protocol::ids::StepKey;
use protocol::journal::Record;
use protocol::messages::{EndReason, FromWorker, ToWorker, View};
use protocol::reducer::PartialFrame;

use crate::aggregator::{Aggregator, Connection};
use crate::bug::Bug;
use crate::checkers::{CheckResult, RollbackCause};
use crate::coordinator_node::CoordinatorNode;
use crate::network::{SimEvent, ToCoordinatorMessage, ToWorkerMessage};
use crate::paused_events::PausedEvents;
use crate::plane::Plane;
use crate::world::{CLOCK, World};

impl World<'_> {
    /// Takes a term and reads the journal. Returns false if the run is complete.
    pub(crate) fn open_coordinator(&mut self, wait_for: usize) -> Result<bool, String> {
        let records = self
            .disk
            .open_journal(self.bug != Some(Bug::LeavesTornTail))
            .map_err(|error| format!("one history: {error}"))?;
        self.oracle.on_reopened(&records);
        let mut history = History::replay(&records).map_err(|error| format!("one history: {error}"))?;
        if history.is_completed() {
            return Ok(false);
        }
        let chosen = self.choose_version(&mut history);
        self.oracle.on_resume(chosen, &self.disk.whole_versions())?;
        if let Some(planted) = self.planted_history(&records) {
            history = planted;
            self.choose_version(&mut history);
        }
        let mut plan = self.scenario.plan.clone();
        plan.on_nan = self.on_nan;
        plan.wait_for_workers = u32::try_from(wait_for).unwrap_or(u32::MAX);
        let term = self.disk.take_term();
        (self.started_at, self.lost_at) = (self.queue.now(), None);
        let machine = Coordinator::new(plan, term, history, self.coordinator_clock());
        self.coordinator = Some(CoordinatorNode {
            machine,
            aggregator: Aggregator::new(self.scenario, self.bug),
            appending: None,
            appending_since: (0, 0),
            is_ending: false,
            backlog: PausedEvents::default(),
            heard: BTreeMap::new(),
            here: BTreeMap::new(),
            unready: BTreeMap::new(),
            current: None,
            uploads: (0, None),
            journalled: None,
            shows: None,
            shown: None,
            tick_at: None,
            first_ready: None,
        });
        self.drain_coordinator()?;
        Ok(true)
    }

    /// Until when lost members may return with another state: meanwhile, the claims of present members prove less.
    fn outvoted_until(&self) -> u64 {
        let lost = self.lost_at.map(|at| at + EXPECTED_MS);
        let started = self.started_at + self.scenario.plan.join_timeout_ms;
        lost.map_or(started, |lost| lost.max(started))
    }

    pub(crate) fn coordinator_clock(&self) -> u64 {
        (CLOCK + self.queue.now()).saturating_add_signed(self.coordinator_leap)
    }

    pub(crate) fn at_coordinator(&mut self, what: SimEvent) -> CheckResult {
        let (now, clock) = (self.queue.now(), self.coordinator_clock());
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        match what {
            SimEvent::Up { worker, plane, generation, payload } => {
                if self.workers[worker].link(plane, generation).is_none_or(|link| link.is_lost(now)) {
                    return Ok(());
                }
                self.on_up(worker, plane, generation, payload)
            }
            SimEvent::BrokenUp(worker, plane, generation) => {
                self.on_ended(worker, plane, generation, "connection reset")
            }
            SimEvent::CoordinatorTick => {
                node.tick_at = None;
                if node.machine.next_deadline().is_none_or(|at| at > clock) {
                    return Ok(());
                }
                self.hear_the_silent()?;
                self.handle_coordinator(Event::Tick)?;
                let due = self.coordinator.as_ref().and_then(|node| node.machine.next_deadline());
                self.idle_ticks = if due.is_some_and(|at| at <= clock) { self.idle_ticks + 1 } else { 0 };
                Ok(())
            }
            SimEvent::Appended => self.on_appended(),
            SimEvent::LaunchFailed => {
                let reason = "no processes are left".to_owned();
                self.handle_coordinator(Event::LaunchFailed { code: 4, reason })
            }
            SimEvent::Uploaded(worker, member, step, state) => {
                self.on_uploaded((worker, member), step, state)
            }
            SimEvent::Written(from, number, step, state) => self.on_written((from, number), step, state),
            SimEvent::Download(worker, step) => self.on_download(worker, step),
            SimEvent::Shown(worker, step, state) => self.on_shown(worker, step, state),
            SimEvent::Take(worker, step) => self.on_take(worker, step),
            SimEvent::Exported => self.on_exported(),
            _ => Ok(()),
        }
    }

    fn on_up(
        &mut self,
        worker: usize,
        plane: Plane,
        generation: usize,
        payload: ToCoordinatorMessage,
    ) -> CheckResult {
        let connection = (worker, generation);
        match payload {
            ToCoordinatorMessage::Control(message) => {
                let clock = self.coordinator_clock();
                if let Some(node) = &mut self.coordinator {
                    node.heard.insert(worker, clock);
                }
                let message = self.planted_message(message);
                self.hear(worker, generation, message.clone())?;
                self.forge_readies(worker, &message)
            }
            ToCoordinatorMessage::Connected(member) => {
                let Some(node) = &mut self.coordinator else { return Ok(()) };
                // This coordinator has keys only of members that it admitted.
                if !node.here.contains_key(&member) {
                    self.hang_up(worker, generation);
                    return Ok(());
                }
                node.aggregator.connected(connection, member);
                self.deliver();
                Ok(())
            }
            ToCoordinatorMessage::Frame(frame) => self.on_frame(connection, frame),
            ToCoordinatorMessage::Closed => self.on_ended(worker, plane, generation, "closed by the worker"),
        }
    }

    /// A message on a control stream.
    pub(crate) fn hear(&mut self, worker: usize, generation: usize, message: FromWorker) -> CheckResult {
        let connection = connection_number(worker, generation);
        if let (FromWorker::Prepared { .. }, Some(node)) = (&message, &mut self.coordinator) {
            node.unready.remove(&worker);
        }
        self.handle_coordinator(Event::Message { connection, message })
    }

    /// A connection ended or broke.
    fn on_ended(&mut self, worker: usize, plane: Plane, generation: usize, why: &str) -> CheckResult {
        let reason = why.to_owned();
        match plane {
            Plane::Control => {
                let connection = connection_number(worker, generation);
                self.handle_coordinator(Event::Disconnected { connection, reason })
            }
            Plane::Data => {
                if let Some(link) = self.workers[worker].link(plane, generation) {
                    link.is_noticed = true;
                }
                let node = self.coordinator.as_mut();
                match node.and_then(|node| node.aggregator.gone((worker, generation))) {
                    Some(member) => self.handle_coordinator(Event::DataPlaneLost { member, reason }),
                    None => Ok(()),
                }
            }
        }
    }

    /// Closes a data connection from the coordinator's end.
    fn hang_up(&mut self, worker: usize, generation: usize) {
        self.send_down(worker, Plane::Data, generation, ToWorkerMessage::Closed);
        if let Some(link) = self.workers[worker].link(Plane::Data, generation) {
            link.close();
        }
    }

    fn on_frame(&mut self, connection: Connection, frame: PartialFrame) -> CheckResult {
        let (worker, generation) = connection;
        let is_slice = matches!(frame, PartialFrame::Slice { .. });
        if self.corrupt_frames > 0 && is_slice {
            self.corrupt_frames -= 1;
            self.hang_up(worker, generation);
            return self.on_ended(
                worker,
                Plane::Data,
                generation,
                "block 0 of a frame was damaged on the way",
            );
        }
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        let Some(member) = node.aggregator.member(connection) else { return Ok(()) };
        if !node.here.contains_key(&member) {
            return Ok(()); // Its connection closes with its membership.
        }
        let key = frame.key();
        if self.ahead == Some(worker) {
            self.ahead = None;
            node.aggregator.gone(connection);
            self.hang_up(worker, generation);
            let what = format!("it sent a part of step {}, where {} is due", key.step + 1_000, key.step);
            return self.handle_coordinator(Event::ProtocolBroken { member, what });
        }
        if node.aggregator.is_early(key) {
            return Err(format!("worker {worker} sent a part of {key:?}, which hasn't begun"));
        }
        if node.aggregator.insert(member, frame)? && !is_slice {
            self.handle_coordinator(Event::Computed { member, key })?;
        }
        self.deliver();
        Ok(())
    }

    fn deliver(&mut self) {
        while let Some(node) = &mut self.coordinator
            && let Some(((worker, generation), frame)) = node.aggregator.poll_delivery()
        {
            if let Some(over) = node.aggregator.overwritten(&frame) {
                let holder = self.workers.iter_mut().find(|node| node.member == Some(over.member));
                if let Some(contribution) = holder.and_then(|node| node.contribution.as_mut()) {
                    contribution.overwrite(&over);
                }
            }
            self.send_down(worker, Plane::Data, generation, ToWorkerMessage::Frame(frame));
        }
    }

    pub(crate) fn handle_coordinator(&mut self, event: Event) -> CheckResult {
        let clock = self.coordinator_clock();
        if let Some(node) = &mut self.coordinator {
            node.machine.handle(clock, event);
        }
        self.drain_coordinator()
    }

    pub(crate) fn drain_coordinator(&mut self) -> CheckResult {
        while let Some(output) = self.coordinator.as_mut().and_then(|node| node.machine.poll_output()) {
            self.note(|| format!("    coordinator: {output:?}"));
            self.carry_out(output)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> CheckResult {
        match output {
            Output::Send { connection, message } => {
                self.watch_sent(&message)?;
                let (worker, generation) = of_number(connection);
                self.workers[worker].told_to_end = end_of(&message);
                self.send_down(worker, Plane::Control, generation, ToWorkerMessage::Control(message));
            }
            Output::Close { connection } => {
                let (worker, generation) = of_number(connection);
                self.send_down(worker, Plane::Control, generation, ToWorkerMessage::Closed);
            }
            Output::Append { record, durable } => {
                let took_ms = self.random.between(0, self.scenario.speeds.journal_ms);
                let (clock, now) = (self.coordinator_clock(), self.queue.now());
                if let Some(node) = &mut self.coordinator {
                    if node.appending.is_some() {
                        return Err("two appends at once".to_owned());
                    }
                    node.is_ending |= matches!(record, Record::End(_));
                    (node.appending, node.appending_since) = (Some((record, durable)), (clock, now));
                }
                self.queue.put(took_ms, SimEvent::Appended);
            }
            Output::OpenView(view) => self.open_view(view),
            Output::Committed(committed) => {
                if let Some(node) = &mut self.coordinator {
                    node.aggregator.on_committed(committed.key, committed.next);
                }
            }
            Output::Finished(outcome) => {
                self.outcome = Some(outcome);
                self.coordinator = None;
                self.queue.forget_coordinators_work();
                for worker in 0..self.workers.len() {
                    self.send_down_newest(worker, Plane::Control, ToWorkerMessage::Closed);
                    self.send_down_newest(worker, Plane::Data, ToWorkerMessage::Closed);
                }
            }
            Output::RunEvent(note) => return self.take_note(note),
            Output::ExpectState { step, from } => {
                if let Some(node) = &mut self.coordinator {
                    node.shows = Some((step, from));
                }
            }
            Output::ExpectVersion { step, from, digest } => {
                if let Some(node) = &mut self.coordinator {
                    node.uploads = (node.uploads.0 + 1, Some((step, from)));
                    node.journalled = digest.filter(|_| self.bug != Some(Bug::ReplacesVersions));
                }
            }
            Output::ExpectExport { .. } => {}
        }
        Ok(())
    }

    fn take_note(&mut self, note: RunEvent) -> CheckResult {
        let now = self.queue.now();
        match note {
            RunEvent::Retry { .. } => self.summary.retries += 1,
            RunEvent::Rewound { to_step, reason, .. } => {
                self.summary.rewinds += 1;
                let void = !reason.contains("is lost with the workers") && !reason.starts_with("no version");
                let best = self.best_to_go_on_from();
                // The reason names a state that was found wrong when a member joined with another one.
                let found_late = reason.strip_prefix("what members hold of state ");
                let found_late = found_late.and_then(|rest| rest.split(' ').next()?.parse().ok());
                let way = match (void, found_late) {
                    (true, Some(step)) => RollbackCause::Late(step),
                    (true, None) if now < self.outvoted_until() => RollbackCause::Outvoted,
                    (true, None) => RollbackCause::Void,
                    (false, _) => RollbackCause::Lost,
                };
                return self.oracle.on_rewind(to_step, way, &best);
            }
            RunEvent::Joined { member, join } => {
                if let (Some(node), Ok(worker)) = (&mut self.coordinator, usize::try_from(join.instance)) {
                    node.here.insert(member, worker);
                    node.unready.insert(worker, now);
                }
            }
            RunEvent::ViewOpened { .. } => self.summary.views += 1,
            RunEvent::Warning { message } => self.summary.warnings.push(message),
            RunEvent::Left { member, reason, .. } => {
                if let Some(node) = &mut self.coordinator {
                    node.here.remove(&member);
                }
                self.lost_at = Some(now);
                self.check_blame(member, &reason)?;
                self.summary.left.push(reason);
            }
            _ => {}
        }
        Ok(())
    }

    fn open_view(&mut self, view: View) {
        let Some(node) = &mut self.coordinator else { return };
        node.current = Some(StepKey { view: view.id, step: view.step, phase: view.phase });
        self.summary.shares.push(view.members.iter().map(|info| (info.name.clone(), info.share)).collect());
        World::archive(&mut self.archive.views, view.clone());
        node.aggregator.open_view(view);
        node.shown = None;
    }

    fn watch_sent(&mut self, message: &ToWorker) -> CheckResult {
        if let ToWorker::Recover(commit) = message {
            return self.oracle.on_commit_sent(commit);
        }
        let ToWorker::Commit(commit) = message else { return Ok(()) };
        self.oracle.on_commit_sent(commit)?;
        if let Some(node) = &mut self.coordinator {
            node.current = Some(commit.next.step_after(commit.key).unwrap_or(commit.key));
        }
        World::archive(&mut self.archive.commits, commit.clone());
        Ok(())
    }
}

/// The exit code and the message for a worker that receives this message.
fn end_of(message: &ToWorker) -> Option<(u8, String)> {
    match message {
        ToWorker::Refused(failure) => Some((failure.code, failure.message.clone())),
        ToWorker::End { reason: EndReason::Interrupted, message } => Some((130, message.clone())),
        ToWorker::End { reason: EndReason::Failed, message } => Some((4, message.clone())),
        _ => None,
    }
}

/// A lost worker may return within this time.
const EXPECTED_MS: u64 = 60_000;

/// Upper bound of the streams that one worker opens.
const GENERATIONS: usize = 1 << 20;

/// The connection number of a worker's control stream.
fn connection_number(worker: usize, generation: usize) -> u64 {
    (worker * GENERATIONS + generation) as u64
}

fn of_number(connection: u64) -> (usize, usize) {
    let connection = usize::try_from(connection).unwrap_or(usize::MAX);
    (connection / GENERATIONS, connection % GENERATIONS)
}
