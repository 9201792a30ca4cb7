use std::sync::mpsc::channel;
use std::thread;

use super::*;
use crate::tls::ServerTls;
use crate::tls::tests::{Authority, sockets};

const DEADLINE: Duration = Duration::from_secs(30);
/// Timeout for things that must not happen.
const SHORT: Duration = Duration::from_millis(200);

fn pair() -> (DataStream, DataStream) {
    let authority = Authority::new();
    let server = ServerTls::new(&authority.server(), &authority.certificate, None).expect("a server");
    let client = authority.pinned();
    let (near, far) = sockets();
    let side = thread::spawn(move || DataStream::accept(far, server.data().clone(), DEADLINE));
    let near = DataStream::connect(near, client.data().clone(), client.name().clone(), DEADLINE);
    (near.expect("agreed"), side.join().expect("no panic").expect("agreed"))
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

#[test]
fn bytes_cross_in_both_directions_at_once_whole_and_in_order() {
    let (near, far) = pair();
    let length = 20 << 20;
    let both: Vec<_> = [(near, 1, 2), (far, 2, 1)]
        .into_iter()
        .flat_map(|(stream, own, other)| {
            let (mut writer, mut reader) = (stream.clone(), stream);
            let writing = thread::spawn(move || {
                let bytes = noise(length, own);
                let mut rest = &bytes[..];
                let mut size = 1;
                while !rest.is_empty() {
                    // Writes of all sizes, in parts some of which are empty.
                    let (now, later) = rest.split_at(size.min(rest.len()));
                    let (first, second) = now.split_at(now.len() / 3);
                    let mut parts = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
                    let mut parts = &mut parts[..];
                    IoSlice::advance_slices(&mut parts, 0);
                    while !parts.is_empty() {
                        let taken = writer.write_vectored(parts).expect("sent");
                        IoSlice::advance_slices(&mut parts, taken);
                    }
                    rest = later;
                    size = (size * 3) % 1_000_003 + 1;
                }
            });
            let reading = thread::spawn(move || {
                let (mut found, mut at, mut size) = (vec![0; length], 0, 1);
                while at < length {
                    let end = (at + size).min(length);
                    reader.read_exact(&mut found[at..end]).expect("read");
                    (at, size) = (end, (size * 5) % 700_001 + 1);
                }
                assert!(found == noise(length, other));
            });
            [writing, reading]
        })
        .collect();
    both.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// The main invariant: a reader waiting for the socket holds nothing that a writer needs, and vice versa.
#[test]
fn a_reader_that_waits_stops_no_writer_and_a_writer_that_is_stuck_no_reader() {
    let (near, far) = pair();
    let (told, heard) = channel();
    let mut reader = near.clone();
    let reading = thread::spawn(move || {
        let mut found = [0; 5];
        reader.read_exact(&mut found).expect("read");
        told.send(found).expect("a test");
    });
    // The writer continues until the other side's socket is full: it blocks in the middle of a write.
    let mut writer = near.clone();
    let (written, stuck) = channel();
    thread::spawn(move || {
        let bytes = noise(1 << 20, 3);
        while writer.write_all(&bytes).is_ok() && written.send(()).is_ok() {}
    });
    let mut count = 0;
    while stuck.recv_timeout(SHORT).is_ok() {
        count += 1;
    }
    assert!(count > 0, "nothing was written while the reader waited");
    assert!(heard.try_recv().is_err());
    far.clone().write_all(b"hello").expect("sent");
    assert_eq!(&heard.recv_timeout(DEADLINE).expect("read beside the stuck writer"), b"hello");
    reading.join().expect("no panic");
    near.shutdown().expect("open");
}

#[test]
fn a_wait_that_ends_loses_nothing() {
    let (mut near, far) = pair();
    near.set_read_timeout(Some(SHORT)).expect("set");
    let why = near.read(&mut [0; 8]).expect_err("nothing comes");
    assert!(matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{why}");
    far.clone().write_all(b"after all").expect("sent");
    near.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut found = [0; 9];
    near.read_exact(&mut found).expect("read");
    assert_eq!(&found, b"after all");
    far.shutdown().expect("open");
    assert_eq!(near.read(&mut found).expect("an end"), 0);
}

#[test]
fn a_writer_that_was_cut_off_within_a_record_writes_no_more() {
    let (mut near, far) = pair();
    near.set_write_timeout(Some(SHORT)).expect("set");
    let bytes = noise(1 << 20, 4);
    let why = loop {
        if let Err(why) = near.write_all(&bytes) {
            break why;
        }
    };
    assert!(matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{why}");
    assert_eq!(near.write(b"more").expect_err("cut").kind(), ErrorKind::BrokenPipe);
    drop(far);
}

#[test]
fn both_ends_of_a_session_have_a_binding_that_no_other_session_has() {
    let ((near, far), (other, _far)) = (pair(), pair());
    let binding = |stream: &DataStream| stream.binding().expect("agreed");
    assert_eq!(binding(&near), binding(&far));
    assert_ne!(binding(&near), binding(&other));
    assert_eq!(binding(&DataStream::plain(sockets().0)), [0; 32]);
}

#[test]
fn what_speaks_no_tls_and_what_says_nothing_is_told_apart() {
    let authority = Authority::new();
    let client = authority.pinned();
    let meets = |bytes: &[u8], deadline| {
        let (near, mut far) = sockets();
        far.write_all(bytes).expect("sent");
        DataStream::connect(near, client.data().clone(), client.name().clone(), deadline).map(drop)
    };
    let why = meets(b"BNFH\x03\0\0\0", DEADLINE).expect_err("no TLS");
    assert!(matches!(why, TlsError::NoTls(_)), "{why:?}");
    let why = meets(b"", SHORT).expect_err("silence");
    assert!(matches!(&why, TlsError::Io(io) if io.kind() == ErrorKind::TimedOut), "{why:?}");
    let server = ServerTls::new(&authority.server(), &authority.certificate, None).expect("a server");
    let (mut near, far) = sockets();
    near.write_all(b"BNFH\x03\0\0\0").expect("sent");
    let why = DataStream::accept(far, server.data().clone(), DEADLINE).expect_err("no TLS");
    assert!(matches!(why, TlsError::NoTls(_)), "{why:?}");
    let (near, far) = sockets();
    drop(near);
    let why = DataStream::accept(far, server.data().clone(), DEADLINE).expect_err("gone");
    assert!(why.is_passing(), "{why:?}");
}

/// A control plane client on the data plane's port: ALPN refuses it before anything else is sent.
#[test]
fn another_planes_port_is_refused() {
    let authority = Authority::new();
    let server = ServerTls::new(&authority.server(), &authority.certificate, None).expect("a server");
    let client = authority.pinned();
    let (near, far) = sockets();
    let side = thread::spawn(move || DataStream::accept(far, server.control().clone(), DEADLINE).map(drop));
    let why = DataStream::connect(near, client.data().clone(), client.name().clone(), DEADLINE).map(drop);
    assert!(why.as_ref().is_err_and(|why| why.to_string().contains("another port")), "{why:?}");
    assert!(side.join().expect("no panic").is_err());
}
