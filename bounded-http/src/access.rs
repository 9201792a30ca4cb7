//! Who may do what with the tracker's ports.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};

/// Somebody who was let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// Of the token, for people; never the token itself.
    pub name: Arc<str>,
    /// Whether more than reading is allowed.
    pub may_change: bool,
}

/// Lets requests in.
pub trait Access: Send + Sync {
    /// Who shows this token, if it is good. It is asked for each request, so a token may end at any time.
    fn visitor(&self, token: &str) -> Option<Visitor>;

    /// Who comes from this machine, by one of its names and without a token, if anybody may.
    fn neighbour(&self) -> Option<Visitor> {
        None
    }

    /// Whether the port is reached under TLS: then a browser is told to show its cookie nowhere else.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// A visitor has "deleted" or "restored" something: the request, its path first. It must not block for long.
    fn changed(&self, event: &'static str, visitor: &Visitor, peer: Option<SocketAddr>, request: &str) {
        let _ = (event, visitor, peer, request);
    }
}

/// The token that a request has shown: an extension of it, for answers that go on for long.
#[derive(Clone)]
pub struct PresentedToken(pub Arc<str>);

/// Where a connection comes from: an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The cookie's name.
pub const COOKIE_NAME: &str = "bonfire_tracker";

/// Who shows a token in the headers, in `Authorization` or else in the cookie, and the token.
#[must_use]
pub fn presented(access: &dyn Access, headers: &HeaderMap) -> Option<(Visitor, Arc<str>)> {
    let known = |token: &str| access.visitor(token).map(|visitor| (visitor, token.into()));
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, given)) = bearer.and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return known(given.trim());
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut own = pairs.filter(|(name, _)| *name == COOKIE_NAME);
    own.find_map(|(_, value)| known(value))
}
