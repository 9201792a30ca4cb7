//! The sink against a server in this process: the requests it sends, and its reaction to the server's failures.

mod outages;
mod pushes;
mod server;

use std::time::Duration;

use super::*;
use crate::testing::{Run, drain};
use crate::worker::Worker;
use crate::{PushError, SinkConfig, Sinks, push};
use server::{How, Server};

fn sink(url: &str) -> Box<Mlflow> {
    sink_with(url, &[])
}

fn sink_with(url: &str, variables: &[(&str, &str)]) -> Box<Mlflow> {
    let variable =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Box::new(Mlflow::new(Target::new(url, None, "digits", &variable).expect("an address")))
}

/// All metrics of the file are in the server, each once, with the file's step and value.
fn check_metrics(run: &Run, server: &Server) {
    let text = std::fs::read_to_string(run.path("metrics.jsonl")).expect("read");
    let mut expected: Vec<(String, u64, String)> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .map(|line: Value| {
            (
                line["key"].as_str().expect("a key").into(),
                line["step"].as_u64().expect("a step"),
                line["value"].to_string(),
            )
        })
        .collect();
    let mut found: Vec<(String, u64, String)> = server
        .kept()
        .metrics
        .keys()
        .map(|(key, step, _, value)| (key.clone(), *step, value.clone()))
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

fn numbers(count: u32) -> Vec<f64> {
    (0..count).map(|n| f64::from(n) / 8.0).collect()
}

#[test]
fn a_run_arrives_whole_in_batches() {
    let (run, server) = (Run::new(), Server::start());
    let wide: String = (0..230).map(|n| format!("key_{n} = {n}\n")).collect();
    run.write("config.toml", &format!("[model]\n{wide}[train]\nlearning_rate = 0.1\n"));
    run.measure("train/loss", &numbers(2_300));
    run.measure_in("system.jsonl", "system/cpu", &[0.5]);
    let mut worker = run.worker(sink(&server.url));
    drain(&mut worker, false).expect("sent");
    assert_eq!(server.kept().status, "RUNNING");
    assert_eq!(server.kept().experiments, ["digits"]);
    run.measure("validation/accuracy", &[0.9]);
    run.write("exports/safetensors/model.safetensors", "weights");
    run.status(RunStatus::Completed);
    drain(&mut worker, true).expect("sent");

    let kept = server.kept();
    assert_eq!(kept.runs.len(), 1);
    assert_eq!(kept.metrics.len(), 2_302);
    assert!(kept.metrics.values().all(|times| *times == 1));
    assert!(
        kept.metrics.contains_key(&("train/loss".into(), 3, 2_000_375, "0.25".into())),
        "{:?}",
        kept.metrics
    );
    assert_eq!((kept.params.len(), kept.params["train.learning_rate"].as_str()), (231, "0.1"));
    assert_eq!(kept.status, "FINISHED");
    assert_eq!(kept.tags["bonfire.final_digest"], "d0");
    assert_eq!(kept.inputs[0]["dataset"]["digest"], "12345678");
    let files: Vec<&str> = kept.files.keys().map(String::as_str).collect();
    let expected = ["config.toml", "events.json", "exports/safetensors/model.safetensors", "run.json"];
    assert_eq!(files, expected.map(|name| format!("0/r1/artifacts/{name}")));
    assert_eq!(kept.files["0/r1/artifacts/exports/safetensors/model.safetensors"], b"weights");
    drop(kept);
    assert!(worker.remarks().is_empty(), "all is well");
    assert_eq!(worker.place(), format!("{}/#/experiments/0/runs/r1", server.url));
}

/// A bare NaN is not JSON, and MLflow 3.17 takes it for a metric of value, step and time zero.
#[test]
fn numbers_that_json_lacks_are_words() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("odd", &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-320]);
    drain(&mut run.worker(sink(&server.url)), false).expect("sent");
    let kept = server.kept();
    let values: Vec<&str> = kept.metrics.keys().map(|(_, _, _, value)| value.as_str()).collect();
    assert_eq!(values, ["\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "-0.0", "1e-320"]);
}

#[test]
fn long_names_and_values_are_cut_to_what_the_server_takes() {
    let (run, server) = (Run::new(), Server::start());
    run.write("config.toml", &format!("[a]\n{} = 1\nlong = \"{}\"\n", "k".repeat(300), "é".repeat(7_000)));
    run.measure(&"m".repeat(400), &[1.0]);
    run.measure("a?b", &[1.0]);
    drain(&mut run.worker(sink(&server.url)), false).expect("sent");
    let kept = server.kept();
    let keys = kept.metrics.keys().map(|(key, ..)| key).chain(kept.params.keys());
    assert!(
        keys.clone().all(|key| key.chars().count() <= 250 && !key.contains('?')),
        "{:?}",
        kept.params.keys()
    );
    assert_eq!(keys.count(), 4);
    assert_eq!(kept.params["a.long"].chars().count(), 6_000);
    assert!(kept.params["a.long"].ends_with("(cut)"));
}

/// A permanent failure names the server, the request and the remedy.
#[test]
fn refusals_are_said_and_stop_the_sink() {
    let check = |path: &'static str, how: How, expected: &[&str]| {
        let (run, server) = (Run::new(), Server::start());
        run.measure("k", &[1.0]);
        server.fail(path, how.clone());
        let why = drain(&mut run.worker(sink(&server.url)), false).expect_err("refused");
        let SinkError::Refused(why) = why else { panic!("{how:?} is for good, and this was said: {why}") };
        for part in expected.iter().chain([&server.url.as_str(), &path]) {
            assert!(why.contains(part), "{part} is not in: {why}");
        }
    };
    let answer = |status, body: &str| How::Answer(status, String::new(), body.to_owned());
    let (html, code) = ("<html>Welcome</html>", "{\"error_code\":\"BAD_THING\",\"message\":\"mend it\"}");
    check("experiments/get-by-name", answer(401, html), &["401", "MLFLOW_TRACKING_TOKEN"]);
    check("runs/create", answer(403, "{}"), &["403", "MLFLOW_TRACKING_USERNAME"]);
    check("experiments/get-by-name", answer(404, html), &["404", "is this the address of an MLflow server?"]);
    check(
        "experiments/get-by-name",
        answer(200, html),
        &["no JSON", "is this the address of an MLflow server?"],
    );
    check("experiments/get-by-name", answer(200, "{}"), &["lacks what MLflow's has"]);
    check("runs/log-batch", answer(400, code), &["BAD_THING", "mend it"]);
    let location = "Location: https://login.example/oauth?state=secret\r\n".to_owned();
    check("runs/log-batch", How::Answer(302, location, String::new()), &["https://login.example/oauth\""]);
}

