//! Certificates and keys in PEM files.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{TlsError, validity};

/// Maximum file size: a certificate chain and its key have a few thousand bytes; CA bundles some hundred thousand.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A certificate chain, the end-entity certificate first, and its private key.
#[derive(Debug)]
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// Paths of the certificate and the key, for messages.
    pub(super) named: Option<(String, String)>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), named: self.named.clone() }
    }
}

impl Identity {
    /// An identity that was generated here.
    #[must_use]
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key, named: None }
    }

    /// Reads the files of `--tls-cert` and `--tls-key`.
    ///
    /// # Errors
    /// When a file can't be read, or the certificate has expired.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates("--tls-cert", certificate)?;
        if let Some(ended) = chain.first().and_then(validity::ended) {
            let problem = format!("this certificate has expired on {ended}: renew it");
            return Err(wrong("--tls-cert", certificate, problem));
        }
        let bytes = read("--tls-key", key)?;
        let found = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
            let problem =
                "no private key in PEM form is in this file (\"-----BEGIN PRIVATE KEY-----\" and the like; one with a \
                 passphrase has to be decrypted first)";
            wrong("--tls-key", key, problem)
        })?;
        let named = (certificate.display().to_string(), key.display().to_string());
        Ok(Self { chain, key: found, named: Some(named) })
    }

    /// The end-entity certificate.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Converts rustls' error about an unusable chain or key.
    pub(super) fn refused(&self, why: &rustls::Error) -> TlsError {
        let (certificate, key) = self.named.clone().unwrap_or_default();
        match why {
            rustls::Error::InconsistentKeys(_) => TlsError::File {
                option: "--tls-key",
                path: key,
                problem: format!("this is not the key of the certificate in {certificate}"),
            },
            why => TlsError::File {
                option: "--tls-cert",
                path: certificate,
                problem: format!("it can't be used: {why}"),
            },
        }
    }
}

/// All certificates in a PEM file; at least one.
///
/// # Errors
/// When there is none, or the file can't be read.
pub fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(option, path)?;
    let none = || {
        wrong(option, path, "no certificate in PEM form is in this file (\"-----BEGIN CERTIFICATE-----\")")
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let size = std::fs::metadata(path).map_err(|why| wrong(option, path, why.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(wrong(
            option,
            path,
            format!("{size} bytes are no PEM file, which has {FILE_BYTES_MAX} at most"),
        ));
    }
    std::fs::read(path).map_err(|why| wrong(option, path, why.to_string()))
}

fn wrong(option: &'static str, path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::File { option, path: path.display().to_string(), problem: problem.into() }
}
