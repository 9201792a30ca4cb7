//! TLS 1.3 for every plane: trust, certificates, and errors with a remedy.
//!
//! A run's coordinator has a certificate of a CA created for this run alone. The [`Fingerprint`] of that CA travels
//! with the token, in one line, and is all that a client trusts: the server's certificate must be signed by this very
//! CA. Names and dates are not checked then: the CA signs one server, is as old as the run, and hosts with wrong
//! clocks can still join. Inside TLS, the token proves who is on the other end.
//!
//! An organisation's own certificates are checked as usual, against its CA, with names and dates.

mod client;
mod files;
mod server;
mod validity;

use std::sync::Arc;

use hex::FromHex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};

pub use client::{ClientTls, Security, SecurityMode};
pub use files::{Identity, certificates};
pub use server::ServerTls;

/// ALPN protocols: a connection to another plane's port is refused during the handshake.
const CONTROL: &[u8] = b"h2";
const DATA: &[u8] = b"bonfire-data/1";
const PAGES: &[u8] = b"http/1.1";

/// Why TLS can't be established.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key file can't be used.
    #[error("{option} {path}: {problem}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file, as the option's value names it.
        path: String,
        /// What is wrong with it, and how to fix it.
        problem: String,
    },
    /// Options or addresses that contradict each other.
    #[error("{0}")]
    Options(String),
    /// The server's certificate is not of the CA whose fingerprint came with the token.
    #[error(
        "its certificate is of {found}, and the token's line names {expected}: copy the line of this run's token file again; \
         if it is the same, something between the hosts pretends to be the coordinator"
    )]
    OtherFingerprint {
        /// The fingerprint in the token's line.
        expected: Fingerprint,
        /// Fingerprint of the last certificate in the server's chain.
        found: String,
    },
    /// The server's certificate is not accepted.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// The other side refused the handshake.
    #[error("it refused this side's TLS: {0}")]
    Refused(String),
    /// The other side doesn't speak TLS.
    #[error("it speaks no TLS at this port ({0})")]
    NoTls(String),
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A TLS failure found within an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsDiagnosis {
    /// A message for people.
    pub message: String,
    /// Whether a retry may succeed.
    pub is_passing: bool,
}

impl TlsError {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Io(_))
    }

    /// Finds a TLS failure among an error's causes.
    #[must_use]
    pub fn within(error: &(dyn std::error::Error + 'static)) -> Option<TlsDiagnosis> {
        let of = |error: &Self| TlsDiagnosis { message: error.to_string(), is_passing: error.is_passing() };
        std::iter::successors(Some(error), |error| error.source())
            .find_map(|error| {
                let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
                let of_rustls = inside.and_then(|inner| inner.downcast_ref::<rustls::Error>());
                error.downcast_ref().map(of).or_else(|| of_rustls.map(|error| of(&Self::of(error.clone()))))
            })
            .or_else(|| Self::alert_within(error))
    }

    /// HTTP/2 only preserves the text of its socket's error.
    fn alert_within(error: &(dyn std::error::Error + 'static)) -> Option<TlsDiagnosis> {
        use AlertDescription as A;
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        causes.find_map(|error| {
            let said = error.to_string();
            let alert = [
                A::CertificateRequired,
                A::DecryptError,
                A::UnknownCA,
                A::BadCertificate,
                A::CertificateExpired,
            ];
            let alert = alert.into_iter().find(|alert| said.contains(&format!("fatal alert: {alert:?}")))?;
            Some(TlsDiagnosis { message: Self::Refused(refusal(alert)).to_string(), is_passing: false })
        })
    }

    /// Converts rustls' error into one with a remedy.
    #[must_use]
    pub fn of(error: rustls::Error) -> Self {
        use rustls::Error::{AlertReceived, InappropriateMessage, InvalidCertificate, InvalidMessage};
        match error {
            InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<client::NotPinned>() {
                    Some(client::NotPinned { expected, found }) => {
                        Self::OtherFingerprint { expected: *expected, found: found.clone() }
                    }
                    None => Self::Certificate(other.0.to_string()),
                }
            }
            InvalidCertificate(why) => Self::Certificate(in_words(&why)),
            AlertReceived(alert) => Self::Refused(refusal(alert)),
            InvalidMessage(_) | InappropriateMessage { .. } => Self::NoTls(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }

    /// Converts the error of a rustls socket, which arrives as an I/O error.
    #[must_use]
    pub fn of_io(error: std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::of(inner.clone()),
            None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Io(std::io::Error::new(error.kind(), "it hung up while TLS was agreed on"))
            }
            None => Self::Io(error),
        }
    }
}

fn in_words(why: &CertificateError) -> String {
    use CertificateError as E;
    match why {
        E::Expired | E::ExpiredContext { .. } => {
            format!("{why}: it has to be renewed, unless this host's clock is wrong")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("{why}: this host's clock is behind, or the certificate is for later")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("{why}: use a name that it has, or have one made with this name")
        }
        // Signed by another CA, with a different name or the same one.
        E::UnknownIssuer | E::BadSignature => "it is of none of the authorities in --tls-ca".to_owned(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            format!("{why}: it is not meant for servers")
        }
        why => why.to_string(),
    }
}

fn refusal(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => {
            "the run asks for a certificate of this side: name one with --tls-cert and --tls-key".to_owned()
        }
        // If another CA has the same name, the failure shows as a bad signature.
        A::DecryptError
        | A::UnknownCA
        | A::BadCertificate
        | A::CertificateUnknown
        | A::UnsupportedCertificate => {
            format!("the certificate of --tls-cert is not of the run's authority ({alert:?})")
        }
        A::CertificateExpired => "the certificate of --tls-cert has expired".to_owned(),
        A::NoApplicationProtocol => "this is another port of the run than the one that is meant".to_owned(),
        A::ProtocolVersion => "it speaks another version of TLS than 1.3".to_owned(),
        alert => format!("{alert:?}"),
    }
}

/// ring's ciphers, whichever other providers the program may link.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    const PREFIX: &str = "sha256-";

    /// The fingerprint of this certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// Parses the output of [`Display`](std::fmt::Display).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        <[u8; 32]>::from_hex(text.strip_prefix(Self::PREFIX)?).ok().map(Self)
    }

    /// In the format of browsers: `AB:CD:..`.
    #[must_use]
    pub fn as_browsers_show_it(&self) -> String {
        self.0.map(|byte| format!("{byte:02X}")).join(":")
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}{}", Self::PREFIX, hex::encode(self.0))
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, to)
    }
}

#[cfg(test)]
pub(crate) mod tests;
