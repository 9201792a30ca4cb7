//! The data plane: gradients arrive as frames, the reducer's thread sums them, slices of the mean go out.
//!
//! A thread reads each connection and one writes it; one thread owns the reducer. Buffers circulate in a pool. A
//! reader accepts only slices that the reducer admits (the [`WINDOW`](protocol::reducer::WINDOW) from the lowest open
//! one) and otherwise waits at the [`Gate`]. So the coordinator holds a bounded part of the partials, however large
//! the model and however many the members, and the network's back-pressure does the rest. This can't deadlock:
//! members send slice by slice in the same order, so the partial that the lowest open slice lacks is the next frame
//! of some connection. Reduced slices are kept for slow members, whose number doesn't matter: they share the slices.

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

/// Inputs queued for the reducer's thread, each a slice of 4 MiB at most. Readers block when the queue is full, which
/// slows down a member that sends faster than the reducer sums; the [`Gate`] bounds them before that.
const INPUTS_MAX: usize = 64;
/// How long a member may accept no byte of a frame, or pause within one.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);
/// If the reducer doesn't report its stragglers within this time, the driver continues without them.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

enum Input {
    OpenView {
        view: View,
        elements: usize,
    },
    Committed(StepKey),
    /// Asks which members block the current step.
    Stragglers(SyncSender<Stragglers>),
    Connected {
        member: MemberId,
        number: u64,
        /// Its queue holds at most the slices of a step: the next step begins when all members have received this
        /// one's. So a member that reads nothing blocks no other, and is evicted at the step's deadline.
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

/// The current step, and the members that block it.
pub(crate) type Stragglers = Option<(StepKey, Vec<MemberId>)>;

/// The driver's handle of the data plane.
pub(crate) struct Reduction {
    inputs: SyncSender<Input>,
    gate: Arc<Gate>,
    mailbox: Arc<EventMailbox>,
    identities: Identities,
    port: u16,
    /// Maximum number of sums in a step.
    sums_max: usize,
    /// Bytes of the longest tail that a member may send.
    tail_bytes_max: Arc<AtomicUsize>,
}

impl Reduction {
    /// Starts the threads on a bound listener.
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

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Accepts frames of this view from now on, with flat gradients of `elements`.
    pub(crate) fn open_view(&self, view: View, elements: u64) {
        let elements = usize::try_from(elements).unwrap_or(usize::MAX);
        // A parameter has at least one element, and one bit of the presence. Members learn of the view after this.
        let longest = sums::tail_bytes(self.sums_max, elements.div_ceil(8));
        self.tail_bytes_max.store(longest.min(TAIL_BYTES_MAX), Ordering::Relaxed);
        self.gate.expect(StepKey { view: view.id, step: view.step, phase: view.phase });
        self.tell(Input::OpenView { view, elements });
    }

    /// The members' keys, which their data connections must prove.
    pub(crate) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The events of the data plane.
    pub(crate) fn mailbox(&self) -> Arc<EventMailbox> {
        self.mailbox.clone()
    }

    /// This step and all before it are done, and `next` begins, if given. Members learn of it after this.
    pub(crate) fn committed(&self, key: StepKey, next: Option<StepKey>) {
        self.gate.expect(next.unwrap_or(key));
        self.tell(Input::Committed(key));
    }

    /// The members that block the step being reduced. The answer is delayed by the reducer's current work.
    pub(crate) fn behind(&self) -> Stragglers {
        let (answer, behind) = sync_channel(1);
        self.tell(Input::Stragglers(answer));
        behind.recv_timeout(ANSWER_DEADLINE).ok().flatten()
    }

    fn tell(&self, input: Input) {
        // This may block, but never for long: the reducer's thread waits for nothing but its own work, as its events
        // go into a mailbox, and it lives as long as this handle.
        let _ = self.inputs.send(input);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}
