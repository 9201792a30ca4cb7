//! The certificates that a coordinator presents: issued by the run's own CA, or by an organisation's.
//!
//! The CA is kept in the run's folder (`tls/ca.pem`, `tls/ca.key`) and survives every resume, because workers trust its
//! fingerprint. It issues a new server certificate and key at each start; these never touch a disk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wire::tls::{Identity, ServerTls, TlsError, certificates};
use wire::token::{is_loopback, write_private};

use crate::cli::ServerSecurity;
use crate::run::prepare::StartError;

/// Maximum length of a host name in a certificate, as in DNS.
const NAME_BYTES_MAX: usize = 253;

/// What `--insecure` gives up, in one line.
pub(crate) const INSECURE: &str = "--insecure: whoever is on the network between the hosts reads the token, the data and \
                                   the model, and can change them";

/// The same for the tracker's pages.
pub(crate) const INSECURE_PAGES: &str = "--insecure: whoever is on the network between reads the token and the pages, and can change what runs have logged";

/// The TLS configuration for ports at this address; `None` where they use plain text. Creates the run's CA in `folder`
/// if it is needed and missing.
pub(crate) fn server_tls(
    security: &ServerSecurity,
    authority: Option<&Path>,
    listen: IpAddr,
    folder: &Path,
) -> Result<Option<ServerTls>, StartError> {
    let is_asked_for = security.tls || security.tls_cert.is_some() || authority.is_some();
    if !is_asked_for && (is_loopback(listen) || security.insecure) {
        return Ok(None);
    }
    if let Some(own) = own_tls(security, authority)? {
        return Ok(Some(own));
    }
    let authority = authority.map(|path| certificates("--tls-ca", path)).transpose().map_err(refused)?;
    let (ca, issuer) = run_authority(folder)?;
    let identity = issue(&ca, &issuer, listen).map_err(unmade)?;
    ServerTls::new(&identity, &ca, authority).map(Some).map_err(refused)
}

/// TLS with the certificate of `--tls-cert`, if given. Unusable files are reported before the run is created.
pub(crate) fn own_tls(
    security: &ServerSecurity,
    authority: Option<&Path>,
) -> Result<Option<ServerTls>, StartError> {
    let authority = authority.map(|path| certificates("--tls-ca", path)).transpose().map_err(refused)?;
    let (Some(certificate), Some(key)) = (&security.tls_cert, &security.tls_key) else { return Ok(None) };
    let identity = Identity::read(certificate, key).map_err(refused)?;
    let own = identity.certificate().cloned();
    let own = own.ok_or_else(|| StartError::config("--tls-cert has no certificate"))?;
    ServerTls::new(&identity, &own, authority).map(Some).map_err(refused)
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(why: TlsError) -> StartError {
    StartError::config(why)
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn unmade(why: rcgen::Error) -> StartError {
    StartError::failed(format!("no certificate can be made: {why}"))
}

/// Loads the run's CA, or creates one.
fn run_authority(folder: &Path) -> Result<(CertificateDer<'static>, Issuer<'static, KeyPair>), StartError> {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    let way_out = || {
        format!(
            "bring it back, or remove {} to have a new authority made (workers then need the new line of the token file)",
            folder.display()
        )
    };
    if certificate.exists() {
        let at = |why: &dyn std::fmt::Display| {
            StartError::config(format!("the run's key {}: {why}: {}", key.display(), way_out()))
        };
        let mode = std::fs::metadata(&key).map_err(|why| at(&why))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(StartError::config(format!(
                "the run's key {} may be read by others (mode {:o}): chmod 600 it, or remove {} if somebody may have read it",
                key.display(),
                mode & 0o777,
                folder.display()
            )));
        }
        let text = std::fs::read_to_string(&key).map_err(|why| at(&why))?;
        let pair = KeyPair::from_pem(&text).map_err(|why| at(&why))?;
        let found = certificates("the run's certificate", &certificate).map_err(refused)?.swap_remove(0);
        // A certificate contains its public key verbatim.
        let public = pair.subject_public_key_info();
        if !found.windows(public.len()).any(|part| part == public) {
            return Err(at(&"it is not the key of ca.pem beside it"));
        }
        let params = authority_params(&pair);
        return Ok((found, Issuer::new(params, pair)));
    }
    let pair = KeyPair::generate().map_err(unmade)?;
    let params = authority_params(&pair);
    let made = params.self_signed(&pair).map_err(unmade)?;
    let failed = |why: std::io::Error| {
        StartError::failed(format!("the run's certificate can't be kept in {}: {why}", folder.display()))
    };
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(failed)?;
    // The certificate is written last: its presence means that both files exist.
    write_private(&key, pair.serialize_pem().as_bytes()).map_err(failed)?;
    write_private(&certificate, made.pem().as_bytes()).map_err(failed)?;
    Ok((made.der().clone(), Issuer::new(params, pair)))
}

/// A CA without an expiry date (RFC 5280, 4.1.2.5): it is of no use once the run's token has ended.
fn authority_params(pair: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Browsers distinguish authorities by name.
    let number = blake3::hash(&pair.subject_public_key_info()).to_hex();
    params.distinguished_name.push(DnType::CommonName, format!("Bonfire run {}", &number[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    for_ever(&mut params);
    params
}

/// Issues the server's certificate, with the names that browsers may use.
fn issue(
    ca: &CertificateDer<'static>,
    issuer: &Issuer<'_, KeyPair>,
    listen: IpAddr,
) -> Result<Identity, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Bonfire coordinator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    for_ever(&mut params);
    let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), outward(listen).to_canonical()];
    let addresses = addresses.into_iter().filter(|address: &IpAddr| !address.is_unspecified());
    params.subject_alt_names.extend(addresses.map(SanType::IpAddress));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    for name in ["localhost", host.trim()] {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_name) {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
    }
    let pair = KeyPair::generate()?;
    let made = params.signed_by(&pair, issuer)?;
    let key = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
    Ok(Identity::new(vec![made.der().clone(), ca.clone()], key))
}

fn for_ever(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(9999, 12, 31));
}

