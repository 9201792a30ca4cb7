//! Silent peers are given up in time and no sooner: unread messages must never count as silence.

use protocol::ids::MemberId;

use crate::checkers::CheckResult;
use crate::network::SimEvent;
use crate::plane::Plane;
use crate::world::World;

impl World<'_> {
    /// Checks that no member is silent for longer than a lease, by a clock that neither stopped nor leapt in the
    /// meantime.
    pub(crate) fn check_leases(&self) -> CheckResult {
        let Some(node) = self.coordinator.as_ref().filter(|node| !node.backlog.is_paused) else {
            return Ok(());
        };
        let is_ending = node.is_ending
            || node.machine.next_deadline().is_none()
            || self.queue.now() < self.disk.journal_fails_until;
        // Timers are late: this one, and the one at which a leap was found.
        let patience_ms = self.scenario.plan.lease_ms + 2 * self.scenario.speeds.timer_ms;
        let clock = self.coordinator_clock();
        let silent = node.here.values().find(|worker| {
            node.heard.get(worker).is_some_and(|heard| clock > heard.saturating_add(patience_ms))
        });
        match silent.filter(|_| !is_ending) {
            Some(worker) => {
                Err(format!("time: worker {worker} is a member and silent for longer than {patience_ms} ms"))
            }
            None => Ok(()),
        }
    }

    /// Restarts the silence of all workers, after the coordinator's clock stopped or leapt.
    pub(crate) fn excuse_silence(&mut self) {
        let clock = self.coordinator_clock();
        if let Some(node) = &mut self.coordinator {
            node.heard.values_mut().for_each(|heard| *heard = (*heard).max(clock));
        }
    }

    /// A worker gives up its coordinator for silence: must not happen while a timely message of it is unread.
    pub(crate) fn check_silence(&self, worker: usize, reason: &str) -> CheckResult {
        let unread =
            |(_, what): &&(u64, SimEvent)| matches!(what, SimEvent::Down { plane: Plane::Control, .. });
        let backlog = &self.workers[worker].backlog;
        match backlog.waiting.iter().find(unread) {
            Some((at, _)) if reason.starts_with("nothing was heard") => Err(format!(
                "time: worker {worker} gives up on a coordinator ({reason}) whose message of {at} ms waits to be read"
            )),
            _ => Ok(()),
        }
    }

    /// The coordinator evicts a member for silence: must not happen while a timely message of it is unread.
    pub(crate) fn check_blame(&self, member: MemberId, reason: &str) -> CheckResult {
        let (Some(worker), Some(node)) =
            (self.workers.iter().position(|node| node.member == Some(member)), &self.coordinator)
        else {
            return Ok(());
        };
        let until = node.heard.get(&worker).map_or(0, |heard| heard + self.scenario.plan.lease_ms);
        let unread = |(at, what): &&(u64, SimEvent)| {
            matches!(what, SimEvent::Up { worker: from, plane: Plane::Control, .. } if *from == worker)
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
