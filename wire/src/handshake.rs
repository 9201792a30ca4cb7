//! The handshake of a data connection: the worker proves that it knows the run's token and the key of the member that
//! it claims to be, and the coordinator proves that it knows both too. Neither secret crosses this socket. Each side
//! sends a nonce, and every proof covers both nonces, so a proof can't be replayed or reflected. Under TLS the proofs
//! also cover key material that only the two ends of this session know: a proof relayed by a man in the middle proves
//! nothing.
//!
//! | from | bytes |
//! | --- | --- |
//! | coordinator | prefix, nonce |
//! | worker | prefix, run, member, nonce, proof of the token, proof of the member's key |
//! | coordinator | 0 and its proof, or the length of a reason, and the reason |
//!
//! The token has a separate proof so that each side can report which of the two the other one lacks: a peer that knows
//! the token but not the key belongs to the run and claims to be another member.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use protocol::ids::{MemberId, MemberKey, RunId};

use crate::identity::{Identity, identity_key};
use crate::stream::DataStream;
use crate::token::Token;

/// Timeout of the whole handshake, however slowly the other side sends.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Version of the handshake and of the frames that follow.
pub const VERSION: u32 = 4;

const MAGIC: [u8; 4] = *b"BNFH";
const PREFIX_BYTES: usize = 8;
const NONCE_BYTES: usize = 32;
/// Prefix, run, member, nonce, two proofs.
const HELLO_BYTES: usize = PREFIX_BYTES + 16 + 8 + NONCE_BYTES + 2 * 32;
const REFUSAL_BYTES_MAX: usize = 1024;

/// Why a data connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed.
    #[error("data connection: {0}")]
    Io(#[from] std::io::Error),
    /// TLS could not be established.
    #[error("data connection: {0}")]
    Tls(#[from] crate::tls::TlsError),
    /// The other side did not send its part in time.
    #[error("the peer of the data connection said nothing for {0:?}")]
    TimedOut(Duration),
    /// The other side closed the connection.
    #[error("the peer closed the data connection before it was agreed")]
    Closed,
    /// The peer speaks another protocol.
    #[error("the peer of the data connection speaks another protocol (it began with {0:02x?})")]
    Foreign(Vec<u8>),
    /// The peer comes from another build.
    #[error(
        "the peer's data plane has version {found}, this one has {own}: use workers and coordinator of one build"
    )]
    OtherVersion {
        /// The peer's version.
        found: u32,
        /// This side's version.
        own: u32,
    },
    /// The worker belongs to another run.
    #[error("data connection for run {found}, but this is run {own}")]
    OtherRun {
        /// The worker's run.
        found: String,
        /// The coordinator's run.
        own: String,
    },
    /// The tokens differ. No message contains their values.
    #[error("the peer of the data connection has another run token")]
    WrongToken,
    /// No current member has this id: it never existed, or has left.
    #[error("no member of the run has the id {0:#x} now")]
    UnknownMember(u64),
    /// The peer doesn't have the key of the member that it claims to be.
    #[error(
        "the peer of the data connection knows the run's token, but not the key of the member {0:#x} that it claims to be"
    )]
    WrongMember(u64),
    /// The coordinator doesn't know the key that this member was given.
    #[error("the peer of the data connection is not the coordinator that admitted this worker")]
    WrongCoordinator,
    /// The coordinator refused the connection.
    #[error("the coordinator refused the data connection: {0}")]
    Refused(String),
}

/// Runs the worker's side.
///
/// # Errors
/// When the connection fails, the coordinator refuses it, or the coordinator doesn't know the token itself.
pub fn connect(
    stream: &mut DataStream,
    token: &Token,
    run: RunId,
    member: (MemberId, &MemberKey),
) -> Result<(), HandshakeError> {
    connect_within(stream, token, run, member, DEADLINE)
}

