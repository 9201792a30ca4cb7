//! The exchange of gradients with the coordinator: the compute thread sends partials, a reader thread receives
//! reduced slices, and buffers circulate between them.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use protocol::ids::{Phase, StepKey};
use protocol::messages::Welcome;
use protocol::reduce::{BLOCK, block_hash};
use protocol::step_assembly::{Admission, StepAssembly};
use protocol::tree::Node;
use wire::frames::{self, FrameError, FrameStream, Header, Kind};
use wire::handshake;
use wire::stream::DataStream;
use wire::tls::ClientTls;
use wire::token::Token;

use crate::channel::Command;
use crate::failure::WorkError;
use crate::reduced::Reduced;

/// How long the coordinator may accept no byte, or pause within a frame. It delays a member's partials while it waits
/// for a slower one, whose own deadline (from the measured duration of steps) ends that wait first.
const STALL_DEADLINE: Duration = Duration::from_secs(600);
/// Attempts to open a data connection, with a pause between them.
const ATTEMPTS: u32 = 4;
/// Pause between attempts; the control stream is open, so the host is up.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an address may take to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Numbers the data connections of this process, so that reports about an old one can be recognised.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Address and credentials of the reducer.
pub(crate) struct DataEndpoint<'a> {
    /// The coordinator's host.
    pub(crate) host: &'a str,
    /// Port of its data plane.
    pub(crate) port: u16,
    pub(crate) token: &'a Token,
    /// Encryption of the connection, if any.
    pub(crate) tls: Option<&'a ClientTls>,
}

/// The data connection. Dropping it closes the socket, which ends the reader.
pub(crate) struct Exchange {
    number: u64,
    writer: FrameStream<DataStream>,
    /// Returns buffers to the reader.
    returns: SyncSender<Box<Reduced>>,
    tail: Vec<u8>,
    hashes: Vec<u64>,
}

impl Exchange {
    /// Connects to the coordinator's data plane. Reduced steps with gradients of this many elements and bytes of
    /// presence arrive as [`Command::Reduced`], the first in `buffer`.
    pub(crate) fn connect(
        endpoint: &DataEndpoint<'_>,
        welcome: &Welcome,
        sizes: (usize, usize),
        buffer: Box<Reduced>,
        commands: SyncSender<Command>,
    ) -> Result<Self, WorkError> {
        let peer = format!("the coordinator at {}:{}", endpoint.host, endpoint.port);
        let failed = |error: &dyn std::fmt::Display| {
            WorkError::ConnectionLost(format!("the data plane of {peer}: {error}"))
        };
        let mut attempt = 1;
        let stream = loop {
            match open(endpoint, welcome) {
                Ok(stream) => break stream,
                Err(_) if attempt < ATTEMPTS => std::thread::sleep(PAUSE * attempt),
                Err(error) => return Err(failed(&error)),
            }
            attempt += 1;
        };
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let incoming = stream.clone();
        // One buffer circulates: no slice of the next step can arrive before this member has applied this one.
        let (returns, free) = sync_channel(1);
        returns.try_send(buffer).map_err(|error| failed(&error))?;
        let incoming = FrameStream::new(incoming, peer.clone(), STALL_DEADLINE);
        let reader = Reader::new(incoming, free, sizes);
        std::thread::Builder::new()
            .name("exchange".to_owned())
            .spawn(move || reader.run(number, &commands))
            .map_err(|error| failed(&error))?;
        let writer = FrameStream::new(stream, peer, STALL_DEADLINE);
        Ok(Self { number, writer, returns, tail: Vec::new(), hashes: Vec::new() })
    }

    /// Number of this connection within the process.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Sends the sums and the presence of a node.
    pub(crate) fn push_sums(
        &mut self,
        key: StepKey,
        node: Node,
        sums: &[f64],
        presence: &[u8],
    ) -> Result<(), WorkError> {
        frames::sums::encode(sums, presence, &mut self.tail);
        let header = self.header(Kind::PartialSums, key, node, 0, 0);
        self.writer.write(&header, &self.tail, &[]).map_err(|error| lost(&error))
    }

