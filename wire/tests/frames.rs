//! Frames arrive bit for bit, and no truncation, flipped bit or false length goes undetected.

use std::io::{Cursor, ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::ids::{Phase, StepKey, ViewId};
use wire::frames::{
    BODY_FLOATS_MAX, FrameError, FrameStream, HEADER_BYTES, Header, Kind, TAIL_BYTES_MAX, blocks, checksum,
    prepare_socket, sums,
};
use wire::stream::DataStream;

const WAIT: Duration = Duration::from_secs(20);

fn over<S>(stream: S) -> FrameStream<S> {
    FrameStream::new(stream, "worker-3".to_owned(), WAIT)
}

fn is_sums(kind: Kind) -> bool {
    matches!(kind, Kind::PartialSums | Kind::ReducedSums)
}

#[derive(Clone, Debug)]
struct Frame {
    header: Header,
    tail: Vec<u8>,
    body: Vec<f32>,
}

fn frame() -> impl Strategy<Value = Frame> {
    let kind =
        prop_oneof![Just(Kind::Partial), Just(Kind::PartialSums), Just(Kind::Slice), Just(Kind::ReducedSums)];
    let phase = prop_oneof![Just(Phase::Train), Just(Phase::Evaluate)];
    let body = vec(any::<u32>().prop_map(f32::from_bits), 0..20);
    let numbers = (any::<u64>(), 1..=u64::MAX, any::<(u8, u32, u32)>());
    (kind, phase, numbers, vec(any::<u8>(), 0..40), body).prop_map(
        |(kind, phase, (view, step, (node_level, node_index, slice)), mut tail, body)| {
            // Below one block.
            match kind {
                Kind::Partial => tail.resize(8 * usize::from(!body.is_empty()), 0xa5),
                Kind::Slice => tail.resize(16 * usize::from(!body.is_empty()), 0x5a),
                Kind::PartialSums | Kind::ReducedSums => {}
            }
            let body = if is_sums(kind) { Vec::new() } else { body };
            let key = StepKey { view: ViewId(view), step, phase };
            let (tail_bytes, floats) = (tail.len() as u32, body.len() as u32);
            let header = Header { kind, key, node_level, node_index, slice, tail_bytes, floats };
            Frame { header, tail, body }
        },
    )
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let mut stream = over(Vec::new());
    for frame in frames {
        stream.write(&frame.header, &frame.tail, &frame.body).expect("a vector takes all");
    }
    stream.get_ref().clone()
}

/// Reads a frame as the drivers do.
fn read<S: Read>(stream: &mut FrameStream<S>) -> Result<Frame, FrameError> {
    let mut tail = vec![0xaa; 3];
    let header = stream.read_header(&mut tail)?;
    let mut body = vec![7.0; header.floats as usize];
    stream.read_body(&mut body)?;
    Ok(Frame { header, tail, body })
}

fn same(one: &Frame, other: &Frame) -> bool {
    let bits = |frame: &Frame| frame.body.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    (one.header, &one.tail, bits(one)) == (other.header, &other.tail, bits(other))
}

/// Transfers a few bytes at a time, with interruptions.
struct Dribble<S> {
    inner: S,
    turn: usize,
}

impl<S> Dribble<S> {
    fn new(inner: S) -> Self {
        Self { inner, turn: 0 }
    }

    fn next(&mut self) -> std::io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(3) { Err(ErrorKind::Interrupted.into()) } else { Ok(self.turn % 5 + 1) }
    }
}

impl<S: Read> Read for Dribble<S> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let most = self.next()?.min(bytes.len());
        self.inner.read(&mut bytes[..most])
    }
}