/// Runs the coordinator's side and returns the authenticated member. `identity_of` looks up current members; the token
/// proof of anybody else is checked against the `secret` of the run's own token.
///
/// # Errors
/// When the peer is not a member of this run, or not the one that it claims to be; the reason is sent to it.
pub fn accept(
    stream: &mut DataStream,
    secret: &[u8; 32],
    run: RunId,
    identity_of: impl FnOnce(MemberId) -> Option<Identity>,
) -> Result<MemberId, HandshakeError> {
    accept_within(stream, secret, run, identity_of, DEADLINE)
}

fn connect_within(
    stream: &mut DataStream,
    token: &Token,
    run: RunId,
    (member, key): (MemberId, &MemberKey),
    deadline: Duration,
) -> Result<(), HandshakeError> {
    let binding = stream.binding()?;
    let mut stream = DeadlineStream::new(stream, deadline);
    let found = stream.read_array()?;
    if let Err(error) = check_prefix(found) {
        // The coordinator's log should name the version too.
        let _ = stream.write(&prefix());
        return Err(error);
    }
    let nonces = Nonces { coordinator: stream.read_array()?, worker: crate::random_bytes()?, binding };
    let mut hello = Vec::with_capacity(HELLO_BYTES);
    hello.extend_from_slice(&prefix());
    hello.extend_from_slice(&run.0);
    hello.extend_from_slice(&member.0.to_le_bytes());
    hello.extend_from_slice(&nonces.worker);
    let secret = token.secret();
    let key = identity_key(&secret, key);
    for secret in [&secret, &key] {
        hello.extend_from_slice(proof(secret, Side::Worker, &nonces, run, member).as_bytes());
    }
    stream.write(&hello)?;
    let length = u32::from_le_bytes(stream.read_array()?) as usize;
    if length > 0 {
        let mut reason = vec![0; length.min(REFUSAL_BYTES_MAX)];
        stream.read(&mut reason)?;
        // The peer is still unauthenticated: print its text without control characters.
        let reason = String::from_utf8_lossy(&reason).chars().filter(|c| !c.is_control()).collect();
        return Err(HandshakeError::Refused(reason));
    }
    let theirs = blake3::Hash::from_bytes(stream.read_array()?);
    if theirs != proof(&key, Side::Coordinator, &nonces, run, member) {
        return Err(HandshakeError::WrongCoordinator);
    }
    Ok(())
}

fn accept_within(
    stream: &mut DataStream,
    secret: &[u8; 32],
    run: RunId,
    identity_of: impl FnOnce(MemberId) -> Option<Identity>,
    deadline: Duration,
) -> Result<MemberId, HandshakeError> {
    let binding = stream.binding()?;
    let mut stream = DeadlineStream::new(stream, deadline);
    let nonce: [u8; NONCE_BYTES] = crate::random_bytes()?;
    stream.write(&[&prefix()[..], &nonce].concat())?;
    let judged = match check_prefix(stream.read_array()?) {
        Ok(()) => {
            // Read everything before judging: closing a socket with unread bytes may lose the refusal.
            let found = stream.read_array()?;
            let member = MemberId(u64::from_le_bytes(stream.read_array()?));
            let nonces = Nonces { coordinator: nonce, worker: stream.read_array()?, binding };
            let hello =
                Hello { run: found, member, nonces, proofs: [stream.read_array()?, stream.read_array()?] };
            judge(secret, run, identity_of, &hello).map(|own| (member, own))
        }
        Err(error) => Err(error),
    };
    match &judged {
        Ok((_, own)) => stream.write(&[&[0; 4][..], own.as_bytes()].concat())?,
        Err(error) => {
            let reason = error.to_string();
            // The verdict counts, not whether the refused peer still reads it.
            let _ = stream.write(&[&(reason.len() as u32).to_le_bytes()[..], reason.as_bytes()].concat());
        }
    }
    judged.map(|(member, _)| member)
}

