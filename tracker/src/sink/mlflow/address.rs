//! Where an MLflow server is and who may write to it.

use std::fmt;

use crate::sink::config::{Environment, SinkConfigError};

/// The server's address and what requests carry. Credentials are never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    base: String,
    authorization: Option<String>,
    insecure_tls: bool,
}

impl Address {
    /// From `tracker.mlflow_uri` or MLFLOW_TRACKING_URI, and the variables that MLflow's own client reads.
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
                without_credentials(uri)
            )));
        }
        let user = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        let user = user.map(|(name, password)| (decoded(name), decoded(password)));
        let base = format!("{scheme}{host}{}", &rest[authority.len()..]);
        Ok(Self {
            base,
            authorization: authorization(user, environment),
            insecure_tls: insecure(environment)?,
        })
    }

    /// The address without credentials.
    pub(crate) fn shown(&self) -> &str {
        &self.base
    }

    /// The `Authorization` header.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Whether any certificate will do.
    pub(crate) fn insecure_tls(&self) -> bool {
        self.insecure_tls
    }
}

/// What may be shown of an address that isn't understood: nothing before its last `@`, nothing after a `?`.
fn without_credentials(uri: &str) -> String {
    let scheme = uri.find("://").map_or("", |at| &uri[..at + 3]);
    let shown = uri.split(['?', '#']).next().unwrap_or_default();
    shown.rsplit_once('@').map_or_else(|| shown.to_owned(), |(_, host)| format!("{scheme}...@{host}"))
}

impl fmt::Debug for Address {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Address").field(&self.base).finish()
    }
}

/// A name and password go before a token, as in MLflow's client.
fn authorization(user: Option<(String, String)>, environment: Environment<'_>) -> Option<String> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let named = || Some((set("MLFLOW_TRACKING_USERNAME")?, set("MLFLOW_TRACKING_PASSWORD")?));
    match named().or(user) {
        Some((name, password)) => Some(format!("Basic {}", base64(format!("{name}:{password}").as_bytes()))),
        None => set("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}")),
    }
}

fn insecure(environment: Environment<'_>) -> Result<bool, SinkConfigError> {
    let value = environment("MLFLOW_TRACKING_INSECURE_TLS").unwrap_or_default().to_lowercase();
    match value.as_str() {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        _ => {
            Err(SinkConfigError(format!("MLFLOW_TRACKING_INSECURE_TLS is {value:?}: expected true or false")))
        }
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let quad = |part: &[u8]| {
        let at = |index: usize| u32::from(part.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digit = |index: usize| {
            let digit = DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
            if index <= part.len() { char::from(digit) } else { '=' }
        };
        [0, 1, 2, 3].map(digit)
    };
    bytes.chunks(3).flat_map(quad).collect()
}

/// `%41` is `A`; what is no such triple stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match code.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(uri: &str, variables: &[(&str, &str)]) -> Address {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Address::new(uri, &variable).expect("an address")
    }

    #[test]
    fn base64_as_in_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn credentials_come_from_the_environment_or_the_address_and_are_not_shown() {
        let basic = |text: &str| Some(format!("Basic {}", base64(text.as_bytes())));
        let check = |uri: &str, variables: &[(&str, &str)], base: &str, authorization: Option<String>| {
            let address = address(uri, variables);
            assert_eq!((address.shown(), address.authorization.clone()), (base, authorization), "{uri}");
            assert!(!format!("{address:?}").contains('@') && !format!("{address:?}").contains("Basic"));
        };
        check("http://h:5000/", &[], "http://h:5000", None);
        check("https://h/mlflow/", &[], "https://h/mlflow", None);
        check("http://a%40b:p%3Aw@h/x", &[], "http://h/x", basic("a@b:p:w"));
        let token = ("MLFLOW_TRACKING_TOKEN", "t");
        check("http://h", &[token], "http://h", Some("Bearer t".into()));
        let user = [("MLFLOW_TRACKING_USERNAME", "u"), ("MLFLOW_TRACKING_PASSWORD", "p"), token];
        check("http://x:y@h", &user, "http://h", basic("u:p"));
        check("http://h", &user[..1], "http://h", None);
    }

    #[test]
    fn certificates_are_checked_unless_said_otherwise() {
        assert!(!address("https://h", &[]).insecure_tls);
        assert!(address("https://h", &[("MLFLOW_TRACKING_INSECURE_TLS", "True")]).insecure_tls);
    }
}
