//! The control plane's sockets: limits their number, counts their bytes and closes those that present no token in time.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tonic::transport::server::Connected;
use tracing::{debug, warn};
use wire::lazy_tls::LazyTlsStream;
use wire::tls::ServerTls;
use wire::transport;

static RECEIVED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Maximum number of open connections: the share that [`files`](crate::files) gives this port.
static CONNECTIONS_MAX: AtomicUsize = AtomicUsize::new(0);

/// Sets the maximum number of open connections.
pub(crate) fn bound(connections: usize) {
    CONNECTIONS_MAX.store(connections, Ordering::Relaxed);
}

/// Bytes received over the control plane by all connections of this process.
pub(crate) fn received() -> u64 {
    RECEIVED.load(Ordering::Relaxed)
}

/// Bytes sent over the control plane by all connections of this process.
pub(crate) fn sent() -> u64 {
    SENT.load(Ordering::Relaxed)
}

/// Maximum number of unauthenticated connections. Legitimate clients present the run's token within milliseconds: the
/// oldest of so many doesn't, and is closed to make room.
const STRANGERS_MAX: usize = 64;

static NUMBERS: AtomicU64 = AtomicU64::new(0);
/// Unauthenticated connections by number, oldest first, with the sender that hangs up on each.
static STRANGERS: Mutex<BTreeMap<u64, oneshot::Sender<()>>> = Mutex::new(BTreeMap::new());

fn strangers() -> std::sync::MutexGuard<'static, BTreeMap<u64, oneshot::Sender<()>>> {
    STRANGERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Identifies the connection that a call came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    number: u64,
    /// The peer's address.
    pub(crate) peer: Option<SocketAddr>,
}

impl Number {
    /// The connection is authenticated (a call over it has presented a valid token), or it is closed.
    pub(crate) fn settle(self) {
        strangers().remove(&self.number);
    }
}

/// A counted connection, closed at a deadline unless it authenticates.
pub(crate) struct LimitedConnection {
    stream: LazyTlsStream<TcpStream>,
    number: Number,
    /// `Some` until it has presented a token.
    stranger: Option<Unauthenticated>,
}

struct Unauthenticated {
    until: Pin<Box<Sleep>>,
    hung_up: oneshot::Receiver<()>,
}

impl Unauthenticated {
    fn enter(number: u64) -> Self {
        let (hang_up, hung_up) = oneshot::channel();
        let mut strangers = strangers();
        strangers.insert(number, hang_up);
        if strangers.len() > STRANGERS_MAX
            && let Some((_, oldest)) = strangers.pop_first()
        {
            // The connection may be closed already.
            let _ = oldest.send(());
        }
        Self { until: Box::pin(tokio::time::sleep(transport::JOIN_DEADLINE)), hung_up }
    }

    /// Whether the connection has authenticated; an error if it must close.
    fn poll_known(&mut self, context: &mut Context<'_>) -> std::io::Result<bool> {
        match Pin::new(&mut self.hung_up).poll(context) {
            Poll::Ready(Ok(())) => return Err(ErrorKind::ConnectionAborted.into()),
            // The sender was dropped by `settle`: the connection has authenticated.
            Poll::Ready(Err(_)) => return Ok(true),
            Poll::Pending => {}
        }
        match self.until.as_mut().poll(context) {
            Poll::Ready(()) => Err(ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(false),
        }
    }
}

/// Admits or rejects an incoming connection.
pub(crate) fn admit(
    accepted: std::io::Result<TcpStream>,
    tls: Option<&ServerTls>,
) -> Option<std::io::Result<LimitedConnection>> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(why) => {
            // The server pauses and continues by itself.
            warn!(%why, "a connection can't be accepted");
            return Some(Err(why));
        }
    };
    let most = CONNECTIONS_MAX.load(Ordering::Relaxed);
    if OPEN.load(Ordering::Relaxed) >= most {
        warn!("a connection is closed: {most} are open");
        return None;
    }
    if let Err(why) = transport::prepare(&stream) {
        debug!(%why, "a connection was gone before it began");
        return None;
    }
    OPEN.fetch_add(1, Ordering::Relaxed);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let stranger = Some(Unauthenticated::enter(number));
    let number = Number { number, peer: stream.peer_addr().ok() };
    let stream = LazyTlsStream::new(stream, tls.map(ServerTls::control));
    Some(Ok(LimitedConnection { stream, number, stranger }))
}

impl Drop for LimitedConnection {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        self.number.settle();
    }
}

impl Connected for LimitedConnection {
    type ConnectInfo = Number;

    fn connect_info(&self) -> Number {
        self.number
    }
}

impl LimitedConnection {
    /// Returns an error if the connection must close unauthenticated. Both reads and writes check: under TLS the first
    /// of either waits for the handshake, and HTTP/2 begins with a write.
    fn check_stranger(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        if let Some(stranger) = &mut self.stranger
            && stranger.poll_known(context)?
        {
            self.stranger = None;
        }
        Ok(())
    }
}

impl AsyncRead for LimitedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.check_stranger(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        RECEIVED.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

fn count(polled: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
    if let Poll::Ready(Ok(written)) = &polled {
        SENT.fetch_add(*written as u64, Ordering::Relaxed);
    }
    polled
}

impl AsyncWrite for LimitedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.check_stranger(context)?;
        count(Pin::new(&mut self.stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.check_stranger(context)?;
        count(Pin::new(&mut self.stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
