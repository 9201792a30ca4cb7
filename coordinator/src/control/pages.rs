//! How the tracker's pages and `/metrics` are reached: in the open and without a token from this machine alone, under TLS and
//! with a token from others.

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

/// Who comes without a token, in the audit log.
const NEIGHBOUR: &str = "this machine";

/// What a port of pages shows, and to whom.
#[derive(Clone)]
pub(crate) struct PageAccess {
    tls: Option<Arc<ServerConfig>>,
    /// Who may do what.
    pub(crate) access: Arc<dyn Access>,
}

impl PageAccess {
    /// "http" or "https".
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Makes of a connection what its bytes are read from.
    pub(crate) fn establish(
        &self,
    ) -> impl Fn(TcpStream) -> Ready<std::io::Result<LazyTlsStream<TcpStream>>> + Clone + Send + use<> {
        let tls = self.tls.clone();
        move |stream| ready(Ok(LazyTlsStream::new(stream, tls.as_ref())))
    }
}

/// The certificate of pages at this address; `None` where they are spoken to in the open.
fn tls(
    security: &ServerSecurity,
    at: IpAddr,
    folder: &Path,
) -> Result<Option<Arc<ServerConfig>>, StartError> {
    // A browser trusts no authority of ours by itself, and nobody listens in on loopback.
    if is_loopback(at) {
        return Ok(None);
    }
    let tls = certificates::server_tls(security, None, at, folder)?;
    Ok(tls.as_ref().map(ServerTls::pages).cloned())
}

/// Who a run's pages are for.
#[derive(Clone)]
pub(crate) struct RunPages {
    /// The run's tokens.
    pub(crate) access: access::Access,
    /// Who deleted what goes there.
    pub(crate) audit: Audit,
    /// How the run is told to speak.
    pub(crate) security: ServerSecurity,
    /// Of the run's authority.
    pub(crate) folder: PathBuf,
}

impl RunPages {
    /// Of a port at this address.
    ///
    /// # Errors
    /// When its certificate can't be used or made.
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

/// Those who have a token of the run.
struct RunAccess {
    access: access::Access,
    audit: Audit,
    takes_neighbours: bool,
    is_encrypted: bool,
}

impl Access for RunAccess {
    fn visitor(&self, token: &str) -> Option<Visitor> {
        // The line of a token's file, or the token alone.
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

/// What serves a folder of runs by itself.
///
/// # Errors
/// When its certificate can't be used or made.
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

/// Whoever has the token, or is on this machine where there is none.
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
