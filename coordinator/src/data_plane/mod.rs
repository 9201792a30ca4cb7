//! The data plane: gradients come in as frames, the reducer's thread sums them, slices of the mean go out.
//!
//! A thread reads each connection and one writes it; one thread owns the reducer. Buffers go round in a pool. A reader
//! takes in only slices that the reducer admits (the [`WINDOW`](protocol::reducer::WINDOW) from the lowest one that isn't
//! reduced) and waits at the [`Gate`] else, so the coordinator holds a bounded part of the partials, however large the
//! model and however many the members, and the network's own back-pressure does the rest. No deadlock comes of it: members
//! send slice by slice in the same order, so what the lowest open slice misses is the next frame of some connection. What is
//! reduced waits for slow members, whose number doesn't count: they share it.

mod connections;
mod gate;
mod greeting;
mod pool;
mod summing;
mod writer;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::Duration;

use protocol::ids::{MemberId, RunId, StepKey};
use protocol::messages::View;
use protocol::plan::Geometry;
use protocol::reducer::{ReducedSlice, ReducedSums};
use tokio::sync::mpsc;
use wire::frames::Header;
use wire::tls::ServerTls;
use wire::token::Token;

use crate::driver::Trigger;
use connections::Connections;
use gate::Gate;
use greeting::Greeting;
use pool::Pool;
use summing::Summing;

/// Inputs that may wait for the reducer's thread; readers are bounded by the [`Gate`] before that.
const INPUTS_MAX: usize = 1_024;
/// How long a member may take no byte of a frame, or stop within one.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);

enum Input {
    OpenView { view: View, elements: usize },
    Committed(StepKey),
    Connected { member: MemberId, number: u64, writer: Sender<Outgoing> },
    Gone { member: MemberId, number: u64, reason: String },
    Sums { member: MemberId, header: Header, sums: Vec<f64>, presence: Vec<u8> },
    Partial { member: MemberId, header: Header, values: Vec<f32> },
}

/// What a member is to have. As many may wait as a step has slices: the next step begins when all members have this one's.
/// So a member that takes nothing stops nobody else, and the step's deadline puts it out.
#[derive(Clone)]
enum Outgoing {
    Sums(Arc<ReducedSums>),
    Slice(Arc<ReducedSlice>),
}

/// The driver's end.
pub(crate) struct Reduction {
    inputs: SyncSender<Input>,
    port: u16,
}

impl Reduction {
    /// Starts the threads over a bound listener.
    pub(crate) fn start(
        listener: TcpListener,
        tls: Option<ServerTls>,
        token: Token,
        run: RunId,
        geometry: Geometry,
        triggers: &mpsc::Sender<Trigger>,
    ) -> std::io::Result<Self> {
        let port = listener.local_addr()?.port();
        let (inputs, inbox) = sync_channel(INPUTS_MAX);
        let pool = Arc::new(Pool::default());
        let gate = Arc::new(Gate::default());
        let summing = Summing::new(geometry, pool.clone(), gate.clone(), triggers.clone());
        spawn("reducer", move || summing.run(&inbox))?;
        let greeting = Arc::new(Greeting::default());
        let connections = Connections {
            token,
            tls,
            run,
            inputs: inputs.clone(),
            pool,
            gate,
            greeting,
            numbers: Arc::default(),
        };
        spawn("data-accept", move || connections.accept(&listener))?;
        Ok(Self { inputs, port })
    }

    /// The data plane's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on frames of this view count, of flat gradients of this length.
    pub(crate) fn open_view(&self, view: View, elements: u64) {
        self.tell(Input::OpenView { view, elements: usize::try_from(elements).unwrap_or(usize::MAX) });
    }

    /// This step and all before it are done.
    pub(crate) fn committed(&self, key: StepKey) {
        self.tell(Input::Committed(key));
    }

    fn tell(&self, input: Input) {
        // The reducer's thread lives as long as this end does.
        let _ = self.inputs.send(input);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}
