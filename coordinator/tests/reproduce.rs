//! `coordinator reproduce`: its messages and its verdicts.

mod support;

use std::process::Command;

use support::{Place, wait};

fn reproduce(place: &Place, arguments: &[&str]) -> (Option<i32>, String) {
    let output = wait(place.command(&[&["reproduce"], arguments].concat()).spawn().expect("started"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn git(place: &Place, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(place.path())
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.expect("git is there").success(), "git {arguments:?}");
}

#[test]
fn a_run_is_repeated_to_the_same_bits_with_the_commands_that_it_takes() {
    let place = Place::new();
    std::fs::write(place.path().join(".gitignore"), "/runs\n").expect("written");
    git(&place, &["init", "-q", "-b", "trunk"]);
    git(&place, &["add", "run.toml", "rows.csv", ".gitignore"]);
    git(&place, &["commit", "-q", "-m", "first"]);
    let changed = support::CONFIG.replace("hidden = [16]", "hidden = [12]");
    std::fs::write(place.path().join("run.toml"), changed).expect("changed");
    place.complete(&[]);
    let commit = place.record("small")["git_commit"].as_str().expect("a commit").to_owned();

    let (code, said) = reproduce(&place, &["runs/small"]);
    assert_eq!(code, Some(0), "{said}");
    let run_dir = place.run_dir("small").canonicalize().expect("its folder");
    for part in [
        format!("git checkout {commit}"),
        format!("git apply {}", run_dir.join("git.diff").display()),
        format!("coordinator --config {}", run_dir.join("config.toml").display()),
        "cargo build --release --locked".to_owned(),
        "nothing that is known of".to_owned(),
    ] {
        assert!(said.contains(&part), "{part} is not in\n{said}");
    }

    let (code, said) = reproduce(&place, &["runs/small", "--start"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("reproduced: small-again ends with the same bits"), "{said}");
    assert_eq!(place.digest("small"), place.digest("small-again"));

    // A record with other weights: the same run doesn't reproduce them.
    let path = place.run_dir("small").join("run.json");
    let text = std::fs::read_to_string(&path).expect("read").replace(&place.digest("small"), &"0".repeat(64));
    std::fs::write(&path, text).expect("written");
    let (code, said) = reproduce(&place, &["runs/small", "--start"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("not reproduced") && said.contains("small-again-2"), "{said}");
}

#[test]
fn other_data_and_unfinished_runs_are_not_repeated() {
    let place = Place::new();
    place.complete(&[]);
    let rows = place.path().join("rows.csv");
    let text = std::fs::read_to_string(&rows).expect("read");
    let cut = text.trim_end().rsplit_once('\n').expect("rows").0;
    std::fs::write(&rows, format!("{cut}\n")).expect("written");
    let (code, said) = reproduce(&place, &["runs/small"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the data: ") && said.contains("the run's had"), "{said}");
    let (code, said) = reproduce(&place, &["runs/small", "--start"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(!place.run_dir("small-again").exists());

    std::fs::write(&rows, text).expect("put back");
    let path = place.run_dir("small").join("run.json");
    let text = std::fs::read_to_string(&path).expect("read").replace("\"completed\"", "\"interrupted\"");
    std::fs::write(&path, text).expect("written");
    let (code, said) = reproduce(&place, &["runs/small", "--start"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = reproduce(&place, &["runs/absent"]);
    assert_eq!(code, Some(3), "{said}");
}
