//! The network layer: messages, frames, tokens and transport security.
//!
//! This crate owns the .proto file and its code ([`proto`]), the conversion to and from `protocol`'s types
//! ([`convert`]), the data plane's frames ([`frames`]) and the handshake of its connections ([`handshake`]), the run's
//! token ([`token`]) and its use in rpc calls ([`auth`]), the members' identities ([`identity`]), the workers' reports
//! about themselves ([`worker_report`]), socket options ([`transport`]), TLS trust ([`tls`]) with its sockets
//! ([`stream`] for the data plane, [`lazy_tls`] for tokio), and the data plane's byte counters ([`traffic`]).
//!
//! It never makes decisions about a run, and never imports burn, store or configs. Nothing that a peer sends can make
//! it panic.
//!
//! Begin with [`convert`] for the control plane, and with [`handshake`] and [`frames`] for the data plane.

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

/// Encoded size of a message in bytes.
#[must_use]
pub fn encoded_bytes(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

/// `SIZE` random bytes from the operating system.
///
/// # Errors
/// When the system's random source can't be read.
pub fn random_bytes<const SIZE: usize>() -> std::io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
