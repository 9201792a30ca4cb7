use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::*;

const RUN: RunId = RunId([3; 16]);
const MEMBER: MemberId = MemberId(1 << 32 | 7);
/// Timeout for things that must not happen: short enough for a test to wait for it.
const SHORT: Duration = Duration::from_millis(300);

fn token(byte: u8) -> Token {
    Token::parse(&format!("{byte:02x}").repeat(32)).expect("64 digits")
}

const KEY: MemberKey = MemberKey([8; 32]);

/// The run has one member, which joined with this token.
fn came_with(byte: u8) -> impl Fn(MemberId) -> Option<Identity> {
    move |member| (member == MEMBER).then(|| Identity { secret: token(byte).secret(), key: KEY })
}

fn pair() -> (DataStream, DataStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let worker = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    (DataStream::plain(worker), DataStream::plain(listener.accept().expect("accepted").0))
}

/// The outcomes of both sides.
fn meet(
    worker: (u8, RunId),
    coordinator: (u8, RunId),
) -> (Result<(), HandshakeError>, Result<MemberId, HandshakeError>) {
    let (mut near, mut far) = pair();
    let side = thread::spawn(move || {
        accept(&mut far, &token(coordinator.0).secret(), coordinator.1, came_with(coordinator.0))
    });
    let connected = connect(&mut near, &token(worker.0), worker.1, (MEMBER, &KEY));
    (connected, side.join().expect("no panic"))
}

#[test]
fn both_sides_agree_and_the_socket_is_left_clean() {
    let (mut near, mut far) = pair();
    let side = thread::spawn(move || {
        let member = accept(&mut far, &token(1).secret(), RUN, came_with(1)).expect("a member");
        far.write_all(b"after").expect("sent");
        member
    });
    connect(&mut near, &token(1), RUN, (MEMBER, &KEY)).expect("agreed");
    let mut after = Vec::new();
    near.read_to_end(&mut after).expect("read");
    assert_eq!((after.as_slice(), side.join().expect("no panic")), (&b"after"[..], MEMBER));
}

#[test]
fn another_token_or_run_is_refused_and_both_sides_know_why() {
    let (near, far) = meet((1, RUN), (2, RUN));
    assert!(matches!(far, Err(HandshakeError::WrongToken)), "{far:?}");
    assert!(matches!(&near, Err(HandshakeError::Refused(why)) if why.contains("token")), "{near:?}");

    let (near, far) = meet((1, RunId([4; 16])), (1, RUN));
    let expected = ("04".repeat(16), "03".repeat(16));
    assert!(
        matches!(&far, Err(HandshakeError::OtherRun { found, own }) if (found, own) == (&expected.0, &expected.1)),
        "{far:?}"
    );
    let Err(HandshakeError::Refused(why)) = near else { panic!("{near:?}") };
    assert!(why.contains(&expected.0) && why.contains(&expected.1), "{why}");
}

/// The worker's verdict on a coordinator that sends these bytes.
fn worker_meets(bytes: &[u8]) -> HandshakeError {
    let (mut near, mut far) = pair();
    far.write_all(bytes).expect("sent");
    far.socket().shutdown(Shutdown::Write).expect("shut");
    connect_within(&mut near, &token(1), RUN, (MEMBER, &KEY), DEADLINE).expect_err("not a coordinator")
}

/// The coordinator's verdict on a worker that sends these bytes.
fn coordinator_meets(bytes: &[u8]) -> HandshakeError {
    let (mut near, mut far) = pair();
    near.write_all(bytes).expect("sent");
    near.socket().shutdown(Shutdown::Write).expect("shut");
    accept_within(&mut far, &token(1).secret(), RUN, came_with(1), DEADLINE).expect_err("not a worker")
}

fn version(number: u32) -> Vec<u8> {
    [&MAGIC[..], &number.to_le_bytes()].concat()
}

