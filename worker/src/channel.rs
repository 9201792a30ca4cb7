//! What goes between the threads and tasks of a worker: events to the driver, commands to the compute thread, and the control
//! stream that both stand on.

use protocol::ids::StepKey;
use protocol::messages::{Commit, Failure, FromWorker, ToWorker, View, Welcome};
use protocol::worker::Event;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use wire::auth::Bearer;
use wire::proto::bonfire_client::BonfireClient;
use wire::tls::ClientTls;
use wire::token::Token;

use crate::reduced::Reduced;

/// Queued events: control messages arrive one at a time, the rest are single answers.
pub(crate) const EVENTS_MAX: usize = 64;

/// All events that wake the driver.
pub(crate) enum DriverEvent {
    /// Another control stream is open, or could not be opened.
    Reconnected {
        attempt: u64,
        /// The stream, or why there is none.
        result: Result<Box<Session>, Problem>,
    },
    /// A control message arrived.
    Control(ToWorker),
    /// The control stream ended or broke.
    ControlLost {
        /// The number of the attempt that opened it.
        attempt: u64,
        /// How it was noticed.
        reason: String,
    },
    /// The compute thread answers.
    Worked(Event),
    /// The first SIGINT or SIGTERM (the second ends the process at once).
    Signalled { signal: &'static str },
}

/// Queued commands: the machine sends one at a time, possibly with a checkpoint, a view or a reduced step.
pub(crate) const COMMANDS_MAX: usize = 16;

/// The compute thread's commands.
pub(crate) enum Command {
    /// The control stream is open; precedes all other commands.
    Connected(Box<CoordinatorLink>),
    /// Build the task from the config, load the data, open the data plane.
    Prepare(Box<Welcome>),
    /// Create state 0 and upload it.
    Initialise,
    /// Fetch and load this checkpoint.
    Load { step: u64 },
    /// Fetch the state that another member sends.
    FetchState { step: u64 },
    /// Send the state to the members that lack it.
    SendState { step: u64 },
    /// Work in this view from now on.
    EnterView(View),
    /// Compute this member's microbatches of the step and exchange.
    Compute(StepKey),
    /// From the exchange: every slice of a step has arrived intact.
    Reduced(Box<Reduced>),
    /// From the exchange with this number: the data connection is broken.
    LinkLost {
        /// Number of the connection within this process.
        number: u64,
        reason: String,
    },
    /// Apply the reduced gradient, or skip.
    Apply(Commit),
    /// Upload the state as a checkpoint, in the background.
    WriteVersion { step: u64 },
    /// Upload the exports of the state.
    Export { step: u64 },
    /// The worker ends.
    Quit,
}

/// The compute thread's access to the coordinator.
pub(crate) struct CoordinatorLink {
    /// For uploads and downloads.
    pub(crate) client: Client,
    /// For the data plane.
    pub(crate) token: Token,
    /// Encryption of the data plane, if any.
    pub(crate) tls: Option<ClientTls>,
    /// Host of both planes.
    pub(crate) host: String,
    /// The runtime that drives the client.
    pub(crate) runtime: Handle,
}

pub(crate) type Client = BonfireClient<InterceptedService<Channel, Bearer>>;

/// Why an attempt to join failed.
pub(crate) enum Problem {
    /// A retry may succeed.
    Passing(Failure),
    /// Only another command line helps.
    Lasting(Failure),
    /// The coordinator knows the token and permanently denies it.
    Denied(Failure),
}

pub(crate) struct Session {
    /// For uploads and downloads, over a connection of their own.
    pub(crate) files: Client,
    /// The accepted token, for the data plane.
    pub(crate) token: Token,
    /// Encryption of the data plane, the same as this stream's.
    pub(crate) tls: Option<ClientTls>,
    /// Messages to the coordinator.
    pub(crate) outbox: mpsc::Sender<FromWorker>,
    pub(crate) reader: Reader,
}

/// The task that reads the coordinator's messages; aborted on drop.
pub(crate) struct Reader(pub(crate) JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}
