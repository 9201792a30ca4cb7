//! The web page: files embedded in the program, so that it works offline and always matches the program's version.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::routing::get;

use super::Tracker;

/// Everything is loaded from this origin, and no other page may frame this one.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:literal, $kind:expr) => {
        (concat!("/", $name), $kind, include_str!(concat!("../../web/", $name)))
    };
}

/// Path, content type and text of each file.
const FILES: [(&str, &str, &str); 14] = [
    ("/", HTML, include_str!("../../web/index.html")),
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("main.js", SCRIPT),
    file!("api.js", SCRIPT),
    file!("chart.js", SCRIPT),
    file!("compare.js", SCRIPT),
    file!("curves.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("format.js", SCRIPT),
    file!("models.js", SCRIPT),
    file!("panels.js", SCRIPT),
    file!("run.js", SCRIPT),
    file!("runs.js", SCRIPT),
];

pub(super) fn routes() -> Router<Tracker> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(async move || answer(kind, text)))
    })
}

fn answer(kind: &'static str, text: &'static str) -> ([(HeaderName, HeaderValue); 5], &'static str) {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // Another version of the program may answer at the same address tomorrow.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_a_page_asks_for_is_there_and_nothing_is_asked_from_elsewhere() {
        let paths: Vec<&str> = FILES.iter().map(|(path, ..)| *path).collect();
        for (path, _, text) in FILES {
            for part in text.split(['"', '\'']) {
                let is_own = part.starts_with("./")
                    || (path == "/" && [".js", ".css", ".svg"].iter().any(|end| part.ends_with(end)));
                let asked = format!("/{}", part.trim_start_matches("./"));
                assert!(!is_own || paths.contains(&asked.as_str()), "{path} asks for {part}");
            }
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("http://") && !elsewhere.contains("https://"),
                "{path} asks elsewhere"
            );
        }
    }

    #[test]
    fn texts_of_runs_are_never_taken_for_html() {
        for (path, _, text) in FILES {
            for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(way), "{path} uses {way}");
            }
        }
    }
}
