//! Socket options of both planes, in one file, each with its reason.
//!
//! A worker has two connections to the control address: one carries its control stream, the other its files. HTTP/2
//! gives each connection one flow-control window for all of its streams, so a file that waits for a disk would block
//! the messages on the same connection.

mod tls_connector;

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tonic::transport::{Channel, Endpoint, Error, Server};

use self::tls_connector::Connector;
use crate::tls::SecurityMode;

/// Flow-control window of a stream: a file transfers at the speed of the link rather than its round trips (4 MiB are 10
/// Gbit/s over 3 ms).
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Window of a connection: a checkpoint, a published state and a dataset file, each with its stream's whole window
/// unread, leave room for a fourth transfer.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;

/// Maximum number of open calls per connection: a worker has its stream and a handful of files.
pub const STREAMS_MAX: u32 = 64;

/// Timeout of connecting.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Idle time after which a ping is sent.
pub const PING_EVERY: Duration = Duration::from_secs(10);

/// Timeout of a ping: more than a busy machine needs, and more than a ping waits behind the chunks of a file.
pub const PING_DEADLINE: Duration = Duration::from_secs(30);

/// Timeout without progress after which an upload or download is aborted.
pub const STALL_DEADLINE: Duration = Duration::from_secs(60);

/// Timeout of an upload's end, which takes longer: everything is made durable before the answer.
pub const FINISH_DEADLINE: Duration = Duration::from_secs(300);

/// Timeout within which a control stream must send Join, or it is closed.
pub const JOIN_DEADLINE: Duration = Duration::from_secs(30);

/// Interval of TCP keepalive, for sockets without pings: both the idle time and the pause between probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Number of unanswered probes after which the connection counts as broken.
const KEEPALIVE_TRIES: u32 = 4;

/// Prepares a connection to a coordinator.
///
/// # Errors
/// When the URL is invalid.
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

/// Connects in this security mode.
///
/// # Errors
/// When it can't be reached; [`TlsError::within`](crate::tls::TlsError::within) finds TLS failures.
pub async fn connect(endpoint: &Endpoint, way: &SecurityMode) -> Result<Channel, Error> {
    match way {
        SecurityMode::Plain => endpoint.connect().await,
        SecurityMode::Tls(tls) => endpoint.connect_with_connector(Connector(tls.clone())).await,
    }
}

/// A channel that connects in this security mode with the first call.
#[must_use]
pub fn connect_lazily(endpoint: &Endpoint, way: &SecurityMode) -> Channel {
    match way {
        SecurityMode::Plain => endpoint.connect_lazy(),
        SecurityMode::Tls(tls) => endpoint.connect_with_connector_lazy(Connector(tls.clone())),
    }
}

/// Builds the coordinator's server. `lease` is the time within which a member must show that it is alive: its
/// connection is not dropped earlier. Sockets come from elsewhere: [`prepare`] configures them.
#[must_use]
pub fn server(lease: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_DEADLINE.max(lease)))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
}

/// Configures a connected socket to send small messages at once and to detect that the other host has vanished.
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
