//! The event loop: dispatches one event at a time, and checks what must hold after it.

use crate::checkers::CheckResult;
use crate::incarnation::{Chaos, Incarnation};
use crate::inject::RESPAWN_MS;
use crate::network::SimEvent;
use crate::plane::Plane;
use crate::world::World;

/// An incarnation that takes longer than this hangs, whatever its faults.
const LIFE_MS_MAX: u64 = 30 * 60_000;
/// A slower append must be reported as hanging.
const APPEND_PATIENCE_MS: u64 = 5_000;
/// A deadline that doesn't move after this many of its own ticks in a row is a bug.
const IDLE_TICKS_MAX: u32 = 3;

impl World<'_> {
    pub(crate) fn run(&mut self, life: &Incarnation) -> CheckResult {
        let begin = self.queue.now();
        (self.last_progress, self.disturbed_until) = (begin, begin);
        let (mut events, mut chaos) = (0u64, life.chaos.iter().peekable());
        while self.coordinator.is_some()
            || self.is_restarting
            || self.workers.iter().any(|worker| worker.is_alive)
        {
            if chaos.peek().is_none() && !std::mem::replace(&mut self.is_healing, true) {
                self.queue.put_at(self.disturbed_until, SimEvent::Healed);
            }
            let Some(what) = self.queue.pop() else {
                return Err(format!("no silent hang: nothing happens any more; {}", self.who_waits()));
            };
            if self.queue.now() > begin + LIFE_MS_MAX {
                return Err(format!("no silent hang: no end in half an hour; {}", self.who_waits()));
            }
            self.check_progress()?;
            events += 1;
            while let Some((_, event)) = chaos.next_if(|(at, _)| *at <= events) {
                self.note(|| format!("CHAOS {event:?}"));
                self.fired.push(*event);
                self.inject(*event)?;
                // A clock that has leapt is past deadlines.
                self.arm_ticks();
            }
            self.dispatch(what)?;
        }
        Ok(())
    }

    pub(crate) fn dispatch(&mut self, what: SimEvent) -> CheckResult {
        let process = what.process();
        match what {
            SimEvent::Continue(_) => return self.continue_process(process),
            SimEvent::StartCoordinator => {
                self.note(|| "the coordinator is started again".to_owned());
                self.is_restarting = false;
                self.was_complete = !self.open_coordinator(self.wait_for)?;
                return Ok(());
            }
            SimEvent::Inject(chaos) => return self.inject(chaos),
            SimEvent::Healed if self.queue.now() < self.disturbed_until => {
                self.queue.put_at(self.disturbed_until, SimEvent::Healed);
                return Ok(());
            }
            SimEvent::Healed => {
                self.heal();
                return Ok(());
            }
            SimEvent::Supervise(slot) => {
                self.supervise(slot);
                return Ok(());
            }
            _ => {}
        }
        let what = self.delay_transfer(what).and_then(|what| self.delay_work(what));
        let Some(what) = what.and_then(|what| self.set_aside(process, what)) else {
            return Ok(());
        };
        self.note(|| format!("{what:?}"));
        match process {
            Some(worker) => self.at_worker(worker, what)?,
            None => self.at_coordinator(what)?,
        }
        self.check_waits()
    }

    /// A supervisor starts another worker, if the system permits it.
    fn supervise(&mut self, slot: Option<usize>) {
        if self.coordinator.is_none() && !self.is_restarting {
            return;
        }
        if slot.is_some() && self.queue.now() < self.launches_fail_until {
            self.queue.put(0, SimEvent::LaunchFailed);
            self.queue.put(RESPAWN_MS, SimEvent::Supervise(slot));
            return;
        }
        self.start_worker(slot);
    }

    /// Delays a state transfer while its worker is cut off.
    fn delay_transfer(&mut self, what: SimEvent) -> Option<SimEvent> {
        let (SimEvent::Uploaded(worker, ..)
        | SimEvent::Shown(worker, ..)
        | SimEvent::Download(worker, _)
        | SimEvent::Take(worker, _)) = what
        else {
            return Some(what);
        };
        match self.cuts.blocked_until(self.queue.now(), worker, Plane::Control) {
            Some(until) => {
                self.queue.put_at(until, what);
                None
            }
            None => Some(what),
        }
    }

    /// Delays the work of a hanging device until it recovers.
    fn delay_work(&mut self, what: SimEvent) -> Option<SimEvent> {
        let (SimEvent::Computed(worker, _)
        | SimEvent::Apply(worker, _)
        | SimEvent::Prove(worker, ..)
        | SimEvent::Uploaded(worker, ..)
        | SimEvent::Shown(worker, ..)
        | SimEvent::Worker(worker, protocol::worker::Event::Loaded { .. })) = what
        else {
            return Some(what);
        };
        let until = self.workers[worker].hangs_until;
        if self.queue.now() >= until {
            return Some(what);
        }
        self.queue.put_at(until, what);
        None
    }

    /// All faults are over. A supervisor ensures that there are enough workers.
    fn heal(&mut self) {
        self.is_healed = true;
        let left = |chaos: &&Chaos| matches!(chaos, Chaos::Leave(_));
        let leavers = self.fired.iter().filter(left).count();
        let living = self.workers.iter().filter(|node| node.is_alive).count();
        let needed = self.scenario.plan.min_workers.max(1) as usize + leavers;
        if self.is_supervised && self.coordinator.is_some() {
            (living..needed).for_each(|_| self.start_worker(None));
        }
    }

    /// Checks that every unfinished machine has a deadline ahead, or work in flight that will answer.
    fn check_waits(&mut self) -> CheckResult {
        self.arm_ticks();
        self.check_leases()?;
        if let Some(node) = &self.coordinator
            && node.machine.next_deadline().is_none()
            && node.appending.is_none()
        {
            return Err(format!(
                "no silent hang: the coordinator waits for {} for ever",
                node.machine.waits_for()
            ));
        }
        self.check_hung_append()?;
        self.check_sizes()?;
        for (index, node) in self.workers.iter().enumerate().filter(|(_, node)| node.is_alive) {
            if node.machine.as_ref().is_some_and(|machine| machine.next_deadline().is_none()) {
                return Err(format!("no silent hang: worker {index} has no deadline"));
            }
        }
        if self.idle_ticks > IDLE_TICKS_MAX {
            return Err(format!(
                "no silent hang: a deadline passes and nothing changes; {}",
                self.who_waits()
            ));
        }
        Ok(())
    }

    /// Checks that a hanging disk is named in the machine's description of its wait.
    fn check_hung_append(&self) -> CheckResult {
        let Some(node) = self.coordinator.as_ref().filter(|node| node.appending.is_some()) else {
            return Ok(());
        };
        let patience_ms = APPEND_PATIENCE_MS + 2 * self.scenario.speeds.timer_ms;
        let (by_clock, since) = node.appending_since;
        let is_overdue = self.coordinator_clock() > by_clock + patience_ms
            && self.queue.now() > since + patience_ms
            && node.backlog.waiting.is_empty()
            && !node.backlog.is_paused;
        let said = node.machine.waits_for();
        match is_overdue && !said.contains("the journal") {
            true => Err(format!("no silent hang: the journal's disk hangs, and it waits for {said}")),
            false => Ok(()),
        }
    }

    /// Queues each machine's next deadline.
    fn arm_ticks(&mut self) {
        let now = self.queue.now();
        let clock = self.coordinator_clock();
        // A busy machine's timers are always late.
        let late_ms = self.scenario.speeds.timer_ms;
        if let Some(node) = &mut self.coordinator
            && let Some(due) = node.machine.next_deadline()
        {
            let at = now + due.saturating_sub(clock);
            if node.tick_at.is_none_or(|armed| armed > at) {
                node.tick_at = Some(at);
                self.queue
                    .put_at(at + self.random.between(late_ms.min(1), late_ms), SimEvent::CoordinatorTick);
            }
        }
        for worker in 0..self.workers.len() {
            let clock = self.worker_clock(worker);
            let node = &mut self.workers[worker];
            let due = node
                .machine
                .as_ref()
                .filter(|_| node.is_alive)
                .and_then(protocol::worker::Worker::next_deadline);
            let Some(at) = due.map(|due| now + due.saturating_sub(clock)) else { continue };
            if node.tick_at.is_none_or(|armed| armed > at) {
                node.tick_at = Some(at);
                self.queue
                    .put_at(at + self.random.between(late_ms.min(1), late_ms), SimEvent::WorkerTick(worker));
            }
        }
    }
}
