//! Cost of authenticating a data connection: a bare TCP connection that carries a byte each way, against one with the
//! proofs of token and identity. `cargo bench --workspace --bench handshake`.
//!
//! The two alternate, so that other load on the machine affects both; both ends are on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use protocol::ids::{MemberId, MemberKey, RunId};
use wire::handshake;
use wire::identity::Identity;
use wire::stream::DataStream;
use wire::token::Token;

const ROUNDS: usize = 5_000;
const RUN: RunId = RunId([3; 16]);
const MEMBER: MemberId = MemberId(7);
const KEY: MemberKey = MemberKey([9; 32]);

fn main() {
    let token = Token::random().expect("random bytes");
    let secret = token.secret();
    let proven = serve(move |stream| {
        let identity = |member| (member == MEMBER).then_some(Identity { secret, key: KEY });
        handshake::accept(&mut DataStream::plain(stream), &secret, RUN, identity).is_ok()
    });
    let bare = serve(|mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok()
    });
    let mut times = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
    for _ in 0..ROUNDS {
        times[0].push(timed(&bare, |mut stream| {
            let mut byte = [1];
            stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).is_ok()
        }));
        times[1].push(timed(&proven, |stream| {
            handshake::connect(&mut DataStream::plain(stream), &token, RUN, (MEMBER, &KEY)).is_ok()
        }));
    }
    println!(
        "a data connection on loopback until both sides are sure, {ROUNDS} of each: median, and nine tenths are below"
    );
    for (name, times) in ["bare", "proven"].iter().zip(&mut times) {
        times.sort();
        let at = |tenths: usize| times[times.len() * tenths / 10].as_secs_f64() * 1e6;
        println!("{name:>8} {:8.1} us {:8.1} us", at(5), at(9));
    }
}

/// A thread that serves connections one by one and reports whether each succeeded.
struct Served {
    address: SocketAddr,
    outcomes: Receiver<bool>,
}

fn serve(answer: impl Fn(TcpStream) -> bool + Send + 'static) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (tell, outcomes) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let is_good = stream.is_ok_and(&answer);
            if tell.send(is_good).is_err() {
                return;
            }
        }
    });
    Served { address, outcomes }
}

fn timed(served: &Served, ask: impl Fn(TcpStream) -> bool) -> Duration {
    let began = Instant::now();
    let stream = TcpStream::connect(served.address).expect("connected");
    stream.set_nodelay(true).expect("set");
    let is_good = ask(stream);
    let took = began.elapsed();
    assert!(is_good && served.outcomes.recv().expect("it lives"), "a connection came about");
    took
}
