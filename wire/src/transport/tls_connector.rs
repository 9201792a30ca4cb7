//! The TLS connector for tonic clients.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};
use tonic::transport::Uri;

use crate::tls::{ClientTls, TlsError};

/// Connects to a coordinator and agrees on TLS with it.
#[derive(Clone)]
pub(super) struct Connector(pub(super) ClientTls);

type Connecting = Pin<Box<dyn Future<Output = Result<Connected, TlsError>> + Send>>;
type Connected = TokioIo<client::TlsStream<TcpStream>>;

impl tower_service::Service<Uri> for Connector {
    type Response = Connected;
    type Error = TlsError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let tls = self.0.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let socket = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            super::prepare(&socket)?;
            let agreeing = TlsConnector::from(tls.control().clone()).connect(tls.name().clone(), socket);
            agreeing.await.map(TokioIo::new).map_err(TlsError::of_io)
        })
    }
}
