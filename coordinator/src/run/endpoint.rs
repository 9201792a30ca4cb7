//! A run's network endpoint: its two ports, their TLS, and the token that opens them.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Interceptor;
use tracing::warn;
use wire::proto::bonfire_server::BonfireServer;
use wire::tls::ServerTls;
use wire::token::{self, Token, TokenLine};

use super::StartContext;
use crate::control::certificates;
use crate::control::connection_limit;
use crate::control::rpc::Service;
use crate::run::prepare::StartError;

/// Bound sockets that are not served yet.
pub(super) struct Endpoint {
    pub(super) control: TcpListener,
    pub(super) data: TcpListener,
    /// Address of the control plane.
    pub(super) address: SocketAddr,
    pub(super) tls: Option<ServerTls>,
    pub(super) token: Token,
    pub(super) discovery: Discovery,
}

impl Endpoint {
    /// URL of the control plane.
    pub(super) fn url(&self) -> String {
        url(self.address, self.tls.is_some())
    }
}

pub(super) fn url(address: SocketAddr, is_encrypted: bool) -> String {
    format!("{}://{address}", if is_encrypted { "https" } else { "http" })
}

/// The file where this user's workers find the token; deleted on drop.
pub(super) struct Discovery(PathBuf);

impl Drop for Discovery {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl StartContext<'_> {
    pub(super) fn endpoint(&self, listen: SocketAddr) -> Result<Endpoint, StartError> {
        let control = self.bind_control(listen)?;
        let data = TcpListener::bind(SocketAddr::new(listen.ip(), 0))
            .map_err(|why| StartError::failed(format!("no port for the data plane: {why}")))?;
        let address = control.local_addr().map_err(StartError::failed)?;
        let tls = self.tls(address)?;
        let (token, discovery) = self.token(address, tls.as_ref())?;
        Ok(Endpoint { control, data, address, tls, token, discovery })
    }

    /// Binds the control address: as requested, else the run's previous port, else a free one.
    fn bind_control(&self, listen: SocketAddr) -> Result<TcpListener, StartError> {
        let before = std::fs::read_to_string(self.dir.path().join("address"))
            .ok()
            .and_then(|text| token::host_and_port(text.trim()))
            .map(|(_, port)| SocketAddr::new(listen.ip(), port));
        if listen.port() == 0
            && let Some(kept) = before
            && let Ok(listener) = TcpListener::bind(kept)
        {
            return Ok(listener);
        }
        TcpListener::bind(listen).map_err(|why| match why.kind() {
            std::io::ErrorKind::AddrInUse => StartError::config(format!(
                "--listen {listen} is in use by another program: choose another port"
            )),
            _ => StartError::config(format!("--listen {listen}: {why}")),
        })
    }

    pub(super) fn token_path(&self) -> PathBuf {
        self.args.token_file.clone().unwrap_or_else(|| self.dir.path().join("token"))
    }

    /// The TLS configuration of the run's ports, if they are encrypted.
    fn tls(&self, address: SocketAddr) -> Result<Option<ServerTls>, StartError> {
        let (security, authority) = (&self.args.security, self.args.tls_ca.as_deref());
        let tls = certificates::server_tls(security, authority, address.ip(), &self.dir.path().join("tls"))?;
        if tls.is_none() && !token::is_loopback(address.ip()) {
            printable::error_line(format_args!("coordinator: {}", certificates::INSECURE));
        }
        Ok(tls)
    }

    /// The run's token, reused or new, and the discovery file where this user's workers find it. The token line also
    /// holds the fingerprint that workers must trust, which this start may change.
    fn token(&self, address: SocketAddr, tls: Option<&ServerTls>) -> Result<(Token, Discovery), StartError> {
        let path = self.token_path();
        let before = path.exists().then(|| TokenLine::read(&path)).transpose().map_err(StartError::config)?;
        let token = match &before {
            Some(line) => line.token.clone(),
            None => Token::random().map_err(|why| StartError::failed(format!("no random bytes: {why}")))?,
        };
        let line = TokenLine { token, fingerprint: tls.map(ServerTls::fingerprint) };
        if before.as_ref() != Some(&line) {
            line.write(&path).map_err(StartError::failed)?;
        }
        let discovery = token::discovery_file(address.port()).map_err(StartError::failed)?;
        line.write(&discovery).map_err(StartError::failed)?;
        Ok((line.token, Discovery(discovery)))
    }
}

/// Starts the rpc server of the control plane, for a run whose steps have at most `sums_max` sums.
pub(super) fn serve(
    (control, tls): (TcpListener, Option<ServerTls>),
    service: Service,
    guard: impl Interceptor + Clone + Send + Sync + 'static,
    lease: Duration,
    sums_max: usize,
) -> Result<tokio::task::JoinHandle<()>, StartError> {
    control.set_nonblocking(true).map_err(StartError::failed)?;
    let listener = tokio::net::TcpListener::from_std(control).map_err(StartError::failed)?;
    let incoming = TcpListenerStream::new(listener)
        .filter_map(move |accepted| connection_limit::admit(accepted, tls.as_ref()));
    let bonfire = BonfireServer::new(service)
        .max_decoding_message_size(decoded_bytes_max(sums_max))
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
    let guarded = tonic::service::interceptor::InterceptedService::new(bonfire, guard);
    let server = wire::transport::server(lease).add_service(guarded);
    Ok(tokio::spawn(async move {
        if let Err(why) = server.serve_with_incoming(incoming).await {
            warn!(%why, "the rpc server ended");
        }
    }))
}

/// Maximum size of a message from a peer: a file chunk, or a step's sums (twice: a Join carries a commit in the
/// journal's form), plus some text.
fn decoded_bytes_max(sums_max: usize) -> usize {
    const WORDS: usize = 64 << 10;
    let sums = sums_max.saturating_mul(2 * size_of::<f64>());
    (wire::CHUNK_BYTES.max(sums) + WORDS).min(wire::MESSAGE_BYTES_MAX)
}
