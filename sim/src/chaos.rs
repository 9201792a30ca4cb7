//! What goes wrong, done to the world.

use protocol::coordinator::Event;
use protocol::ids::ViewId;
use protocol::messages::{FromWorker, ToWorker, View};
use protocol::worker;

use crate::network::{Down, Plane, Up, What};
use crate::scenario::Chaos;
use crate::watch::Finding;
use crate::world::World;

impl World<'_> {
    pub(crate) fn strike(&mut self, chaos: Chaos) -> Finding {
        let now = self.queue.now();
        match chaos {
            Chaos::KillWorker(worker) => self.kill_worker(worker),
            Chaos::KillCoordinator { host } => self.kill_coordinator(host)?,
            Chaos::RestartCoordinator { host, after_ms } => {
                if self.coordinator.is_some() {
                    self.kill_coordinator(host)?;
                    self.queue.put(after_ms, What::StartCoordinator);
                    self.is_restarting = true;
                }
            }
            Chaos::Partition { worker, which, up, down, ms } => {
                for plane in [Plane::Control, Plane::Data] {
                    let Some(node) = self.workers.get_mut(worker) else { break };
                    let newest = node.newest(plane);
                    if let Some(link) = node.link(plane, newest).filter(|_| which.includes(plane)) {
                        link.hold(up, down, now + ms);
                    }
                }
            }
            Chaos::BreakControl(worker) => self.break_link(worker, Plane::Control),
            Chaos::BreakData(worker) => self.break_link(worker, Plane::Data),
            Chaos::PauseWorker(worker, ms) => {
                if let Some(node) = self.workers.get_mut(worker).filter(|node| node.is_alive)
                    && node.paused.is_none()
                {
                    node.paused = Some(Vec::new());
                    self.queue.put(ms, What::Continue(Some(worker)));
                }
            }
            Chaos::PauseCoordinator(ms) => {
                if let Some(node) = self.coordinator.as_mut().filter(|node| node.paused.is_none()) {
                    node.paused = Some(Vec::new());
                    self.queue.put(ms, What::Continue(None));
                }
            }
            Chaos::SlowWorker(worker, factor) => {
                if let Some(node) = self.workers.get_mut(worker) {
                    node.slowness = factor;
                }
            }
            Chaos::Stop => self.tell_coordinator(Event::StopRequested { reason: "SIGINT".to_owned() })?,
            Chaos::Checkpoint => self.tell_coordinator(Event::CheckpointRequested)?,
            Chaos::Leave(worker) => {
                let event = worker::Event::LeaveRequested { reason: "SIGTERM".to_owned() };
                if worker < self.workers.len() {
                    self.queue.put(0, What::Worker(worker, event));
                }
            }
            Chaos::JournalFails(ms) => self.disk.journal_fails_until = now + ms,
            Chaos::DiskFull(ms) => self.disk.full_until = now + ms,
            Chaos::LateJoiner => self.start_worker(None),
            Chaos::CorruptFrames(count) => self.corrupt_frames = count,
            Chaos::Stale => self.send_stale(),
            Chaos::FlipBit(worker) => {
                if let Some(state) = self.workers.get_mut(worker).and_then(|node| node.state.as_mut()) {
                    let bits = state.parameters[0].to_bits() ^ 1 << 20;
                    state.parameters[0] = f32::from_bits(bits);
                }
            }
        }
        Ok(())
    }

    fn tell_coordinator(&mut self, event: Event) -> Finding {
        if self.coordinator.as_ref().is_some_and(|node| node.paused.is_none()) {
            self.handle_coordinator(event)?;
        }
        Ok(())
    }

    /// SIGKILL: its connections break; what was on its way may or may not arrive.
    fn kill_worker(&mut self, worker: usize) {
        let Some(node) = self.workers.get_mut(worker).filter(|node| node.is_alive) else { return };
        node.is_alive = false;
        node.machine = None;
        self.break_link(worker, Plane::Control);
        self.break_link(worker, Plane::Data);
    }

    /// SIGKILL of the coordinator. The append in flight is torn anywhere.
    fn kill_coordinator(&mut self, host: bool) -> Finding {
        let Some(node) = self.coordinator.take() else { return Ok(()) };
        if let Some((record, durable)) = node.appending {
            let len = protocol::journal::encode(&record).len();
            let bytes = self.random.between(0, len as u64);
            if bytes == len as u64 {
                // All of it is with the operating system; nobody was told.
                self.disk.append(&record, durable && !host);
                self.watch.on_journalled(self.scenario, &record)?;
            } else {
                self.disk.tear(&record, usize::try_from(bytes).unwrap_or(0));
            }
        }
        if host {
            let keep = self.random.between(0, 400);
            self.disk.lose_unsynced(usize::try_from(keep).unwrap_or(0));
        }
        self.queue.forget_coordinators_work();
        for worker in 0..self.workers.len() {
            self.break_link(worker, Plane::Control);
            self.break_link(worker, Plane::Data);
        }
        Ok(())
    }

    pub(crate) fn break_link(&mut self, worker: usize, plane: Plane) {
        let now = self.queue.now();
        // At times all that is on its way is lost.
        let later = self.random.between(0, self.scenario.speeds.network_ms);
        let cut_at = if self.random.one_in(3) { now.saturating_sub(1) } else { now + later };
        let Some(node) = self.workers.get_mut(worker) else { return };
        let newest = node.newest(plane);
        if node.link(plane, newest).is_some_and(|link| link.cut(cut_at)) {
            let (up, down) = (self.random.between(1, 50), self.random.between(1, 50));
            self.queue.put_at(cut_at + up, What::BrokenUp(worker, plane, newest));
            self.queue.put_at(cut_at + down, What::BrokenDown(worker, plane, newest));
        }
    }

    /// Messages of other steps, views and terms arrive once more.
    fn send_stale(&mut self) {
        let Some(current) = self.coordinator.as_ref().and_then(|node| node.current) else { return };
        let members = (0..self.workers.len()).filter(|worker| self.workers[*worker].member.is_some());
        for worker in members.collect::<Vec<_>>() {
            let old: Vec<usize> = (0..self.archive.readies.len())
                .filter(|at| self.archive.readies[*at].key < current)
                .collect();
            if !old.is_empty() {
                let ready = self.archive.readies[old[self.random.below(old.len())]].clone();
                self.send_up(worker, Plane::Control, Up::Control(FromWorker::Ready(ready)));
            }
            if !self.archive.commits.is_empty() {
                let commit = self.archive.commits[self.random.below(self.archive.commits.len())].clone();
                if self.was_told_of(worker, commit.key.view) {
                    self.send_down_newest(worker, Plane::Control, Down::Control(ToWorker::Commit(commit)));
                }
            }
            if !self.archive.views.is_empty() {
                let view = self.archive.views[self.random.below(self.archive.views.len())].clone();
                if self.was_told_of(worker, view.id) {
                    self.send_down_newest(worker, Plane::Control, Down::Control(ToWorker::View(view)));
                }
            }
        }
    }

    /// Whether messages of a view may be under way to a worker: it was a member, or the view is older than its admission.
    fn was_told_of(&self, worker: usize, view: ViewId) -> bool {
        let Some(member) = self.workers[worker].member else { return false };
        let is_in = |told: &View| told.id == view && told.members.iter().any(|info| info.member == member);
        view.0 < member.0 || self.archive.views.iter().any(is_in)
    }
}
