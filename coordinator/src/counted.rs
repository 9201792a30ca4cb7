//! The control plane's sockets: bounded in number, with their bytes counted, and closed where they say nothing at all.

use std::io::{ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};
use wire::transport;

static RECEIVED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Connections at once: two of each of the members that a run may have, and as many again for newcomers and for people.
/// Below the thousand files that a process may open by default, which the run's own files need too.
const CONNECTIONS_MAX: usize = 512;

/// Bytes that came over the control plane, all connections of this process together.
pub(crate) fn received() -> u64 {
    RECEIVED.load(Ordering::Relaxed)
}

/// Bytes that went out over it.
pub(crate) fn sent() -> u64 {
    SENT.load(Ordering::Relaxed)
}

/// A connection.
pub(crate) struct Counted {
    stream: TcpStream,
    /// Until its first byte: who says nothing has no business here.
    silence: Option<Pin<Box<Sleep>>>,
}

/// What becomes of a connection that came in.
pub(crate) fn admit(accepted: std::io::Result<TcpStream>) -> Option<std::io::Result<Counted>> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(why) => {
            // The server goes on after a pause of its own.
            warn!(%why, "a connection can't be accepted");
            return Some(Err(why));
        }
    };
    if OPEN.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
        warn!("a connection is closed: {CONNECTIONS_MAX} are open");
        return None;
    }
    if let Err(why) = transport::prepare(&stream) {
        debug!(%why, "a connection was gone before it began");
        return None;
    }
    OPEN.fetch_add(1, Ordering::Relaxed);
    let silence = Some(Box::pin(tokio::time::sleep(transport::JOIN_DEADLINE)));
    Some(Ok(Counted { stream, silence }))
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        RECEIVED.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        if polled.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        polled
    }
}

fn count(polled: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
    if let Poll::Ready(Ok(written)) = &polled {
        SENT.fetch_add(*written as u64, Ordering::Relaxed);
    }
    polled
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        count(Pin::new(&mut self.stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
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
