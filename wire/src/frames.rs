//! The data plane: length-prefixed binary frames over TCP, read into and written from reused buffers.
//!
//! A frame is a header of [`HEADER_BYTES`], a tail of bytes (sums, presence, block hashes) and a body of
//! little-endian f32. The header's checksum covers header and tail; the body is covered by the hashes of its blocks,
//! which travel in the tail and which the receiver needs anyway, so a gradient is hashed once on each side.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::time::Duration;

use protocol::ids::{Phase, StepKey, ViewId};
use protocol::reduce::BLOCK;
use xxhash_rust::xxh3::Xxh3;

use crate::stream::DataStream;
use crate::{traffic, transport};

#[cfg(target_endian = "big")]
compile_error!("frames carry little-endian f32 as they lie in memory");

/// Bytes of a header.
pub const HEADER_BYTES: usize = 48;
/// Maximum number of f32 in a frame: one slice of 16 blocks of 65,536.
pub const BODY_FLOATS_MAX: usize = 1 << 20;
/// Maximum bytes of a tail: the confusion matrix of a thousand labels in f64, with room for a presence bitmap.
pub const TAIL_BYTES_MAX: usize = 9 << 20;
/// A tail is read in parts of this many bytes: many times the length of any tail without a confusion matrix.
const TAIL_PART_BYTES: usize = 64 << 10;

/// "BNF1".
const MAGIC: u32 = 0x3146_4e42;

/// The content of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A slice of a member's partial of one node.
    Partial,
    /// A member's sums and presence of one node, or the statement that it has none.
    PartialSums,
    /// A reduced slice.
    Slice,
    /// The reduced sums and presence.
    ReducedSums,
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The content.
    pub kind: Kind,
    /// The step and view that it belongs to.
    pub key: StepKey,
    /// Level of the tree node (for partials).
    pub node_level: u8,
    /// Index of the tree node (for partials).
    pub node_index: u32,
    /// Number of the slice.
    pub slice: u32,
    /// Length of the tail in bytes, [`TAIL_BYTES_MAX`] at most.
    pub tail_bytes: u32,
    /// Number of f32 in the body.
    pub floats: u32,
}

/// Why a frame can't be received or sent.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between frames.
    #[error("{peer} closed its data connection")]
    Closed {
        /// The peer, as named in messages.
        peer: String,
    },
    /// Nothing was received, or nothing could be sent, for too long.
    #[error("{peer} has neither sent nor taken data for {seconds} s")]
    TimedOut {
        /// The peer, as named in messages.
        peer: String,
        /// The timeout in seconds.
        seconds: u64,
    },
    /// The connection broke.
    #[error("data connection of {peer}: {source}")]
    Broken {
        /// The peer, as named in messages.
        peer: String,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The frame is invalid or damaged.
    #[error("bad frame from {peer}: {problem}")]
    Bad {
        /// The peer, as named in messages.
        peer: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Header {
    /// Encodes the header. `tail` must have `tail_bytes`.
    #[must_use]
    pub fn encode(&self, tail: &[u8]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = match self.kind {
            Kind::Partial => 1,
            Kind::PartialSums => 2,
            Kind::Slice => 3,
            Kind::ReducedSums => 4,
        };
        bytes[5] = match self.key.phase {
            Phase::Train => 1,
            Phase::Evaluate => 2,
        };
        bytes[6] = self.node_level;
        bytes[8..16].copy_from_slice(&self.key.view.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.key.step.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.node_index.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.slice.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.tail_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.floats.to_le_bytes());
        let check = checksum(&bytes[..40], tail);
        bytes[40..48].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Decodes a header's fields and its checksum, which must equal [`checksum`] over the first 40 bytes and the tail.
    ///
    /// # Errors
    /// When a field is invalid.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u64), String> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err(format!(
                "begins with {:#010x}, not {MAGIC:#010x}: not a Bonfire data connection",
                u32_at(0)
            ));
        }
        let kind = match bytes[4] {
            1 => Kind::Partial,
            2 => Kind::PartialSums,
            3 => Kind::Slice,
            4 => Kind::ReducedSums,
            other => return Err(format!("is of kind {other}")),
        };
        let phase = match bytes[5] {
            1 => Phase::Train,
            2 => Phase::Evaluate,
            other => return Err(format!("is of phase {other}")),
        };
        if bytes[7] != 0 {
            return Err(format!("has {} where nothing is said", bytes[7]));
        }
        let header = Self {
            kind,
            key: StepKey { view: ViewId(u64_at(8)), step: u64_at(16), phase },
            node_level: bytes[6],
            node_index: u32_at(24),
            slice: u32_at(28),
            tail_bytes: u32_at(32),
            floats: u32_at(36),
        };
        if header.tail_bytes as usize > TAIL_BYTES_MAX {
            return Err(format!("has a tail of {} bytes, at most {TAIL_BYTES_MAX}", header.tail_bytes));
        }
        if header.floats as usize > BODY_FLOATS_MAX {
            return Err(format!("has {} f32, at most {BODY_FLOATS_MAX}", header.floats));
        }
        if matches!(kind, Kind::PartialSums | Kind::ReducedSums) && header.floats > 0 {
            return Err(format!("is a {kind:?} frame with {} f32, which has none", header.floats));
        }
        let expected = block_tail_bytes(kind, header.floats as usize);
        if expected.is_some_and(|expected| expected != header.tail_bytes as usize) {
            let (tail, floats) = (header.tail_bytes, header.floats);
            return Err(format!(
                "is a {kind:?} frame of {floats} f32 with a tail of {tail} bytes, which doesn't fit"
            ));
        }
        if phase == Phase::Train && header.key.step == 0 {
            return Err("is of training step 0; steps count from 1".to_owned());
        }
        Ok((header, u64_at(40)))
    }
}

