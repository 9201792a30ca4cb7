//! Tokens with roles during a run: what each permits, and what ends with it.

mod support;

use std::process::{Child, Output};

use serde_json::Value;
use support::{Place, steps_committed, until, wait};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn call(place: &Place, arguments: &[&str]) -> Output {
    wait(place.command(arguments).spawn().expect("started"))
}

fn done(place: &Place, arguments: &[&str]) -> String {
    let output = call(place, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn refused(place: &Place, arguments: &[&str], words: &[&str]) {
    let output = call(place, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{}", said(&output));
    for word in words {
        assert!(said(&output).contains(word), "{arguments:?}: {word:?} is not in\n{}", said(&output));
    }
}

/// Creates a token and stores it in a file.
fn token(place: &Place, role: &str, name: &str) -> String {
    let line = done(place, &["token", "create", "--role", role, "--name", name]);
    let path = place.path().join(name);
    std::fs::write(&path, line).expect("written");
    path.display().to_string()
}

fn audit(place: &Place) -> Vec<Value> {
    let text = std::fs::read_to_string(place.run_dir("small").join("audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

fn audited(place: &Place, event: &str, key: &str, value: &str) -> bool {
    audit(place).iter().any(|line| line["event"] == event && line[key] == value)
}

fn guest(place: &Place, token: &str) -> Child {
    let address = std::fs::read_to_string(place.run_dir("small").join("address")).expect("its address");
    let arguments =
        ["--coordinator", address.trim(), "--token-file", token, "--name", "guest", "--device", "cpu"];
    place.worker(&arguments).stderr(place.log("guest.log")).spawn().expect("started")
}

#[test]
fn roles_are_kept_apart_and_a_revoked_worker_is_hung_up_on() {
    for flags in [&[][..], &["--tls"]] {
        let place = Place::new();
        let mut arguments = vec!["--local-workers", "1", "--set", "train.epochs=100000"];
        arguments.extend(flags);
        let run = place.coordinator(&arguments).spawn().expect("started");
        until("steps", || steps_committed(&place) > 5);
        let (viewer, worker, operator) = (
            token(&place, "viewer", "ann"),
            token(&place, "worker", "gpu-7"),
            token(&place, "operator", "bob"),
        );

        done(&place, &["status", "--token-file", &viewer]);
        refused(&place, &["stop", "--token-file", &viewer], &["ann", "viewer", "operator"]);
        refused(&place, &["checkpoint", "--token-file", &worker], &["gpu-7", "worker", "operator"]);
        refused(&place, &["status", "--token-file", &worker], &["gpu-7", "worker", "viewer"]);
        done(&place, &["checkpoint", "--token-file", &operator]);
        let turned_away = wait(guest(&place, &operator));
        assert_eq!(turned_away.status.code(), Some(2), "{}", place.said("guest.log"));
        assert!(place.said("guest.log").contains("bob"), "{}", place.said("guest.log"));

        // A worker's token is valid for both planes.
        let guest = guest(&place, &worker);
        until("the guest is in", || place.has_member("guest"));
        let before = steps_committed(&place);
        until("steps with it", || steps_committed(&place) > before + 20);
        assert!(audited(&place, "joined", "worker", "guest"));
        done(&place, &["token", "revoke", "gpu-7"]);
        let ended = wait(guest);
        assert_eq!(ended.status.code(), Some(2), "{}", place.said("guest.log"));
        assert!(place.said("guest.log").contains("revoked"), "{}", place.said("guest.log"));
        let before = steps_committed(&place);
        until("steps without it", || steps_committed(&place) > before + 20);

        let listed = done(&place, &["token", "list"]);
        for (name, state) in [("ann", "good"), ("gpu-7", "revoked"), ("bob", "good")] {
            let line = listed.lines().find(|line| line.starts_with(name)).expect("listed");
            assert!(line.ends_with(state), "{line}");
        }
        refused(&place, &["token", "create", "--role", "viewer", "--name", "bob"], &["bob", "revoke"]);
        refused(&place, &["token", "revoke", "carl"], &["carl", "ann"]);
        refused(&place, &["token", "create", "--role", "viewer", "--name", "a b"], &["a b"]);

        done(&place, &["stop", "--token-file", &operator]);
        assert_eq!(wait(run).status.code(), Some(130));
        for (event, key, value) in [
            ("token created", "token", "ann"),
            ("token revoked", "token", "gpu-7"),
            ("refused", "token", "ann"),
            ("checkpointed", "token", "bob"),
            ("stopped", "token", "bob"),
            ("joined", "token", "run"),
            ("joined", "token", "gpu-7"),
            ("joined", "peer", "127.0.0.1"),
        ] {
            assert!(audited(&place, event, key, value), "{event} {key} {value}: {:#?}", audit(&place));
        }
        no_token_is_written_down(&place, &[&viewer, &worker, &operator]);
    }
}

/// No file of the run contains any token, except for the run's own token file.
fn no_token_is_written_down(place: &Place, files: &[&String]) {
    let run = place.run_dir("small");
    let mut tokens: Vec<String> =
        files.iter().map(|file| std::fs::read_to_string(file).expect("read")[..64].to_owned()).collect();
    tokens.push(std::fs::read_to_string(run.join("token")).expect("read")[..64].to_owned());
    let mut folders = vec![run.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("read");
            for token in tokens.iter().filter(|_| path != run.join("token")) {
                let is_there = bytes.windows(64).any(|window| window == token.as_bytes());
                assert!(!is_there, "a token is in {}", path.display());
            }
        }
    }
}
