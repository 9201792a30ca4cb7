//! Authentication: a token, a cookie, or a client on this machine.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, LOCATION, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bounded_http::{Access, COOKIE_NAME, Peer, PresentedToken, Visitor, presented};

use super::{Failure, Tracker};

/// A token that requests must carry. It is never shown, not by `Debug` either.
#[derive(Clone)]
pub struct AccessToken(String);

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("AccessToken(..)")
    }
}

/// A text that is not a valid token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a token has {TOKEN_MIN} to {TOKEN_MAX} letters, digits and \"-._~+/=\", this text has not: write one with \"head -c 32 /dev/urandom | base64\""
)]
pub struct TokenError;

/// Shorter tokens can be guessed.
const TOKEN_MIN: usize = 16;

/// Longer tokens don't fit into a header.
const TOKEN_MAX: usize = 1024;

impl AccessToken {
    /// Parses a token, such as a file's content; surrounding blanks are ignored.
    ///
    /// # Errors
    /// When it is too short, too long, or has characters that don't fit into a header.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !(TOKEN_MIN..=TOKEN_MAX).contains(&text.len()) || !text.bytes().all(is_fit) {
            return Err(TokenError);
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether the tokens are equal, compared in constant time.
    fn is(&self, other: &str) -> bool {
        let (own, other) = (self.0.as_bytes(), other.as_bytes());
        let mut difference = usize::from(own.len() != other.len());
        for (index, byte) in own.iter().enumerate() {
            let with = other.get(index).copied().unwrap_or_default();
            difference |= usize::from(std::hint::black_box(byte ^ with));
        }
        std::hint::black_box(difference) == 0
    }
}

impl Access for AccessToken {
    fn visitor(&self, token: &str) -> Option<Visitor> {
        self.is(token).then(|| Visitor { name: "tracker".into(), may_change: true })
    }
}

/// Maximum body size of a deletion: a request that names what it deletes is short.
const DELETION_BYTES_MAX: usize = 64 << 10;

/// Authenticates and authorises a request before any other work is done for it.
pub(super) async fn check(State(tracker): State<Tracker>, request: Request, next: Next) -> Response {
    if let Err(failure) = is_own_page(request.headers()) {
        return failure.into_response();
    }
    let Some(access) = tracker.access() else {
        return match is_this_machine(request.headers()) {
            Ok(()) => next.run(request).await,
            Err(failure) => failure.into_response(),
        };
    };
    let (visitor, token) = match admit(access, &request) {
        Ok(admitted) => admitted,
        Err(answer) => return *answer,
    };
    let mut request = request;
    if let Some(token) = &token {
        request.extensions_mut().insert(PresentedToken(token.clone()));
    }
    if !visitor.may_change && !is_reading(request.method(), request.uri().path()) {
        let name = &visitor.name;
        return Failure::denied(format!("the token {name:?} may read and change nothing")).into_response();
    }
    let Some(event) = deletion(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, DELETION_BYTES_MAX).await else {
        return Failure::invalid("a request to delete has at most 64 KiB").into_response();
    };
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let mut what = format!("{} {}", parts.uri.path(), String::from_utf8_lossy(&body));
    if let Some(token) = &token {
        what = what.replace(&**token, "(the token)");
    }
    let answer = next.run(Request::from_parts(parts, body.into())).await;
    if answer.status().is_success() {
        access.changed(event, &visitor, peer, what.trim_end());
    }
    answer
}

/// The visitor and its token; otherwise the response that refuses the request.
fn admit(access: &dyn Access, request: &Request) -> Result<(Visitor, Option<Arc<str>>), Box<Response>> {
    if let Some((visitor, token)) = presented(access, request.headers()) {
        return Ok((visitor, Some(token)));
    }
    let given = query_token(request.uri()).filter(|_| request.method() == Method::GET);
    if let Some(given) = given.as_deref().filter(|given| access.visitor(given).is_some()) {
        return Err(Box::new(with_cookie(given, access.is_encrypted(), request.uri())));
    }
    if let Some(neighbour) = access.neighbour() {
        return match is_this_machine(request.headers()) {
            Ok(()) => Ok((neighbour, None)),
            Err(failure) => Err(Box::new(failure.into_response())),
        };
    }
    let what =
        if given.is_some() { "this token is wrong" } else { "the tracker's token is missing or wrong" };
    let how = "send \"Authorization: Bearer TOKEN\" (MLflow's clients do with MLFLOW_TRACKING_TOKEN), or open /?token=TOKEN \
               once";
    Err(Box::new(Failure::unauthenticated(format!("{what}: {how}")).into_response()))
}