impl Write for Dribble<Vec<u8>> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        let most = self.next()?;
        let taken: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(most).collect();
        self.inner.extend_from_slice(&taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn headers_round_trip(frame in frame()) {
        let bytes = frame.header.encode(&frame.tail);
        let (header, check) = Header::decode(&bytes).expect("our own");
        prop_assert_eq!(header, frame.header);
        prop_assert_eq!(check, checksum(&bytes[..40], &frame.tail));
    }

    #[test]
    fn frames_arrive_in_order_through_any_chunking(frames in vec(frame(), 1..5)) {
        let mut writer = over(Dribble::new(Vec::new()));
        for frame in &frames {
            writer.write(&frame.header, &frame.tail, &frame.body).expect("taken in the end");
        }
        let bytes = writer.get_ref().inner.clone();
        prop_assert_eq!(&bytes, &bytes_of(&frames));
        let mut reader = over(Dribble::new(Cursor::new(bytes)));
        for frame in &frames {
            prop_assert!(same(&read(&mut reader).expect("good"), frame));
        }
        let ended = matches!(read(&mut reader), Err(FrameError::Closed { .. }));
        prop_assert!(ended, "an end between frames is no damage");
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_an_error(frame in frame()) {
        let bytes = bytes_of(std::slice::from_ref(&frame));
        for length in 1..bytes.len() {
            let error = read(&mut over(Cursor::new(&bytes[..length]))).expect_err("cut");
            let text = error.to_string();
            prop_assert!(matches!(error, FrameError::Broken { .. }), "{length}: {text}");
            prop_assert!(text.contains("worker-3") && text.contains("within a frame"), "{}", text);
        }
    }

    /// A flipped bit of header or tail is detected here; one of the body by its blocks' hashes, which the tail carries.
    #[test]
    fn every_flipped_bit_of_header_and_tail_is_found(frame in frame()) {
        let bytes = bytes_of(std::slice::from_ref(&frame));
        for bit in 0..(HEADER_BYTES + frame.tail.len()) * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The rest of a longer frame never arrives; nothing else may be read as a frame.
            let error = read(&mut over(Cursor::new(bytes))).expect_err("flipped");
            let found = matches!(error, FrameError::Bad { .. } | FrameError::Broken { .. });
            prop_assert!(found, "bit {bit}: {error}");
        }
    }

    #[test]
    fn noise_never_panics(bytes in vec(any::<u8>(), 0..120), with_magic: bool) {
        let mut bytes = bytes;
        if with_magic && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(b"BNF1\x01\x01\0\0");
        }
        let _ = read(&mut over(Cursor::new(&bytes)));
        let _ = sums::decode(&bytes);
        let (mut hashes, mut squares) = (Vec::new(), Vec::new());
        let _ = blocks::decode(&bytes, bytes.len() / 8, false, &mut hashes, &mut squares);
    }

    #[test]
    fn sums_round_trip(numbers in vec(any::<u64>(), 0..9), presence in vec(any::<u8>(), 0..9)) {
        let numbers: Vec<f64> = numbers.into_iter().map(f64::from_bits).collect();
        let bits = |numbers: &[f64]| numbers.iter().map(|n| n.to_bits()).collect::<Vec<_>>();
        let mut tail = vec![1; 5];
        sums::encode(&numbers, &presence, &mut tail);
        let (found, rest) = sums::decode(&tail).expect("our own");
        prop_assert_eq!((bits(&found), rest), (bits(&numbers), &presence[..]));
        // Presence may have any length: only truncation within the numbers is detectable here.
        for length in 0..4 + numbers.len() * 8 {
            prop_assert!(sums::decode(&tail[..length]).is_err());
        }
    }

    #[test]
    fn blocks_round_trip(pairs in vec(any::<(u64, u64)>(), 0..17), with_squares: bool) {
        let (hashes, bits): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
        let numbers: Vec<f64> = if with_squares { bits.iter().copied().map(f64::from_bits).collect() } else { Vec::new() };
        let mut tail = Vec::new();
        blocks::encode(&hashes, &numbers, &mut tail);
        let (mut found, mut squares) = (vec![1], vec![1.0]);
        blocks::decode(&tail, hashes.len(), with_squares, &mut found, &mut squares).expect("our own");
        prop_assert_eq!(&found, &hashes);
        let found: Vec<u64> = squares.iter().map(|n| n.to_bits()).collect();
        prop_assert_eq!(found, if with_squares { bits } else { Vec::new() });
        for other in [hashes.len() + 1, hashes.len().wrapping_sub(1)] {
            let outcome = blocks::decode(&tail, other.min(99), with_squares, &mut Vec::new(), &mut Vec::new());
            prop_assert!(outcome.is_err());
        }
    }
}

