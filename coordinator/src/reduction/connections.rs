//! Accepts data connections; a thread for each reads its member's frames.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, channel};
use std::time::{Duration, Instant};

use protocol::ids::{MemberId, RunId};
use protocol::reduce::{BLOCK, block_hash};
use protocol::reducer::PartialFrame;
use protocol::tree::Node;
use tracing::{debug, warn};
use wire::frames::{FrameError, FrameStream, Header, Kind, blocks, prepare_socket, sums};
use wire::handshake::{self, HandshakeError};
use wire::stream::DataStream;
use wire::tls::ServerTls;

use super::event_mailbox::{ConnectionLoss, EventMailbox};
use super::gate::{EarlyFrame, Gate};
use super::pending_handshakes::PendingHandshakes;
use super::pool::Pool;
use super::{Input, SOCKET_TIMEOUT, spawn, writer};
use crate::control::identities::{Identities, Registered};

/// A thread whose connection was shut down ends within this time.
const LEAVING_MAX: Duration = Duration::from_millis(100);

/// Shared by all connections.
#[derive(Clone)]
pub(super) struct Connections {
    /// Secret of the run's own token.
    pub(super) secret: [u8; 32],
    pub(super) tls: Option<ServerTls>,
    pub(super) run: RunId,
    pub(super) inputs: SyncSender<Input>,
    pub(super) pool: Arc<Pool>,
    pub(super) gate: Arc<Gate>,
    pub(super) pending: Arc<PendingHandshakes>,
    /// Number of connections so far.
    pub(super) numbers: Arc<AtomicU64>,
    pub(super) identities: Identities,
    /// Bytes of the longest tail that a member of this run may send.
    pub(super) tail_bytes_max: Arc<AtomicUsize>,
    pub(super) mailbox: Arc<EventMailbox>,
    /// Each connection's thread holds one more reference.
    pub(super) open: Arc<()>,
    /// Maximum number of simultaneous connections.
    pub(super) open_max: usize,
}

