//! Detached ed25519 signatures over the exact bytes of a file, in a sibling file.
//!
//! Keys are PEM as written by OpenSSL (PKCS#8 and SubjectPublicKeyInfo, RFC 8410), and a signature is its raw 64 bytes,
//! so `openssl pkeyutl -verify -rawin` can verify them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::atomic::{StoreError, sync_parent, write_file};

/// Suffix of a signature file.
pub const ENDING: &str = ".sig";

/// Length of a signature in bytes.
const SIGNATURE_BYTES: usize = 64;
/// Maximum size of a key file: a key takes about a hundred bytes, and a file of trusted keys may have a few dozen.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;
/// Length of a seed and of a public key in bytes.
const KEY_BYTES: usize = 32;
/// PKCS#8 header of an ed25519 seed without its public key.
const PRIVATE_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// SubjectPublicKeyInfo header of an ed25519 key.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// Characters per line of PEM.
const PEM_LINE: usize = 64;

/// Why a key can't be used or created.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file-system error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file contains no private key.
    #[error(
        "{} is no ed25519 private key in PEM: make one with `coordinator key create FILE` or `openssl genpkey -algorithm ed25519`",
        path.display()
    )]
    NoPrivateKey {
        /// The file that was read.
        path: PathBuf,
    },
    /// The file contains no public key, or an invalid one.
    #[error(
        "{} has no ed25519 public key in PEM: `coordinator key create` writes one beside the private key, `openssl pkey \
         -pubout` too",
        path.display()
    )]
    NoPublicKey {
        /// The file that was read.
        path: PathBuf,
    },
    /// The operating system gives no random bytes.
    #[error("no key can be made, the operating system gives no random bytes: {why}")]
    NoRandom {
        /// The system's message.
        why: String,
    },
    /// The private key is readable by other users.
    #[error("the private key {} can be read by others (mode {mode:o}): chmod 600 it, or make another", path.display())]
    Exposed {
        /// The private key.
        path: PathBuf,
        /// Permission bits that allow other users to read it.
        mode: u32,
    },
    /// The file exists; keys are never overwritten.
    #[error("{} is there already: what it signed could not be signed again; choose another name", path.display())]
    Exists {
        /// The existing file.
        path: PathBuf,
    },
}

/// Why a file is not trusted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignatureError {
    /// The signature file is missing.
    #[error("is not signed: there is no {signature}")]
    Unsigned {
        /// Name of the missing file.
        signature: String,
    },
    /// The signature can't be read.
    #[error("has a signature that can't be read: {signature}: {why}")]
    Unreadable {
        /// Name of the signature file.
        signature: String,
        /// The underlying error.
        why: String,
    },
    /// The signature has the wrong length.
    #[error("has a damaged signature: {signature} has not {SIGNATURE_BYTES} bytes")]
    Damaged {
        /// Name of the signature file.
        signature: String,
    },
    /// No trusted key verifies the signature.
    #[error("is not signed by a key of {keys}: another key signed it, or it was changed afterwards")]
    Untrusted {
        /// The file of trusted keys.
        keys: String,
    },
}

/// A private key; `Debug` never prints it.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(...)")
    }
}

impl SigningKey {
    /// Reads a private key, which only its owner may be able to read.
    ///
    /// # Errors
    /// If it can't be read, isn't an ed25519 private key, or is readable by others.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let mode = std::fs::metadata(path).map_err(StoreError::at(path))?.permissions().mode() & 0o777;
        let text = read_text(path, || KeyError::NoPrivateKey { path: path.to_owned() })?;
        let der = pem_blocks(&text, "PRIVATE KEY").into_iter().next();
        let pair = der.and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok());
        let pair = pair.ok_or_else(|| KeyError::NoPrivateKey { path: path.to_owned() })?;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        Ok(Self { pair })
    }

    /// Creates a key pair: the private key in this file, readable only by its owner, and the public key in `FILE.pub`,
    /// whose path is returned.
    ///
    /// # Errors
    /// If one of the files exists or can't be written.
    pub fn create(path: &Path) -> Result<PathBuf, KeyError> {
        let mut seed = [0; KEY_BYTES];
        getrandom::fill(&mut seed).map_err(|why| KeyError::NoRandom { why: why.to_string() })?;
        let der = [&PRIVATE_PREFIX[..], &seed].concat();
        let unusable = || KeyError::NoPrivateKey { path: path.to_owned() };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| unusable())?;
        let public = ended(path, ".pub");
        if public.exists() {
            return Err(KeyError::Exists { path: public });
        }
        write_new(path, 0o600, &pem("PRIVATE KEY", &der))?;
        let der = [&PUBLIC_PREFIX[..], pair.public_key().as_ref()].concat();
        write_new(&public, 0o644, &pem("PUBLIC KEY", &der))?;
        sync_parent(path)?;
        Ok(public)
    }

    /// Signs these bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// Signs a file's bytes into `FILE.sig`, whose path is returned.
    ///
    /// # Errors
    /// If the signature can't be written.
    pub fn sign_file(&self, path: &Path, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let signature = ended(path, ENDING);
        write_file(&signature, &self.sign(bytes))?;
        Ok(signature)
    }
}

