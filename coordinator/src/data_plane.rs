//! The data plane: gradients come in as frames, the reducer's thread sums them, slices of the mean go out.
//!
//! A thread reads each connection and one writes it; one thread owns the reducer. Buffers go round in a pool. A reader
//! takes in only slices that the reducer admits (the [`WINDOW`] from the lowest one that isn't reduced) and waits at the
//! [`Gate`] else, so the coordinator holds a bounded part of the gradients, however large the model is, and the network's
//! own back-pressure does the rest. No deadlock comes of it: members send slice by slice in the same order, so what the
//! lowest open slice misses is the next frame of some connection.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use protocol::assignment::of_view;
use protocol::ids::{MemberId, Phase, RunId, StepKey};
use protocol::messages::{ReduceAt, View};
use protocol::plan::Geometry;
use protocol::reduce::{BLOCK, block_hash};
use protocol::reducer::{ReducedSlice, ReducedSums, Reducer, WINDOW};
use protocol::tree::Node;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use wire::frames::{FrameStream, Header, Kind, blocks, prepare_socket, sums};
use wire::handshake;
use wire::token::Token;

use crate::driver::Trigger;

/// Inputs that may wait for the reducer's thread; readers are bounded by the [`Gate`] before that.
const INPUTS_MAX: usize = 1_024;
/// Frames that may wait for one member's writer.
const OUTGOING_MAX: usize = 64;
/// How long a member may take no byte of a frame, or stop within one.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);

enum Input {
    Elements(usize),
    OpenView(View),
    Committed(StepKey),
    Connected { member: MemberId, number: u64, writer: SyncSender<Outgoing> },
    Gone { member: MemberId, number: u64, reason: String },
    Sums { member: MemberId, header: Header, sums: Vec<f64>, presence: Vec<u8> },
    Partial { member: MemberId, header: Header, values: Vec<f32> },
}

#[derive(Clone)]
enum Outgoing {
    Sums(Arc<ReducedSums>),
    Slice(Arc<ReducedSlice>),
}

/// The driver's end.
pub(crate) struct Reduction {
    inputs: SyncSender<Input>,
    port: u16,
}

impl Reduction {
    /// Starts the threads over a bound listener.
    pub(crate) fn start(
        listener: TcpListener,
        token: Token,
        run: RunId,
        geometry: Geometry,
        triggers: &mpsc::Sender<Trigger>,
    ) -> std::io::Result<Self> {
        let port = listener.local_addr()?.port();
        let (inputs, inbox) = sync_channel(INPUTS_MAX);
        let pool = Arc::new(Pool::default());
        let gate = Arc::new(Gate::default());
        let summing = Summing::new(geometry, pool.clone(), gate.clone(), triggers.clone());
        spawn("reducer", move || summing.run(&inbox))?;
        let connections =
            Connections { token, run, inputs: inputs.clone(), pool, gate, numbers: Arc::default() };
        spawn("data-accept", move || connections.accept(&listener))?;
        Ok(Self { inputs, port })
    }

    /// The data plane's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The length of the flat gradient, once a member has said it.
    pub(crate) fn elements(&self, elements: u64) {
        self.tell(Input::Elements(usize::try_from(elements).unwrap_or(usize::MAX)));
    }

    /// From now on frames of this view count.
    pub(crate) fn open_view(&self, view: View) {
        self.tell(Input::OpenView(view));
    }

    /// This step and all before it are done.
    pub(crate) fn committed(&self, key: StepKey) {
        self.tell(Input::Committed(key));
    }

    fn tell(&self, input: Input) {
        // The reducer's thread lives as long as this end does.
        let _ = self.inputs.send(input);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// What the readers may take in.
#[derive(Default)]
struct Gate {
    open: Mutex<Option<(StepKey, u32)>>,
    moved: Condvar,
}

impl Gate {
    /// Slices of this step below `lowest_open` are reduced.
    fn set(&self, key: StepKey, lowest_open: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open != Some((key, lowest_open)) {
            *open = Some((key, lowest_open));
            self.moved.notify_all();
        }
    }

    /// Waits until a slice is admitted. What belongs to the past is, to be dropped; so are the first of a step that the
    /// reducer hasn't begun. The wait ends with the step at the latest, whose deadline the machine keeps.
    fn wait(&self, key: StepKey, slice: u32) {
        let admits = |open: &Option<(StepKey, u32)>| {
            let lowest_open = match open {
                Some((now, _)) if key < *now => return true,
                Some((now, lowest_open)) if key == *now => *lowest_open,
                _ => 0,
            };
            slice < lowest_open.saturating_add(WINDOW)
        };
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.moved.wait_while(open, |open| !admits(open)));
    }
}

/// Buffers of slices at rest.
#[derive(Default)]
struct Pool {
    buffers: Mutex<Vec<Vec<f32>>>,
}

impl Pool {
    fn take(&self, length: usize) -> Vec<f32> {
        let mut buffer =
            self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(length, 0.0);
        buffer
    }

