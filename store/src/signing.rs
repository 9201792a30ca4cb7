//! Signatures: ed25519 over the exact bytes of a file, in a file beside it.
//!
//! Keys are PEM as OpenSSL writes them (PKCS#8 and SubjectPublicKeyInfo, RFC 8410), and a signature is its 64 bytes, so
//! `openssl pkeyutl -verify -rawin` checks what this writes.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::atomic::{StoreError, sync_parent, write_file};

/// How the name of a file's signature ends.
pub const ENDING: &str = ".sig";

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;
/// A key file is some hundred bytes; one of trusted keys has a few dozen of them.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a seed and of a public key.
const KEY_BYTES: usize = 32;
/// What stands before the seed in a PKCS#8 file of ed25519 without its public key.
const PRIVATE_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the key in a SubjectPublicKeyInfo file of ed25519.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// Characters of a line of PEM.
const PEM_LINE: usize = 64;

/// Why a key can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is no private key.
    #[error(
        "{} is no ed25519 private key in PEM: make one with `coordinator key create FILE` or `openssl genpkey -algorithm ed25519`",
        path.display()
    )]
    NoPrivateKey {
        /// Where a private key was expected.
        path: PathBuf,
    },
    /// The file has no public key.
    #[error(
        "{} has no ed25519 public key in PEM: `coordinator key create` writes one beside the private key, `openssl pkey \
         -pubout` too",
        path.display()
    )]
    NoPublicKey {
        /// Where a public key was expected.
        path: PathBuf,
    },
    /// The operating system gives no random bytes.
    #[error("no key can be made, the operating system gives no random bytes: {why}")]
    NoRandom {
        /// What it says.
        why: String,
    },
    /// Others may read it.
    #[error("the private key {} can be read by others (mode {mode:o}): chmod 600 it, or make another", path.display())]
    Exposed {
        /// The private key.
        path: PathBuf,
        /// Permission bits, by which others than its owner may read it.
        mode: u32,
    },
    /// A key is never overwritten.
    #[error("{} is there already: what it signed could not be signed again; choose another name", path.display())]
    Exists {
        /// What would have been overwritten.
        path: PathBuf,
    },
}

/// Why a file is not trusted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("is not signed: there is no {signature}")]
    Unsigned {
        /// Name of the file that is missing.
        signature: String,
    },
    /// The signature can't be read.
    #[error("has a signature that can't be read: {signature}: {why}")]
    Unreadable {
        /// Name of the file.
        signature: String,
        /// What the system said.
        why: String,
    },
    /// The signature is no signature.
    #[error("has a damaged signature: {signature} has not {SIGNATURE_BYTES} bytes")]
    Damaged {
        /// Name of the file.
        signature: String,
    },
    /// No trusted key made it.
    #[error("is not signed by a key of {keys}: another key signed it, or it was changed afterwards")]
    Untrusted {
        /// The file of trusted keys.
        keys: String,
    },
}

/// A private key. Its value is never shown.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(...)")
    }
}

impl SigningKey {
    /// Reads a private key, which nobody but its owner may read.
    ///
    /// # Errors
    /// When it can't be read, is no such key, or others may read it.
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

    /// Makes a key: the private one in this file, which only its owner can read, and the public one in `FILE.pub`, whose
    /// path is returned.
    ///
    /// # Errors
    /// When one of the files is there already or can't be written.
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

    /// The signature of these bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// Signs a file's bytes in `FILE.sig`, whose path is returned.
    ///
    /// # Errors
    /// When the signature can't be written.
    pub fn sign_file(&self, path: &Path, bytes: &[u8]) -> Result<PathBuf, StoreError> {
        let signature = ended(path, ENDING);
        write_file(&signature, &self.sign(bytes))?;
        Ok(signature)
    }
}

/// Public keys whose signatures count: any one of them will do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedKeys {
    path: PathBuf,
    keys: Vec<[u8; KEY_BYTES]>,
}

impl TrustedKeys {
    /// Reads a file of one or several public keys.
    ///
    /// # Errors
    /// When it can't be read, or has something that is no such key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let wrong = || KeyError::NoPublicKey { path: path.to_owned() };
        let text = read_text(path, wrong)?;
        let key = |der: Vec<u8>| der.strip_prefix(&PUBLIC_PREFIX[..])?.try_into().ok();
        let keys: Option<Vec<_>> = pem_blocks(&text, "PUBLIC KEY").into_iter().map(key).collect();
        let keys = keys.filter(|keys| !keys.is_empty()).ok_or_else(wrong)?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// The file that they are from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what this key signs counts.
    #[must_use]
    pub fn has(&self, key: &SigningKey) -> bool {
        self.keys.iter().any(|public| public == key.pair.public_key().as_ref())
    }

    /// Whether one of the keys has signed these bytes, which are those of the file at this path.
    ///
    /// # Errors
    /// Why not, as the end of a sentence that begins with the file.
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

/// The path with something at its end.
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

/// What stands in the blocks of this label; text around them is for people. One that is broken is empty, which no key is.
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
