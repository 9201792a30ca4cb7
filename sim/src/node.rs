//! A worker's process: the state of its driver.

use protocol::ids::{MemberId, StepKey};
use protocol::member_step::MemberStep;
use protocol::messages::{FromWorker, Timings, ToWorker, View};
use protocol::worker::Worker;

use crate::bug::Bug;
use crate::exchange::Contribution;
use crate::inbox::{Inbox, Reduced};
use crate::link::Link;
use crate::paused_events::PausedEvents;
use crate::plane::Plane;
use crate::toy::State;

/// The usual numerics fingerprint.
pub(crate) const NUMERICS: [u8; 32] = [3; 32];
/// A different numerics fingerprint.
pub(crate) const OTHER_NUMERICS: [u8; 32] = [4; 32];

pub(crate) struct WorkerNode {
    pub(crate) machine: Option<Worker>,
    pub(crate) is_alive: bool,
    /// Result of its numerics probe; members differ only under `elastic.mixed`.
    pub(crate) fingerprint: [u8; 32],
    /// Exit code and message.
    pub(crate) exit: Option<(u8, String)>,
    /// The same, from an end or a refusal that a coordinator sent it.
    pub(crate) told_to_end: Option<(u8, String)>,
    pub(crate) member: Option<MemberId>,
    pub(crate) state: Option<State>,
    /// Factor by which it computes slower.
    pub(crate) slowness: u64,
    /// Its device hangs until this time.
    pub(crate) hangs_until: u64,
    /// Extra delays of messages on its control stream and of frames.
    pub(crate) delays_ms: [u64; 2],
    /// Offset of its clock from the world's.
    pub(crate) clock: i64,
    /// Events while the process is paused.
    pub(crate) backlog: PausedEvents,
    pub(crate) tick_at: Option<u64>,
    pub(crate) slot: Option<u32>,
    /// All streams that it opened, newest last.
    pub(crate) control: Vec<Link>,
    data: Vec<Link>,
    /// Its current control stream, and its attempts to reopen one so far.
    pub(crate) session: Option<usize>,
    pub(crate) reconnects: u64,
    /// Its current data connection.
    pub(crate) exchange: Option<usize>,
    /// An attempt to open a data connection, and the step that waits for it.
    pub(crate) connecting: Option<u64>,
    pub(crate) waiting: Option<StepKey>,
    pub(crate) view: Option<View>,
    pub(crate) contribution: Option<Contribution>,
    pub(crate) reduction: MemberStep<Reduced>,
    pub(crate) inbox: Inbox,
    /// For a planted bug: reduced steps of views that were given up.
    pub(crate) given_up: Vec<Reduced>,
    pub(crate) prepared: Option<(StepKey, u64)>,
    /// The commit that made its state, and its hash; `None` for a loaded state.
    pub(crate) made_by: Option<(StepKey, u64)>,
    /// The step that was prepared when it lost the coordinator.
    pub(crate) prepared_before: Option<(u64, u64)>,
    pub(crate) timings: Timings,
    /// The last control messages to it and from it, which may be delivered again.
    pub(crate) last_heard: Option<ToWorker>,
    pub(crate) last_said: Option<FromWorker>,
}

impl WorkerNode {
    pub(crate) fn new(slot: Option<usize>, elements: usize) -> Self {
        Self {
            machine: None,
            is_alive: true,
            fingerprint: NUMERICS,
            exit: None,
            told_to_end: None,
            member: None,
            state: None,
            slowness: 1,
            hangs_until: 0,
            delays_ms: [0; 2],
            clock: 0,
            backlog: PausedEvents::default(),
            tick_at: None,
            slot: slot.and_then(|slot| u32::try_from(slot).ok()),
            control: Vec::new(),
            data: Vec::new(),
            session: None,
            reconnects: 0,
            exchange: None,
            connecting: None,
            waiting: None,
            view: None,
            contribution: None,
            reduction: MemberStep::default(),
            inbox: Inbox::new(elements),
            given_up: Vec::new(),
            prepared: None,
            made_by: None,
            prepared_before: None,
            timings: Timings::default(),
            last_heard: None,
            last_said: None,
        }
    }

    /// Returns the buffer of an abandoned reduced step.
    pub(crate) fn give_up(&mut self, abandoned: Option<Reduced>, bug: Option<Bug>) {
        let Some(abandoned) = abandoned else { return };
        self.inbox.give_back();
        if bug == Some(Bug::KeepsSlicesOverAbort) {
            self.given_up.push(abandoned);
        }
    }

    pub(crate) fn link(&mut self, plane: Plane, generation: usize) -> Option<&mut Link> {
        match plane {
            Plane::Control => self.control.get_mut(generation),
            Plane::Data => self.data.get_mut(generation),
        }
    }

    /// Its current stream of a plane.
    pub(crate) fn newest(&self, plane: Plane) -> Option<usize> {
        match plane {
            Plane::Control => self.session,
            Plane::Data => self.exchange,
        }
    }

    pub(crate) fn delay_ms(&self, plane: Plane) -> u64 {
        self.delays_ms[usize::from(plane == Plane::Data)]
    }

    pub(crate) fn open_control(&mut self) {
        self.session = Some(self.control.len());
        self.control.push(Link::default());
    }

    /// Whether its control stream works.
    pub(crate) fn is_connected(&self) -> bool {
        self.session.and_then(|session| self.control.get(session)).is_some_and(|link| !link.is_cut())
    }

    /// Data connections whose end the coordinator hasn't noticed.
    pub(crate) fn open_data_links(&self) -> usize {
        self.data.iter().filter(|link| !link.is_noticed).count()
    }

    pub(crate) fn open_data(&mut self, elements: usize) {
        self.exchange = Some(self.data.len());
        self.data.push(Link::default());
        self.inbox = Inbox::new(elements);
    }
}
