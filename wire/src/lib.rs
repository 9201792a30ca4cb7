//! The network: messages, frames and tokens.
//!
//! This crate owns the .proto file and its code ([`proto`]), the conversion to and from `protocol`'s types
//! ([`convert`]), the data plane's frames ([`frames`]) and how its connections begin ([`handshake`]), the run's token
//! ([`token`]), who its members are ([`identity`]) and how rpc calls carry it ([`auth`]), what workers say of themselves
//! beside the protocol ([`beside`]), how sockets are set ([`transport`]), whom TLS trusts ([`tls`]) and the sockets under
//! it ([`stream`], [`secured`]), and how many bytes went over the data plane ([`traffic`]). It never decides
//! anything, and never imports burn, store or configs. Nothing that a peer sends can make it panic.

pub mod auth;
pub mod convert;
pub mod frames;
pub mod handshake;
pub mod identity;
pub mod lazy_tls;
pub mod stream;
pub mod tls;
pub mod token;
pub mod traffic;
pub mod transport;
pub mod worker_report;

/// Generated from `proto/bonfire.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("bonfire.v1");
}

/// Largest control message: a Welcome carries the config and the dataset's plan.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes of one chunk of an upload or download.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Bytes that a message takes on its way.
#[must_use]
pub fn encoded_bytes(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

/// `size` random bytes from the operating system.
///
/// # Errors
/// When the system's random source can't be read.
pub fn random_bytes<const SIZE: usize>() -> std::io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
