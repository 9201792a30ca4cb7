//! Checks that no collection grows: everything is bounded by the members and the steps in flight.

use protocol::reduce::slices;

use crate::checkers::CheckResult;
use crate::incarnation::Chaos;
use crate::network::{SimEvent, ToWorkerMessage};
use crate::node::WorkerNode;
use crate::plane::Plane;
use crate::world::World;

/// Messages queued on one control stream, as in the real coordinator.
const OUTBOX_MAX: usize = 64;
/// Records queued for the journal: a view or a commit, and meanwhile those of a checkpoint, a stop, a rewind and the
/// end.
const RECORDS_MAX: usize = 8;
/// Maximum number of remembered former workers.
const GONE_MAX: usize = 4_096;
/// Messages in transit to workers are counted at this interval of events.
const OUTBOXES_EVERY: u64 = 64;

impl World<'_> {
    pub(crate) fn check_sizes(&mut self) -> CheckResult {
        self.looked += 1;
        let Some(node) = &self.coordinator else { return Ok(()) };
        let plan = &self.scenario.plan;
        let members = plan.max_workers as usize;
        // Each step once; after a rewind, once more.
        let steps = 2 * usize::try_from(plan.total_steps).unwrap_or(usize::MAX) + 2;
        let frames = slices(self.toy.elements) as usize + 1;
        // A worker that lost its connection may have opened another before that is noticed; several, if packets are
        // lost.
        let connections = self.workers.iter().map(WorkerNode::open_data_links).sum();
        let bound = |name: &str| match name {
            "members"
            | "control streams"
            | "kept parts of a step"
            | "members that have computed"
            | "members that are ready"
            | "checks of the last state"
            | "failed first versions"
            | "members' newest data connections"
            | "members that aren't connected" => members,
            "frames for members that aren't connected" => 2 * members * frames,
            "data connections" => connections,
            "records on their way" => RECORDS_MAX,
            "workers that are expected back" | "workers' troubles" => GONE_MAX,
            "versions"
            | "commits"
            | "replayed commits"
            | "evaluations"
            | "journalled versions"
            | "versions that may be loaded"
            | "awaited versions"
            | "void versions" => steps,
            // Including outputs, which are executed at once.
            _ => 0,
        };
        let sizes = node.machine.sizes().into_iter().chain(node.aggregator.sizes());
        for (name, size) in sizes {
            let bound = bound(name);
            if size > bound {
                return Err(format!("growth: {size} {name}, where {bound} are enough"));
            }
        }
        if self.looked.is_multiple_of(OUTBOXES_EVERY) { self.check_outboxes() } else { Ok(()) }
    }

    /// Checks the messages queued for workers that read nothing. Skipped after faults that duplicate messages.
    fn check_outboxes(&self) -> CheckResult {
        if self.fired.iter().any(|chaos| matches!(chaos, Chaos::Duplicates | Chaos::Stale)) {
            return Ok(());
        }
        let mut waiting = vec![0; self.workers.len()];
        for what in self.queue.waiting() {
            if let SimEvent::Down {
                worker,
                plane: Plane::Control,
                payload: ToWorkerMessage::Control(_),
                ..
            } = what
            {
                waiting[*worker] += 1;
            }
        }
        match waiting.iter().position(|count| *count > OUTBOX_MAX) {
            Some(worker) => Err(format!("growth: {} messages wait for worker {worker}", waiting[worker])),
            None => Ok(()),
        }
    }
}
