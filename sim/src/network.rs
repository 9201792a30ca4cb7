//! SimEvent goes to and fro, what happens next, and virtual time.

use std::collections::BTreeMap;

use protocol::ids::{MemberId, ViewId};
use protocol::messages::{FromWorker, ToWorker};
use protocol::reducer::{PartialFrame, ReducedFrame};
use protocol::worker;

use crate::incarnation::Chaos;
use crate::toy::State;

/// Which of a worker's two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plane {
    /// Control messages.
    Control,
    /// Frames of partials and slices.
    Data,
}

/// SimEvent goes to the coordinator on a connection.
#[derive(Clone, Debug)]
pub(crate) enum ToCoordinatorMessage {
    /// A control message.
    Control(FromWorker),
    /// The data connection's handshake: whose it is.
    Connected(MemberId),
    /// A frame.
    Frame(PartialFrame),
    /// The worker closed the connection in order.
    Closed,
}

/// SimEvent goes to a worker on a connection.
#[derive(Clone, Debug)]
pub(crate) enum ToWorkerMessage {
    /// A control message.
    Control(ToWorker),
    /// A frame.
    Frame(ReducedFrame),
    /// The coordinator closed the connection in order.
    Closed,
}

/// SimEvent happens next, to whom.
#[derive(Clone, Debug)]
pub(crate) enum SimEvent {
    /// A worker process starts and connects.
    StartWorker(usize),
    /// A worker tries to open a control stream again, by the number of its attempt.
    Reconnect(usize, u64),
    /// That attempt has failed.
    NotReconnected(usize, u64),
    /// The coordinator is started again.
    StartCoordinator,
    /// Something arrives at the coordinator.
    Up {
        /// From whom.
        worker: usize,
        /// On which connection.
        plane: Plane,
        /// And which of all that this worker had.
        generation: usize,
        /// SimEvent.
        payload: ToCoordinatorMessage,
    },
    /// Something arrives at a worker.
    Down {
        /// At whom.
        worker: usize,
        /// On which connection.
        plane: Plane,
        /// And which of all that this worker had.
        generation: usize,
        /// SimEvent.
        payload: ToWorkerMessage,
    },
    /// The coordinator notices that a connection broke.
    BrokenUp(usize, Plane, usize),
    /// A worker notices that a connection broke.
    BrokenDown(usize, Plane, usize),
    /// The coordinator's deadline.
    CoordinatorTick,
    /// A worker's deadline.
    WorkerTick(usize),
    /// A worker's attempt to open a data connection, with its number, has come to an end.
    DataConnect(usize, u64),
    /// The append in flight is done, well or not.
    Appended,
    /// A worker's driver has done something.
    Worker(usize, worker::Event),
    /// A worker that was admitted under this name proves that it reaches the data plane, for the so many-th time.
    Prove(usize, MemberId, u32),
    /// A worker without a data connection has waited for a view after this one.
    NoView(usize, ViewId),
    /// A local worker could not be started, or ended before it joined.
    LaunchFailed,
    /// A worker's driver has computed its microbatches of this key.
    Computed(usize, protocol::ids::StepKey),
    /// A worker's driver is to apply this commit.
    Apply(usize, protocol::messages::Commit),
    /// SimEvent a worker uploads under this name has arrived whole at the coordinator.
    Uploaded(usize, MemberId, u64, State),
    /// The coordinator's driver has written this version's files, or failed to: from whom, and of which number of all
    /// uploads.
    Written(usize, u64, u64, State),
    /// A worker waits for this version's bytes.
    Download(usize, u64),
    /// A state that a worker shows has arrived whole at the coordinator.
    Shown(usize, u64, State),
    /// A worker waits for the bytes of the state that is shown.
    Take(usize, u64),
    /// The exports have arrived.
    Exported,
    /// A paused process goes on; `None` is the coordinator.
    Continue(Option<usize>),
    /// A supervisor starts a worker, in this slot if it has one.
    Supervise(Option<usize>),
    /// All faults are over.
    Healed,
    /// A part of a fault that takes its time.
    Inject(Chaos),
}

impl SimEvent {
    /// The process that it happens to: a worker, or the coordinator (`None`).
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

/// Virtual time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    now: u64,
    sequence: u64,
    waiting: BTreeMap<(u64, u64), SimEvent>,
}

impl Queue {
    /// Now.
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Something happens `in_ms` from now; what was put first at a time happens first.
    pub(crate) fn put(&mut self, in_ms: u64, what: SimEvent) {
        self.put_at(self.now.saturating_add(in_ms), what);
    }

    /// Something happens at a time that isn't past.
    pub(crate) fn put_at(&mut self, at: u64, what: SimEvent) {
        self.sequence += 1;
        self.waiting.insert((at.max(self.now), self.sequence), what);
    }

    /// The next thing; time goes on to it.
    pub(crate) fn pop(&mut self) -> Option<SimEvent> {
        let ((at, _), what) = self.waiting.pop_first()?;
        self.now = at;
        Some(what)
    }

    /// SimEvent happens later.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &SimEvent> {
        self.waiting.values()
    }

    /// SimEvent the coordinator's own driver had under way is gone with it.
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

    /// Forgets everything: the processes are gone.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}
