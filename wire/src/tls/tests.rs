use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::client::Trust;
use super::*;
use crate::stream::DataStream;

const DEADLINE: Duration = Duration::from_secs(30);

/// A CA and the certificates that it signs.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed").der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn signs(&self, name: &str, purpose: ExtendedKeyUsagePurpose, until: i32) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &self.issuer).expect("signed").der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Identity::new(vec![own, self.certificate.clone()], key)
    }

    pub(crate) fn server(&self) -> Identity {
        self.signs("coordinator.example", ExtendedKeyUsagePurpose::ServerAuth, 9999)
    }

    fn client(&self) -> Identity {
        self.signs("worker.example", ExtendedKeyUsagePurpose::ClientAuth, 9999)
    }

    fn trusted(&self) -> Trust {
        Trust::Authorities(super::server::roots(vec![self.certificate.clone()]).expect("an authority"))
    }

    pub(crate) fn pinned(&self) -> ClientTls {
        let pinned = Trust::Pinned(Fingerprint::of(&self.certificate));
        ClientTls::new("any.name.at.all", pinned, None).expect("a client")
    }
}

pub(crate) fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    (near, listener.accept().expect("accepted").0)
}

type Met = (Result<DataStream, TlsError>, Result<DataStream, TlsError>);

/// Both sides' outcomes. In TLS 1.3 the client finishes before the server has checked its certificate.
fn meet(server: ServerTls, client: &ClientTls) -> Met {
    let (near, far) = sockets();
    let side = std::thread::spawn(move || DataStream::accept(far, server.data().clone(), DEADLINE));
    let near = DataStream::connect(near, client.data().clone(), client.name().clone(), DEADLINE);
    (near, side.join().expect("no panic"))
}

fn server(identity: &Identity, authority: &Authority) -> ServerTls {
    ServerTls::new(identity, &authority.certificate, None).expect("a server")
}

#[test]
fn the_fingerprint_of_the_authority_is_all_that_a_client_needs() {
    let authority = Authority::new();
    let (near, far) = meet(server(&authority.server(), &authority), &authority.pinned());
    assert!(near.is_ok() && far.is_ok(), "{near:?} {far:?}");
    // Hosts with wrong clocks can join: even a long-expired certificate of this CA is accepted.
    let old = authority.signs("old", ExtendedKeyUsagePurpose::ServerAuth, 2200);
    assert!(meet(server(&old, &authority), &authority.pinned()).0.is_ok());
    let own = authority.server();
    let pinned = Trust::Pinned(Fingerprint::of(&own.chain[0]));
    let client = ClientTls::new("host", pinned, None).expect("a client");
    assert!(
        meet(server(&own, &authority), &client).0.is_ok(),
        "the server's own certificate may be pinned too"
    );
}

#[test]
fn another_authority_is_refused_and_both_fingerprints_are_said() {
    let (own, other) = (Authority::new(), Authority::new());
    let (near, far) = meet(server(&other.server(), &other), &own.pinned());
    let why = near.expect_err("another authority");
    assert!(!why.is_passing(), "{why}");
    let text = why.to_string();
    for certificate in [&own.certificate, &other.certificate] {
        assert!(text.contains(&Fingerprint::of(certificate).to_string()), "{text}");
    }
    assert!(far.is_err());
    // Presenting the right CA certificate along with a certificate of another CA proves nothing.
    let mut forged = other.server();
    forged.chain = vec![forged.chain[0].clone(), own.certificate.clone()];
    let (near, _) = meet(server(&forged, &own), &own.pinned());
    assert!(matches!(near, Err(TlsError::Certificate(_))), "{near:?}");
    // Nor does one of its client certificates: a worker's key can't make a coordinator.
    let (near, _) = meet(server(&own.client(), &own), &own.pinned());
    assert!(matches!(near, Err(TlsError::Certificate(_))), "{near:?}");
}

#[test]
fn an_organisations_authority_is_asked_for_names_and_dates() {
    let authority = Authority::new();
    let client = |name: &str| ClientTls::new(name, authority.trusted(), None).expect("a client");
    let judged = |identity: &Identity, name: &str| meet(server(identity, &authority), &client(name)).0;
    assert!(judged(&authority.server(), "coordinator.example").is_ok());
    let refused = |identity: &Identity, name: &str, word: &str| {
        let why = judged(identity, name).expect_err(word);
        assert!(!why.is_passing() && why.to_string().contains(word), "{why}");
    };
    refused(&authority.server(), "elsewhere.example", "a name that it has");
    let ended = authority.signs("coordinator.example", ExtendedKeyUsagePurpose::ServerAuth, 2001);
    refused(&ended, "coordinator.example", "renewed");
    refused(&Authority::new().server(), "coordinator.example", "--tls-ca");
}

