//! Injects faults into the world.

use protocol::coordinator::Event;
use protocol::ids::ViewId;
use protocol::messages::{FromWorker, ToWorker, View};
use protocol::worker;

use crate::checkers::CheckResult;
use crate::incarnation::Chaos;
use crate::link::Direction;
use crate::network::{SimEvent, ToCoordinatorMessage, ToWorkerMessage};
use crate::node::OTHER_NUMERICS;
use crate::plane::Plane;
use crate::world::World;

/// A supervisor restarts a killed worker after this time.
pub(crate) const RESPAWN_MS: u64 = 1_000;

impl World<'_> {
    pub(crate) fn inject(&mut self, chaos: Chaos) -> CheckResult {
        let now = self.queue.now();
        self.disturbed_until = self.disturbed_until.max(now + chaos.lasts_ms());
        match chaos {
            Chaos::KillWorker(worker) => self.kill_worker(worker),
            Chaos::KillAll { apart_ms } => {
                let living = (0..self.workers.len()).filter(|worker| self.workers[*worker].is_alive);
                for (number, worker) in living.collect::<Vec<_>>().into_iter().enumerate() {
                    self.queue.put(apart_ms * number as u64, SimEvent::Inject(Chaos::KillWorker(worker)));
                }
            }
            Chaos::KillCoordinator { host } => self.kill_coordinator(host)?,
            Chaos::RestartCoordinator { host, after_ms } => {
                if self.coordinator.is_some() {
                    self.kill_coordinator(host)?;
                    self.queue.put(after_ms, SimEvent::StartCoordinator);
                    self.is_restarting = true;
                }
            }
            Chaos::Partition { worker, which, up, down, ms } => {
                self.cuts.add(worker, which, (up, down), now + ms);
            }
            Chaos::Stall { worker, which, up, down, ms } => {
                for plane in which.planes() {
                    let Some(node) = self.workers.get_mut(worker) else { break };
                    let newest = node.newest(*plane);
                    let Some(link) = newest.and_then(|newest| node.link(*plane, newest)) else { continue };
                    let ways = [(Direction::Up, up), (Direction::Down, down)];
                    ways.into_iter()
                        .filter(|(_, holds)| *holds)
                        .for_each(|(way, _)| link.hold(way, now + ms));
                }
            }
            Chaos::BreakControl(worker) => self.break_newest(worker, Plane::Control),
            Chaos::BreakData(worker) => self.break_newest(worker, Plane::Data),
            Chaos::PauseWorker(worker, ms) => {
                let is_alive = self.workers.get(worker).is_some_and(|node| node.is_alive);
                self.pause(Some(worker).filter(|_| is_alive), ms, is_alive);
            }
            Chaos::HangWorker(worker, ms) => {
                if let Some(node) = self.workers.get_mut(worker) {
                    node.hangs_until = node.hangs_until.max(now + ms);
                }
            }
            Chaos::PauseCoordinator(ms) => self.pause(None, ms, self.coordinator.is_some()),
            Chaos::SlowWorker(worker, factor) => {
                if let Some(node) = self.workers.get_mut(worker) {
                    node.slowness = factor;
                }
            }
            Chaos::SlowEdge { worker, which, ms } => {
                if let Some(node) = self.workers.get_mut(worker) {
                    which
                        .planes()
                        .iter()
                        .for_each(|plane| node.delays_ms[usize::from(*plane == Plane::Data)] = ms);
                }
            }
            Chaos::WorkerClock(worker, ms) => {
                if let Some(node) = self.workers.get_mut(worker) {
                    node.clock += ms;
                }
            }
            Chaos::CoordinatorClock(ms) => {
                self.coordinator_leap += ms;
                self.excuse_silence();
            }
            Chaos::Stop => self.tell_coordinator(Event::StopRequested { reason: "SIGINT".to_owned() })?,
            Chaos::Checkpoint => self.tell_coordinator(Event::CheckpointRequested)?,
            Chaos::Leave(worker) => {
                let event = worker::Event::LeaveRequested { reason: "SIGTERM".to_owned() };
                if worker < self.workers.len() {
                    self.queue.put(0, SimEvent::Worker(worker, event));
                }
            }
            Chaos::JournalFails(ms) => self.disk.journal_fails_until = now + ms,
            Chaos::JournalHangs(ms) => self.disk.journal_hangs_until = now + ms,
            Chaos::DiskFull(ms) => self.disk.full_until = now + ms,
            Chaos::DamageVersion => self.damage_newest_version(),
            Chaos::ExportsFail(ms) => self.exports_fail_until = now + ms,
            Chaos::OtherNumerics if self.oracle.has_views() => {
                let worker = self.workers.len();
                self.start_worker(None);
                self.workers[worker].fingerprint = OTHER_NUMERICS;
            }
            // Earlier, it would be the first worker, and define the run's numerics.
            Chaos::OtherNumerics => {}
            Chaos::UploadsFail(ms) => self.uploads_fail_until = now + ms,
            Chaos::LaunchFails(ms) => self.launches_fail_until = now + ms,
            Chaos::Joiners(count) => (0..count).for_each(|_| self.start_worker(None)),
            Chaos::CorruptFrames(count) => self.corrupt_frames = count,
            Chaos::Ahead(worker) => self.ahead = Some(worker),
            Chaos::Stale => self.send_stale(),
            Chaos::Duplicates => self.send_duplicates(),
            Chaos::FlipBit { worker, at, bit } => {
                if let Some(state) = self.workers.get_mut(worker).and_then(|node| node.state.as_mut()) {
                    state.flip(at, bit);
                    self.oracle.on_flip();
                }
            }
            Chaos::FlipDonor { at, bit } => self.donor_flip = Some((at, bit)),
        }
        Ok(())
    }

    /// A member is about to send its state to others.
    pub(crate) fn flip_donor(&mut self, worker: usize) {
        if let (Some((at, bit)), Some(state)) = (self.donor_flip.take(), &mut self.workers[worker].state) {
            self.oracle.on_flip();
            state.flip(at, bit);
        }
    }

    fn pause(&mut self, process: Option<usize>, ms: u64, is_alive: bool) {
        if let Some(backlog) = self.backlog(process).filter(|backlog| is_alive && !backlog.is_paused) {
            backlog.is_paused = true;
            self.queue.put(ms, SimEvent::Continue(process));
        }
    }

    fn tell_coordinator(&mut self, event: Event) -> CheckResult {
        if self.coordinator.as_ref().is_some_and(|node| !node.backlog.is_paused) {
            self.handle_coordinator(event)?;
        }
        Ok(())
    }

    fn break_newest(&mut self, worker: usize, plane: Plane) {
        if let Some(newest) = self.workers.get(worker).and_then(|node| node.newest(plane)) {
            self.break_link(worker, plane, newest);
        }
    }

    /// SIGKILL: its connections break; messages in flight may or may not arrive.
    fn kill_worker(&mut self, worker: usize) {
        let Some(node) = self.workers.get_mut(worker).filter(|node| node.is_alive) else { return };
        node.is_alive = false;
        node.machine = None;
        let (slot, has_joined) = (node.slot, node.member.is_some());
        self.break_links(worker);
        if slot.is_some() && !has_joined {
            self.queue.put(1, SimEvent::LaunchFailed);
        }
        if self.is_supervised {
            self.queue.put(RESPAWN_MS, SimEvent::Supervise(slot.map(|slot| slot as usize)));
        }
    }

    /// SIGKILL of the coordinator. The append in flight is torn anywhere.
    fn kill_coordinator(&mut self, host: bool) -> CheckResult {
        let Some(node) = self.coordinator.take() else { return Ok(()) };
        if let Some((record, durable)) = node.appending {
            let len = protocol::journal::encode(&record).len();
            let bytes = self.random.between(0, len as u64);
            if bytes == len as u64 {
                // All of it is with the operating system, but no confirmation was sent.
                self.disk.append(&record, durable && !host);
                self.watch_journalled(&record)?;
            } else {
                self.disk.tear(&record, usize::try_from(bytes).unwrap_or(0));
            }
        }
        if host {
            let keep = self.random.between(0, 400);
            let zeros = self.random.one_in(3);
            self.disk.lose_unsynced(usize::try_from(keep).unwrap_or(0), zeros);
        }
        self.queue.forget_coordinators_work();
        (0..self.workers.len()).for_each(|worker| self.break_links(worker));
        Ok(())
    }

    /// Messages of other steps, views and terms arrive again.
    fn send_stale(&mut self) {
        let Some(current) = self.coordinator.as_ref().and_then(|node| node.current) else { return };
        let members = (0..self.workers.len()).filter(|worker| self.workers[*worker].member.is_some());
        for worker in members.collect::<Vec<_>>() {
            let old: Vec<usize> = (0..self.archive.readies.len())
                .filter(|at| self.archive.readies[*at].key < current)
                .collect();
            if !old.is_empty() {
                let ready = self.archive.readies[old[self.random.below(old.len())]].clone();
                self.send_up(worker, Plane::Control, ToCoordinatorMessage::Control(FromWorker::Ready(ready)));
            }
            if !self.archive.commits.is_empty() {
                let commit = self.archive.commits[self.random.below(self.archive.commits.len())].clone();
                if self.was_told_of(worker, commit.key.view) {
                    self.send_down_newest(
                        worker,
                        Plane::Control,
                        ToWorkerMessage::Control(ToWorker::Commit(commit)),
                    );
                }
            }
            if !self.archive.views.is_empty() {
                let view = self.archive.views[self.random.below(self.archive.views.len())].clone();
                if self.was_told_of(worker, view.id) {
                    self.send_down_newest(
                        worker,
                        Plane::Control,
                        ToWorkerMessage::Control(ToWorker::View(view)),
                    );
                }
            }
        }
    }

    /// The last message about a step or a state arrives again, on the same connection.
    fn send_duplicates(&mut self) {
        for worker in 0..self.workers.len() {
            let node = &self.workers[worker];
            let (said, heard) = (node.last_said.clone(), node.last_heard.clone());
            let said = said.filter(|said| {
                use FromWorker::{Heartbeat, Loaded, Prepared, Ready};
                matches!(said, Ready(_) | Loaded { .. } | Prepared { .. } | Heartbeat)
            });
            if let Some(said) = said.filter(|_| node.is_alive) {
                self.send_up(worker, Plane::Control, ToCoordinatorMessage::Control(said));
            }
            let heard = heard.filter(|heard| {
                use ToWorker::{Alive, Commit, View};
                matches!(heard, Commit(_) | View(_) | Alive)
            });
            if let Some(heard) = heard {
                self.send_down_newest(worker, Plane::Control, ToWorkerMessage::Control(heard));
            }
        }
    }

    /// Whether messages of a view may be in flight to a worker: it was a member, or the view is older than its
    /// admission.
    fn was_told_of(&self, worker: usize, view: ViewId) -> bool {
        let Some(member) = self.workers[worker].member else { return false };
        let is_in =
            |summary: &View| summary.id == view && summary.members.iter().any(|info| info.member == member);
        view.0 < member.0 || self.archive.views.iter().any(is_in)
    }
}