/// The worker's handshake message.
struct Hello {
    run: [u8; 16],
    member: MemberId,
    nonces: Nonces,
    /// Proofs of the token and of the member's key.
    proofs: [[u8; 32]; 2],
}

/// Checks the worker's proofs and returns the coordinator's own proof.
fn judge(
    secret: &[u8; 32],
    run: RunId,
    identity_of: impl FnOnce(MemberId) -> Option<Identity>,
    hello: &Hello,
) -> Result<blake3::Hash, HandshakeError> {
    let Hello { run: found, member, nonces, proofs } = hello;
    if *found != run.0 {
        return Err(HandshakeError::OtherRun { found: hex::encode(found), own: hex::encode(run.0) });
    }
    // blake3::Hash compares in constant time.
    let proves = |secret: &[u8; 32], theirs: [u8; 32]| {
        blake3::Hash::from_bytes(theirs) == proof(secret, Side::Worker, nonces, run, *member)
    };
    let identity = identity_of(*member);
    let of_token = identity.as_ref().map_or(secret, |identity| &identity.secret);
    if !proves(of_token, proofs[0]) {
        return Err(HandshakeError::WrongToken);
    }
    // Membership is only revealed to peers that know the token.
    let identity = identity.ok_or(HandshakeError::UnknownMember(member.0))?;
    let key = identity_key(&identity.secret, &identity.key);
    if !proves(&key, proofs[1]) {
        return Err(HandshakeError::WrongMember(member.0));
    }
    Ok(proof(&key, Side::Coordinator, nonces, run, *member))
}

fn prefix() -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

fn check_prefix(found: [u8; PREFIX_BYTES]) -> Result<(), HandshakeError> {
    let [m0, m1, m2, m3, v0, v1, v2, v3] = found;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(HandshakeError::Foreign(found.to_vec()));
    }
    match u32::from_le_bytes([v0, v1, v2, v3]) {
        VERSION => Ok(()),
        found => Err(HandshakeError::OtherVersion { found, own: VERSION }),
    }
}

struct Nonces {
    coordinator: [u8; NONCE_BYTES],
    worker: [u8; NONCE_BYTES],
    /// Channel binding of the TLS session; zeros without TLS.
    binding: [u8; 32],
}

#[derive(Clone, Copy)]
enum Side {
    Coordinator,
    Worker,
}

fn proof(secret: &[u8; 32], side: Side, nonces: &Nonces, run: RunId, member: MemberId) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(match side {
        Side::Coordinator => b"bonfire data plane: coordinator",
        Side::Worker => b"bonfire data plane: the worker!",
    });
    hasher.update(&nonces.coordinator);
    hasher.update(&nonces.worker);
    hasher.update(&nonces.binding);
    hasher.update(&run.0);
    hasher.update(&member.0.to_le_bytes());
    hasher.finalize()
}

/// A socket with one deadline for all reads and writes.
struct DeadlineStream<'a> {
    stream: &'a mut DataStream,
    deadline: Duration,
    until: Instant,
}

impl<'a> DeadlineStream<'a> {
    fn new(stream: &'a mut DataStream, deadline: Duration) -> Self {
        Self { stream, deadline, until: Instant::now() + deadline }
    }

    fn left(&self) -> Result<Duration, HandshakeError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(HandshakeError::TimedOut(self.deadline)) } else { Ok(left) }
    }

    fn read_array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], HandshakeError> {
        let mut bytes = [0; SIZE];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), HandshakeError> {
        while !bytes.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(HandshakeError::Closed),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) => self.passing(error)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), HandshakeError> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left()?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(HandshakeError::Closed),
                Ok(written) => bytes = &bytes[written..],
                Err(error) => self.passing(error)?,
            }
        }
        Ok(())
    }

    /// Ignores timeouts, which the deadline handles at its next check.
    fn passing(&self, error: std::io::Error) -> Result<(), HandshakeError> {
        match error.kind() {
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(HandshakeError::Closed),
            _ => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