#[test]
fn a_run_that_asks_for_certificates_refuses_whoever_has_none_of_its_authority() {
    let authority = Authority::new();
    let judged = |identity: Option<Identity>| {
        let server = ServerTls::new(
            &authority.server(),
            &authority.certificate,
            Some(vec![authority.certificate.clone()]),
        );
        let pinned = Trust::Pinned(Fingerprint::of(&authority.certificate));
        let client = ClientTls::new("host", pinned, identity.as_ref()).expect("a client");
        let (near, far) = meet(server.expect("a server"), &client);
        if far.is_ok() {
            return (far.map(drop), Ok(0));
        }
        // The server's refusal arrives with the client's first read.
        let heard = near.map_err(|why| why.to_string()).and_then(|mut near| {
            std::io::Read::read(&mut near, &mut [0]).map_err(|why| TlsError::of_io(why).to_string())
        });
        (far.map(drop), heard)
    };
    let (far, _) = judged(Some(authority.client()));
    assert!(far.is_ok(), "{far:?}");
    let (far, heard) = judged(None);
    assert!(far.is_err() && heard.as_ref().is_err_and(|why| why.contains("--tls-cert")), "{heard:?}");
    let (far, heard) = judged(Some(Authority::new().client()));
    assert!(
        far.is_err() && heard.as_ref().is_err_and(|why| why.contains("not of the run's authority")),
        "{heard:?}"
    );
}

#[test]
fn a_key_that_does_not_fit_and_files_without_certificates_are_named() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["host".to_owned()]).expect("a name");
    let certificate = write("own.pem", &params.self_signed(&key).expect("signed").pem());
    let other = write("other.key", &KeyPair::generate().expect("a key").serialize_pem());
    let identity = Identity::read(&certificate, &other).expect("both are there");
    let why = ServerTls::new(&identity, &authority.certificate, None).expect_err("another key").to_string();
    assert!(why.contains("other.key") && why.contains("own.pem") && why.contains("not the key"), "{why}");
    let refused = |certificate: &std::path::Path, key: &std::path::Path, word: &str| {
        let why = Identity::read(certificate, key).expect_err(word).to_string();
        assert!(why.contains(word), "{why}");
    };
    let empty = write("empty.pem", "");
    refused(&empty, &other, "--tls-cert");
    refused(&certificate, &empty, "--tls-key");
    refused(&certificate, &dir.path().join("none"), "No such file");
    refused(&dir.path().join("none"), &other, "No such file");
    refused(
        &write("bad.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        &other,
        "bad.pem",
    );
    let mut ended = CertificateParams::new(["host".to_owned()]).expect("a name");
    (ended.not_before, ended.not_after) =
        (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 2, 3));
    let ended = write("ended.pem", &ended.self_signed(&key).expect("signed").pem());
    refused(&ended, &other, "2001-02-03");
}

#[test]
fn fingerprints() {
    let own = Fingerprint::of(&Authority::new().certificate);
    assert_eq!(Fingerprint::parse(&own.to_string()), Some(own));
    assert_eq!(own.to_string().len(), 7 + 64);
    assert_eq!(own.as_browsers_show_it().len(), 95);
    for wrong in ["", "sha256-", "md5-00", &own.to_string()[1..], &own.to_string()[..70]] {
        assert_eq!(Fingerprint::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn an_address_off_this_machine_is_encrypted_or_somebody_says_that_it_is_not() {
    let authority = Authority::new();
    let pin = Some(Fingerprint::of(&authority.certificate));
    let way = |url: &str, loopback: bool, insecure: bool, pin| {
        let security = Security { insecure, ..Security::default() };
        security.mode(url, "host", loopback, pin).map(|way| way.tls().is_some())
    };
    for (url, loopback, insecure, pin, is_tls) in [
        ("https://host:1", false, false, pin, true),
        ("host:1", false, false, pin, true),
        ("127.0.0.1:1", true, false, None, false),
        ("127.0.0.1:1", true, false, pin, true),
        ("http://127.0.0.1:1", true, false, None, false),
        ("http://host:1", false, true, pin, false),
        ("host:1", false, true, None, false),
    ] {
        assert_eq!(way(url, loopback, insecure, pin).ok(), Some(is_tls), "{url} {insecure}");
    }
    for (url, insecure, pin, word) in [
        ("http://host:1", false, pin, "not encrypted"),
        ("https://host:1", false, None, "TOKEN:sha256-"),
        ("host:1", false, None, "TOKEN:sha256-"),
        ("https://host:1", true, pin, "leave one of them out"),
        ("ftp://host:1", false, pin, "https://HOST:PORT"),
    ] {
        let why = way(url, false, insecure, pin).expect_err(url).to_string();
        assert!(why.contains(word), "{why}");
    }
}
