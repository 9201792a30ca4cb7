//! Signed checkpoints and exports, on real processes: written, verified on resume and by `init.from`, refused
//! otherwise.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Place, wait};

const SIGNED: [&str; 4] = ["--set", "checkpoint.sign=key", "--set", "export.sign=key"];
const OTHERS: [&str; 4] = ["--set", "checkpoint.sign=other", "--set", "checkpoint.verify_key=other.pub"];
const VERIFIED: [&str; 2] = ["--set", "checkpoint.verify_key=key.pub"];

/// A folder with the keys `key` and `other`, and a signed run `small`.
fn place_with_signed_run() -> Place {
    let place = Place::new();
    for name in ["key", "other"] {
        let (code, said) = key(&place, &["create", name]);
        assert_eq!(code, Some(0), "{said}");
    }
    place.complete(&[&SIGNED[..], &VERIFIED].concat());
    place
}

/// Runs `coordinator key ...`: returns the exit code and the whole output.
fn key(place: &Place, arguments: &[&str]) -> (Option<i32>, String) {
    let output = wait(place.command(&[&["key"], arguments].concat()).spawn().expect("started"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The folders of the run's checkpoints, newest first. A step's checkpoint may be skipped while the previous one is
/// being written.
fn versions(place: &Place) -> Vec<PathBuf> {
    let checkpoints = place.run_dir("small").join("checkpoints");
    let steps = store::versions::list(&checkpoints).expect("listed");
    steps.into_iter().map(|step| store::versions::folder(&checkpoints, step)).collect()
}

/// Leaves the run as after a crash before the last step; returns the folder of its then newest checkpoint.
fn interrupt(place: &Place) -> PathBuf {
    let path = place.run_dir("small").join("run.json");
    let record = std::fs::read_to_string(&path).expect("its record");
    std::fs::write(path, record.replace("\"completed\"", "\"failed\"")).expect("written");
    let versions = versions(place);
    std::fs::remove_dir_all(&versions[0]).expect("the last version");
    versions[1].clone()
}

fn openssl_verifies(public: &Path, file: &Path, signature: &Path) -> Option<bool> {
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]).arg(public);
    openssl.arg("-in").arg(file).arg("-sigfile").arg(signature);
    // Without openssl there is nothing to compare with.
    openssl.output().ok().map(|output| output.status.success())
}

#[test]
fn a_signed_run_resumes_and_openssl_agrees_with_its_signatures() {
    let place = place_with_signed_run();
    let export = place.run_dir("small").join("exports/safetensors/model.safetensors");
    let folder = versions(&place)[1].clone();
    let manifest = folder.join("manifest.json");
    for file in [&export, &manifest] {
        let signature = PathBuf::from(format!("{}.sig", file.display()));
        assert_eq!(std::fs::metadata(&signature).expect("signed").len(), 64);
        let public = |name: &str| place.path().join(name);
        assert_ne!(openssl_verifies(&public("key.pub"), file, &signature), Some(false), "{}", file.display());
        assert_ne!(
            openssl_verifies(&public("other.pub"), file, &signature),
            Some(true),
            "{}",
            file.display()
        );
    }
    for path in [&folder, &export] {
        let path = path.to_str().expect("a path");
        assert_eq!(key(&place, &["verify", "--key", "key.pub", path]).0, Some(0), "{path}");
        let (code, said) = key(&place, &["verify", "--key", "other.pub", path]);
        assert_eq!(code, Some(3), "{said}");
    }
    let whole = place.digest("small");
    interrupt(&place);
    place.complete(&[&SIGNED[..], &VERIFIED, &["--resume"]].concat());
    assert_eq!(place.digest("small"), whole);
    let private = std::fs::read_to_string(place.path().join("key")).expect("the private key");
    let secret = private.lines().nth(1).expect("its second line");
    for file in ["config.toml", "run.json", "data.json"] {
        let text = std::fs::read_to_string(place.run_dir("small").join(file)).expect("read");
        assert!(!text.contains(secret), "{file}");
    }
}

#[test]
fn what_is_not_signed_by_a_trusted_key_is_refused_and_named() {
    let place = place_with_signed_run();
    let folder = interrupt(&place);
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
    let resume = |key: &str, words: &[&str]| {
        let (own, trusted) = (format!("checkpoint.sign={key}"), format!("checkpoint.verify_key={key}.pub"));
        let arguments = ["--resume", "--set", &own, "--set", &trusted];
        let (code, out, said) = place.finish(&arguments);
        assert_eq!(code, Some(3), "{out}\n{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    };
    resume("other", &[name, "is not signed by a key of other.pub"]);
    // Complete according to its own checksum, but changed: only the signature reveals it.
    let manifest = folder.join("manifest.json");
    let signature = folder.join("manifest.json.sig");
    let (signed, before) =
        (std::fs::read(&signature).expect("read"), std::fs::read(&manifest).expect("read"));
    std::fs::write(&manifest, with_another_epoch(&before)).expect("written");
    resume("key", &[name, "is not signed by a key of key.pub", "changed"]);
    std::fs::write(&manifest, before).expect("written");
    std::fs::write(&signature, &signed[..63]).expect("written");
    resume("key", &[name, "damaged signature"]);
    std::fs::remove_file(&signature).expect("removed");
    resume("key", &[name, "is not signed", "manifest.json.sig"]);
    // A person who knows its origin can sign it.
    let (code, said) = key(&place, &["sign", "--key", "key", manifest.to_str().expect("a path")]);
    assert_eq!(code, Some(0), "{said}");
    // A checkpoint damaged by the disk is skipped as usual: the previous one is signed too.
    std::fs::write(folder.join("model.safetensors"), "damaged").expect("written");
    let said = place.complete(&[&SIGNED[..], &VERIFIED, &["--resume"]].concat());
    assert!(said.contains("the version before is"), "{said}");
}

/// A manifest of the same files with another epoch, and a valid checksum.
fn with_another_epoch(manifest: &[u8]) -> Vec<u8> {
    let mut manifest = store::versions::Manifest::from_bytes(manifest).expect("a manifest");
    manifest.epoch += 1;
    manifest.to_bytes().expect("JSON")
}

#[test]
fn a_start_takes_signed_parameters_alone_where_a_key_is_given() {
    let place = place_with_signed_run();
    let export = "runs/small/exports/safetensors/model.safetensors";
    let begin = |name: &str, from: &str, more: &[&str]| {
        let (name, from) = (format!("run.name={name}"), format!("init.from={from}"));
        place.finish(&[&["--set", &name, "--set", &from], more].concat())
    };
    for (name, from) in [("of-version", "runs/small"), ("of-export", export)] {
        let (code, _, said) = begin(name, from, &[&SIGNED[..], &VERIFIED].concat());
        assert_eq!(code, Some(0), "{said}");
        let (code, _, said) = begin("refused", from, &OTHERS);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("init.from") && said.contains("is not signed by a key of other.pub"), "{said}");
    }
    std::fs::copy(place.path().join(export), place.path().join("stray.safetensors")).expect("copied");
    let (code, _, said) = begin("refused", "stray.safetensors", &[&SIGNED[..], &VERIFIED].concat());
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("stray.safetensors is not signed"), "{said}");
    assert!(!place.run_dir("refused").exists(), "no folder is made for what can't begin");
}

#[test]
fn a_run_that_can_not_sign_is_refused_before_it_begins() {
    let place = Place::new();
    let (code, said) = key(&place, &["create", "key"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = key(&place, &["create", "key"]);
    assert_eq!(code, Some(2), "a key is never overwritten: {said}");
    std::fs::write(place.path().join("no-key"), "nonsense").expect("written");
    for (setting, words) in [
        ("checkpoint.sign=absent", "absent"),
        ("checkpoint.sign=no-key", "no ed25519 private key"),
        ("export.sign=key.pub", "no ed25519 private key"),
        ("checkpoint.verify_key=key", "no ed25519 public key"),
        ("checkpoint.verify_key=key.pub", "checkpoint.sign is not"),
    ] {
        let name = setting.split('=').next().expect("a key");
        let (code, _, said) = place.finish(&["--set", setting]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(name) && said.contains(words), "{setting}: {said}");
        let checked = wait(
            place.command(&["check", "--config", "run.toml", "--set", setting]).spawn().expect("started"),
        );
        assert_eq!(checked.status.code(), Some(2), "{setting}");
    }
    assert!(!place.run_dir("small").exists(), "no folder is made for what can't begin");
}
