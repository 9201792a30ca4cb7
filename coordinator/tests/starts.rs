//! Starts that are refused, before a folder is created and with a short message; and the checks of `coordinator check`.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::{Place, until, wait};

fn check(place: &Place, more: &[&str]) -> (Option<i32>, String, String) {
    let arguments = [&["check", "--config", "run.toml"][..], more].concat();
    let output = wait(place.command(&arguments).spawn().expect("started"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Errors that only the worker program can detect, and words of their messages.
const REFUSED: [(&str, &[&str]); 4] = [
    ("model.kind=resnt", &["\"resnt\"", "did you mean \"resnet\"?", "cnn, gpt, mlp, resnet"]),
    ("model.class_weights=[1.0, 2.0]", &["model.class_weights", "10 labels"]),
    ("init.freeze=[\"hiden*\"]", &["\"hiden*\"", "hidden.0.weight"]),
    ("local.devices=wgpu:99", &["wgpu:99", "cpu"]),
];

#[test]
fn check_asks_the_worker_program_what_it_would_refuse() {
    let place = Place::new();
    let (code, out, err) = check(&place, &[]);
    assert_eq!(code, Some(0), "{err}");
    // 64 pixels to 16 units to 10 digits.
    let parameters = 64 * 16 + 16 + 16 * 10 + 10;
    assert!(out.contains("is good") && out.contains(&format!("\"mlp\" of {parameters} parameters")), "{out}");
    for (set, words) in REFUSED {
        let (code, out, err) = check(&place, &["--set", set]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{set}: {err}");
        for word in words {
            assert!(err.contains(word), "{set}: no {word:?} in {err}");
        }
        assert!(err.contains("run.toml"), "{set}: {err}");
    }
    assert!(!place.path().join("runs").exists(), "a check makes nothing");
}

#[test]
fn a_check_without_an_answer_says_that_the_model_was_not_checked_and_why() {
    let place = Place::new();
    let program = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permitted");
        format!("local.worker_binary={:?}", path.display().to_string())
    };
    let old = program("old-worker", "#!/bin/sh\necho 'error: unexpected argument' >&2\nexit 2\n");
    let none = program("no-program", "no program");
    for (set, why) in [(old, "unexpected argument"), (none, "no-program")] {
        let (code, out, err) = check(&place, &["--set", &set]);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("the model \"mlp\" was not checked") && out.contains(why), "{out}");
    }
    let (code, _, err) = check(&place, &["--set", "local.worker_binary=absent"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("local.worker_binary") && err.contains("absent"), "{err}");
}

#[test]
fn a_refused_start_leaves_no_folder_and_says_its_error_once() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("its address").to_string();
    let metrics = format!("telemetry.metrics_listen={listen}");
    let mut starts: Vec<(Vec<&str>, &str)> =
        REFUSED.iter().map(|(set, words)| (vec!["--set", *set], words[0])).collect();
    starts.push((vec!["--listen", &listen], &listen));
    starts.push((vec!["--set", &metrics], &listen));
    starts.push((
        vec!["--set", "train.patience=2", "--set", "train.monitor=validation/mean_squared_error"],
        "has no such metric",
    ));
    for (arguments, word) in starts {
        let (code, out, err) = place.finish(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {out}\n{err}");
        assert_eq!(out, "", "{arguments:?}: {err}");
        assert_eq!(err.matches("coordinator: ").count(), 1, "{arguments:?}: {err}");
        assert!(err.contains(word), "{arguments:?}: no {word:?} in {err}");
        assert!(!place.run_dir("small").exists(), "{arguments:?}: a folder is left");
    }
    // The name is free for the corrected start.
    place.complete(&[]);
}

/// The worker program can't answer beforehand, and its worker refuses.
#[test]
fn a_start_that_its_first_worker_refuses_leaves_no_folder_either() {
    let place = Place::new();
    let worker = std::path::Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--check-task*) exit 1;; esac\nexec {:?} \"$@\"\n",
        worker.display().to_string()
    );
    let path = place.path().join("silent-worker");
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permitted");
    let set = format!("local.worker_binary={:?}", path.display().to_string());
    for (wrong, word) in
        [("model.class_weights=[1.0, 2.0]", "model.class_weights"), ("model.kind=resnt", "resnt")]
    {
        let (code, out, err) = place.finish(&["--set", &set, "--set", wrong]);
        assert_eq!(code, Some(2), "{out}\n{err}");
        let failed = |text: &str| text.lines().filter(|line| line.contains(word)).count();
        assert!(failed(&out) <= 1 && failed(&err) == 1, "said once to each: {out}\n{err}");
        assert!(!place.run_dir("small").exists(), "a folder is left");
    }
}

/// Only an external worker can detect the error: its message is printed once and stays available.
#[test]
fn what_a_worker_from_elsewhere_refuses_is_said_once_and_its_folder_stays() {
    let place = Place::new();
    let log = place.log("all.log");
    let mut run = place.coordinator(&["--local-workers", "0", "--set", "model.class_weights=[1.0, 2.0]"]);
    let run = run.stdout(log.try_clone().expect("a second handle")).stderr(log).spawn().expect("started");
    until("the coordinator says where it is", || place.run_dir("small").join("address").is_file());
    let worker = wait(place.guest("guest"));
    assert_eq!(worker.status.code(), Some(2));
    assert_eq!(wait(run).status.code(), Some(2));
    let said = place.said("all.log");
    assert_eq!(said.matches("model.class_weights").count(), 1, "{said}");
    assert!(!said.contains("--resume"), "what is refused is refused again: {said}");
    assert!(place.record("small")["message"].to_string().contains("model.class_weights"));
}
