//! TLS of workers and of client commands.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};

use super::server::roots;
use super::{CONTROL, DATA, Fingerprint, Identity, TlsError, certificates, provider};

/// Security options from the command line.
#[derive(Clone, Default, Debug)]
pub struct Security {
    /// `--tls-ca`: replaces the fingerprint next to the token.
    pub ca: Option<PathBuf>,
    /// `--tls-cert`.
    pub certificate: Option<PathBuf>,
    /// `--tls-key`.
    pub key: Option<PathBuf>,
    /// `--insecure`.
    pub insecure: bool,
}

/// How connections to a coordinator are secured.
#[derive(Clone, Debug)]
pub enum SecurityMode {
    /// Plaintext.
    Plain,
    /// Encrypted.
    Tls(ClientTls),
}

impl SecurityMode {
    /// The TLS settings, if encrypted.
    #[must_use]
    pub fn tls(&self) -> Option<&ClientTls> {
        match self {
            Self::Plain => None,
            Self::Tls(tls) => Some(tls),
        }
    }
}

impl Security {
    /// The mode for the coordinator at this address: given by the URL's scheme; without one, encrypted to other
    /// machines, and on this one if the token's line has a fingerprint.
    ///
    /// # Errors
    /// When that would expose the token to the network, or there is no trust anchor.
    pub fn mode(
        &self,
        url: &str,
        host: &str,
        is_loopback: bool,
        pinned: Option<Fingerprint>,
    ) -> Result<SecurityMode, TlsError> {
        let is_tls = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("https") if self.insecure => {
                let what = format!("{url} is encrypted, --insecure is not: leave one of them out");
                return Err(TlsError::Options(what));
            }
            Some("https") => true,
            Some("http") => false,
            Some(_) => {
                let what = format!("{url}: expected https://HOST:PORT, or http://HOST:PORT");
                return Err(TlsError::Options(what));
            }
            None if self.insecure => false,
            None => !is_loopback || pinned.is_some() || self.ca.is_some(),
        };
        if !is_tls && !is_loopback && !self.insecure {
            let what = format!(
                "{url} is another machine, and http:// is not encrypted: use https://, or pass --insecure on both sides if \
                 the network is trusted"
            );
            return Err(TlsError::Options(what));
        }
        if !is_tls {
            return Ok(SecurityMode::Plain);
        }
        let identity = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Identity::read(certificate, key)?),
            _ => return Err(TlsError::Options("--tls-cert and --tls-key go together".to_owned())),
        };
        let trust = match (&self.ca, pinned) {
            (Some(path), _) => Trust::Authorities(roots(certificates("--tls-ca", path)?)?),
            (None, Some(fingerprint)) => Trust::Pinned(fingerprint),
            (None, None) => {
                let what = format!(
                    "{url}: nothing says which certificate is the right one: the token file's line has it behind the token \
                     (TOKEN:sha256-...; copy RUN_DIR/token whole), or name an authority with --tls-ca"
                );
                return Err(TlsError::Options(what));
            }
        };
        ClientTls::new(host, trust, identity.as_ref()).map(SecurityMode::Tls)
    }
}

/// A client's trust anchors.
pub(super) enum Trust {
    /// The one CA with this fingerprint, or the server whose own certificate has it.
    Pinned(Fingerprint),
    /// Any server certified by these authorities for the requested name.
    Authorities(Arc<RootCertStore>),
}

/// TLS configuration for one coordinator.
#[derive(Clone, Debug)]
pub struct ClientTls {
    control: Arc<ClientConfig>,
    data: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ClientTls {
    pub(super) fn new(host: &str, trust: Trust, identity: Option<&Identity>) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::Options(format!("{host:?} is no name of a host, and no address")))?;
        let failed = |why: &dyn std::fmt::Display| TlsError::Options(format!("TLS can't be set up: {why}"));
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            Trust::Pinned(fingerprint) => Arc::new(Pinned { fingerprint, provider: provider() }),
            Trust::Authorities(roots) => WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|why| failed(&why))?,
        };
        let config = |protocol: &[u8]| {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|why| failed(&why))?
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone());
            let mut config = match identity {
                None => builder.with_no_client_auth(),
                Some(identity) => builder
                    .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                    .map_err(|why| identity.refused(&why))?,
            };
            config.alpn_protocols = vec![protocol.to_vec()];
            config.resumption = Resumption::disabled();
            Ok::<_, TlsError>(Arc::new(config))
        };
        Ok(Self { control: config(CONTROL)?, data: config(DATA)?, name })
    }

    /// Configuration for rpc.
    #[must_use]
    pub fn control(&self) -> &Arc<ClientConfig> {
        &self.control
    }

    /// Configuration for gradients.
    #[must_use]
    pub fn data(&self) -> &Arc<ClientConfig> {
        &self.data
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }
}

/// No certificate of a chain has the fingerprint.
#[derive(Debug, thiserror::Error)]
#[error("not of {expected}")]
pub(super) struct NotPinned {
    pub(super) expected: Fingerprint,
    pub(super) found: String,
}

/// Accepts certificates signed by the CA with this fingerprint.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Fingerprint::of(end_entity) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(ca) = intermediates.iter().find(|shown| Fingerprint::of(shown) == self.fingerprint) else {
            let found = Fingerprint::of(intermediates.last().unwrap_or(end_entity)).to_string();
            let problem = NotPinned { expected: self.fingerprint, found };
            return Err(CertificateError::Other(OtherError(Arc::new(problem))).into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            WITHIN_VALIDITY,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A run's certificates are valid from 2000 on for ever. They are checked as of 2026 rather than now, so that hosts
/// with wrong clocks can join. A run's certificate ends with its token.
const WITHIN_VALIDITY: UnixTime = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_796_000_000));
