//! The HTML page that a browser gets instead of a failure's JSON: what is wrong, and how to go on.

use axum::extract::Request;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Failure;

/// No scripts, and nothing that would have to be fetched: without the token it would be refused.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// The colours are those of `web/style.css`.
const STYLE: &str = "\
    :root{color-scheme:light dark;font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;\
    --paper:#fff;--line:#dfe3e8;--ink:#1b1f24;--soft:#57606a;--accent:#c2410c}\
    @media(prefers-color-scheme:dark){:root{--paper:#14171b;--line:#343a42;--ink:#e8eaed;--soft:#a0a8b3;--accent:#ff9554}}\
    body{margin:0;background:var(--paper);color:var(--ink)}\
    main{max-width:34rem;margin:14vh auto;padding:0 1.2rem}\
    h1{font-size:1.3rem}p{color:var(--soft);overflow-wrap:anywhere}a{color:var(--accent)}\
    form{display:flex;flex-wrap:wrap;gap:.6rem;align-items:end}label{flex:1 1 14rem}\
    input,button{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--line);border-radius:6px}\
    input{display:block;box-sizing:border-box;width:100%;padding:.4rem .6rem;margin-top:.2rem}\
    button{padding:.4rem 1rem;background:var(--accent);border-color:var(--accent);color:var(--paper);font-weight:600}\
    :focus-visible{outline:2px solid var(--accent);outline-offset:2px}";

const TOKEN_FORM: &str = "<form action=\"/\" method=\"get\"><label>Token<input type=\"password\" name=\"token\" required \
    autofocus autocomplete=\"current-password\"></label><button>Open</button></form>\
    <p>It is in the file that the tracker was started with (<code>--token-file</code>).</p>";

const WAY_BACK: &str = "<p><a href=\"/\">All runs</a></p>";

/// Renders a failure as a page where a browser asks for one; other clients get it unchanged.
pub(super) async fn for_browsers(request: Request, next: Next) -> Response {
    let wants_page = request.method() == Method::GET && is_wanted(request.headers());
    let response = next.run(request).await;
    match response.extensions().get::<Failure>() {
        Some(failure) if wants_page => page(failure),
        _ => response,
    }
}

/// A browser asks for HTML when it opens a URL; our own page's requests and MLflow's client don't.
fn is_wanted(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

fn page(failure: &Failure) -> Response {
    let (title, way_out) = match failure.status() {
        StatusCode::UNAUTHORIZED => ("This tracker asks for its token", TOKEN_FORM),
        StatusCode::FORBIDDEN => ("Refused", ""),
        StatusCode::NOT_FOUND => ("Not here", WAY_BACK),
        _ => ("That did not work", WAY_BACK),
    };
    // Instructions for programs don't help a person, who has a form.
    let message = failure.message();
    let message = match failure.status() {
        StatusCode::UNAUTHORIZED => message.split_once(": ").map_or(message, |(what, _)| what),
        _ => message,
    };
    let said = escaped(message);
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Bonfire · {title}</title><style>{STYLE}</style>\
         <main><h1>{title}</h1><p role=\"alert\">{said}</p>{way_out}</main></html>"
    );
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (failure.status(), headers, html).into_response()
}

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_a_page_are_text() {
        assert_eq!(escaped("<b a=\"'\">&"), "&lt;b a=&quot;&#39;&quot;&gt;&amp;");
    }
}
