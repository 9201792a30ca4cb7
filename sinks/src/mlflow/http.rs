//! Requests to an MLflow server, and the classification of their failures.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder};

use super::address::{Address, shown_location};
use crate::SinkError;
use crate::folder::local;

/// Connection timeout: a server that doesn't accept within it is down.
const CONNECT: Duration = Duration::from_secs(5);
/// Timeout of a file upload.
const FILE: Duration = Duration::from_secs(600);
/// Maximum bytes of a response, which is JSON.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Help for a server whose certificate isn't trusted.
const CERTIFICATE_HINT: &str = "Set MLFLOW_TRACKING_SERVER_CERT_PATH to a PEM file with the certificate of the authority that \
                                signed the server's, and MLFLOW_TRACKING_CLIENT_CERT_PATH if the server asks for one of ours";
/// Upper limit for a server's `Retry-After`.
const PAUSE_ASKED_MAX: Duration = Duration::from_secs(600);
/// All characters except RFC 3986's unreserved ones.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Maximum characters of a server's message that are quoted.
const SHOWN_CHARS: usize = 300;

/// A client of one server.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    address: Address,
}

/// The outcome of a request that the server handled.
#[derive(Debug)]
pub(super) enum Answer {
    /// The requested data.
    Good(Value),
    /// RESOURCE_DOES_NOT_EXIST, with the server's message.
    Absent(String),
    /// RESOURCE_ALREADY_EXISTS.
    Exists,
}