    fn give(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).extend(buffers);
    }
}

/// The thread that owns the reducer.
struct Summing {
    geometry: Geometry,
    elements: usize,
    view: Option<View>,
    committed: Option<StepKey>,
    step: Option<Reducer>,
    /// Each member's newest connection, by its number.
    writers: BTreeMap<MemberId, (u64, SyncSender<Outgoing>)>,
    /// Of the step in flight, for members that aren't connected yet.
    unsent: BTreeMap<MemberId, Vec<Outgoing>>,
    /// Slices that writers may still hold; their buffers are taken back when they don't.
    sent: Vec<Arc<ReducedSlice>>,
    pool: Arc<Pool>,
    gate: Arc<Gate>,
    spent: Vec<Vec<f32>>,
    triggers: mpsc::Sender<Trigger>,
}

impl Summing {
    fn new(geometry: Geometry, pool: Arc<Pool>, gate: Arc<Gate>, triggers: mpsc::Sender<Trigger>) -> Self {
        Self {
            geometry,
            elements: 0,
            view: None,
            committed: None,
            step: None,
            writers: BTreeMap::new(),
            unsent: BTreeMap::new(),
            sent: Vec::new(),
            pool,
            gate,
            spent: Vec::new(),
            triggers,
        }
    }

    fn run(mut self, inbox: &Receiver<Input>) {
        while let Ok(input) = inbox.recv() {
            match input {
                Input::Elements(elements) => self.elements = elements,
                Input::OpenView(view) => {
                    // What readers hold back of an older view is the past now.
                    self.end_step(StepKey { view: view.id, step: 0, phase: Phase::Train });
                    let is_in = |member: &MemberId| view.members.iter().any(|info| info.member == *member);
                    self.writers.retain(|member, _| is_in(member));
                    self.unsent.clear();
                    self.view = Some(view);
                }
                Input::Committed(key) => {
                    self.committed = self.committed.max(Some(key));
                    self.end_step(key);
                }
                Input::Gone { member, number, reason } => self.gone(member, number, &reason),
                Input::Connected { member, number, writer } => {
                    // What was reduced before this member was connected: it may have had no part in it.
                    for outgoing in self.unsent.remove(&member).unwrap_or_default() {
                        let _ = writer.send(outgoing);
                    }
                    self.writers.insert(member, (number, writer));
                }
                Input::Sums { member, header, sums, presence } => self.sums(member, &header, sums, presence),
                Input::Partial { member, header, values } => self.partial(member, &header, values),
            }
        }
    }

    /// Nothing up to `key` is summed any more.
    fn end_step(&mut self, key: StepKey) {
        if let Some(reducer) = self.step.take() {
            self.pool.give(reducer.into_buffers());
        }
        self.gate.set(key, u32::MAX);
    }

    fn sums(&mut self, member: MemberId, header: &Header, sums: Vec<f64>, presence: Vec<u8>) {
        let Some(reducer) = self.reducer(member, header.key) else { return };
        match reducer.insert_sums(member, node_of(header), sums, presence) {
            Ok(whole) => {
                let key = header.key;
                let _ = self.triggers.blocking_send(Trigger::Computed { member, key });
                if let Some(whole) = whole {
                    self.broadcast(&Outgoing::Sums(Arc::new(whole)));
                }
            }
            Err(problem) => self.lost(member, &problem.to_string()),
        }
    }

    /// A connection ended: a loss, unless the member has another one or the view has no use for it.
    fn gone(&mut self, member: MemberId, number: u64, reason: &str) {
        if self.writers.get(&member).is_none_or(|(newest, _)| *newest != number) {
            return;
        }
        self.writers.remove(&member);
        if self.view.as_ref().is_some_and(|view| view.reduce == ReduceAt::Coordinator) {
            self.lost(member, reason);
        }
    }