/// The address by which other machines most likely reach a port that listens at `listen`: for an unspecified address,
/// the source address of this machine's default route.
pub(crate) fn outward(listen: IpAddr) -> IpAddr {
    // Documentation addresses (RFC 5737, RFC 3849), to which nothing is sent: connecting only makes the system choose a
    // source address.
    let (any, far): (IpAddr, IpAddr) = match listen {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        IpAddr::V6(_) => {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
        }
    };
    if !listen.is_unspecified() {
        return listen;
    }
    let chosen = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((far, 9))?;
        socket.local_addr()
    };
    chosen().map_or(listen, |address| address.ip())
}

/// The address at which local processes reach a port that listens at `listen`.
pub(crate) fn near(listen: std::net::SocketAddr) -> std::net::SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    std::net::SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security() -> ServerSecurity {
        ServerSecurity { tls: true, ..ServerSecurity::default() }
    }

    fn made(folder: &Path) -> Result<ServerTls, StartError> {
        server_tls(&security(), None, Ipv4Addr::LOCALHOST.into(), folder).map(|tls| tls.expect("asked for"))
    }

    #[test]
    fn a_run_keeps_its_authority_and_its_key_for_itself() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("tls");
        let first = made(&folder).unwrap_or_else(|why| panic!("{}", why.message)).fingerprint();
        let again = made(&folder).unwrap_or_else(|why| panic!("{}", why.message)).fingerprint();
        assert_eq!(first, again);
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("ca.key"))), (0o700, 0o600));
        let other = made(&dir.path().join("other")).unwrap_or_else(|why| panic!("{}", why.message));
        assert_ne!(first, other.fingerprint());
        let refused = |what: &str| {
            let why = made(&folder).expect_err(what);
            assert!(why.code == 2 && why.message.contains("ca.key"), "{what}: {}", why.message);
            why.message
        };
        std::fs::copy(dir.path().join("other/ca.key"), folder.join("ca.key")).expect("copied");
        assert!(refused("another key").contains("not the key of ca.pem"));
        std::fs::set_permissions(folder.join("ca.key"), std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(refused("a key for all").contains("chmod 600"));
        std::fs::remove_file(folder.join("ca.key")).expect("removed");
        assert!(refused("no key").contains("new authority"));
    }

    #[test]
    fn loopback_and_insecure_speak_in_the_open_unless_tls_is_asked_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let speaks = |tls: bool, insecure: bool, listen: &str| {
            let security = ServerSecurity { tls, insecure, ..ServerSecurity::default() };
            let listen = listen.parse().expect("an address");
            let made = server_tls(&security, None, listen, &dir.path().join("tls"));
            made.unwrap_or_else(|why| panic!("{}", why.message)).is_some()
        };
        assert!(!speaks(false, false, "127.0.0.1"));
        assert!(!speaks(false, false, "::1"));
        assert!(!speaks(false, true, "10.0.0.1"));
        assert!(!dir.path().join("tls").exists(), "loopback pays nothing");
        assert!(speaks(false, false, "0.0.0.0"));
        assert!(speaks(false, false, "10.0.0.1"));
        assert!(speaks(true, false, "127.0.0.1"));
    }
}