    /// Sends one slice of a node's partial.
    pub(crate) fn push_slice(
        &mut self,
        key: StepKey,
        node: Node,
        slice: u32,
        values: &[f32],
    ) -> Result<(), WorkError> {
        self.hashes.clear();
        self.hashes.extend(values.chunks(BLOCK).map(block_hash));
        frames::blocks::encode(&self.hashes, &[], &mut self.tail);
        let header = self.header(Kind::Partial, key, node, slice, values.len());
        self.writer.write(&header, &self.tail, values).map_err(|error| lost(&error))
    }

    /// Returns the buffer of a finished step to the reader.
    pub(crate) fn recycle(&self, reduced: Box<Reduced>) {
        // A reader that has ended has reported why, as LinkLost.
        let _ = self.returns.try_send(reduced);
    }

    fn header(&self, kind: Kind, key: StepKey, node: Node, slice: u32, floats: usize) -> Header {
        let (tail_bytes, floats) = (self.tail.len() as u32, floats as u32);
        Header { kind, key, node_level: node.level, node_index: node.index, slice, tail_bytes, floats }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Otherwise the reader's clone keeps the socket open. An error means that it is already closed.
        let _ = self.writer.get_ref().shutdown();
    }
}

/// Tests whether the data plane can be reached.
///
/// # Errors
/// With the address and the cause.
pub(crate) fn try_to_reach(endpoint: &DataEndpoint<'_>, welcome: &Welcome) -> Result<(), String> {
    open(endpoint, welcome).map(drop).map_err(|error| {
        format!(
            "the data plane of the coordinator at {}:{} can't be reached: {error}",
            endpoint.host, endpoint.port
        )
    })
}