fn good(kind: Kind) -> Header {
    let key = StepKey { view: ViewId(1), step: 1, phase: Phase::Train };
    Header { kind, key, node_level: 0, node_index: 0, slice: 0, tail_bytes: 0, floats: 0 }
}

/// The header's bytes after a change, with a valid checksum: a malicious peer, not a damaged line.
fn signed(header: &Header, change: impl Fn(&mut [u8; HEADER_BYTES])) -> Vec<u8> {
    let mut bytes = header.encode(&[]);
    change(&mut bytes);
    let check = checksum(&bytes[..40], &[]);
    bytes[40..].copy_from_slice(&check.to_le_bytes());
    bytes.to_vec()
}

#[test]
fn lies_are_refused_before_anything_is_allocated_for_them() {
    let check = |kind, change: &dyn Fn(&mut [u8; HEADER_BYTES]), expected: &str| {
        let mut tail = Vec::new();
        let error =
            over(Cursor::new(signed(&good(kind), change))).read_header(&mut tail).expect_err(expected);
        let text = error.to_string();
        assert!(matches!(error, FrameError::Bad { .. }) && text.contains(expected), "{text}");
        assert!(text.contains("worker-3"), "{text}");
        assert_eq!(tail.capacity(), 0, "{expected}");
    };
    let put = |at: usize, value: u32| {
        move |bytes: &mut [u8; HEADER_BYTES]| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes())
    };
    check(Kind::Partial, &put(0, 1), "not a Bonfire data connection");
    check(Kind::Partial, &|bytes| bytes[4] = 0, "kind 0");
    check(Kind::Partial, &|bytes| bytes[4] = 5, "kind 5");
    check(Kind::Partial, &|bytes| bytes[5] = 3, "phase 3");
    check(Kind::Partial, &|bytes| bytes[7] = 1, "where nothing is said");
    check(Kind::Partial, &put(16, 0), "training step 0");
    check(Kind::Partial, &put(32, u32::MAX), "tail of 4294967295 bytes");
    check(Kind::Partial, &put(32, TAIL_BYTES_MAX as u32 + 1), "tail of 9437185 bytes");
    check(Kind::Slice, &put(36, u32::MAX), "has 4294967295 f32");
    check(Kind::Slice, &put(36, BODY_FLOATS_MAX as u32 + 1), "has 1048577 f32");
    check(Kind::Partial, &put(32, 8), "doesn't fit");
    check(Kind::Partial, &put(36, 1), "doesn't fit");
    check(Kind::Slice, &put(36, 1), "doesn't fit");
    check(Kind::PartialSums, &put(36, 1), "which has none");
    check(Kind::ReducedSums, &put(36, 1), "which has none");
    let evaluation = Header {
        key: StepKey { step: 0, phase: Phase::Evaluate, ..good(Kind::ReducedSums).key },
        ..good(Kind::ReducedSums)
    };
    over(Cursor::new(signed(&evaluation, |_| {})))
        .read_header(&mut Vec::new())
        .expect("version 0 is evaluated");
}

/// A hundred connections that each announced nine megabytes used to hold a gigabyte.
#[test]
fn a_promise_of_a_tail_takes_no_memory() {
    let promise = Header { tail_bytes: TAIL_BYTES_MAX as u32, ..good(Kind::PartialSums) };
    let sent = [&promise.encode(&[0; TAIL_BYTES_MAX])[..], &[0; 100]].concat();
    let mut tail = Vec::new();
    let error = over(Cursor::new(sent.clone())).read_header(&mut tail).expect_err("cut");
    assert!(matches!(error, FrameError::Broken { .. }), "{error}");
    assert!(tail.capacity() <= 128 << 10, "{} bytes for a promise", tail.capacity());
    let error = over(Cursor::new(sent)).read_header_within(&mut tail, || 1_000).expect_err("too long");
    assert!(error.to_string().contains("at most 1000 in this run"), "{error}");
}

#[test]
fn the_largest_sums_fit_a_tail() {
    let mut tail = Vec::new();
    // As many as the control plane allows, and a bit for each of eight million parameters.
    sums::encode(&vec![1.0; wire::convert::SUMS_MAX], &vec![0; 1_000_000], &mut tail);
    assert!(tail.len() <= TAIL_BYTES_MAX, "{}", tail.len());
}