impl Client {
    pub(super) fn new(address: Address) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(address.request()))
            .user_agent(concat!("bonfire/", env!("CARGO_PKG_VERSION")))
            .tls_config(address.tls().clone())
            .build();
        Self { agent: config.new_agent(), address }
    }

    /// GET of `/api/2.0/mlflow/PATH`.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, SinkError> {
        let request = self.agent.get(self.url(path)).query_pairs(query.iter().copied());
        self.answer(path, self.signed(request).call())
    }

    /// POST to `/api/2.0/mlflow/PATH`.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, SinkError> {
        let request = self.agent.post(self.url(path)).header("Content-Type", "application/json");
        self.answer(path, self.signed(request).send(body.to_string()))
    }

    /// A POST for which a missing resource is an error like any other.
    pub(super) fn send(&self, path: &str, body: &Value) -> Result<Value, SinkError> {
        match self.post(path, body)? {
            Answer::Good(value) => Ok(value),
            Answer::Absent(message) => Err(self.refused(path, &message)),
            Answer::Exists => Err(self.refused(path, "it exists already")),
        }
    }

    /// PUT of a file to `/api/2.0/mlflow-artifacts/artifacts/PATH`; each component is escaped. The file is streamed.
    pub(super) fn put(&self, path: &str, file: &Path) -> Result<(), SinkError> {
        let open = File::open(file).map_err(|why| local(file, &why))?;
        let parts: Vec<String> = path.split('/').map(escaped).collect();
        let url = format!("{}/api/2.0/mlflow-artifacts/artifacts/{}", self.address.shown(), parts.join("/"));
        let request = self.agent.put(url).config().timeout_global(Some(FILE)).build();
        let what = format!("artifact {path}");
        match self.answer(&what, self.signed(request).send(&open))? {
            Answer::Good(_) | Answer::Exists => Ok(()),
            Answer::Absent(message) => Err(self.refused(&what, &message)),
        }
    }

    fn signed<Any>(&self, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        self.address.headers().fold(request, |request, (name, value)| request.header(name, value))
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/2.0/mlflow/{path}", self.address.shown())
    }

    /// A permanent failure.
    pub(super) fn refused(&self, what: &str, why: &str) -> SinkError {
        SinkError::Refused(format!("{} ({what}): {why}", self.address.shown()))
    }

    fn answer(&self, what: &str, result: Result<Response<Body>, ureq::Error>) -> Result<Answer, SinkError> {
        let mut response = result.map_err(|why| self.transport(what, &why))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let location = header("location");
        let again = header("retry-after").and_then(|when| pause(&when, SystemTime::now()));
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = match text {
            Ok(text) => text,
            // A refusal stays one even if its reason can't be read.
            Err(_) if matches!(status, 400..=499) => String::new(),
            Err(why) => return Err(self.transport(what, &why)),
        };
        let json: Option<Value> = serde_json::from_str(&text).ok().filter(Value::is_object);
        let said = |field: &str| json.as_ref().and_then(|json| json[field].as_str()).unwrap_or_default();
        let message: String = self.address.hide(said("message")).chars().take(SHOWN_CHARS).collect();
        match status {
            200..=299 => match json {
                Some(json) => Ok(Answer::Good(json)),
                // Uploads are answered with an empty body.
                None if text.is_empty() => Ok(Answer::Good(Value::Null)),
                None => {
                    Err(self.refused(what, "the answer is no JSON: is this the address of an MLflow server?"))
                }
            },
            300..=399 => {
                let to = self.address.hide(&shown_location(&location.unwrap_or_default()));
                Err(self.refused(what, &format!("the server sends on to {to:?}: set that address")))
            }
            401 | 403 => Err(self.refused(
                what,
                &format!(
                    "status {status}, {}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or \
                     MLFLOW_TRACKING_TOKEN, to somebody's who may write there",
                    if status == 401 { "the server doesn't know who asks" } else { "that isn't permitted" }
                ),
            )),
            404 if said("error_code") == "RESOURCE_DOES_NOT_EXIST" => Ok(Answer::Absent(message)),
            400 if said("error_code") == "RESOURCE_ALREADY_EXISTS" => Ok(Answer::Exists),
            408 | 429 => Err(self.later(what, status, &message, again)),
            400..=499 if json.is_none() => Err(self.refused(
                what,
                &format!("status {status}, and no JSON: is this the address of an MLflow server?"),
            )),
            400..=499 => {
                Err(self.refused(what, &format!("{} {message}", self.address.hide(said("error_code")))))
            }
            _ => Err(self.later(what, status, &message, again)),
        }
    }

    /// A transient failure, with the pause that the server requested, if any.
    fn later(&self, what: &str, status: u16, message: &str, again: Option<Duration>) -> SinkError {
        let why = format!("{} ({what}): status {status} {message}", self.address.shown());
        let why = why.trim_end().to_owned();
        match again {
            Some(pause) => SinkError::RetryIn(why, pause),
            None => SinkError::Retry(why),
        }
    }

    /// A missing response: the connection failed, timed out or broke off.
    fn transport(&self, what: &str, why: &ureq::Error) -> SinkError {
        let mut text = match why {
            ureq::Error::Timeout(which) => format!("no answer in time ({which})"),
            ureq::Error::HostNotFound => "there is no such host".to_owned(),
            ureq::Error::Io(why) => why.to_string(),
            other => other.to_string(),
        };
        if text.contains("certificate") {
            text = format!("{text}. {CERTIFICATE_HINT}");
        }
        match why {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => self.refused(what, &text),
            _ => SinkError::Retry(format!("{} ({what}): {text}", self.address.shown())),
        }
    }
}

/// The pause that `Retry-After` requests: seconds, or until a date.
fn pause(when: &str, now: SystemTime) -> Option<Duration> {
    let seconds = when.trim().parse().ok().map(Duration::from_secs);
    let until = || httpdate::parse_http_date(when.trim()).ok()?.duration_since(now).ok();
    seconds.or_else(until).filter(|pause| !pause.is_zero()).map(|pause| pause.min(PAUSE_ASKED_MAX))
}

/// Percent-encodes a path component: everything but letters, digits and `-._~`.
fn escaped(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_when_to_come_again_in_seconds_or_by_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (when, seconds) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", None),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", None),
            ("99999999999999", Some(600)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(pause(when, now).map(|pause| pause.as_secs()), seconds, "{when}");
        }
    }

    #[test]
    fn names_in_paths_are_escaped() {
        assert_eq!(escaped("model v1%.safetensors"), "model%20v1%25.safetensors");
        assert_eq!(escaped("é?#"), "%C3%A9%3F%23");
    }
}
