//! Access control of the tracker's ports.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, COOKIE};

/// An authenticated client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// Name of the token, for people; never the token itself.
    pub name: Arc<str>,
    /// Whether it may do more than read.
    pub may_change: bool,
}

/// Decides which requests are admitted.
pub trait Access: Send + Sync {
    /// The visitor that this token authenticates, if it is valid. Called for each request, so a token can expire or be
    /// revoked at any time.
    fn visitor(&self, token: &str) -> Option<Visitor>;

    /// The visitor for a request without a token that addresses this machine by one of its own names, if such requests
    /// are admitted.
    fn neighbour(&self) -> Option<Visitor> {
        None
    }

    /// Whether the port is served over TLS; if so, the browser's cookie is marked `Secure`.
    fn is_encrypted(&self) -> bool {
        false
    }

    /// A visitor has "deleted" or "restored" something: the request, its path first. It must not block for long.
    fn changed(&self, event: &'static str, visitor: &Visitor, peer: Option<SocketAddr>, request: &str) {
        let _ = (event, visitor, peer, request);
    }
}

/// The token that a request presented: a request extension, read by responses that go on for long.
#[derive(Clone)]
pub struct PresentedToken(pub Arc<str>);

/// A connection's remote address: an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The cookie's name.
pub const COOKIE_NAME: &str = "bonfire_tracker";

/// The visitor and its token, from the headers: `Authorization`, or else the cookie.
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
