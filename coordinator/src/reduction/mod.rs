//! The data plane: gradients come in as frames, the reducer's thread sums them, slices of the mean go out.
//!
//! A thread reads each connection and one writes it; one thread owns the reducer. Buffers go round in a pool. A reader
//! takes in only slices that the reducer admits (the [`WINDOW`](protocol::reducer::WINDOW) from the lowest one that isn't
//! reduced) and waits at the [`Gate`] else, so the coordinator holds a bounded part of the partials, however large the
//! model and however many the members, and the network's own back-pressure does the rest. No deadlock comes of it: members
//! send slice by slice in the same order, so what the lowest open slice misses is the next frame of some connection. What is
//! reduced waits for slow members, whose number doesn't count: they share it.

mod aggregator;
mod connections;
mod event_mailbox;
mod gate;
mod pending_handshakes;
mod pool;
mod writer;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::Duration;

use protocol::ids::{MemberId, RunId, StepKey};
use protocol::messages::View;
use protocol::plan::Geometry;
use protocol::reducer::{PartialFrame, ReducedFrame};
use wire::frames::{TAIL_BYTES_MAX, sums};
use wire::tls::ServerTls;

use crate::control::identities::Identities;
use aggregator::AggregatorThread;
use connections::Connections;
pub(crate) use event_mailbox::{ConnectionLoss, EventMailbox, PendingEvents};
use gate::Gate;
use pending_handshakes::PendingHandshakes;
use pool::Pool;

/// Inputs that may wait for the reducer's thread, each a slice of 4 MiB at most. Readers wait for room, which is what slows
/// down a member that sends faster than can be summed; the [`Gate`] bounds them before that.
const INPUTS_MAX: usize = 64;
/// How long a member may take no byte of a frame, or stop within one.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);
/// The reducer says within so long who holds it up, or the driver goes on without.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

enum Input {
    OpenView {
        view: View,
        elements: usize,
    },
    Committed(StepKey),
    /// Who holds up the step in hand?
    Stragglers(SyncSender<Stragglers>),
    Connected {
        member: MemberId,
        number: u64,
        /// As many frames may wait as a step has slices: the next step begins when all members have this one's. So a
        /// member that takes nothing stops nobody else, and the step's deadline puts it out.
        writer: Sender<ReducedFrame>,
    },
    Gone {
        member: MemberId,
        number: u64,
        loss: ConnectionLoss,
    },
    Frame {
        member: MemberId,
        frame: PartialFrame,
    },
}

/// The step in hand, and who holds it up.
pub(crate) type Stragglers = Option<(StepKey, Vec<MemberId>)>;

/// The driver's end.
pub(crate) struct Reduction {
    inputs: SyncSender<Input>,
    gate: Arc<Gate>,
    mailbox: Arc<EventMailbox>,
    identities: Identities,
    port: u16,
    /// Sums of a step at most.
    sums_max: usize,
    /// Bytes of the longest tail that a member can have to send.
    tail_bytes_max: Arc<AtomicUsize>,
}

impl Reduction {
    /// Starts the threads over a bound listener.
    pub(crate) fn start(
        (listener, connections_max): (TcpListener, usize),
        tls: Option<ServerTls>,
        secret: [u8; 32],
        run: RunId,
        (geometry, sums_max): (Geometry, usize),
        identities: Identities,
    ) -> std::io::Result<Self> {
        let port = listener.local_addr()?.port();
        let (inputs, inbox) = sync_channel(INPUTS_MAX);
        let pool = Arc::new(Pool::default());
        let (gate, mailbox) = (Arc::new(Gate::default()), Arc::new(EventMailbox::default()));
        let tail_bytes_max = Arc::new(AtomicUsize::new(0));
        let aggregator = AggregatorThread::new(geometry, pool.clone(), gate.clone(), mailbox.clone());
        spawn("reducer", move || aggregator.run(&inbox))?;
        let connections = Connections {
            secret,
            tls,
            run,
            inputs: inputs.clone(),
            pool,
            gate: gate.clone(),
            pending: Arc::new(PendingHandshakes::of(connections_max)),
            numbers: Arc::default(),
            identities: identities.clone(),
            tail_bytes_max: tail_bytes_max.clone(),
            mailbox: mailbox.clone(),
            open: Arc::default(),
            open_max: connections_max,
        };
        spawn("data-accept", move || connections.accept(&listener))?;
        Ok(Self { inputs, gate, mailbox, identities, port, sums_max, tail_bytes_max })
    }

    /// The data plane's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on frames of this view count, of flat gradients of this length.
    pub(crate) fn open_view(&self, view: View, elements: u64) {
        let elements = usize::try_from(elements).unwrap_or(usize::MAX);
        // A parameter has an element at least, and one bit of the presence. Members hear of the view after this.
        let longest = sums::tail_bytes(self.sums_max, elements.div_ceil(8));
        self.tail_bytes_max.store(longest.min(TAIL_BYTES_MAX), Ordering::Relaxed);
        self.gate.expect(StepKey { view: view.id, step: view.step, phase: view.phase });
        self.tell(Input::OpenView { view, elements });
    }

    /// The members' keys, which their data connections prove.
    pub(crate) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// What the data plane has to tell.
    pub(crate) fn mailbox(&self) -> Arc<EventMailbox> {
        self.mailbox.clone()
    }

    /// This step and all before it are done, and this one begins, if any does. Members hear of it after this.
    pub(crate) fn committed(&self, key: StepKey, next: Option<StepKey>) {
        self.gate.expect(next.unwrap_or(key));
        self.tell(Input::Committed(key));
    }

    /// Who holds up the step that is being reduced. The answer takes as long as what the reducer has in hand.
    pub(crate) fn behind(&self) -> Stragglers {
        let (answer, behind) = sync_channel(1);
        self.tell(Input::Stragglers(answer));
        behind.recv_timeout(ANSWER_DEADLINE).ok().flatten()
    }

    fn tell(&self, input: Input) {
        // It may have to wait for room, and never for long: the reducer's thread waits for nobody but a full step of its own
        // work, as what it tells goes into a mailbox, and it lives as long as this end does.
        let _ = self.inputs.send(input);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}