#[test]
fn other_versions_and_other_protocols_are_told_apart() {
    for error in [worker_meets(&version(1)), coordinator_meets(&version(1))] {
        assert!(matches!(error, HandshakeError::OtherVersion { found: 1, own: VERSION }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains('1') && text.contains(&VERSION.to_string()), "{text}");
    }
    for error in [worker_meets(b"HTTP/1.1 400"), coordinator_meets(b"GET / HTTP/1.1\r\n\r\n")] {
        assert!(matches!(error, HandshakeError::Foreign(_)), "{error:?}");
    }
}

#[test]
fn a_coordinator_without_the_token_is_not_believed() {
    let yes = [&version(VERSION)[..], &[9; NONCE_BYTES], &[0; 4], &[5; 32]].concat();
    assert!(matches!(worker_meets(&yes), HandshakeError::WrongCoordinator));
}

/// Both sides' outcomes for a worker that claims to be a member with this key.
fn claim(
    member: MemberId,
    key: &MemberKey,
) -> (Result<(), HandshakeError>, Result<MemberId, HandshakeError>) {
    let (mut near, mut far) = pair();
    let side = thread::spawn(move || accept(&mut far, &token(1).secret(), RUN, came_with(1)));
    let connected = connect(&mut near, &token(1), RUN, (member, key));
    (connected, side.join().expect("no panic"))
}

#[test]
fn whoever_knows_the_token_alone_is_no_member() {
    let (near, far) = claim(MEMBER, &MemberKey([9; 32]));
    assert!(matches!(far, Err(HandshakeError::WrongMember(id)) if id == MEMBER.0), "{far:?}");
    assert!(matches!(&near, Err(HandshakeError::Refused(why)) if why.contains("not the key")), "{near:?}");
    let (near, far) = claim(MemberId(1 << 32 | 8), &KEY);
    assert!(matches!(far, Err(HandshakeError::UnknownMember(_))), "{far:?}");
    assert!(matches!(&near, Err(HandshakeError::Refused(why)) if why.contains("0x100000008")), "{near:?}");
}

#[test]
fn each_member_proves_the_token_that_it_came_with() {
    let meet = |came_with_byte| {
        let (mut near, mut far) = pair();
        let side =
            thread::spawn(move || accept(&mut far, &token(1).secret(), RUN, came_with(came_with_byte)));
        (connect(&mut near, &token(7), RUN, (MEMBER, &KEY)), side.join().expect("no panic"))
    };
    assert!(meet(7).1.is_ok());
    for other in [1, 8] {
        let (near, far) = meet(other);
        assert!(near.is_err() && matches!(far, Err(HandshakeError::WrongToken)), "{far:?}");
    }
}

#[test]
fn a_coordinator_that_did_not_admit_the_worker_is_not_believed() {
    let (mut near, mut far) = pair();
    // It accepts any proof, and answers with the token alone.
    let side = thread::spawn(move || {
        let mut stream = DeadlineStream::new(&mut far, DEADLINE);
        stream.write(&[&prefix()[..], &[9; NONCE_BYTES]].concat()).expect("sent");
        let hello: [u8; HELLO_BYTES] = stream.read_array().expect("the worker's words");
        let nonce = hello[PREFIX_BYTES + 24..PREFIX_BYTES + 24 + NONCE_BYTES].try_into().expect("32 bytes");
        let nonces = Nonces { coordinator: [9; NONCE_BYTES], worker: nonce, binding: [0; 32] };
        let own = proof(&token(1).secret(), Side::Coordinator, &nonces, RUN, MEMBER);
        stream.write(&[&[0; 4][..], own.as_bytes()].concat()).expect("sent");
    });
    let connected = connect(&mut near, &token(1), RUN, (MEMBER, &KEY));
    assert!(matches!(connected, Err(HandshakeError::WrongCoordinator)), "{connected:?}");
    side.join().expect("no panic");
}

#[test]
fn a_proof_serves_neither_twice_nor_for_the_other_side() {
    let bound = |coordinator, worker, binding| Nonces {
        coordinator: [coordinator; 32],
        worker: [worker; 32],
        binding: [binding; 32],
    };
    let nonces = |coordinator, worker| bound(coordinator, worker, 5);
    let own = proof(&token(1).secret(), Side::Worker, &nonces(1, 2), RUN, MEMBER);
    assert_eq!(own, proof(&token(1).secret(), Side::Worker, &nonces(1, 2), RUN, MEMBER));
    for other in [
        proof(&token(2).secret(), Side::Worker, &nonces(1, 2), RUN, MEMBER),
        proof(&token(1).secret(), Side::Coordinator, &nonces(1, 2), RUN, MEMBER),
        proof(&token(1).secret(), Side::Worker, &nonces(9, 2), RUN, MEMBER),
        proof(&token(1).secret(), Side::Worker, &bound(1, 2, 9), RUN, MEMBER),
        proof(&token(1).secret(), Side::Worker, &nonces(1, 9), RUN, MEMBER),
        proof(&token(1).secret(), Side::Worker, &nonces(1, 2), RunId([9; 16]), MEMBER),
        proof(&token(1).secret(), Side::Worker, &nonces(1, 2), RUN, MemberId(8)),
    ] {
        assert_ne!(own, other);
    }
}

#[test]
fn a_handshake_cut_at_any_byte_ends_without_an_agreement() {
    let hello = [&version(VERSION)[..], &[0; HELLO_BYTES - PREFIX_BYTES]].concat();
    for length in 0..HELLO_BYTES {
        let error = coordinator_meets(&hello[..length]);
        assert!(matches!(error, HandshakeError::Closed), "{length}: {error:?}");
    }
    let welcome = [&version(VERSION)[..], &[9; NONCE_BYTES], &[0; 4], &[5; 32]].concat();
    for length in 0..welcome.len() {
        let error = worker_meets(&welcome[..length]);
        assert!(matches!(error, HandshakeError::Closed), "{length}: {error:?}");
    }
}

#[test]
fn a_refusal_is_bounded_and_printable() {
    let reason = [b"\x1b[31mno\r\n".to_vec(), vec![b'x'; 2 * REFUSAL_BYTES_MAX]].concat();
    let bytes = [&version(VERSION)[..], &[9; NONCE_BYTES], &u32::MAX.to_le_bytes(), &reason].concat();
    let HandshakeError::Refused(why) = worker_meets(&bytes) else { panic!("not refused") };
    assert!(why.starts_with("[31mnox") && why.len() < REFUSAL_BYTES_MAX, "{why}");
}

#[test]
fn the_deadline_is_for_all_of_it() {
    let (mut near, mut far) = pair();
    let begun = Instant::now();
    let side = thread::spawn(move || accept_within(&mut far, &token(1).secret(), RUN, came_with(1), SHORT));
    // One byte at a time: each wait is short, their total is not.
    for byte in version(VERSION).into_iter().chain([0; HELLO_BYTES]) {
        if side.is_finished() || near.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(SHORT / 10);
    }
    let error = side.join().expect("no panic").expect_err("too slow");
    assert!(matches!(error, HandshakeError::TimedOut(SHORT)), "{error:?}");
    assert!(begun.elapsed() < 8 * SHORT, "{:?}", begun.elapsed());

    let (mut near, _silent) = pair();
    let error = connect_within(&mut near, &token(1), RUN, (MEMBER, &KEY), SHORT).expect_err("silence");
    assert!(matches!(error, HandshakeError::TimedOut(SHORT)), "{error:?}");
}