    fn partial(&mut self, member: MemberId, header: &Header, values: Vec<f32>) {
        let mut spent = std::mem::take(&mut self.spent);
        let inserted = match self.reducer(member, header.key) {
            Some(reducer) => reducer.insert(member, node_of(header), header.slice, values, &mut spent),
            None => Ok(None),
        };
        self.pool.give(spent.drain(..));
        self.spent = spent;
        if let Some(reducer) = &self.step {
            self.gate.set(reducer.key(), reducer.lowest_open());
        }
        match inserted {
            Ok(None) => {}
            Ok(Some(slice)) => {
                let slice = Arc::new(slice);
                self.broadcast(&Outgoing::Slice(slice.clone()));
                self.take_back();
                self.sent.push(slice);
            }
            Err(problem) => self.lost(member, &problem.to_string()),
        }
    }

    /// The reducer of this step: opened with its first frame; `None` for what is older than the last commit or of
    /// another view.
    fn reducer(&mut self, member: MemberId, key: StepKey) -> Option<&mut Reducer> {
        let view = self.view.as_ref()?;
        if key.view != view.id || self.committed >= Some(key) {
            debug!(?member, ?key, "dropped a frame of the past");
            return None;
        }
        if view.reduce != ReduceAt::Coordinator {
            return None;
        }
        if self.step.as_ref().is_none_or(|reducer| reducer.key() != key) {
            let count = match key.phase {
                Phase::Train if key.step > 0 => self.geometry.step(key.step).microbatches,
                Phase::Train => return None,
                Phase::Evaluate => self.geometry.evaluation().microbatches,
            };
            self.step = Some(Reducer::new(key, count, &of_view(view, key, count), self.elements));
        }
        self.step.as_mut()
    }

    fn broadcast(&mut self, outgoing: &Outgoing) {
        let Some(view) = &self.view else { return };
        for member in &view.members {
            match self.writers.get(&member.member).map(|(_, writer)| writer.send(outgoing.clone())) {
                Some(Ok(())) => {}
                // The reader of the same connection reports the loss.
                Some(Err(_)) => debug!(name = member.name, "has no data connection any more"),
                None => self.unsent.entry(member.member).or_default().push(outgoing.clone()),
            }
        }
    }

    fn take_back(&mut self) {
        let (free, held): (Vec<_>, Vec<_>) =
            self.sent.drain(..).partition(|slice| Arc::strong_count(slice) == 1);
        self.sent = held;
        self.pool.give(free.into_iter().filter_map(Arc::into_inner).map(|slice| slice.values));
    }

    fn lost(&self, member: MemberId, reason: &str) {
        let _ = self.triggers.blocking_send(Trigger::DataPlaneLost { member, reason: reason.to_owned() });
    }
}

fn node_of(header: &Header) -> Node {
    Node { level: header.node_level, index: header.node_index }
}

/// What every connection needs.
#[derive(Clone)]
struct Connections {
    token: Token,
    run: RunId,
    inputs: SyncSender<Input>,
    pool: Arc<Pool>,
    gate: Arc<Gate>,
    /// Of connections so far.
    numbers: Arc<AtomicU64>,
}

impl Connections {
    fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let own = self.clone();
                    if let Err(why) = spawn("data-read", move || own.serve(stream)) {
                        warn!(%why, "no thread for a data connection");
                    }
                }
                Err(why) => {
                    warn!(%why, "a data connection can't be accepted");
                    // Out of file descriptors, most likely: others may be closed soon.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let member = match handshake::accept(&mut stream, &self.token, self.run) {
            Ok(member) => member,
            Err(why) => {
                warn!(%why, "a data connection was refused");
                return;
            }
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let reason = match self.serve_member(member, number, stream) {
            Ok(never) => match never {},
            Err(reason) => reason,
        };
        let _ = self.inputs.send(Input::Gone { member, number, reason });
    }

    /// Reads until the connection ends, and says how.
    fn serve_member(
        &self,
        member: MemberId,
        number: u64,
        stream: TcpStream,
    ) -> Result<std::convert::Infallible, String> {
        let error = |why: std::io::Error| format!("its data connection can't be used: {why}");
        prepare_socket(&stream, SOCKET_TIMEOUT).map_err(error)?;
        let peer = "its worker".to_owned();
        let writing = FrameStream::new(stream.try_clone().map_err(error)?, peer.clone(), SOCKET_TIMEOUT);
        let (writer, outbox) = sync_channel(OUTGOING_MAX);
        spawn("data-write", move || write(writing, &outbox)).map_err(error)?;
        self.tell(Input::Connected { member, number, writer })?;
        let mut frames = FrameStream::new(stream, peer, SOCKET_TIMEOUT);
        let (mut tail, mut hashes, mut squares) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let header = frames.read_header(&mut tail).map_err(|why| why.to_string())?;
            match header.kind {
                Kind::PartialSums => {
                    let (sums, presence) = sums::decode(&tail)?;
                    self.tell(Input::Sums { member, header, sums, presence: presence.to_vec() })?;
                }
                Kind::Partial => {
                    self.gate.wait(header.key, header.slice);
                    let mut values = self.pool.take(header.floats as usize);
                    frames.read_body(&mut values).map_err(|why| why.to_string())?;
                    let count = values.len().div_ceil(BLOCK);
                    blocks::decode(&tail, count, false, &mut hashes, &mut squares)?;
                    check_blocks(&values, &hashes)?;
                    self.tell(Input::Partial { member, header, values })?;
                }
                Kind::Slice | Kind::ReducedSums => {
                    return Err("it sent a frame that only reducers send".to_owned());
                }
            }
        }
    }

    fn tell(&self, input: Input) -> Result<(), String> {
        self.inputs.send(input).map_err(|_| "the run is over".to_owned())
    }
}

