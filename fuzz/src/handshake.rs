//! The handshake of a data connection, as a stranger may speak it to either side.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use protocol::ids::{MemberId, MemberKey, RunId};
use wire::handshake;
use wire::identity::Identity;
use wire::stream::DataStream;
use wire::token::Token;

/// The first byte chooses the side that listens. No stranger gets through, and none may panic or hold up whoever listens.
pub fn run(data: &[u8]) {
    let Some((side, data)) = data.split_first() else { return };
    let (token, key) = (Token::parse(&"07".repeat(32)).expect("a token"), MemberKey([9; 32]));
    // Both ends in this process; unlike TCP's, these leave no port behind.
    let (own, mut stranger) = UnixStream::pair().expect("sockets");
    // Shorter than what the socket holds, so this never waits.
    let data = &data[..data.len().min(16 << 10)];
    stranger.write_all(data).expect("written");
    stranger.shutdown(Shutdown::Write).expect("shut down");
    let identity = || Identity { secret: token.secret(), key: key.clone() };
    let mut own = DataStream::plain(TcpStream::from(OwnedFd::from(own)));
    let admitted = match side % 2 {
        0 => handshake::accept(&mut own, &token.secret(), RunId([1; 16]), |_| Some(identity())).map(drop),
        _ => handshake::connect(&mut own, &token, RunId([1; 16]), (MemberId(1), &key)),
    };
    let refused = admitted.expect_err("a stranger has no token").to_string();
    assert!(refused.len() < 4096 && !refused.contains(|c: char| c.is_control()), "{refused:?}");
}