impl Connections {
    pub(super) fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok(_) if !self.has_room() => {
                    warn!("a data connection is closed: {} are open", self.open_max);
                }
                Ok((stream, _)) => {
                    let own = self.clone();
                    let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                    let greeted = self.pending.enter(number, &stream);
                    let served = greeted.and_then(|()| spawn("data-read", move || own.serve(number, stream)));
                    if let Err(why) = served {
                        self.pending.leave(number);
                        warn!(%why, "no thread for a data connection");
                    }
                }
                Err(why) => {
                    warn!(%why, "a data connection can't be accepted");
                    // Most likely out of file descriptors: others may be closed soon.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Whether there is room, at the latest once connections that were just shut down have ended.
    fn has_room(&self) -> bool {
        let began = Instant::now();
        while Arc::strong_count(&self.open) > self.open_max {
            if began.elapsed() > LEAVING_MAX {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn serve(&self, number: u64, socket: TcpStream) {
        let peer = socket.peer_addr().ok();
        let judged = self.greet(socket);
        self.pending.leave(number);
        let (member, stream) = match judged {
            Ok(judged) => judged,
            Err(why) => {
                debug!(?peer, %why, "a data connection was refused");
                if self.identities.refuse(peer, "a data connection", &why) {
                    self.mailbox.wake();
                }
                return;
            }
        };
        let loss = match self.serve_member(member, number, stream) {
            Ok(never) => match never {},
            Err(loss) => loss,
        };
        self.identities.leave(member, number);
        let _ = self.inputs.send(Input::Gone { member, number, loss });
    }

    fn greet(&self, socket: TcpStream) -> Result<(MemberId, DataStream), HandshakeError> {
        let mut stream = match &self.tls {
            None => DataStream::plain(socket),
            Some(tls) => DataStream::accept(socket, tls.data().clone(), handshake::DEADLINE)?,
        };
        let identity_of = |member| self.identities.of(member);
        let member = handshake::accept(&mut stream, &self.secret, self.run, identity_of)?;
        Ok((member, stream))
    }

    /// Reads until the connection ends; the error says how.
    fn serve_member(
        &self,
        member: MemberId,
        number: u64,
        stream: DataStream,
    ) -> Result<std::convert::Infallible, ConnectionLoss> {
        let error =
            |why: std::io::Error| ConnectionLoss::Broken(format!("its data connection can't be used: {why}"));
        let broken = |why: FrameError| ConnectionLoss::Broken(why.to_string());
        let early = |early: EarlyFrame| ConnectionLoss::Violation(early.to_string());
        prepare_socket(&stream, SOCKET_TIMEOUT).map_err(error)?;
        let Registered::Newest { before } = self.identities.enter(member, number, &stream) else {
            return Err(ConnectionLoss::Broken("it has a newer data connection, or has left".to_owned()));
        };
        let peer = "its worker".to_owned();
        let writing = FrameStream::new(stream.clone(), peer.clone(), SOCKET_TIMEOUT);
        let (outgoing, outbox) = channel();
        spawn("data-write", move || writer::write(writing, &outbox)).map_err(error)?;
        self.tell(Input::Connected { member, number, writer: outgoing })?;
        // The reducer learns of the new connection before the old one ends, and so sees no loss.
        drop(before);
        let mut frames = FrameStream::new(stream, peer, SOCKET_TIMEOUT);
        let (mut tail, mut hashes, mut squares) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let most = || self.tail_bytes_max.load(Ordering::Relaxed);
            let header = frames.read_header_within(&mut tail, most).map_err(broken)?;
            match header.kind {
                Kind::PartialSums => {
                    self.gate.check(header.key).map_err(early)?;
                    let (sums, presence) = sums::decode(&tail).map_err(ConnectionLoss::Broken)?;
                    let (key, node, presence) = (header.key, node_of(&header), presence.to_vec());
                    let frame = PartialFrame::Sums { key, node, sums, presence };
                    self.tell(Input::Frame { member, frame })?;
                }
                Kind::Partial => {
                    self.gate.wait(header.key, header.slice).map_err(early)?;
                    let mut values = self.pool.take(header.floats as usize);
                    frames.read_body(&mut values).map_err(broken)?;
                    let count = values.len().div_ceil(BLOCK);
                    blocks::decode(&tail, count, false, &mut hashes, &mut squares)
                        .map_err(ConnectionLoss::Broken)?;
                    check_blocks(&values, &hashes).map_err(ConnectionLoss::Broken)?;
                    let (key, node, slice) = (header.key, node_of(&header), header.slice);
                    let frame = PartialFrame::Slice { key, node, slice, values };
                    self.tell(Input::Frame { member, frame })?;
                }
                Kind::Slice | Kind::ReducedSums => {
                    return Err(ConnectionLoss::Violation(
                        "it sent a frame that only reducers send".to_owned(),
                    ));
                }
            }
        }
    }

    fn tell(&self, input: Input) -> Result<(), ConnectionLoss> {
        self.inputs.send(input).map_err(|_| ConnectionLoss::Broken("the run is over".to_owned()))
    }
}

fn node_of(header: &Header) -> Node {
    Node { level: header.node_level, index: header.node_index }
}

fn check_blocks(values: &[f32], hashes: &[u64]) -> Result<(), String> {
    for (number, (block, expected)) in values.chunks(BLOCK).zip(hashes).enumerate() {
        if block_hash(block) != *expected {
            return Err(format!("block {number} of a frame was damaged on the way"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc::sync_channel;

    use wire::token::Token;

    use super::*;

    /// The limit of a process that may open 512 files.
    const OPEN_MAX: usize = 24;
    /// The part of them for unauthenticated connections.
    const GREETED: usize = OPEN_MAX / 4;

    /// Threads of this process that read data connections.
    #[cfg(target_os = "linux")]
    fn readers() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has it").flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks.filter_map(|task| name(task).ok()).filter(|name| name.trim() == "data-read").count()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_crowd_that_says_nothing_keeps_no_member_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let token = Token::random().expect("random");
        let (run, member) = (RunId([7; 16]), MemberId(9));
        let identities = Identities::default();
        let key = identities.issue(member, token.secret()).expect("random");
        let (inputs, inbox) = sync_channel(8);
        let connections = Connections {
            secret: token.secret(),
            tls: None,
            run,
            inputs,
            pool: Arc::default(),
            gate: Arc::default(),
            pending: Arc::new(PendingHandshakes::of(OPEN_MAX)),
            numbers: Arc::default(),
            identities,
            tail_bytes_max: Arc::default(),
            mailbox: Arc::default(),
            open: Arc::default(),
            open_max: OPEN_MAX,
        };
        spawn("data-accept", move || connections.accept(&listener)).expect("a thread");
        let connect = || TcpStream::connect(address).expect("connected");
        let mut crowd: Vec<TcpStream> = (0..4 * OPEN_MAX).map(|_| connect()).collect();
        let mut own = DataStream::plain(connect());
        handshake::connect(&mut own, &token, run, (member, &key)).expect("admitted at once");
        match inbox.recv_timeout(handshake::DEADLINE).expect("told") {
            Input::Connected { member: found, .. } => assert_eq!(found, member),
            _ => panic!("a connection is told first"),
        }
        // The first connection of the crowd was shut down: nothing follows the coordinator's own handshake.
        let first = &mut crowd[0];
        first.set_read_timeout(Some(handshake::DEADLINE / 2)).expect("set");
        first.read_to_end(&mut Vec::new()).expect("its end, before the deadline of its greeting");
        // Most of the others were, too; their threads take a moment to end.
        let began = Instant::now();
        while readers() > GREETED + 1 {
            assert!(began.elapsed() < handshake::DEADLINE / 2, "{} threads", readers());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
