//! Messages and connections between workers and the coordinator.

use protocol::ids::{MemberId, ViewId};
use protocol::messages::Failure;
use protocol::worker::Event;

use crate::checkers::CheckResult;
use crate::link::Direction;
use crate::network::{SimEvent, ToCoordinatorMessage, ToWorkerMessage};
use crate::plane::Plane;
use crate::world::World;

/// Attempts to connect time out after this.
pub(crate) const CONNECT_MS: u64 = 10_000;
/// How long a worker whose data connection broke waits for another view.
const NO_VIEW_MS: u64 = 5_000;
/// Number of a worker's attempts to reach the data plane, with doubling pauses.
const PROOF_ATTEMPTS: u32 = 10;
const PROOF_PAUSE_MS: u64 = 1_000;
pub(crate) const PROOF_PAUSE_MS_MAX: u64 = 60_000;
/// The final error message of those attempts.
pub(crate) const UNPROVEN: &str = "the data plane can't be reached";
/// Upper bound of the time until a refused connection is given up.
const REFUSED_MS: u64 = 600;

impl World<'_> {
    /// Sends on a worker's current connection of a plane. Returns false if it has none or it is known to be broken.
    pub(crate) fn send_up(&mut self, worker: usize, plane: Plane, payload: ToCoordinatorMessage) -> bool {
        let Some(generation) = self.workers.get(worker).and_then(|node| node.newest(plane)) else {
            return false;
        };
        let Some(at) = self.arrival(worker, plane, generation, Direction::Up) else { return false };
        self.queue.put_at(at, SimEvent::Up { worker, plane, generation, payload });
        true
    }

    pub(crate) fn send_down_newest(&mut self, worker: usize, plane: Plane, payload: ToWorkerMessage) {
        if let Some(generation) = self.workers.get(worker).and_then(|node| node.newest(plane)) {
            self.send_down(worker, plane, generation, payload);
        }
    }

    pub(crate) fn send_down(
        &mut self,
        worker: usize,
        plane: Plane,
        generation: usize,
        payload: ToWorkerMessage,
    ) {
        if let Some(at) = self.arrival(worker, plane, generation, Direction::Down) {
            self.queue.put_at(at, SimEvent::Down { worker, plane, generation, payload });
        }
    }

    fn arrival(&mut self, worker: usize, plane: Plane, generation: usize, way: Direction) -> Option<u64> {
        let now = self.queue.now();
        let held = self.cuts.held_until(now, worker, plane, way);
        let node = self.workers.get_mut(worker)?;
        let latency_ms = self.scenario.speeds.network_ms + node.delay_ms(plane);
        node.link(plane, generation)?.arrival(way, (now, held), &mut self.random, latency_ms)
    }

    /// A connection breaks; both ends notice it, each at its own time.
    pub(crate) fn break_link(&mut self, worker: usize, plane: Plane, generation: usize) {
        let now = self.queue.now();
        // Sometimes everything in flight is lost.
        let later = self.random.between(0, self.scenario.speeds.network_ms);
        let cut_at = if self.random.one_in(3) { now.saturating_sub(1) } else { now + later };
        let Some(node) = self.workers.get_mut(worker) else { return };
        if node.link(plane, generation).is_some_and(|link| link.cut(cut_at)) {
            let (up, down) = (self.random.between(1, 50), self.random.between(1, 50));
            self.notice_break(worker, plane, generation, Direction::Up, cut_at + up);
            self.notice_break(worker, plane, generation, Direction::Down, cut_at + down);
        }
    }

    /// Where packets are lost, so is the one that reports the break.
    fn notice_break(&mut self, worker: usize, plane: Plane, generation: usize, way: Direction, at: u64) {
        let held = self.cuts.held_until(self.queue.now(), worker, plane, way);
        let broken = match way {
            Direction::Up => SimEvent::BrokenUp(worker, plane, generation),
            Direction::Down => SimEvent::BrokenDown(worker, plane, generation),
        };
        self.queue.put_at(at.max(held.unwrap_or(0)), broken);
    }

    pub(crate) fn break_links(&mut self, worker: usize) {
        for plane in [Plane::Control, Plane::Data] {
            if let Some(newest) = self.workers.get(worker).and_then(|node| node.newest(plane)) {
                self.break_link(worker, plane, newest);
            }
        }
    }

    /// A worker reopens its control stream.
    pub(crate) fn on_reconnect(&mut self, worker: usize, attempt: u64) -> CheckResult {
        let now = self.queue.now();
        if self.workers[worker].reconnects != attempt {
            return Ok(()); // A newer attempt has begun.
        }
        if let Some(until) = self.cuts.blocked_until(now, worker, Plane::Control) {
            if until <= now + CONNECT_MS {
                self.queue.put_at(until, SimEvent::Reconnect(worker, attempt));
            } else {
                self.queue.put(CONNECT_MS, SimEvent::NotReconnected(worker, attempt));
            }
            return Ok(());
        }
        if self.coordinator.is_none() {
            let reason = "connection refused".to_owned();
            return self.handle_worker(worker, Event::Disconnected { reason });
        }
        self.workers[worker].open_control();
        self.handle_worker(worker, Event::Connected)
    }

    pub(crate) fn on_not_reconnected(&mut self, worker: usize, attempt: u64) -> CheckResult {
        if self.workers[worker].reconnects != attempt {
            return Ok(());
        }
        let reason = format!("no answer for {CONNECT_MS} ms");
        self.handle_worker(worker, Event::Disconnected { reason })
    }

    /// A worker that can't reach the data plane isn't ready: it would block the others.
    pub(crate) fn on_prove(&mut self, worker: usize, member: MemberId, attempt: u32) -> CheckResult {
        let now = self.queue.now();
        if self.workers[worker].member != Some(member) {
            return Ok(()); // It has rejoined since.
        }
        if self.cuts.blocked_until(now, worker, Plane::Data).is_none() && self.coordinator.is_some() {
            let elements = self.toy.elements as u64;
            return self.handle_worker(worker, Event::Prepared { elements });
        }
        if attempt == PROOF_ATTEMPTS {
            let message = format!("{UNPROVEN}: no answer for {CONNECT_MS} ms ({attempt} attempts)");
            return self.handle_worker(worker, Event::Failed(Failure { code: 4, message }));
        }
        let pause_ms = (PROOF_PAUSE_MS << (attempt - 1)).min(PROOF_PAUSE_MS_MAX);
        self.queue.put(CONNECT_MS + pause_ms, SimEvent::Prove(worker, member, attempt + 1));
        Ok(())
    }

    /// A worker opens a data connection for a view. Meanwhile its compute thread does nothing else.
    pub(crate) fn connect_data(&mut self, worker: usize) -> CheckResult {
        let now = self.queue.now();
        let blocked = self.cuts.blocked_until(now, worker, Plane::Data);
        let wait_ms = match blocked {
            Some(until) => CONNECT_MS.min(until - now + 1),
            None if self.coordinator.is_none() => REFUSED_MS,
            None => return self.on_data_connected(worker),
        };
        self.attempts += 1;
        self.workers[worker].connecting = Some(self.attempts);
        self.queue.put(wait_ms, SimEvent::DataConnect(worker, self.attempts));
        Ok(())
    }

    pub(crate) fn on_data_connect(&mut self, worker: usize, attempt: u64) -> CheckResult {
        let now = self.queue.now();
        if self.workers[worker].connecting.take_if(|current| *current == attempt).is_none() {
            return Ok(()); // It was abandoned with its control stream.
        }
        let reason = match self.cuts.blocked_until(now, worker, Plane::Data) {
            Some(_) => format!("the data plane: no answer for {CONNECT_MS} ms"),
            None if self.coordinator.is_none() => "the data plane: connection refused".to_owned(),
            None => return self.on_data_connected(worker),
        };
        self.workers[worker].waiting = None;
        self.handle_worker(worker, Event::Disconnected { reason })
    }

    fn on_data_connected(&mut self, worker: usize) -> CheckResult {
        let elements = self.toy.elements;
        let node = &mut self.workers[worker];
        let Some(member) = node.member else { return Ok(()) };
        node.open_data(elements);
        let waiting = node.waiting.take();
        self.send_up(worker, Plane::Data, ToCoordinatorMessage::Connected(member));
        waiting.map_or(Ok(()), |key| self.start_computing(worker, key))
    }

    /// A worker finds its data connection broken. Another view follows, for which it opens another one, unless the
    /// coordinator noticed the break before it opened the last view.
    pub(crate) fn lose_data(&mut self, worker: usize) {
        self.workers[worker].exchange = None;
        if let Some(view) = self.workers[worker].view.as_ref().map(|view| view.id) {
            self.queue.put(NO_VIEW_MS, SimEvent::NoView(worker, view));
        }
    }

    pub(crate) fn on_no_view(&mut self, worker: usize, view: ViewId) -> CheckResult {
        let node = &mut self.workers[worker];
        let is_same = node.view.as_ref().is_some_and(|now| now.id == view);
        let is_cut_off = node.exchange.is_none() && node.connecting.is_none() && node.reduction.is_waiting();
        if !is_same || !is_cut_off {
            return Ok(());
        }
        node.view = None;
        node.reduction.leave_view();
        let reason = "the data connection broke, and no other view followed".to_owned();
        self.handle_worker(worker, Event::Disconnected { reason })
    }

    /// A worker closes its data connection; the coordinator notices.
    pub(crate) fn close_data(&mut self, worker: usize) {
        self.send_up(worker, Plane::Data, ToCoordinatorMessage::Closed);
        let node = &mut self.workers[worker];
        if let Some(generation) = node.exchange.take()
            && let Some(link) = node.link(Plane::Data, generation)
        {
            link.close();
        }
    }
}