/// Bytes of the tail of a frame with this many f32; `None` if the header doesn't determine it.
fn block_tail_bytes(kind: Kind, floats: usize) -> Option<usize> {
    let blocks = floats.div_ceil(BLOCK);
    match kind {
        Kind::Partial => Some(blocks * size_of::<u64>()),
        Kind::Slice => Some(blocks * 2 * size_of::<u64>()),
        Kind::PartialSums | Kind::ReducedSums => None,
    }
}

/// xxh3-64 over a header's first 40 bytes and the tail.
#[must_use]
pub fn checksum(header: &[u8], tail: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(tail);
    hasher.digest()
}

/// Configures a socket for frames: no delay, a timeout on every wait, and detection of vanished hosts.
///
/// # Errors
/// When the system refuses an option.
pub fn prepare_socket(stream: &DataStream, timeout: Duration) -> std::io::Result<()> {
    transport::prepare(stream)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}

/// One end of a data connection.
#[derive(Debug)]
pub struct FrameStream<S> {
    stream: S,
    peer: String,
    timeout: Duration,
}

impl<S> FrameStream<S> {
    /// Wraps a socket configured by [`prepare_socket`]; `peer` is for messages.
    pub fn new(stream: S, peer: String, timeout: Duration) -> Self {
        Self { stream, peer, timeout }
    }

    /// The underlying socket.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn error(&self, source: std::io::Error) -> FrameError {
        let peer = self.peer.clone();
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                FrameError::TimedOut { peer, seconds: self.timeout.as_secs() }
            }
            // read_exact's own message doesn't mention frames.
            ErrorKind::UnexpectedEof => FrameError::Broken {
                peer,
                source: std::io::Error::new(ErrorKind::UnexpectedEof, "it ended within a frame"),
            },
            _ => FrameError::Broken { peer, source },
        }
    }

    fn bad(&self, problem: impl Into<String>) -> FrameError {
        FrameError::Bad { peer: self.peer.clone(), problem: problem.into() }
    }
}

impl<S: Read> FrameStream<S> {
    /// Waits for a header, without a timeout until its first byte arrives (the control stream detects a vanished
    /// peer); then reads it and the tail. The body must follow with [`Self::read_body`].
    ///
    /// # Errors
    /// When the connection ends, breaks, or the frame is bad.
    pub fn read_header(&mut self, tail: &mut Vec<u8>) -> Result<Header, FrameError> {
        self.read_header_within(tail, || TAIL_BYTES_MAX)
    }

    /// As [`Self::read_header`], for a peer that may announce more than is useful: `tail_bytes_max` is called once the
    /// header has arrived, and limits its tail.
    ///
    /// # Errors
    /// As [`Self::read_header`].
    pub fn read_header_within(
        &mut self,
        tail: &mut Vec<u8>,
        tail_bytes_max: impl FnOnce() -> usize,
    ) -> Result<Header, FrameError> {
        let mut bytes = [0; HEADER_BYTES];
        self.read_first(&mut bytes)?;
        let (header, expected) = Header::decode(&bytes).map_err(|problem| self.bad(problem))?;
        let (length, most) = (header.tail_bytes as usize, tail_bytes_max());
        if length > most {
            return Err(self.bad(format!("has a tail of {length} bytes, at most {most} in this run")));
        }
        self.read_tail(tail, length)?;
        traffic::RECEIVED.add(HEADER_BYTES + tail.len());
        if checksum(&bytes[..40], tail) != expected {
            return Err(self.bad("its checksum is wrong: damaged on the way"));
        }
        Ok(header)
    }

    /// Reads the body into a buffer of exactly `header.floats`. The caller must check its blocks' hashes.
    ///
    /// # Errors
    /// When the connection ends or breaks.
    pub fn read_body(&mut self, body: &mut [f32]) -> Result<(), FrameError> {
        self.read_all(bytemuck::cast_slice_mut(body))?;
        traffic::RECEIVED.add(size_of_val(body));
        Ok(())
    }

    /// Allocates memory as the bytes arrive, not when they are announced.
    fn read_tail(&mut self, tail: &mut Vec<u8>, length: usize) -> Result<(), FrameError> {
        // Memory from an earlier frame is reused.
        tail.truncate(length);
        let mut read = 0;
        while read < length {
            let part = (length - read).min(TAIL_PART_BYTES).max(tail.len() - read);
            tail.resize(read + part, 0);
            self.read_all(&mut tail[read..])?;
            read += part;
        }
        Ok(())
    }

