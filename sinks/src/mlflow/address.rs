//! The address of an MLflow server, its credentials and the headers of requests.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use run_record::provenance::without_credentials;
use ureq::tls::TlsConfig;

use super::credentials::Credentials;
use super::tls;
use crate::config::{Environment, SinkConfigError};

/// Default timeout of a request including its response: a batch of a thousand metrics takes MLflow's SQLite a second.
const REQUEST: Duration = Duration::from_secs(30);
/// Upper limit of a configured timeout, in seconds.
const REQUEST_MAX: u64 = 3_600;
/// Authentication methods that only MLflow's client supports.
const UNKNOWN_WAYS: [&str; 2] = ["MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4"];

/// The server's address and the headers of requests. Credentials are never shown.
#[derive(Clone)]
pub(crate) struct Address {
    base: String,
    credentials: Credentials,
    workspace: Option<String>,
    tls: TlsConfig,
    request: Duration,
}

impl Address {
    /// Built from `tracker.mlflow_uri` or MLFLOW_TRACKING_URI, and the variables that MLflow's own client reads.
    pub(crate) fn new(uri: &str, environment: Environment<'_>) -> Result<Self, SinkConfigError> {
        let uri = uri.trim().trim_end_matches('/');
        let scheme = ["http://", "https://"].into_iter().find(|scheme| uri.starts_with(scheme));
        let (scheme, rest) = scheme.map_or(("", ""), |scheme| (scheme, &uri[scheme.len()..]));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
        if host.is_empty() || rest.contains(['?', '#']) {
            return Err(SinkConfigError(format!(
                "the MLflow address {:?} is none of a server: expected http://HOST:PORT or https://HOST. Files and \
                 databases of MLflow are not written directly; start `mlflow server` over them",
                shown(uri)
            )));
        }
        known_ways(environment)?;
        let user = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = user.map(|(name, password)| (decoded(name), decoded(password)));
        let workspace = environment("MLFLOW_WORKSPACE").map(|name| name.trim().to_owned());
        Ok(Self {
            base: format!("{scheme}{host}{}", &rest[authority.len()..]),
            credentials: Credentials::find(user, environment)?,
            workspace: workspace.filter(|name| !name.is_empty()),
            tls: tls::config(environment)?,
            request: request(environment)?,
        })
    }

    /// The address without credentials.
    pub(crate) fn shown(&self) -> &str {
        &self.base
    }

    /// The headers of every request.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let authorization = self.credentials.header().map(|value| ("Authorization", value));
        authorization.into_iter().chain(self.workspace.as_deref().map(|name| ("X-MLFLOW-WORKSPACE", name)))
    }

    /// A server's message, with any of our secrets in it redacted.
    pub(super) fn hide(&self, text: &str) -> String {
        self.credentials.hide(text)
    }

    /// The trusted certificates and the client certificate.
    pub(super) fn tls(&self) -> &TlsConfig {
        &self.tls
    }

    /// The timeout of a request.
    pub(super) fn request(&self) -> Duration {
        self.request
    }
}

/// Refuses unsupported authentication methods at the start: such requests would only fail, perhaps hours later.
fn known_ways(environment: Environment<'_>) -> Result<(), SinkConfigError> {
    let is_on = |value: &String| !matches!(value.to_lowercase().as_str(), "" | "0" | "false");
    match UNKNOWN_WAYS.into_iter().find(|name| environment(name).as_ref().is_some_and(is_on)) {
        None => Ok(()),
        Some(name) => Err(SinkConfigError(format!(
            "{name} is set, and this program can't sign requests that way: unset it and use MLFLOW_TRACKING_USERNAME and \
             MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        ))),
    }
}

fn request(environment: Environment<'_>) -> Result<Duration, SinkConfigError> {
    const NAME: &str = "MLFLOW_HTTP_REQUEST_TIMEOUT";
    let Some(value) = environment(NAME).filter(|value| !value.is_empty()) else { return Ok(REQUEST) };
    match value.trim().parse::<u64>() {
        Ok(seconds) if (1..=REQUEST_MAX).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err(SinkConfigError(format!(
            "{NAME} is {value:?}: expected whole seconds from 1 to {REQUEST_MAX}"
        ))),
    }
}

/// The part of an invalid address that may be shown: nothing before its last `@`, nothing after a `?`.
fn shown(uri: &str) -> String {
    let scheme = uri.find("://").map_or("", |at| &uri[..at + 3]);
    let shown = uri.split(['?', '#']).next().unwrap_or_default();
    shown.rsplit_once('@').map_or_else(|| shown.to_owned(), |(_, host)| format!("{scheme}...@{host}"))
}

/// The part of a server's redirect location that may be shown: no name and password, nothing after a `?`.
pub(super) fn shown_location(to: &str) -> String {
    without_credentials(to.split(['?', '#']).next().unwrap_or_default())
}

impl fmt::Debug for Address {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Address").field(&self.base).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(uri: &str, variables: &[(&str, &str)]) -> Result<Address, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Address::new(uri, &variable).map_err(|why| why.to_string())
    }

    #[test]
    fn what_is_shown_has_no_credentials_and_requests_have_them() {
        let check = |uri: &str, variables: &[(&str, &str)], base: &str, headers: &[(&str, &str)]| {
            let address = address(uri, variables).expect("an address");
            assert_eq!(address.shown(), base);
            assert_eq!(address.headers().collect::<Vec<_>>(), headers, "{uri}");
            assert!(!format!("{address:?}").contains('@') && !format!("{address:?}").contains("Basic"));
        };
        check("http://h:5000/", &[], "http://h:5000", &[]);
        check("https://h/mlflow/", &[], "https://h/mlflow", &[]);
        let basic = ("Authorization", "Basic YUBiOnA6dw==");
        check("http://a%40b:p%3Aw@h/x", &[], "http://h/x", &[basic]);
        let workspace = ("MLFLOW_WORKSPACE", " w ");
        check("http://h", &[workspace], "http://h", &[("X-MLFLOW-WORKSPACE", "w")]);
    }

    #[test]
    fn what_the_environment_asks_for_and_cannot_have_is_said() {
        let said = |name: &str, value: &str| {
            let why = address("http://h", &[(name, value)]).expect_err("refused");
            assert!(why.contains(name), "{why}");
            why
        };
        assert!(said("MLFLOW_TRACKING_AUTH", "kubernetes").contains("MLFLOW_TRACKING_TOKEN"));
        said("MLFLOW_TRACKING_AWS_SIGV4", "true");
        address("http://h", &[("MLFLOW_TRACKING_AWS_SIGV4", "false")]).expect("an address");
        for value in ["soon", "0", "-1", "1e9"] {
            assert!(said("MLFLOW_HTTP_REQUEST_TIMEOUT", value).contains(value));
        }
        let patient = address("http://h", &[("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")]).expect("an address");
        assert_eq!(patient.request(), Duration::from_secs(7));
    }
}
