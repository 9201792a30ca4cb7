//! TLS of the coordinator.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::{CONTROL, DATA, Fingerprint, Identity, PAGES, TlsError, provider};

/// TLS configurations of a run's ports.
#[derive(Clone, Debug)]
pub struct ServerTls {
    control: Arc<ServerConfig>,
    data: Arc<ServerConfig>,
    pages: Arc<ServerConfig>,
    fingerprint: Fingerprint,
}

impl ServerTls {
    /// Builds the configurations for this certificate. `pinned` is the certificate that clients trust; `authority`, if
    /// given, must have signed the certificates that workers and people present. The pages ask browsers and scrapers
    /// for none.
    ///
    /// # Errors
    /// When the certificate, its key or the authority can't be used.
    pub fn new(
        identity: &Identity,
        pinned: &CertificateDer<'_>,
        authority: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, TlsError> {
        let authority = authority.map(roots).transpose()?;
        let config = |protocol: &[u8], authority: Option<&Arc<RootCertStore>>| {
            let failed =
                |why: &dyn std::fmt::Display| TlsError::Options(format!("TLS can't be set up: {why}"));
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|why| failed(&why))?;
            let builder = match authority {
                None => builder.with_no_client_auth(),
                Some(roots) => {
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
                    builder.with_client_cert_verifier(verifier.map_err(|why| failed(&why))?)
                }
            };
            let mut config = builder
                .with_single_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|why| identity.refused(&why))?;
            config.alpn_protocols = vec![protocol.to_vec()];
            // Connections are few and long: session resumption gains nothing.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            Ok::<_, TlsError>(Arc::new(config))
        };
        Ok(Self {
            control: config(CONTROL, authority.as_ref())?,
            data: config(DATA, authority.as_ref())?,
            pages: config(PAGES, None)?,
            fingerprint: Fingerprint::of(pinned),
        })
    }

    /// The fingerprint that clients trust.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Configuration of the rpc server.
    #[must_use]
    pub fn control(&self) -> &Arc<ServerConfig> {
        &self.control
    }

    /// Configuration of the gradients' port.
    #[must_use]
    pub fn data(&self) -> &Arc<ServerConfig> {
        &self.data
    }

    /// Configuration of the tracker and of /metrics.
    #[must_use]
    pub fn pages(&self) -> &Arc<ServerConfig> {
        &self.pages
    }
}

pub(super) fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|why| {
            TlsError::Options(format!("a certificate of --tls-ca can't be used as an authority: {why}"))
        })?;
    }
    Ok(Arc::new(roots))
}