fn open(endpoint: &DataEndpoint<'_>, welcome: &Welcome) -> Result<DataStream, String> {
    let socket = reach(endpoint).map_err(|error| error.to_string())?;
    let mut stream = match endpoint.tls {
        None => DataStream::plain(socket),
        Some(tls) => DataStream::connect(socket, tls.data().clone(), tls.name().clone(), handshake::DEADLINE)
            .map_err(|error| error.to_string())?,
    };
    let member = (welcome.member, &welcome.key);
    handshake::connect(&mut stream, endpoint.token, welcome.run, member)
        .map_err(|error| error.to_string())?;
    frames::prepare_socket(&stream, STALL_DEADLINE).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Connects to the first of the host's addresses that answers.
fn reach(endpoint: &DataEndpoint<'_>) -> std::io::Result<TcpStream> {
    let mut failure = std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address");
    for address in (endpoint.host, endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_DEADLINE) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn lost(error: &FrameError) -> WorkError {
    WorkError::ConnectionLost(error.to_string())
}

struct Reader<S> {
    stream: FrameStream<S>,
    free: Receiver<Box<Reduced>>,
    assembly: StepAssembly<Box<Reduced>>,
    presence_bytes: usize,
    tail: Vec<u8>,
    hashes: Vec<u64>,
    squares: Vec<f64>,
    scratch: Vec<f32>,
}

impl<S> Reader<S> {
    fn new(
        stream: FrameStream<S>,
        free: Receiver<Box<Reduced>>,
        (elements, presence_bytes): (usize, usize),
    ) -> Self {
        Self {
            stream,
            free,
            assembly: StepAssembly::new(elements),
            presence_bytes,
            tail: Vec::new(),
            hashes: Vec::new(),
            squares: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl<S: std::io::Read> Reader<S> {
    fn run(mut self, number: u64, commands: &SyncSender<Command>) {
        loop {
            let command = match self.next() {
                Ok(Some(reduced)) => Command::Reduced(reduced),
                Ok(None) => return,
                Err(error) => {
                    // The receiver may be gone.
                    let _ = commands.send(Command::LinkLost { number, reason: error.to_string() });
                    return;
                }
            };
            if commands.send(command).is_err() {
                return;
            }
        }
    }

    /// Reads frames until a step is complete. `None` when the compute thread has exited.
    fn next(&mut self) -> Result<Option<Box<Reduced>>, FrameError> {
        loop {
            let mut tail = std::mem::take(&mut self.tail);
            let header = self.stream.read_header(&mut tail);
            self.tail = tail;
            let header = header?;
            let Some(is_older) = self.admit(header.key) else { return Ok(None) };
            match header.kind {
                Kind::Slice | Kind::ReducedSums if is_older => self.skip(&header)?,
                Kind::Slice => self.take_slice(&header)?,
                Kind::ReducedSums => self.take_sums(&header)?,
                kind => return Err(self.bad(format!("a {kind:?} frame came to a member"))),
            }
            if let Some(reduced) = self.assembly.take_whole() {
                return Ok(Some(reduced));
            }
        }
    }

    /// Makes room for a frame of this step. Returns whether it is older than the current one; `None` when the compute
    /// thread has exited.
    fn admit(&mut self, key: StepKey) -> Option<bool> {
        loop {
            match self.assembly.admit(key) {
                Admission::Older => return Some(true),
                Admission::Continues => return Some(false),
                // Until the last step is applied, the next step's frames wait in the socket.
                Admission::Waits => self.assembly.give(self.free.recv().ok()?),
                Admission::Opens => {
                    let elements = self.assembly.elements_of(key);
                    self.assembly.buffer()?.receive(key, elements);
                    return Some(false);
                }
            }
        }
    }

    fn take_slice(&mut self, header: &Header) -> Result<(), FrameError> {
        let Some(range) = self.assembly.take_slice(header.slice) else {
            return Err(self.bad(format!("slice {} of {}", header.slice, self.assembly.slices())));
        };
        if range.len() != header.floats as usize {
            let (found, expected) = (header.floats, range.len());
            return Err(self.bad(format!("slice {} has {found} f32, not {expected}", header.slice)));
        }
        let Some(current) = self.assembly.buffer() else { return Ok(()) };
        let place = &mut current.gradient[range.clone()];
        self.stream.read_body(place)?;
        let blocks = place.len().div_ceil(BLOCK);
        let decoded = frames::blocks::decode(&self.tail, blocks, true, &mut self.hashes, &mut self.squares);
        let damaged =
            place.chunks(BLOCK).zip(&self.hashes).position(|(block, hash)| block_hash(block) != *hash);
        let first = range.start / BLOCK;
        if decoded.is_ok() && damaged.is_none() {
            current.facts.hashes[first..first + blocks].copy_from_slice(&self.hashes);
            current.facts.squares[first..first + blocks].copy_from_slice(&self.squares);
        }
        decoded.map_err(|problem| self.bad(problem))?;
        match damaged {
            None => Ok(()),
            Some(block) => Err(self.bad(format!("block {} is damaged on the way", first + block))),
        }
    }

    fn take_sums(&mut self, header: &Header) -> Result<(), FrameError> {
        let expected = if header.key.phase == Phase::Train { self.presence_bytes } else { 0 };
        let (sums, presence) = frames::sums::decode(&self.tail).map_err(|problem| self.bad(problem))?;
        if presence.len() != expected {
            return Err(self.bad(format!("a presence bitmap of {} bytes, not {expected}", presence.len())));
        }
        if let Some(current) = self.assembly.buffer() {
            current.sums = sums;
            current.presence.clear();
            current.presence.extend_from_slice(presence);
        }
        self.assembly.take_sums();
        self.skip(header)
    }

    /// Reads and discards the body of a frame of an older view.
    fn skip(&mut self, header: &Header) -> Result<(), FrameError> {
        self.scratch.resize(header.floats as usize, 0.0);
        self.stream.read_body(&mut self.scratch)
    }

    fn bad(&self, problem: String) -> FrameError {
        FrameError::Bad { peer: "the coordinator".to_owned(), problem }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use protocol::ids::ViewId;
    use protocol::reduce::{SLICE, sum_of_squares};

    use super::*;

    const PEER: &str = "the test";

    fn key(step: u64) -> StepKey {
        StepKey { view: ViewId(1), step, phase: Phase::Train }
    }

    /// A reducer's output, built frame by frame.
    struct Sent(FrameStream<Vec<u8>>);

    impl Sent {
        fn new() -> Self {
            Self(FrameStream::new(Vec::new(), PEER.to_owned(), STALL_DEADLINE))
        }

        fn frame(mut self, kind: Kind, key: StepKey, slice: u32, tail: &[u8], body: &[f32]) -> Self {
            let (tail_bytes, floats) = (tail.len() as u32, body.len() as u32);
            let header = Header { kind, key, node_level: 0, node_index: 0, slice, tail_bytes, floats };
            self.0.write(&header, tail, body).expect("a vector takes all");
            self
        }

        fn sums(self, key: StepKey, presence: &[u8]) -> Self {
            let mut tail = Vec::new();
            frames::sums::encode(&[3.0, 2.0], presence, &mut tail);
            self.frame(Kind::ReducedSums, key, 0, &tail, &[])
        }

        fn slice(self, key: StepKey, slice: u32, body: &[f32], hash_of: &[f32]) -> Self {
            let hashes: Vec<u64> = hash_of.chunks(BLOCK).map(block_hash).collect();
            let squares: Vec<f64> = body.chunks(BLOCK).map(sum_of_squares).collect();
            let mut tail = Vec::new();
            frames::blocks::encode(&hashes, &squares, &mut tail);
            self.frame(Kind::Slice, key, slice, &tail, body)
        }

        /// A member's reader of this output, for gradients of `elements` and up to eight parameters.
        fn reader(self, elements: usize) -> (Reader<Cursor<Vec<u8>>>, SyncSender<Box<Reduced>>) {
            let (returns, free) = sync_channel(1);
            returns.try_send(Box::new(Reduced::empty())).expect("room");
            let stream =
                FrameStream::new(Cursor::new(self.0.get_ref().clone()), PEER.to_owned(), STALL_DEADLINE);
            let reader = Reader::new(stream, free, (elements, 1));
            (reader, returns)
        }
    }

    #[test]
    fn slices_in_any_order_make_a_step_and_buffers_go_round() {
        let (first, second) = (vec![2.0; SLICE], vec![3.0, 4.0]);
        let sent = Sent::new()
            .slice(key(1), 1, &second, &second)
            .sums(key(1), &[1])
            .slice(key(1), 0, &first, &first)
            .sums(key(2), &[1])
            // Obsolete by now.
            .slice(key(1), 1, &[9.0, 9.0], &[9.0, 9.0])
            .slice(key(2), 0, &first, &first)
            .slice(key(2), 1, &second, &second);
        let (mut reader, returns) = sent.reader(SLICE + 2);
        for step in [1, 2] {
            let whole = reader.next().expect("good frames").expect("a step");
            assert_eq!(whole.key, key(step));
            assert_eq!(whole.gradient[..SLICE], first);
            assert_eq!(whole.gradient[SLICE..], second);
            assert_eq!(whole.facts.squared_norm(), 4.0 * SLICE as f64 + 25.0);
            assert_eq!((whole.sums.as_slice(), whole.presence.as_slice()), (&[3.0, 2.0][..], &[1][..]));
            returns.try_send(whole).expect("room");
        }
        assert!(matches!(reader.next(), Err(FrameError::Closed { .. })));
    }

    #[test]
    fn an_evaluation_has_sums_alone() {
        let evaluation = StepKey { phase: Phase::Evaluate, ..key(1) };
        let (mut reader, _returns) = Sent::new().sums(evaluation, &[]).reader(5);
        assert_eq!(reader.next().expect("a good frame").expect("whole").key, evaluation);
    }

    #[test]
    fn what_is_wrong_with_a_frame_is_said() {
        let check = |sent: Sent, expected: &str| {
            let (mut reader, _returns) = sent.reader(2);
            let error = reader.next().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        let good = [1.0, 2.0];
        check(Sent::new().slice(key(1), 0, &good, &[1.0, 2.5]), "damaged");
        check(Sent::new().slice(key(1), 1, &good, &good), "slice 1 of 1");
        check(Sent::new().slice(key(1), 0, &[1.0], &[1.0]), "has 1 f32, not 2");
        check(Sent::new().sums(key(1), &[1, 2]), "presence");
        check(Sent::new().frame(Kind::Partial, key(1), 0, &[], &[]), "came to a member");
        check(Sent::new().frame(Kind::Slice, key(1), 0, &[0; 8], &good), "tail");
    }
}
