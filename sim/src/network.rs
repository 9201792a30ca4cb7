//! Messages in transit, the event queue, and virtual time.

use std::collections::BTreeMap;

use protocol::ids::{MemberId, ViewId};
use protocol::messages::{FromWorker, ToWorker};
use protocol::reducer::{PartialFrame, ReducedFrame};
use protocol::worker;

use crate::incarnation::Chaos;
use crate::plane::Plane;
use crate::toy::State;

/// A payload to the coordinator on a connection.
#[derive(Clone, Debug)]
pub(crate) enum ToCoordinatorMessage {
    Control(FromWorker),
    /// The data connection's handshake, with its member.
    Connected(MemberId),
    Frame(PartialFrame),
    /// The worker closed the connection in order.
    Closed,
}

/// A payload to a worker on a connection.
#[derive(Clone, Debug)]
pub(crate) enum ToWorkerMessage {
    Control(ToWorker),
    Frame(ReducedFrame),
    /// The coordinator closed the connection in order.
    Closed,
}

/// An event and its process.
#[derive(Clone, Debug)]
pub(crate) enum SimEvent {
    /// A worker process starts and connects.
    StartWorker(usize),
    /// A worker tries to reopen its control stream; identified by the number of the attempt.
    Reconnect(usize, u64),
    /// The attempt of this number has failed.
    NotReconnected(usize, u64),
    StartCoordinator,
    /// A payload arrives at the coordinator.
    Up {
        /// The sending worker.
        worker: usize,
        plane: Plane,
        /// Number of the connection among all of this worker and plane.
        generation: usize,
        payload: ToCoordinatorMessage,
    },
    /// A payload arrives at a worker.
    Down {
        /// The receiving worker.
        worker: usize,
        plane: Plane,
        /// Number of the connection among all of this worker and plane.
        generation: usize,
        payload: ToWorkerMessage,
    },
    /// The coordinator notices that a connection broke.
    BrokenUp(usize, Plane, usize),
    /// A worker notices that a connection broke.
    BrokenDown(usize, Plane, usize),
    CoordinatorTick,
    WorkerTick(usize),
    /// A worker's numbered attempt to open a data connection has ended.
    DataConnect(usize, u64),
    /// The append in flight has completed or failed.
    Appended,
    /// A worker's driver has completed an action.
    Worker(usize, worker::Event),
    /// A worker with this member id checks that it reaches the data plane; the last field counts its attempts.
    Prove(usize, MemberId, u32),
    /// A worker without a data connection has waited for a view after this one.
    NoView(usize, ViewId),
    /// A local worker could not be started, or ended before it joined.
    LaunchFailed,
    /// A worker's driver has computed its microbatches of this key.
    Computed(usize, protocol::ids::StepKey),
    /// A worker's driver applies this commit.
    Apply(usize, protocol::messages::Commit),
    /// A worker's upload under this member id has completely arrived at the coordinator.
    Uploaded(usize, MemberId, u64, State),
    /// The coordinator's driver has written this checkpoint's files, or failed to: the uploading worker, and the
    /// number of the upload.
    Written(usize, u64, u64, State),
    /// A worker waits for this checkpoint's bytes.
    Download(usize, u64),
    /// A worker's state transfer has completely arrived at the coordinator.
    Shown(usize, u64, State),
    /// A worker waits for the bytes of a transferred state.
    Take(usize, u64),
    /// The exports have arrived.
    Exported,
    /// A paused process continues; `None` is the coordinator.
    Continue(Option<usize>),
    /// A supervisor starts a worker, in this slot if it has one.
    Supervise(Option<usize>),
    /// All faults are over.
    Healed,
    /// A delayed part of a fault.
    Inject(Chaos),
}

impl SimEvent {
    /// The affected process: a worker, or the coordinator (`None`).
    #[must_use]
    pub(crate) fn process(&self) -> Option<usize> {
        match self {
            Self::StartWorker(worker)
            | Self::Down { worker, .. }
            | Self::BrokenDown(worker, _, _)
            | Self::Reconnect(worker, _)
            | Self::NotReconnected(worker, _)
            | Self::WorkerTick(worker)
            | Self::DataConnect(worker, _)
            | Self::Worker(worker, _)
            | Self::Prove(worker, _, _)
            | Self::NoView(worker, _)
            | Self::Computed(worker, _)
            | Self::Apply(worker, _) => Some(*worker),
            Self::Continue(process) => *process,
            Self::StartCoordinator
            | Self::Up { .. }
            | Self::BrokenUp(..)
            | Self::CoordinatorTick
            | Self::Appended
            | Self::Uploaded(..)
            | Self::Written(..)
            | Self::Download(..)
            | Self::Shown(..)
            | Self::Take(..)
            | Self::Exported
            | Self::LaunchFailed
            | Self::Supervise(_)
            | Self::Healed
            | Self::Inject(_) => None,
        }
    }
}

/// The event queue and virtual time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    now: u64,
    sequence: u64,
    waiting: BTreeMap<(u64, u64), SimEvent>,
}

impl Queue {
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Queues an event `in_ms` from now; events of the same time happen in the order of their insertion.
    pub(crate) fn put(&mut self, in_ms: u64, what: SimEvent) {
        self.put_at(self.now.saturating_add(in_ms), what);
    }

    /// Queues an event at a time that isn't past.
    pub(crate) fn put_at(&mut self, at: u64, what: SimEvent) {
        self.sequence += 1;
        self.waiting.insert((at.max(self.now), self.sequence), what);
    }

    /// Takes the next event and advances time to it.
    pub(crate) fn pop(&mut self) -> Option<SimEvent> {
        let ((at, _), what) = self.waiting.pop_first()?;
        self.now = at;
        Some(what)
    }

    /// The queued events.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &SimEvent> {
        self.waiting.values()
    }

    /// Removes the work in progress of the coordinator's own driver, which died with it.
    pub(crate) fn forget_coordinators_work(&mut self) {
        self.waiting.retain(|_, what| {
            !matches!(
                what,
                SimEvent::CoordinatorTick
                    | SimEvent::Appended
                    | SimEvent::Uploaded(..)
                    | SimEvent::Written(..)
                    | SimEvent::Download(..)
                    | SimEvent::Shown(..)
                    | SimEvent::Take(..)
                    | SimEvent::Exported
                    | SimEvent::LaunchFailed
            )
        });
    }

    /// Removes all events: the processes are gone.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}