    fn read_first(&mut self, bytes: &mut [u8]) -> Result<(), FrameError> {
        loop {
            match self.stream.read(&mut bytes[..1]) {
                Ok(0) => return Err(FrameError::Closed { peer: self.peer.clone() }),
                Ok(_) => return self.read_all(&mut bytes[1..]),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => return Err(self.error(e)),
            }
        }
    }

    fn read_all(&mut self, bytes: &mut [u8]) -> Result<(), FrameError> {
        self.stream.read_exact(bytes).map_err(|e| self.error(e))
    }
}

impl<S: Write> FrameStream<S> {
    /// Sends a frame. The header's lengths must be those of `tail` and `body`.
    ///
    /// # Errors
    /// When the connection breaks or the peer accepts nothing for too long.
    ///
    /// # Panics
    /// When the lengths don't agree or exceed the bounds, which is a bug.
    pub fn write(&mut self, header: &Header, tail: &[u8], body: &[f32]) -> Result<(), FrameError> {
        assert_eq!((header.tail_bytes as usize, header.floats as usize), (tail.len(), body.len()));
        assert!(tail.len() <= TAIL_BYTES_MAX && body.len() <= BODY_FLOATS_MAX);
        let head = header.encode(tail);
        let body: &[u8] = bytemuck::cast_slice(body);
        let length = head.len() + tail.len() + body.len();
        let mut parts = [IoSlice::new(&head), IoSlice::new(tail), IoSlice::new(body)];
        let mut parts = &mut parts[..];
        // Drop empty parts before the first call: an empty write would look like a closed peer.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.stream.write_vectored(parts) {
                Ok(0) => return Err(FrameError::Closed { peer: self.peer.clone() }),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.error(e)),
            }
        }
        traffic::SENT.add(length);
        Ok(())
    }
}

/// The sums and presence of a node, as the tail of a sums frame.
pub mod sums {
    /// Length of a tail with this many sums and bytes of presence.
    #[must_use]
    pub fn tail_bytes(sums: usize, presence: usize) -> usize {
        sums.saturating_mul(8).saturating_add(4).saturating_add(presence)
    }

    /// Encodes `sums` and `presence` into a reused tail.
    pub fn encode(sums: &[f64], presence: &[u8], tail: &mut Vec<u8>) {
        tail.clear();
        tail.extend_from_slice(&(sums.len() as u32).to_le_bytes());
        for sum in sums {
            tail.extend_from_slice(&sum.to_bits().to_le_bytes());
        }
        tail.extend_from_slice(presence);
    }

    /// Decodes a tail into the sums and the remaining bytes, which are the presence.
    ///
    /// # Errors
    /// When the tail is shorter than its count requires.
    pub fn decode(tail: &[u8]) -> Result<(Vec<f64>, &[u8]), String> {
        let (count, rest) = tail.split_first_chunk::<4>().ok_or("a sums frame without a count")?;
        let count = u32::from_le_bytes(*count) as usize;
        let (numbers, presence) = rest
            .split_at_checked(count.saturating_mul(8))
            .ok_or_else(|| format!("a sums frame that says {count} sums and has {} bytes", rest.len()))?;
        let sums =
            numbers.as_chunks::<8>().0.iter().map(|bits| f64::from_bits(u64::from_le_bytes(*bits))).collect();
        Ok((sums, presence))
    }
}

/// Per-block numbers of a body, as the tail of a partial or slice frame.
pub mod blocks {
    /// Encodes the block hashes (and for a reduced slice the blocks' sums of squares) into a reused tail.
    pub fn encode(hashes: &[u64], squares: &[f64], tail: &mut Vec<u8>) {
        tail.clear();
        for hash in hashes {
            tail.extend_from_slice(&hash.to_le_bytes());
        }
        for square in squares {
            tail.extend_from_slice(&square.to_bits().to_le_bytes());
        }
    }

    /// Decodes the hashes of `blocks` blocks into `hashes`, and, if `with_squares`, their sums of squares into
    /// `squares`.
    ///
    /// # Errors
    /// When the tail's length differs from that of `blocks` hashes and, if `with_squares`, as many sums of squares.
    pub fn decode(
        tail: &[u8],
        blocks: usize,
        with_squares: bool,
        hashes: &mut Vec<u64>,
        squares: &mut Vec<f64>,
    ) -> Result<(), String> {
        let words = if with_squares { blocks * 2 } else { blocks };
        if tail.len() != words * 8 {
            return Err(format!("a tail of {} bytes for {blocks} blocks, not {}", tail.len(), words * 8));
        }
        let (first, second) = tail.split_at(blocks * 8);
        hashes.clear();
        hashes.extend(first.as_chunks::<8>().0.iter().map(|bits| u64::from_le_bytes(*bits)));
        squares.clear();
        squares
            .extend(second.as_chunks::<8>().0.iter().map(|bits| f64::from_bits(u64::from_le_bytes(*bits))));
        Ok(())
    }
}
