//! Fuzzes the handshake of a data connection, from an unauthenticated client to either side.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use protocol::ids::{MemberId, MemberKey, RunId};
use wire::handshake;
use wire::identity::Identity;
use wire::stream::DataStream;
use wire::token::Token;

/// The first byte selects the side under test. No client without the token may be admitted, cause a panic or block the
/// other side.
pub fn run(data: &[u8]) {
    let Some((side, data)) = data.split_first() else { return };
    let (token, key) = (Token::parse(&"07".repeat(32)).expect("a token"), MemberKey([9; 32]));
    // Both ends are in this process; unlike TCP sockets, these use up no port.
    let (own, mut stranger) = UnixStream::pair().expect("sockets");
    // Fits into the socket's buffer, so this never blocks.
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
