//! How the sockets of both planes are set, in one place, each with its reason.
//!
//! A worker has two connections to the control address: one carries its control stream, the other its files. HTTP/2
//! gives each connection one flow-control window for all that it carries, so a file that waits for a disk would hold up
//! the messages beside it.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tonic::transport::{Channel, Endpoint, Error, Server};

use crate::lazy_tls::Connector;
use crate::tls::SecurityMode;

/// Flow-control window of a stream: a file goes at the speed of the link, not of its round trips (4 MiB are 10 Gbit/s
/// over 3 ms).
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Window of a connection: a version, a shown state and a file of the dataset, each with the whole of its stream's
/// window unread, leave room for a fourth.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;

/// Calls that one connection may have open: a worker has its stream and a handful of files.
pub const STREAMS_MAX: u32 = 64;

/// How long connecting may take.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// After so long without a byte the other side is asked for a sign of life.
pub const PING_EVERY: Duration = Duration::from_secs(10);

/// So long the answer may take: more than a busy machine needs, and more than a ping waits behind the chunks of a file.
pub const PING_DEADLINE: Duration = Duration::from_secs(30);

/// An up- or download of which no byte moves for so long is given up.
pub const STALL_DEADLINE: Duration = Duration::from_secs(60);

/// The end of an upload may take longer: all of it is made durable before the answer.
pub const FINISH_DEADLINE: Duration = Duration::from_secs(300);

/// A control stream says who it is within so long, or is closed.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(30);

/// TCP's own question, for sockets that nobody pings: first after so long, then as often.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// So many of those stay without an answer before the connection counts as broken.
const KEEPALIVE_TRIES: u32 = 4;

/// A connection to a coordinator.
///
/// # Errors
/// When this is no URL.
pub fn endpoint(url: &str) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_EVERY))
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// Connects it in this way.
///
/// # Errors
/// When it can't be reached; [`TlsError::within`](crate::tls::TlsError::within) finds what TLS has to say.
pub async fn connect(endpoint: &Endpoint, way: &SecurityMode) -> Result<Channel, Error> {
    match way {
        SecurityMode::Plain => endpoint.connect().await,
        SecurityMode::Tls(tls) => endpoint.connect_with_connector(Connector(tls.clone())).await,
    }
}

/// A channel that connects in this way with the first call.
#[must_use]
pub fn connect_lazily(endpoint: &Endpoint, way: &SecurityMode) -> Channel {
    match way {
        SecurityMode::Plain => endpoint.connect_lazy(),
        SecurityMode::Tls(tls) => endpoint.connect_with_connector_lazy(Connector(tls.clone())),
    }
}

/// The coordinator's server. `lease` is what a member may take to show that it lives: its connection is not given up
/// before. Sockets come from elsewhere: [`prepare`] sets them.
#[must_use]
pub fn server(lease: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_DEADLINE.max(lease)))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
}

/// A connected socket sends small messages at once, and finds out when the other side's host has vanished.
///
/// # Errors
/// When the system refuses an option.
pub fn prepare(socket: impl AsFd) -> std::io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_TRIES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_is_prepared() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (socket, _) = listener.accept().expect("accepted");
        assert!(!sockopt::tcp_nodelay(&socket).expect("read"), "what a socket is by itself");
        prepare(&socket).expect("prepared");
        assert!(sockopt::tcp_nodelay(&socket).expect("read"));
        assert!(sockopt::socket_keepalive(&socket).expect("read"));
        assert_eq!(sockopt::tcp_keepidle(&socket).expect("read"), KEEPALIVE_EVERY);
    }

    #[test]
    fn no_url_is_an_error() {
        assert!(endpoint("http://a b").is_err());
    }
}
