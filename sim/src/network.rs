//! Messages in virtual time: order is kept within a connection and direction, never between two; a broken
//! connection loses what was on its way.

use std::collections::BTreeMap;

use protocol::messages::{FromWorker, ToWorker};
use protocol::worker;

use crate::exchange::{FromMember, ToMember};
use crate::random::Random;
use crate::toy::State;

/// Which of a worker's two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plane {
    /// Control messages.
    Control,
    /// Frames of partials and slices.
    Data,
}

/// What goes to the coordinator on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    /// A control message.
    Control(FromWorker),
    /// A frame.
    Frame(FromMember),
    /// The worker closed the connection in order.
    Closed,
}

/// What goes to a worker on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    /// A control message.
    Control(ToWorker),
    /// A frame.
    Frame(ToMember),
    /// The coordinator closed the connection in order.
    Closed,
}

/// What happens next, to whom.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A worker process starts and connects.
    StartWorker(usize),
    /// A worker tries to open a control stream again.
    Reconnect(usize),
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
        /// What.
        payload: Up,
    },
    /// Something arrives at a worker.
    Down {
        /// At whom.
        worker: usize,
        /// On which connection.
        plane: Plane,
        /// And which of all that this worker had.
        generation: usize,
        /// What.
        payload: Down,
    },
    /// The coordinator notices that a connection broke.
    BrokenUp(usize, Plane, usize),
    /// A worker notices that a connection broke.
    BrokenDown(usize, Plane, usize),
    /// The coordinator's deadline.
    CoordinatorTick,
    /// A worker's deadline.
    WorkerTick(usize),
    /// The append in flight is done, well or not.
    Appended,
    /// A worker's driver has done something.
    Worker(usize, worker::Event),
    /// A worker's driver has computed its microbatches of this key.
    Computed(usize, protocol::ids::StepKey),
    /// A worker's driver is to apply this commit.
    Apply(usize, protocol::messages::Commit),
    /// An upload has arrived whole at the coordinator.
    Uploaded(usize, u64, State),
    /// An upload's connection broke.
    UploadBroken(u64),
    /// The coordinator's driver has written this version's files, or failed to.
    Written(u64, State),
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
}

impl What {
    /// The process that it happens to: a worker, or the coordinator (`None`).
    #[must_use]
    pub(crate) fn process(&self) -> Option<usize> {
        match self {
            Self::StartWorker(worker)
            | Self::Down { worker, .. }
            | Self::BrokenDown(worker, _, _)
            | Self::Reconnect(worker)
            | Self::WorkerTick(worker)
            | Self::Worker(worker, _)
            | Self::Computed(worker, _)
            | Self::Apply(worker, _) => Some(*worker),
            Self::Continue(process) => *process,
            Self::StartCoordinator
            | Self::Up { .. }
            | Self::BrokenUp(..)
            | Self::CoordinatorTick
            | Self::Appended
            | Self::Uploaded(..)
            | Self::UploadBroken(..)
            | Self::Written(..)
            | Self::Download(..)
            | Self::Shown(..)
            | Self::Take(..)
            | Self::Exported => None,
        }
    }
}

/// Virtual time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    now: u64,
    sequence: u64,
    waiting: BTreeMap<(u64, u64), What>,
}

impl Queue {
    /// Now.
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Something happens `in_ms` from now; what was put first at a time happens first.
    pub(crate) fn put(&mut self, in_ms: u64, what: What) {
        self.put_at(self.now.saturating_add(in_ms), what);
    }

    /// Something happens at a time that isn't past.
    pub(crate) fn put_at(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.waiting.insert((at.max(self.now), self.sequence), what);
    }

    /// The next thing; time goes on to it.
    pub(crate) fn pop(&mut self) -> Option<What> {
        let ((at, _), what) = self.waiting.pop_first()?;
        self.now = at;
        Some(what)
    }

    /// What the coordinator's own driver had under way is gone with it.
    pub(crate) fn forget_coordinators_work(&mut self) {
        self.waiting.retain(|_, what| {
            !matches!(
                what,
                What::CoordinatorTick
                    | What::Appended
                    | What::Uploaded(..)
                    | What::UploadBroken(..)
                    | What::Written(..)
                    | What::Download(..)
                    | What::Shown(..)
                    | What::Take(..)
                    | What::Exported
            )
        });
    }

    /// Forgets everything: the processes are gone.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// One connection's both directions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    up_floor: u64,
    down_floor: u64,
    cut_at: Option<u64>,
    is_closed: bool,
}

impl Link {
    /// When something sent now arrives at the coordinator; `None` if the connection is broken.
    pub(crate) fn up(&mut self, now: u64, random: &mut Random, network_ms: u64) -> Option<u64> {
        self.up_floor = self.up_floor.max(now + random.between(0, network_ms));
        (self.cut_at.is_none() && !self.is_closed).then_some(self.up_floor)
    }

    /// When something sent now arrives at the worker; `None` if the connection is broken.
    pub(crate) fn down(&mut self, now: u64, random: &mut Random, network_ms: u64) -> Option<u64> {
        self.down_floor = self.down_floor.max(now + random.between(0, network_ms));
        self.cut_at.is_none().then_some(self.down_floor)
    }

    /// Nothing arrives before `until`: packets are lost, and sent again until they get through.
    pub(crate) fn hold(&mut self, up: bool, down: bool, until: u64) {
        if up {
            self.up_floor = self.up_floor.max(until);
        }
        if down {
            self.down_floor = self.down_floor.max(until);
        }
    }

    /// Its worker has closed it: what it sent before still arrives.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether it was cut.
    #[must_use]
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_at.is_some()
    }

    /// Breaks: what has not arrived by `at` never does. False if it was broken already.
    pub(crate) fn cut(&mut self, at: u64) -> bool {
        let is_first = self.cut_at.is_none();
        self.cut_at = Some(self.cut_at.map_or(at, |earlier| earlier.min(at)));
        is_first
    }

    /// Whether something that arrives at `now` was lost.
    #[must_use]
    pub(crate) fn is_lost(&self, now: u64) -> bool {
        self.cut_at.is_some_and(|cut| now > cut)
    }
}