/// Whether a request is read-only: MLflow's clients search by POST.
fn is_reading(method: &Method, path: &str) -> bool {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    method.is_safe() || (method == Method::POST && ["search", "get-latest-versions"].contains(&last))
}

/// How a request affects an existing item, if it deletes or restores one.
fn deletion(method: &Method, path: &str) -> Option<&'static str> {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    match last {
        "restore" if method == Method::POST => Some("restored"),
        "delete" if method == Method::POST => Some("deleted"),
        _ if method == Method::DELETE => Some("deleted"),
        _ => None,
    }
}

/// The percent-decoded token in the query. A `+` stays a `+`: tokens contain no blanks, but many contain a `+`.
fn query_token(uri: &Uri) -> Option<String> {
    let uri: Uri = format!("/?{}", uri.query()?.replace('+', "%2B")).parse().ok()?;
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).ok()?;
    query.0.into_iter().find(|(name, _)| name == "token").map(|(_, value)| value)
}

/// Redirects to the same page without the token in its URL, which browsers keep and show.
fn with_cookie(token: &str, is_encrypted: bool, uri: &Uri) -> Response {
    let rest: Vec<&str> =
        uri.query().unwrap_or_default().split('&').filter(|p| !p.starts_with("token=")).collect();
    let mut location = uri.path().to_owned();
    if !rest.is_empty() {
        location = format!("{location}?{}", rest.join("&"));
    }
    // "//host" would lead to another origin.
    let location = format!("/{}", location.trim_start_matches('/'));
    // Lax: a person who follows a link from elsewhere stays logged in. No GET changes anything, and requests that
    // another page makes on its own don't carry the cookie. Secure: the cookie is never sent unencrypted to another
    // port of this host.
    let secure = if is_encrypted { "; Secure" } else { "" };
    let cookie = format!("{COOKIE_NAME}={token}; HttpOnly; SameSite=Lax; Path=/{secure}");
    (StatusCode::SEE_OTHER, [(LOCATION, location), (SET_COOKIE, cookie)]).into_response()
}

/// Refuses requests of other origins: for a page of another origin the browser sends its `Origin`.
fn is_own_page(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let origin = text(origin);
    let host = headers.get(HOST).map(text).unwrap_or_default();
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    if of_origin.is_some_and(|of_origin| !host.is_empty() && of_origin.eq_ignore_ascii_case(&host)) {
        return Ok(());
    }
    Err(Failure::denied(format!("a page of {origin:?} asks, and this is {host:?}")))
}

/// Without a token, accepts only this machine's names and addresses, so that no page reaches it by another name.
fn is_this_machine(headers: &HeaderMap) -> Result<(), Failure> {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_loopback = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if name.eq_ignore_ascii_case("localhost") || is_loopback {
        return Ok(());
    }
    Err(Failure::denied(format!(
        "the tracker was asked for as {host:?}, and without a token it serves this machine only: use --token-file"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_enough_and_fit_into_a_header() {
        let token = AccessToken::parse(" 0123456789abcdef\n").expect("a token");
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef0"] {
            assert!(!token.is(other), "{other}");
        }
        assert!(!format!("{token:?}").contains("0123"), "a token is never shown");
        for bad in ["short", "0123456789abcdef;x=1", "0123456789 abcdef", ""] {
            assert!(AccessToken::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_served_without_a_token() {
        let host = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().expect("a header"));
            is_this_machine(&headers).is_ok()
        };
        for good in ["localhost:5000", "127.0.0.1:1", "[::1]:5000", "127.0.0.2", "LOCALHOST"] {
            assert!(host(good), "{good}");
        }
        for bad in
            ["example.org", "127.0.0.1.example.org:80", "10.0.0.1:5000", "", "[::2]:1", "localhost.example"]
        {
            assert!(!host(bad), "{bad}");
        }
    }
}
