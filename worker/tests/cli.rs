//! The `worker` program's command line. (An integration test also makes cargo build the program, which the
//! coordinator's tests start.)

use std::process::{Command, Output};

fn worker(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_worker")).args(arguments).output().expect("the worker starts")
}

#[test]
fn devices_are_listed_by_name() {
    let output = worker(&["--list-devices"]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let first_words: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(first_words.contains(&"cpu") && first_words.contains(&"ndarray"), "{said}");
}

#[test]
fn an_address_that_is_none_is_refused_with_code_2() {
    let output = worker(&["--coordinator", "ftp://somewhere"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("ftp://somewhere") && said.contains("https://HOST:PORT"), "{said}");
}

#[test]
fn a_device_that_isnt_there_is_refused_with_those_that_are() {
    let output = worker(&["--coordinator", "http://127.0.0.1:9", "--device", "wgpu:99"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("wgpu:99") && said.contains("cpu"), "{said}");
}

#[test]
fn figures_for_other_machines_need_a_certificate_or_a_word() {
    let output =
        worker(&["--coordinator", "http://127.0.0.1:9", "--device", "cpu", "--metrics", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        ["0.0.0.0:0", "--tls-cert", "--token-file", "--insecure"].iter().all(|word| said.contains(word)),
        "{said}"
    );
}