/// A server whose artifact store fails, or that doesn't support datasets, still gets the metrics, and people are
/// notified.
#[test]
fn files_and_datasets_that_are_not_taken_hold_no_numbers_back() {
    let (run, server) = (Run::new(), Server::start());
    run.write("exports/a.onnx", "weights");
    run.measure("train/loss", &numbers(10));
    for _ in 0..20 {
        server.answer("artifacts/config.toml", 500, "{\"message\": \"no credentials for the bucket\"}");
    }
    let mut worker = run.worker(sink(&server.url));
    for round in 1..=3 {
        let why = drain(&mut worker, false).expect_err("files aren't taken");
        assert!(matches!(&why, SinkError::Retry(why) if why.contains("the bucket")), "{why}");
        check_metrics(&run, &server);
        run.measure("train/loss", &numbers(round));
    }
    run.status(RunStatus::Completed);
    drain(&mut worker, true).expect_err("files aren't taken");
    assert!(server.kept().files.is_empty());
    server.kept().forgive();
    server.answer("artifacts/exports/a.onnx", 413, "<html>too large</html>");
    drain(&mut worker, true).expect("sent");
    check_metrics(&run, &server);
    assert_eq!(server.kept().status, "FINISHED");
    let files: Vec<String> = server.kept().files.keys().cloned().collect();
    assert_eq!(
        files,
        ["config.toml", "events.json", "run.json"].map(|name| format!("0/r1/artifacts/{name}"))
    );
    let remarks = worker.remarks();
    assert!(remarks.len() == 1 && remarks[0].contains("a.onnx") && remarks[0].contains("413"), "{remarks:?}");
}

#[test]
fn a_server_that_knows_no_datasets_gets_the_rest() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(10));
    server.answer("runs/log-inputs", 404, "<html>no such page</html>");
    let mut worker = run.worker(sink(&server.url));
    drain(&mut worker, false).expect("sent");
    check_metrics(&run, &server);
    let remarks = worker.remarks();
    assert!(
        remarks.len() == 1 && remarks[0].contains("log-inputs") && remarks[0].contains("dataset"),
        "{remarks:?}"
    );
    assert_eq!(server.kept().files.len(), 3);
}

#[test]
fn requests_are_short_enough_whatever_the_configuration() {
    let (run, server) = (Run::new(), Server::start());
    let long: String = (0..150).map(|n| format!("key_{n} = \"{}\"\n", "é".repeat(5_999))).collect();
    run.write("config.toml", &format!("[model]\n{long}"));
    drain(&mut run.worker(sink(&server.url)), false).expect("sent");
    assert_eq!(server.kept().params.len(), 150);
}