fn check_blocks(values: &[f32], hashes: &[u64]) -> Result<(), String> {
    for (number, (block, expected)) in values.chunks(BLOCK).zip(hashes).enumerate() {
        if block_hash(block) != *expected {
            return Err(format!("block {number} of a frame was damaged on the way"));
        }
    }
    Ok(())
}

fn write(mut frames: FrameStream<TcpStream>, outbox: &Receiver<Outgoing>) {
    let mut tail = Vec::new();
    while let Ok(outgoing) = outbox.recv() {
        let written = match &outgoing {
            Outgoing::Sums(whole) => {
                sums::encode(&whole.sums, &whole.presence, &mut tail);
                frames.write(&header(Kind::ReducedSums, whole.key, 0, &tail, &[]), &tail, &[])
            }
            Outgoing::Slice(slice) => {
                blocks::encode(&slice.facts.hashes, &slice.facts.squares, &mut tail);
                let head = header(Kind::Slice, slice.key, slice.slice, &tail, &slice.values);
                frames.write(&head, &tail, &slice.values)
            }
        };
        if let Err(why) = written {
            // The reader of the same connection reports the loss; closing the socket makes sure that it notices.
            debug!(%why, "a slice can't be sent");
            let _ = frames.get_ref().shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn header(kind: Kind, key: StepKey, slice: u32, tail: &[u8], body: &[f32]) -> Header {
    Header {
        kind,
        key,
        node_level: 0,
        node_index: 0,
        slice,
        tail_bytes: tail.len() as u32,
        floats: body.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::ViewId;

    use super::*;

    fn key(view: u64, step: u64) -> StepKey {
        StepKey { view: ViewId(view), step, phase: Phase::Train }
    }

    /// Whether a slice passes the gate at once, or only after `change`.
    fn passes(gate: &Arc<Gate>, key: StepKey, slice: u32, change: impl FnOnce(&Gate)) -> bool {
        let (own, (passed, is_through)) = (gate.clone(), std::sync::mpsc::channel());
        let waiter = std::thread::spawn(move || {
            own.wait(key, slice);
            let _ = passed.send(());
        });
        let at_once = is_through.recv_timeout(Duration::from_millis(50)).is_ok();
        change(gate);
        waiter.join().expect("the waiter ends");
        at_once
    }

    #[test]
    fn readers_wait_for_the_window() {
        let gate = Arc::new(Gate::default());
        assert!(passes(&gate, key(1, 1), WINDOW - 1, |_| {}), "a step that isn't begun");
        assert!(!passes(&gate, key(1, 1), WINDOW, |gate| gate.set(key(1, 1), 1)), "beyond its window");
        assert!(!passes(&gate, key(1, 1), WINDOW + 1, |gate| gate.set(key(1, 1), 2)));
        assert!(!passes(&gate, key(1, 1), 99, |gate| gate.set(key(1, 2), 0)), "the next step frees it");
        assert!(!passes(&gate, key(1, 2), 99, |gate| gate.set(key(2, 0), u32::MAX)), "and so does a view");
        assert!(passes(&gate, key(1, 2), 99, |_| {}), "what is older is dropped by the reducer");
    }
}
