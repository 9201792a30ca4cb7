//! The run's token: generated at the run's start, stored in 0600 files, discovered automatically by workers of the same
//! user on the same machine, and required by both planes.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hex::FromHex;

use crate::tls::Fingerprint;

/// The metadata key on the control plane.
pub const METADATA_KEY: &str = "authorization";

/// Maximum bytes read of a token file; its line is far shorter.
const LINE_BYTES_MAX: u64 = 4096;

/// A secret of 32 random bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// Why a token can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read or written.
    #[error("token file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The file doesn't hold 64 hexadecimal digits.
    #[error("token file {}: not a token (64 hexadecimal digits, and behind a colon the fingerprint of the run's CA where there is one)", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Other users may read or change the file.
    #[error("{} may be read or changed by others (mode {mode:o}, owner {owner}): it must be yours alone", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The file's mode.
        mode: u32,
        /// The file's owner.
        owner: u32,
    },
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(...)")
    }
}

impl Token {
    /// Generates a token.
    ///
    /// # Errors
    /// When the system's random source can't be read.
    pub fn random() -> std::io::Result<Self> {
        crate::random_bytes().map(Self)
    }

    /// The raw bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest that represents it in a token list.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        blake3::derive_key("bonfire 2026 list of tokens", &self.0)
    }

    /// The key of the data plane's proofs: both sides can derive it, even if the coordinator only stored the digest.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        blake3::derive_key("bonfire 2026 data plane", &self.digest())
    }

    /// The token as 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Parses 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        <[u8; 32]>::from_hex(text.trim()).ok().map(Self)
    }

    /// The value of the `authorization` metadata.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.to_hex())
    }

    /// Whether a metadata value proves this token. Constant-time for any value of the right length.
    #[must_use]
    pub fn admits(&self, value: Option<&str>) -> bool {
        let Some(theirs) = value.and_then(|v| v.strip_prefix("Bearer ")).and_then(Self::parse) else {
            return false;
        };
        // blake3::Hash compares in constant time.
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(theirs.0)
    }

    /// Reads the token of a token file.
    ///
    /// # Errors
    /// When it can't be read or has no token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        TokenLine::read(path).map(|line| line.token)
    }

    /// Writes a token file without a fingerprint, as [`TokenLine::write`] does.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        TokenLine { token: self.clone(), fingerprint: None }.write(path)
    }
}

/// The content of a token file, as one line that can be pasted: the token, and, if the run speaks TLS, a colon and the
/// fingerprint of the run's CA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenLine {
    /// Authenticates the client.
    pub token: Token,
    /// Authenticates the server.
    pub fingerprint: Option<Fingerprint>,
}

impl TokenLine {
    /// Parses `TOKEN` or `TOKEN:sha256-FINGERPRINT`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (token, fingerprint) = match text.trim().split_once(':') {
            None => (text, None),
            Some((token, fingerprint)) => (token, Some(Fingerprint::parse(fingerprint)?)),
        };
        Some(Self { token: Token::parse(token)?, fingerprint })
    }

    /// The line that [`parse`](Self::parse) reads: a secret.
    #[must_use]
    pub fn to_line(&self) -> String {
        let fingerprint = self.fingerprint.map(|fingerprint| format!(":{fingerprint}")).unwrap_or_default();
        self.token.to_hex() + &fingerprint
    }

    /// Reads a token file.
    ///
    /// # Errors
    /// When it can't be read or has no token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let error = |source| TokenError::Io { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(error)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, LINE_BYTES_MAX), &mut text)
            .map_err(error)?;
        Self::parse(&text).ok_or_else(|| TokenError::Malformed { path: path.to_owned() })
    }

    /// Writes a token file that only its owner can read. An old one is replaced atomically: concurrent readers find
    /// either the old one or the new one, whole.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        write_private(path, format!("{}\n", self.to_line()).as_bytes())
            .map_err(|source| TokenError::Io { path: path.to_owned(), source })
    }
}

/// Writes a file that only its owner can read; an old one is replaced atomically.
///
/// # Errors
/// When it can't be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // Left behind by a killed process with the same pid.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = file.write_all(bytes).and_then(|()| std::fs::rename(&fresh, path));
    if written.is_err() {
        // The first error is the relevant one.
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

/// The folder in which this user's coordinators leave their tokens, one file per port.
///
/// # Errors
/// When it can't be created, or other users can access it.
pub fn discovery_folder() -> Result<PathBuf, TokenError> {
    let own = rustix::process::geteuid().as_raw();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_dir()) {
        Some(dir) => PathBuf::from(dir).join("bonfire"),
        None => std::env::temp_dir().join(format!("bonfire-{own}")),
    };
    private_folder(folder, own)
}

