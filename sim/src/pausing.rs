//! What a paused process misses, and what it does when it goes on.

use crate::checkers::CheckResult;
use crate::network::SimEvent;
use crate::paused_events::PausedEvents;
use crate::world::World;

impl World<'_> {
    /// Queues the events of a paused process.
    pub(crate) fn set_aside(&mut self, process: Option<usize>, what: SimEvent) -> Option<SimEvent> {
        let now = process.map_or_else(|| self.coordinator_clock(), |worker| self.worker_clock(worker));
        match self.backlog(process).filter(|backlog| backlog.is_paused) {
            Some(backlog) => {
                backlog.waiting.push_back((now, what));
                None
            }
            None => Some(what),
        }
    }

    pub(crate) fn backlog(&mut self, process: Option<usize>) -> Option<&mut PausedEvents> {
        match process {
            Some(worker) => self.workers.get_mut(worker).map(|node| &mut node.backlog),
            None => self.coordinator.as_mut().map(|node| &mut node.backlog),
        }
    }

    /// The process continues: it reads the queued events, in order.
    pub(crate) fn continue_process(&mut self, process: Option<usize>) -> CheckResult {
        let Some(backlog) = self.backlog(process) else { return Ok(()) };
        if !std::mem::take(&mut backlog.is_paused) {
            return Ok(());
        }
        if self.bug == Some(crate::bug::Bug::TrustsTimeAfterPause) {
            self.tick_through_pause(process)?;
        }
        if process.is_none() {
            self.excuse_silence();
        }
        // Newer events come after the queued ones.
        while let Some((_, what)) = self.backlog(process).and_then(|backlog| backlog.waiting.pop_front()) {
            self.dispatch(what)?;
        }
        Ok(())
    }

    /// The planted bug: every deadline of the pause fires in turn, before any message is read.
    fn tick_through_pause(&mut self, process: Option<usize>) -> CheckResult {
        for _ in 0..100 {
            match process {
                Some(worker) => {
                    let clock = self.worker_clock(worker);
                    let Some(machine) = &mut self.workers[worker].machine else { return Ok(()) };
                    let Some(due) = machine.next_deadline().filter(|due| *due <= clock) else {
                        return Ok(());
                    };
                    machine.handle(due, protocol::worker::Event::Tick);
                    self.drain_worker(worker)?;
                }
                None => {
                    let clock = self.coordinator_clock();
                    let Some(node) = &mut self.coordinator else { return Ok(()) };
                    let due = node.machine.next_deadline().filter(|due| *due <= clock);
                    let Some(due) = due else { return Ok(()) };
                    node.machine.handle(due, protocol::coordinator::Event::Tick);
                    self.drain_coordinator()?;
                }
            }
        }
        Ok(())
    }
}
