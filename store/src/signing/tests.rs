use super::*;

/// RFC 8410's own example (10.3), as OpenSSL writes keys.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
    -----END PUBLIC KEY-----\n";

struct Keys {
    dir: tempfile::TempDir,
    private: PathBuf,
    public: PathBuf,
}

fn keys() -> Keys {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let private = dir.path().join("key");
    let public = SigningKey::create(&private).expect("made");
    Keys { dir, private, public }
}

#[test]
fn a_signature_counts_for_its_bytes_and_its_key_alone() {
    let (own, other) = (keys(), keys());
    let file = own.dir.path().join("manifest.json");
    let trusted = TrustedKeys::read(&own.public).expect("read");
    let unsigned = trusted.verify_file(&file, b"bytes").expect_err("nobody signed it");
    assert_eq!(unsigned.to_string(), "is not signed: there is no manifest.json.sig");
    let key = SigningKey::read(&own.private).expect("read");
    let signature = key.sign_file(&file, b"bytes").expect("written");
    assert_eq!(trusted.verify_file(&file, b"bytes"), Ok(()));
    assert!(matches!(trusted.verify_file(&file, b"byteS"), Err(SignatureError::Untrusted { .. })));
    let others = TrustedKeys::read(&other.public).expect("read");
    assert!(matches!(others.verify_file(&file, b"bytes"), Err(SignatureError::Untrusted { .. })));
    for damaged in [&[0; SIGNATURE_BYTES - 1][..], &[0; SIGNATURE_BYTES + 1], &[]] {
        std::fs::write(&signature, damaged).expect("written");
        assert!(matches!(trusted.verify_file(&file, b"bytes"), Err(SignatureError::Damaged { .. })));
    }
}

#[test]
fn one_of_several_trusted_keys_is_enough() {
    let (one, two) = (keys(), keys());
    let both = one.dir.path().join("trusted");
    let text: String = [&one, &two].map(|keys| std::fs::read_to_string(&keys.public).expect("read")).concat();
    std::fs::write(&both, format!("# the team's\n{text}")).expect("written");
    let trusted = TrustedKeys::read(&both).expect("read");
    for keys in [&one, &two] {
        let file = keys.dir.path().join("f");
        SigningKey::read(&keys.private).expect("read").sign_file(&file, b"bytes").expect("written");
        assert_eq!(trusted.verify_file(&file, b"bytes"), Ok(()));
        assert!(trusted.has(&SigningKey::read(&keys.private).expect("read")));
    }
    assert!(
        !TrustedKeys::read(&one.public).expect("read").has(&SigningKey::read(&two.private).expect("read"))
    );
}

#[test]
fn keys_of_openssl_are_read() {
    let own = keys();
    let (private, public) = (own.dir.path().join("private"), own.dir.path().join("public"));
    std::fs::write(&private, PRIVATE).expect("written");
    std::fs::write(&public, PUBLIC).expect("written");
    let exposed = SigningKey::read(&private).expect_err("others may read it");
    assert!(matches!(exposed, KeyError::Exposed { .. }), "{exposed}");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).expect("set");
    let file = own.dir.path().join("f");
    SigningKey::read(&private).expect("read").sign_file(&file, b"bytes").expect("written");
    assert_eq!(TrustedKeys::read(&public).expect("read").verify_file(&file, b"bytes"), Ok(()));
}

#[test]
fn a_key_is_its_owners_and_never_overwritten() {
    let own = keys();
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&own.private), 0o600);
    let before = std::fs::read(&own.private).expect("read");
    assert!(matches!(SigningKey::create(&own.private), Err(KeyError::Exists { .. })));
    std::fs::remove_file(&own.private).expect("removed");
    let error = SigningKey::create(&own.private).expect_err("its public key is there");
    assert!(matches!(error, KeyError::Exists { path } if path == own.public));
    assert!(!own.private.exists(), "half a pair is no pair");
    std::fs::write(&own.private, before).expect("written");
    let key = SigningKey::read(&own.private);
    assert!(matches!(key, Err(KeyError::Exposed { .. })), "written again with the usual mode");
}

#[test]
fn what_is_no_key_is_named() {
    let own = keys();
    let path = own.dir.path().join("f");
    for text in [&b""[..], b"key", b"-----BEGIN PRIVATE KEY-----\n", b"\xff\xfe", &[b'x'; 100_000]] {
        std::fs::write(&path, text).expect("written");
        assert!(matches!(SigningKey::read(&path), Err(KeyError::NoPrivateKey { .. })));
        assert!(matches!(TrustedKeys::read(&path), Err(KeyError::NoPublicKey { .. })));
    }
    // Each kind of key in place of the other.
    assert!(matches!(SigningKey::read(&own.public), Err(KeyError::NoPrivateKey { .. })));
    assert!(matches!(TrustedKeys::read(&own.private), Err(KeyError::NoPublicKey { .. })));
    // A valid key and a broken one.
    let text = std::fs::read_to_string(&own.public).expect("read");
    std::fs::write(&path, format!("{text}{}", text.replace("MCow", "MCox"))).expect("written");
    assert!(matches!(TrustedKeys::read(&path), Err(KeyError::NoPublicKey { .. })));
    let absent = SigningKey::read(&own.dir.path().join("absent")).expect_err("nothing is there");
    assert!(absent.to_string().contains("absent"), "{absent}");
}