/// Creates the folder if it doesn't exist. A link, or a folder that another user created first, is refused: the
/// temporary folder is shared.
fn private_folder(folder: PathBuf, own: u32) -> Result<PathBuf, TokenError> {
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(TokenError::Io { path: folder, source: e });
        }
        _ => {}
    }
    let meta = std::fs::symlink_metadata(&folder)
        .map_err(|source| TokenError::Io { path: folder.clone(), source })?;
    let mode = meta.permissions().mode() & 0o777;
    if !meta.is_dir() || meta.uid() != own || mode & 0o077 != 0 {
        return Err(TokenError::Exposed { path: folder, mode, owner: meta.uid() });
    }
    Ok(folder)
}

/// The file in which the coordinator on `port` leaves its token.
///
/// # Errors
/// As [`discovery_folder`].
pub fn discovery_file(port: u16) -> Result<PathBuf, TokenError> {
    Ok(discovery_folder()?.join(port.to_string()))
}

/// The host and port of a control URL such as `https://host:7000`.
#[must_use]
pub fn host_and_port(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return None;
    }
    Some((host.to_owned(), port.parse().ok()?))
}

/// Whether an address is local to this machine; any other needs encryption or an explicit option.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("token");
        let token = Token::random().expect("random");
        token.write(&path).expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Token::read(&path).expect("read"), token);
        assert_ne!(Token::random().expect("random"), token);
        assert!(!format!("{token:?}").contains(&token.to_hex()));
        std::fs::write(&path, "xyz").expect("written");
        assert!(matches!(Token::read(&path), Err(TokenError::Malformed { .. })));
    }

    #[test]
    fn the_fingerprint_is_behind_the_token() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("token");
        let fingerprint = Fingerprint::parse(&format!("sha256-{}", "0a".repeat(32)));
        let line = TokenLine { token: Token([7; 32]), fingerprint };
        assert!(line.fingerprint.is_some());
        line.write(&path).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text, format!("{}:sha256-{}\n", "07".repeat(32), "0a".repeat(32)));
        assert_eq!(TokenLine::read(&path).expect("read"), line);
        assert_eq!(Token::read(&path).expect("read"), line.token);
        assert!(!format!("{line:?}").contains("0707"), "a token is never shown");
        let token = "07".repeat(32);
        for cut in
            [format!("{token}:"), format!("{token}:sha256-0a"), format!("{token}:md5-{token}"), ":".into()]
        {
            assert_eq!(TokenLine::parse(&cut), None, "{cut}");
        }
        std::fs::write(&path, "0".repeat(1 << 20)).expect("written");
        assert!(matches!(Token::read(&path), Err(TokenError::Malformed { .. })));
    }

    #[test]
    fn an_old_token_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("7000");
        std::fs::write(&path, "of a coordinator that was killed").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        Token([7; 32]).write(&path).expect("written");
        assert_eq!(Token::read(&path).expect("read"), Token([7; 32]));
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
        let lost = Token([7; 32]).write(&dir.path().join("absent/7000"));
        assert!(matches!(lost, Err(TokenError::Io { path, .. }) if path.ends_with("absent/7000")));
    }

    #[test]
    fn the_folder_of_tokens_is_its_owners_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let own = rustix::process::geteuid().as_raw();
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let folder = dir.path().join("bonfire");
        for _ in 0..2 {
            assert_eq!(private_folder(folder.clone(), own).expect("made, then found"), folder);
            assert_eq!(mode(&folder), 0o700);
        }
        let refused = |path: &Path, own| {
            let error = private_folder(path.to_owned(), own).expect_err("not this user's alone");
            assert!(matches!(error, TokenError::Exposed { .. }), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        };
        refused(&folder, own + 1);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).expect("linked");
        refused(&link, own);
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        refused(&file, own);
        for exposed in [0o701, 0o710, 0o755, 0o777] {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(exposed)).expect("set");
            refused(&folder, own);
        }
    }

    #[test]
    fn only_the_right_token_is_admitted() {
        let (own, other) = (Token([7; 32]), Token([8; 32]));
        assert!(own.admits(Some(&own.bearer())));
        for value in [None, Some(""), Some("Bearer"), Some("Bearer 07"), Some(other.bearer().as_str())] {
            assert!(!own.admits(value), "{value:?}");
        }
    }

    #[test]
    fn urls_and_loopback() {
        assert_eq!(host_and_port("http://a.example:7000/"), Some(("a.example".into(), 7000)));
        assert_eq!(host_and_port("http://[::1]:7000"), Some(("::1".into(), 7000)));
        assert_eq!(host_and_port("https://a.example:7000"), Some(("a.example".into(), 7000)));
        assert_eq!(host_and_port("127.0.0.1:1"), Some(("127.0.0.1".into(), 1)));
        assert_eq!(host_and_port("http://host"), None);
        assert!(is_loopback("::ffff:127.0.0.1".parse().expect("an address")));
        assert!(!is_loopback("10.0.0.1".parse().expect("an address")));
    }
}