/// A scheduler created the run and names it through MLflow's variables.
#[test]
fn a_run_that_is_there_is_taken_over_unless_it_is_anothers() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(3));
    server.kept().runs.push(json!([]));
    server.kept().status = "SCHEDULED".into();
    let given = [("MLFLOW_RUN_ID", "r1"), ("MLFLOW_EXPERIMENT_ID", "7")];
    drain(&mut run.worker(sink_with(&server.url, &given)), false).expect("sent");
    check_metrics(&run, &server);
    {
        let kept = server.kept();
        assert_eq!((kept.runs.len(), kept.status.as_str(), kept.experiments.len()), (1, "RUNNING", 0));
        assert_eq!(kept.tags["bonfire.run_id"], "0123abcd-0000-0000-0000-00000000beef");
        assert!(!kept.tags.contains_key("mlflow.runName"), "its name stays: {:?}", kept.tags);
    }
    server.kept().tags.insert("bonfire.run_id".into(), "another".into());
    let other = Run::new();
    let why = drain(&mut other.worker(sink_with(&server.url, &given)), false).expect_err("refused");
    assert!(
        matches!(&why, SinkError::Refused(why) if why.contains("MLFLOW_RUN_ID") && why.contains("another")),
        "{why}"
    );
}

#[test]
fn the_environment_names_experiment_and_run() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(3));
    let given = [("MLFLOW_EXPERIMENT_ID", "0"), ("MLFLOW_RUN_NAME", "tuesday")];
    let why = drain(&mut run.worker(sink_with(&server.url, &given)), false).expect_err("refused");
    assert!(matches!(&why, SinkError::Refused(why) if why.contains("MLFLOW_EXPERIMENT_ID")), "{why}");
    server.kept().experiments.push("made by hand".into());
    drain(&mut run.worker(sink_with(&server.url, &given)), false).expect("sent");
    let kept = server.kept();
    assert_eq!((kept.experiments.len(), kept.name.as_str()), (1, "tuesday"));
}

/// As in MLflow's own client, a name and an id that disagree are an error.
#[test]
fn an_experiment_named_and_numbered_must_be_one() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(3));
    let both = |id| [("MLFLOW_EXPERIMENT_NAME", "mine"), ("MLFLOW_EXPERIMENT_ID", id)];
    let refused = |id, words: &[&str]| {
        let why = drain(&mut run.worker(sink_with(&server.url, &both(id))), false).expect_err("refused");
        let SinkError::Refused(why) = why else { panic!("for good: {why}") };
        for word in words.iter().chain(&["MLFLOW_EXPERIMENT_NAME", "\"mine\"", "MLFLOW_EXPERIMENT_ID is "]) {
            assert!(why.contains(word), "{word} is not in: {why}");
        }
    };
    refused("0", &["isn't there", "is 0"]);
    assert!(server.kept().experiments.is_empty(), "none is made");
    server.kept().experiments.extend(["other".into(), "mine".into()]);
    refused("0", &["is experiment 1", "is 0"]);
    assert!(server.kept().runs.is_empty());
    drain(&mut run.worker(sink_with(&server.url, &both("1"))), false).expect("sent");
    check_metrics(&run, &server);
}

#[test]
fn a_resumed_run_goes_on_in_the_same_one_and_a_changed_key_becomes_a_tag() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &[1.0, 2.0]);
    run.status(RunStatus::Interrupted);
    drain(&mut run.worker(sink(&server.url)), true).expect("sent");
    assert_eq!(server.kept().status, "KILLED");

    run.status(RunStatus::Running);
    run.write("config.toml", "[train]\nepochs = 4\n[model]\nkind = \"mlp\"\n");
    let mut worker = run.worker(sink(&server.url));
    drain(&mut worker, false).expect("sent");
    assert_eq!(server.kept().status, "RUNNING");
    run.measure("train/loss", &[3.0]);
    run.status(RunStatus::Completed);
    drain(&mut worker, true).expect("sent");
    check_metrics(&run, &server);
    let kept = server.kept();
    assert_eq!((kept.runs.len(), kept.status.as_str()), (1, "FINISHED"));
    assert_eq!(
        (kept.params["train.epochs"].as_str(), kept.tags["bonfire.changed.train.epochs"].as_str()),
        ("2", "4")
    );
    assert!(kept.metrics.values().all(|times| *times == 1));
}

