//! Access to the tracker's pages and `/metrics`: plain text and no token on loopback, TLS and a token for other
//! machines.

use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bounded_http::{Access, Visitor};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tracker::server::AccessToken;
use wire::lazy_tls::LazyTlsStream;
use wire::tls::ServerTls;
use wire::token::is_loopback;

use crate::cli::ServerSecurity;
use crate::control::access::{self, Action};
use crate::control::audit::{self, Audit};
use crate::control::certificates;
use crate::run::prepare::StartError;

/// Name of clients without a token in the audit log.
const NEIGHBOUR: &str = "this machine";

/// The TLS configuration and access policy of a port that serves pages.
#[derive(Clone)]
pub(crate) struct PageAccess {
    tls: Option<Arc<ServerConfig>>,
    /// The access policy.
    pub(crate) access: Arc<dyn Access>,
}

impl PageAccess {
    /// "http" or "https".
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Wraps each accepted connection in its TLS or plain stream.
    pub(crate) fn establish(
        &self,
    ) -> impl Fn(TcpStream) -> Ready<std::io::Result<LazyTlsStream<TcpStream>>> + Clone + Send + use<> {
        let tls = self.tls.clone();
        move |stream| ready(Ok(LazyTlsStream::new(stream, tls.as_ref())))
    }
}

/// The TLS configuration for pages at this address; `None` for plain text.
fn tls(
    security: &ServerSecurity,
    at: IpAddr,
    folder: &Path,
) -> Result<Option<Arc<ServerConfig>>, StartError> {
    // Browsers don't trust our CA by default, and nobody can listen in on loopback.
    if is_loopback(at) {
        return Ok(None);
    }
    let tls = certificates::server_tls(security, None, at, folder)?;
    Ok(tls.as_ref().map(ServerTls::pages).cloned())
}

/// Access control for a run's pages.
#[derive(Clone)]
pub(crate) struct RunPages {
    pub(crate) access: access::Access,
    /// Logs deletions.
    pub(crate) audit: Audit,
    /// The run's TLS options.
    pub(crate) security: ServerSecurity,
    /// Folder of the run's CA.
    pub(crate) folder: PathBuf,
}

impl RunPages {
    /// The access to a port at this address.
    ///
    /// # Errors
    /// When the certificate can't be used or created.
    pub(crate) fn door(&self, at: SocketAddr) -> Result<PageAccess, StartError> {
        let tls = tls(&self.security, at.ip(), &self.folder)?;
        let access = RunAccess {
            access: self.access.clone(),
            audit: self.audit.clone(),
            takes_neighbours: is_loopback(at.ip()),
            is_encrypted: tls.is_some(),
        };
        Ok(PageAccess { tls, access: Arc::new(access) })
    }
}

/// Access with the run's tokens.
struct RunAccess {
    access: access::Access,
    audit: Audit,
    takes_neighbours: bool,
    is_encrypted: bool,
}

impl Access for RunAccess {
    fn visitor(&self, token: &str) -> Option<Visitor> {
        // Accepts the token file's whole line or the token alone.
        let token = token.split(':').next().unwrap_or_default();
        let who = self.access.admit(Some(&format!("Bearer {token}"))).ok()?;
        who.may(Action::Read).ok()?;
        Some(Visitor { name: who.name.clone(), may_change: who.may(Action::Operate).is_ok() })
    }

    fn neighbour(&self) -> Option<Visitor> {
        self.takes_neighbours.then(|| Visitor { name: NEIGHBOUR.into(), may_change: true })
    }

    fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    fn changed(&self, event: &'static str, visitor: &Visitor, peer: Option<SocketAddr>, request: &str) {
        self.audit.record(event, None, peer, &[("token", &visitor.name), ("request", request)]);
    }
}

/// The access to a tracker that serves a folder of runs on its own.
///
/// # Errors
/// When the certificate can't be used or created.
pub(crate) fn of_folder(
    security: &ServerSecurity,
    at: SocketAddr,
    token: Option<AccessToken>,
    runs: &Path,
) -> Result<PageAccess, StartError> {
    let kept = runs.join(".tracker");
    let tls = tls(security, at.ip(), &kept.join("tls"))?;
    let is_encrypted = tls.is_some();
    Ok(PageAccess { tls, access: Arc::new(FolderAccess { token, kept, is_encrypted }) })
}

/// Access with the tracker's token or, if it has none, from this machine.
struct FolderAccess {
    token: Option<AccessToken>,
    kept: PathBuf,
    is_encrypted: bool,
}

impl Access for FolderAccess {
    fn visitor(&self, token: &str) -> Option<Visitor> {
        self.token.as_ref().and_then(|own| own.visitor(token))
    }

    fn neighbour(&self) -> Option<Visitor> {
        self.token.is_none().then(|| Visitor { name: NEIGHBOUR.into(), may_change: true })
    }

    fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    fn changed(&self, event: &'static str, visitor: &Visitor, peer: Option<SocketAddr>, request: &str) {
        audit::note_change(&self.kept, event, &visitor.name, peer, request);
    }
}
