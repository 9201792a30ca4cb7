//! Trusted certificates and the client certificate, from the variables that MLflow's own client reads.

use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::{Environment, SinkConfigError};

const INSECURE: &str = "MLFLOW_TRACKING_INSECURE_TLS";
const SERVER: &str = "MLFLOW_TRACKING_SERVER_CERT_PATH";
const CLIENT: &str = "MLFLOW_TRACKING_CLIENT_CERT_PATH";
/// Variables of the HTTP library that MLflow's client uses, read if MLflow's own aren't set.
const BUNDLES: [&str; 2] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// Maximum bytes of a certificate file; a system's whole bundle has a quarter of a megabyte.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Maximum number of files read from a folder.
const FILES_MAX: usize = 2_000;

/// Builds the TLS configuration from the environment.
pub(super) fn config(environment: Environment<'_>) -> Result<TlsConfig, SinkConfigError> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let is_insecure = insecure(&set(INSECURE).unwrap_or_default())?;
    let own = set(SERVER);
    if is_insecure && own.is_some() {
        return Err(SinkConfigError(format!(
            "{INSECURE} and {SERVER} are both set, and one says that any certificate will do: unset one of them"
        )));
    }
    let named = own.map(|path| (SERVER, path));
    let named = named.or_else(|| BUNDLES.into_iter().find_map(|name| Some((name, set(name)?))));
    let mut config = TlsConfig::builder().disable_verification(is_insecure);
    if let Some((variable, path)) = named.filter(|_| !is_insecure) {
        config = config.root_certs(RootCerts::from(authorities(variable, Path::new(&path))?));
    }
    if let Some(path) = set(CLIENT) {
        config = config.client_cert(Some(client(Path::new(&path))?));
    }
    Ok(config.build())
}

fn insecure(value: &str) -> Result<bool, SinkConfigError> {
    match value.to_lowercase().as_str() {
        "" | "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        _ => Err(SinkConfigError(format!("{INSECURE} is {value:?}: expected true or false"))),
    }
}

/// The certificates of a PEM file, or of all files in a folder.
fn authorities(variable: &str, path: &Path) -> Result<Vec<Certificate<'static>>, SinkConfigError> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|why| bad(variable, path, &why.to_string()))?;
        files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort_unstable();
        files.truncate(FILES_MAX);
    }
    let mut found = Vec::new();
    for file in files {
        let items = items(variable, &file)?;
        found.extend(items.into_iter().filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        }));
    }
    if found.is_empty() {
        return Err(bad(variable, path, "no certificate (PEM, \"-----BEGIN CERTIFICATE-----\") is in it"));
    }
    Ok(found)
}

/// The client certificate, its chain and its key from one PEM file, as the client's HTTP library expects it.
fn client(path: &Path) -> Result<ClientCert, SinkConfigError> {
    let (mut chain, mut key) = (Vec::new(), None::<PrivateKey<'static>>);
    for item in items(CLIENT, path)? {
        match item {
            PemItem::Certificate(certificate) => chain.push(certificate),
            PemItem::PrivateKey(found) => key = Some(found),
            _ => {}
        }
    }
    match key.filter(|_| !chain.is_empty()) {
        Some(key) => Ok(ClientCert::new_with_certs(&chain, key)),
        None => Err(bad(
            CLIENT,
            path,
            "it must have a certificate and its private key without a password, both as PEM",
        )),
    }
}

fn items(variable: &str, path: &Path) -> Result<Vec<PemItem<'static>>, SinkConfigError> {
    let said = |why: &dyn std::fmt::Display| bad(variable, path, &why.to_string());
    let length = std::fs::metadata(path).map_err(|why| said(&why))?.len();
    if length > FILE_BYTES_MAX {
        return Err(said(&format!("{length} bytes, and at most {FILE_BYTES_MAX} are read")));
    }
    let bytes = std::fs::read(path).map_err(|why| said(&why))?;
    parse_pem(&bytes).collect::<Result<_, _>>().map_err(|why| said(&why))
}

fn bad(variable: &str, path: &Path, why: &str) -> SinkConfigError {
    let path: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    SinkConfigError(format!("{variable} = {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

    fn config_of(variables: &[(&str, &str)]) -> Result<TlsConfig, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        config(&variable).map_err(|why| why.to_string())
    }

    fn authorities_of(config: &TlsConfig) -> usize {
        match config.root_certs() {
            RootCerts::Specific(certificates) => certificates.len(),
            _ => 0,
        }
    }

    #[test]
    fn certificates_are_checked_unless_said_otherwise() {
        assert!(!config_of(&[]).expect("a configuration").disable_verification());
        assert!(config_of(&[(INSECURE, "True")]).expect("a configuration").disable_verification());
        assert!(config_of(&[(INSECURE, "perhaps")]).expect_err("refused").contains("perhaps"));
    }

    #[test]
    fn authorities_come_from_a_file_or_a_folder_in_the_clients_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let (one, two) = (dir.path().join("one.pem"), dir.path().join("two.pem"));
        std::fs::write(&one, CERTIFICATE).expect("written");
        std::fs::write(&two, CERTIFICATE.repeat(2)).expect("written");
        let [one, two, all] = [&one, &two, dir.path()].map(|path: &Path| path.to_str().expect("a name"));
        let count = |variables: &[(&str, &str)]| authorities_of(&config_of(variables).expect("good"));
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[(SERVER, one), (BUNDLES[0], two)]), 1);
        assert_eq!(count(&[(BUNDLES[0], two), (BUNDLES[1], one)]), 2);
        assert_eq!(count(&[(BUNDLES[1], one)]), 1);
        assert_eq!(count(&[(SERVER, all)]), 3);
        let both = config_of(&[(SERVER, one), (INSECURE, "1")]).expect_err("refused");
        assert!(both.contains(SERVER) && both.contains(INSECURE), "{both}");
        // A global bundle does not conflict with it.
        assert_eq!(count(&[(BUNDLES[0], two), (INSECURE, "1")]), 0);
    }

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ca.pem");
        let name = path.to_str().expect("a name");
        let said = |variable: &str| {
            let why = config_of(&[(variable, name)]).expect_err("refused");
            assert!(why.contains(variable) && why.contains(name), "{why}");
            why
        };
        said(SERVER);
        std::fs::write(&path, "hello").expect("written");
        assert!(said(SERVER).contains("BEGIN CERTIFICATE"));
        std::fs::write(&path, CERTIFICATE).expect("written");
        assert!(said(CLIENT).contains("private key"));
        std::fs::write(&path, format!("{KEY}{CERTIFICATE}")).expect("written");
        let config = config_of(&[(CLIENT, name)]).expect("good");
        assert_eq!(config.client_cert().expect("a certificate").certs().len(), 1);
    }
}