/// Trusted public keys; a signature by any one of them suffices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedKeys {
    path: PathBuf,
    keys: Vec<[u8; KEY_BYTES]>,
}

impl TrustedKeys {
    /// Reads a file of one or more public keys.
    ///
    /// # Errors
    /// If it can't be read, or contains an invalid key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let wrong = || KeyError::NoPublicKey { path: path.to_owned() };
        let text = read_text(path, wrong)?;
        let key = |der: Vec<u8>| der.strip_prefix(&PUBLIC_PREFIX[..])?.try_into().ok();
        let keys: Option<Vec<_>> = pem_blocks(&text, "PUBLIC KEY").into_iter().map(key).collect();
        let keys = keys.filter(|keys| !keys.is_empty()).ok_or_else(wrong)?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Path of the key file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this key's signatures are trusted.
    #[must_use]
    pub fn has(&self, key: &SigningKey) -> bool {
        self.keys.iter().any(|public| public == key.pair.public_key().as_ref())
    }

    /// Verifies that one of the keys has signed `bytes`, the contents of the file at `path`.
    ///
    /// # Errors
    /// Why not, phrased to follow the file's name in a sentence.
    pub fn verify_file(&self, path: &Path, bytes: &[u8]) -> Result<(), SignatureError> {
        let signature = ended(path, ENDING);
        let name = signature.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut said = Vec::new();
        let read = File::open(&signature)
            .and_then(|file| file.take(SIGNATURE_BYTES as u64 + 1).read_to_end(&mut said));
        match read {
            Err(why) if why.kind() == ErrorKind::NotFound => {
                return Err(SignatureError::Unsigned { signature: name });
            }
            Err(why) => return Err(SignatureError::Unreadable { signature: name, why: why.to_string() }),
            Ok(_) if said.len() != SIGNATURE_BYTES => {
                return Err(SignatureError::Damaged { signature: name });
            }
            Ok(_) => {}
        }
        let has_signed =
            |key: &[u8; KEY_BYTES]| UnparsedPublicKey::new(&ED25519, key).verify(bytes, &said).is_ok();
        if self.keys.iter().any(has_signed) {
            return Ok(());
        }
        Err(SignatureError::Untrusted { keys: self.path.display().to_string() })
    }
}

/// The path with a suffix appended.
fn ended(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn read_text(path: &Path, wrong: impl Fn() -> KeyError) -> Result<String, KeyError> {
    let mut text = String::new();
    let file = File::open(path).map_err(StoreError::at(path))?;
    match file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text) {
        Err(why) if why.kind() == ErrorKind::InvalidData => Err(wrong()),
        Err(source) => Err(StoreError { path: path.to_owned(), source }.into()),
        Ok(_) => Ok(text),
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let file = File::options().write(true).create_new(true).mode(mode).open(path);
    let mut file = match file {
        Err(why) if why.kind() == ErrorKind::AlreadyExists => {
            return Err(KeyError::Exists { path: path.to_owned() });
        }
        other => other.map_err(StoreError::at(path))?,
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    Ok(written.map_err(StoreError::at(path))?)
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let body = STANDARD.encode(der);
    for (index, character) in body.chars().enumerate() {
        text.push(character);
        if (index + 1) % PEM_LINE == 0 {
            text.push('\n');
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// Contents of the PEM blocks with this label; text around them is ignored. A malformed block yields empty contents,
/// which no key parser accepts.
fn pem_blocks(text: &str, label: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let decode = |block: &str| {
        let body = block.split_once(&end)?.0;
        STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
    };
    text.split(begin.as_str()).skip(1).map(|block| decode(block).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests;
