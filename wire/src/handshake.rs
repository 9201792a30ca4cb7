//! How a data connection begins: the coordinator sends a nonce, the worker answers who it is with a proof that it
//! knows the run's token, and the coordinator says yes or why not. The token itself never crosses this socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use protocol::ids::{MemberId, RunId};

use crate::token::Token;

/// How long either side waits for the other's word.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// "BNFH" and a version.
const MAGIC: [u8; 8] = *b"BNFH\x01\0\0\0";
const NONCE_BYTES: usize = 32;
const HELLO_BYTES: usize = 8 + 16 + 8 + 32;
const REFUSAL_BYTES_MAX: usize = 1024;

/// Why a data connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed.
    #[error("data connection: {0}")]
    Io(#[from] std::io::Error),
    /// The peer speaks something else.
    #[error("the peer of the data connection speaks another protocol (it began with {0:02x?})")]
    Foreign(Vec<u8>),
    /// The worker belongs to another run.
    #[error("data connection for run {found}, but this is run {own}")]
    OtherRun {
        /// The worker's run.
        found: String,
        /// The coordinator's.
        own: String,
    },
    /// Another token.
    #[error("data connection with another run token")]
    WrongToken,
    /// The coordinator said no.
    #[error("the coordinator refused the data connection: {0}")]
    Refused(String),
}

fn proof(token: &Token, nonce: &[u8; NONCE_BYTES], run: RunId, member: MemberId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(token.bytes());
    hasher.update(b"bonfire data plane");
    hasher.update(nonce);
    hasher.update(&run.0);
    hasher.update(&member.0.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// The worker's side.
///
/// # Errors
/// When the coordinator can't be talked to, or says no.
pub fn connect(
    stream: &mut TcpStream,
    token: &Token,
    run: RunId,
    member: MemberId,
) -> Result<(), HandshakeError> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut first = [0; MAGIC.len() + NONCE_BYTES];
    stream.read_exact(&mut first)?;
    let (magic, nonce) = first.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(HandshakeError::Foreign(magic.to_vec()));
    }
    let mut own = [0; NONCE_BYTES];
    own.copy_from_slice(nonce);
    let mut hello = Vec::with_capacity(HELLO_BYTES);
    hello.extend_from_slice(&MAGIC);
    hello.extend_from_slice(&run.0);
    hello.extend_from_slice(&member.0.to_le_bytes());
    hello.extend_from_slice(&proof(token, &own, run, member));
    stream.write_all(&hello)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    match u32::from_le_bytes(length) as usize {
        0 => Ok(()),
        length => {
            let mut reason = vec![0; length.min(REFUSAL_BYTES_MAX)];
            stream.read_exact(&mut reason)?;
            Err(HandshakeError::Refused(String::from_utf8_lossy(&reason).into_owned()))
        }
    }
}

/// The coordinator's side: who it is, once proven.
///
/// # Errors
/// When the peer is not a member of this run; it is told why.
pub fn accept(stream: &mut TcpStream, token: &Token, run: RunId) -> Result<MemberId, HandshakeError> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let nonce: [u8; NONCE_BYTES] = crate::random_bytes()?;
    stream.write_all(&[&MAGIC[..], &nonce].concat())?;
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello)?;
    let outcome = judge(&hello, token, &nonce, run);
    let reason = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
    stream.write_all(&(reason.len() as u32).to_le_bytes())?;
    stream.write_all(reason.as_bytes())?;
    outcome
}

fn judge(
    hello: &[u8; HELLO_BYTES],
    token: &Token,
    nonce: &[u8; NONCE_BYTES],
    run: RunId,
) -> Result<MemberId, HandshakeError> {
    let (magic, rest) = hello.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(HandshakeError::Foreign(magic.to_vec()));
    }
    let (found, rest) = rest.split_at(16);
    if found != run.0 {
        return Err(HandshakeError::OtherRun {
            found: crate::token::hex(found),
            own: crate::token::hex(&run.0),
        });
    }
    let (member, theirs) = rest.split_at(8);
    let mut id = [0; 8];
    id.copy_from_slice(member);
    let member = MemberId(u64::from_le_bytes(id));
    let mut proven = [0; 32];
    proven.copy_from_slice(theirs);
    // blake3::Hash compares in constant time.
    if blake3::Hash::from_bytes(proof(token, nonce, run, member)) != blake3::Hash::from_bytes(proven) {
        return Err(HandshakeError::WrongToken);
    }
    Ok(member)
}
