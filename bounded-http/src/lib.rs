//! Bounded HTTP connections: in number, and in the time that a request may take to arrive and a response to be taken.
//!
//! Idle connections keep nobody out: when the pool is full, a new connection replaces the one that has been idle for
//! longest. So a port costs the process a fixed number of file descriptors and no more.

mod access;
mod body;
mod pool;
mod time_budget;
mod timed_stream;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use body::{ActiveSlot, RequestBody};
use pool::{ConnectionPool, ConnectionSlot};
use timed_stream::TimedStream;

pub use access::{Access, COOKIE_NAME, Peer, PresentedToken, Visitor, presented};
pub use body::{Answer, PIECE};

/// Bytes that a connection buffers in each direction; more than the headers that browsers and clients send.
const BUFFER_MAX: usize = 64 << 10;

/// Pause after a failed accept, which mostly means no free file descriptors: some may be closed soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits on the number of connections and on the time that each may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; each is one file descriptor. A few more exist briefly while they are being closed.
    pub connections: usize,
    /// Time for the handshake and a request's head, and for how long a connection stays open without a request.
    pub head: Duration,
    /// For how long a peer may send nothing of a body that it has begun, or take nothing of a response.
    pub stall: Duration,
    /// How long requests in progress may take once the server shuts down.
    pub end: Duration,
}

impl Limits {
    /// The given number of connections, with timeouts that suit clients on ordinary networks.
    #[must_use]
    pub fn of(connections: usize) -> Self {
        let (head, stall) = (Duration::from_secs(30), Duration::from_secs(30));
        Self { connections, head, stall, end: Duration::from_secs(3) }
    }
}

/// For a port without encryption: returns the stream unchanged.
///
/// # Errors
/// Never.
pub async fn plain(stream: TcpStream) -> io::Result<TcpStream> {
    Ok(stream)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Requests in progress are still answered.
    Ending,
    Over,
}

/// Serves a router until `end` resolves, then finishes requests in progress, within [`Limits::end`]. `establish` turns
/// an accepted connection into a byte stream, such as by a TLS handshake; it runs on the connection's own task, within
/// [`Limits::head`].
pub async fn serve<E, F, S>(
    listener: TcpListener,
    establish: E,
    router: Router,
    limits: Limits,
    end: impl Future<Output = ()>,
) where
    E: Fn(TcpStream) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pool = Arc::new(ConnectionPool::new(limits.connections));
    let (phase, phases) = watch::channel(Phase::Serving);
    // Closed when the last connection is.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some((slot, evicted)) = ConnectionPool::enter(&pool) else { continue };
        let served =
            serve_one((stream, peer), establish.clone(), router.clone(), limits, slot, phases.clone());
        let (mut phases, alive) = (phases.clone(), alive.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = served => {}
                _ = evicted => {}
                _ = phases.wait_for(|phase| *phase == Phase::Over) => {}
            }
            drop(alive);
        });
        // Yields to the new connection before the next accept, so that a request that has arrived is seen at once.
        tokio::task::yield_now().await;
    }
    drop((listener, alive));
    phase.send_replace(Phase::Ending);
    let _ = tokio::time::timeout(limits.end, all_gone.recv()).await;
    phase.send_replace(Phase::Over);
}

/// Serves one connection until it closes.
async fn serve_one<E, F, S>(
    (stream, peer): (TcpStream, SocketAddr),
    establish: E,
    router: Router,
    limits: Limits,
    slot: ConnectionSlot,
    mut phases: watch::Receiver<Phase>,
) where
    E: Fn(TcpStream) -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // A head and its body are two writes: without this the second waits for the reader's acknowledgement.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(limits.head, establish(stream)).await else { return };
    let (slot, router) = (Arc::new(slot), TowerToHyperService::new(router));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let request_body = request.map(|body| RequestBody::new(body, Arc::clone(&slot), limits.stall));
        let (answered, slot) = (router.call(request_body), Arc::clone(&slot));
        async move {
            Ok::<_, std::convert::Infallible>(answered.await?.map(|body| Answer::new(body, ActiveSlot(slot))))
        }
    });
    let io = TokioIo::new(TimedStream::new(stream, limits.stall));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(BUFFER_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(io, answer));
    tokio::select! {
        // Its failures are its peer's.
        _ = connection.as_mut() => return,
        _ = phases.wait_for(|phase| *phase != Phase::Serving) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Asks a connection to close; dropping it lets the connection stay.
type HangUp = oneshot::Sender<()>;
