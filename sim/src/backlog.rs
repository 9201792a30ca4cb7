//! Processes that are paused, and what must not come of it: nobody is blamed for what waits to be read.

use std::collections::VecDeque;

use crate::network::{Plane, What};
use crate::watch::Finding;
use crate::world::World;

/// What happens to a process while it is paused.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) is_paused: bool,
    /// With the time by the process's own clock.
    waiting: VecDeque<(u64, What)>,
}

impl World<'_> {
    /// Puts what happens to a paused process aside.
    pub(crate) fn set_aside(&mut self, process: Option<usize>, what: What) -> Option<What> {
        let now = process.map_or_else(|| self.coordinator_clock(), |worker| self.worker_clock(worker));
        match self.backlog(process).filter(|backlog| backlog.is_paused) {
            Some(backlog) => {
                backlog.waiting.push_back((now, what));
                None
            }
            None => Some(what),
        }
    }

    pub(crate) fn backlog(&mut self, process: Option<usize>) -> Option<&mut Backlog> {
        match process {
            Some(worker) => self.workers.get_mut(worker).map(|node| &mut node.backlog),
            None => self.coordinator.as_mut().map(|node| &mut node.backlog),
        }
    }

    /// The process goes on: it reads what has come meanwhile, in order.
    pub(crate) fn continue_process(&mut self, process: Option<usize>) -> Finding {
        let Some(backlog) = self.backlog(process) else { return Ok(()) };
        if !std::mem::take(&mut backlog.is_paused) {
            return Ok(());
        }
        if self.bug == Some(crate::bug::Bug::TrustsTimeAfterPause) {
            self.tick_through_pause(process)?;
        }
        // What happens to it from now on is behind that.
        while let Some((_, what)) = self.backlog(process).and_then(|backlog| backlog.waiting.pop_front()) {
            self.dispatch(what)?;
        }
        Ok(())
    }

    /// The planted bug: every deadline of the pause passes in its turn, before anything is heard.
    fn tick_through_pause(&mut self, process: Option<usize>) -> Finding {
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

    /// A worker gives its coordinator up for its silence: not while what that has said in time waits to be read.
    pub(crate) fn check_silence(&self, worker: usize, reason: &str) -> Finding {
        let unread = |(_, what): &&(u64, What)| matches!(what, What::Down { plane: Plane::Control, .. });
        let backlog = &self.workers[worker].backlog;
        match backlog.waiting.iter().find(unread) {
            Some((at, _)) if reason.starts_with("nothing was heard") => Err(format!(
                "time: worker {worker} gives up on a coordinator ({reason}) whose message of {at} ms waits to be read"
            )),
            _ => Ok(()),
        }
    }

    /// The coordinator puts a member out for its silence: not while what it has said in time waits to be read.
    pub(crate) fn check_blame(&self, member: protocol::ids::MemberId, reason: &str) -> Finding {
        let (Some(worker), Some(node)) =
            (self.workers.iter().position(|node| node.member == Some(member)), &self.coordinator)
        else {
            return Ok(());
        };
        let until = node.heard.get(&worker).map_or(0, |heard| heard + self.scenario.plan.lease_ms);
        let unread = |(at, what): &&(u64, What)| {
            matches!(what, What::Up { worker: from, plane: Plane::Control, .. } if *from == worker)
                && *at < until
        };
        match node.backlog.waiting.iter().find(unread) {
            Some((at, _)) if reason.contains("(lease ") => Err(format!(
                "time: worker {worker} is put out ({reason}) and its message of {at} ms waits to be read"
            )),
            _ => Ok(()),
        }
    }
}