#[test]
fn a_run_that_somebody_deleted_is_named_with_the_ways_out() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &[1.0]);
    let mut worker = run.worker(sink(&server.url));
    drain(&mut worker, false).expect("sent");
    let check = |worker: &mut Worker, expected: &str| {
        let why = drain(worker, false).expect_err("refused");
        assert!(
            matches!(&why, SinkError::Refused(why) if why.contains("r1") && why.contains(expected)),
            "{why}"
        );
    };
    server.kept().lifecycle = "deleted".into();
    run.measure("train/loss", &[2.0]);
    check(&mut worker, "restore");
    drop(worker);
    check(&mut run.worker(sink(&server.url)), "restore");
    server.kept().runs.clear();
    check(&mut run.worker(sink(&server.url)), "no longer there");
}

#[test]
fn a_state_that_is_damaged_is_named() {
    let (run, server) = (Run::new(), Server::start());
    run.write("tracker/mlflow.json", "{\"sink\": \"mlfl");
    let why =
        Worker::open(sink(&server.url), run.folder()).map(drop).map_err(|(_, why)| why).expect_err("refused");
    assert!(
        matches!(&why, SinkError::Refused(why) if why.contains("tracker/mlflow.json") && why.contains("move it away")),
        "{why}"
    );
}

/// Another server is another destination: everything is sent there, and the first one's state stays.
#[test]
fn two_servers_have_a_state_each_and_one_has_one_sender_at_a_time() {
    let (run, first, second) = (Run::new(), Server::start(), Server::start());
    run.measure("train/loss", &[1.0]);
    let mut worker = run.worker(sink(&first.url));
    drain(&mut worker, false).expect("sent");
    let busy =
        Worker::open(sink(&first.url), run.folder()).map(drop).map_err(|(_, why)| why).expect_err("locked");
    assert!(matches!(&busy, SinkError::Retry(why) if why.contains("another process")), "{busy}");
    drain(&mut run.worker(sink(&second.url)), false).expect("sent");
    check_metrics(&run, &first);
    check_metrics(&run, &second);
}

/// Also at the same moment: the second sender must not take the first one's state for its own.
#[test]
fn two_senders_that_start_together_do_not_meet() {
    for _ in 0..20 {
        let run = Run::new();
        let open = |url: &str| Worker::open(sink(url), run.folder()).map_err(|(_, why)| why);
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| open("http://first"));
            (open("http://second"), first.join().expect("no panic"))
        });
        for worker in [first, second] {
            assert_eq!(worker.map(|worker| worker.state().metrics).map_err(|why| why.to_string()), Ok(0));
        }
        let files = std::fs::read_dir(run.path("tracker")).expect("a folder").flatten();
        let states = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "json"));
        assert_eq!(states.count(), 2);
    }
}

/// Whatever happens, credentials are never written or shown; only the server gets them.
#[test]
fn credentials_go_to_the_server_and_nowhere_else() {
    let check = |user: &str, variables: &[(&str, &str)], authorization: &str| {
        let (run, server) = (Run::new(), Server::start());
        run.measure("train/loss", &[1.0]);
        let url = server.url.replace("http://", &format!("http://{user}"));
        server.answer("log-inputs", 500, "later");
        let repeated = authorization.split(' ').nth(1).expect("a secret");
        let echo = format!("{{\"message\": \"not {repeated} geheim\"}}");
        server.answer("log-batch", 401, "who?");
        server.answer("log-batch", 400, &echo);
        let mut worker = run.worker(sink_with(&url, variables));
        let mut said: Vec<String> = Vec::new();
        for _ in 0..3 {
            said.push(drain(&mut worker, false).expect_err("it fails").to_string());
        }
        assert!(said[2].contains("not (secret)"), "{said:?}");
        said.extend([worker.place(), format!("{:?}", sink_with(&url, variables))]);
        assert_eq!(server.kept().authorization, authorization);
        for file in std::fs::read_dir(run.path("tracker")).expect("states") {
            said.push(std::fs::read_to_string(file.expect("a file").path()).expect("read"));
        }
        let secret = authorization.split(' ').nth(1).expect("a scheme and a secret");
        for text in &said {
            assert!(!text.contains("geheim") && !text.contains(secret), "{text}");
        }
    };
    let password = [("MLFLOW_TRACKING_USERNAME", "me"), ("MLFLOW_TRACKING_PASSWORD", "geheim")];
    check("", &password, "Basic bWU6Z2VoZWlt");
    check("me:geheim@", &[], "Basic bWU6Z2VoZWlt");
    check("", &[("MLFLOW_TRACKING_TOKEN", "geheim")], "Bearer geheim");
}