fn pair(timeout: Duration) -> (FrameStream<DataStream>, FrameStream<DataStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let far = listener.accept().expect("accepted").0;
    let prepared = |stream: TcpStream| {
        let stream = DataStream::plain(stream);
        prepare_socket(&stream, timeout).expect("prepared");
        assert!(stream.socket().nodelay().expect("asked"));
        FrameStream::new(stream, "worker-3".to_owned(), timeout)
    };
    (prepared(near), prepared(far))
}

#[test]
fn whole_slices_cross_a_socket_into_a_buffer_that_is_used_again() {
    let (mut near, mut far) = pair(WAIT);
    let sender = thread::spawn(move || {
        for slice in 0..4 {
            let body = vec![slice as f32; BODY_FLOATS_MAX];
            let tail = vec![slice as u8; 256];
            let (tail_bytes, floats) = (256, BODY_FLOATS_MAX as u32);
            near.write(&Header { slice, tail_bytes, floats, ..good(Kind::Slice) }, &tail, &body)
                .expect("sent");
        }
        near
    });
    let (mut tail, mut body) = (Vec::new(), vec![0.0; BODY_FLOATS_MAX]);
    let place = body.as_ptr();
    for slice in 0..4 {
        let header = far.read_header(&mut tail).expect("a header");
        assert_eq!((header.slice, header.floats as usize), (slice, body.len()));
        far.read_body(&mut body).expect("a body");
        assert!(body.iter().all(|value| *value == slice as f32) && tail == [slice as u8; 256]);
    }
    assert_eq!(body.as_ptr(), place);
    drop(sender.join().expect("no panic"));
    assert!(matches!(far.read_header(&mut tail), Err(FrameError::Closed { peer }) if peer == "worker-3"));
}

#[test]
fn a_peer_that_stops_is_named_after_the_wait() {
    let wait = Duration::from_millis(200);
    let timed_out = |outcome: Result<(), FrameError>| {
        let error = outcome.expect_err("nothing came");
        assert!(matches!(&error, FrameError::TimedOut { peer, .. } if peer == "worker-3"), "{error}");
    };

    // Within a header, within a body: not between frames, where silence is fine.
    let (near, mut far) = pair(wait);
    let mut near = near.get_ref().clone();
    near.write_all(&good(Kind::Slice).encode(&[])[..20]).expect("sent");
    let begun = Instant::now();
    timed_out(far.read_header(&mut Vec::new()).map(drop));
    assert!(begun.elapsed() >= wait && begun.elapsed() < WAIT);

    let (near, mut far) = pair(wait);
    let mut near = near.get_ref().clone();
    near.write_all(&Header { floats: 8, tail_bytes: 16, ..good(Kind::Slice) }.encode(&[0; 16]))
        .expect("sent");
    near.write_all(&[0; 16]).expect("sent");
    far.read_header(&mut Vec::new()).expect("whole");
    timed_out(far.read_body(&mut [0.0; 8]));

    // A peer that reads nothing: the sockets' buffers fill up.
    let (mut near, _far) = pair(wait);
    let body = vec![0.0; BODY_FLOATS_MAX];
    let header = Header { floats: BODY_FLOATS_MAX as u32, ..good(Kind::Slice) };
    timed_out((0..64).try_for_each(|_| near.write(&header, &[], &body)));
}

#[test]
fn silence_between_frames_is_no_fault() {
    let wait = Duration::from_millis(50);
    let (mut near, mut far) = pair(wait);
    let sender = thread::spawn(move || {
        thread::sleep(6 * wait);
        near.write(&good(Kind::ReducedSums), &[], &[]).expect("sent");
    });
    assert_eq!(far.read_header(&mut Vec::new()).expect("late, but whole"), good(Kind::ReducedSums));
    sender.join().expect("no panic");
}

#[test]
#[should_panic(expected = "assertion")]
fn a_header_that_contradicts_its_frame_is_an_error_of_the_program() {
    let _ = over(Vec::new()).write(&Header { floats: 2, ..good(Kind::Slice) }, &[], &[1.0]);
}
