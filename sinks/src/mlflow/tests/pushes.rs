//! Sinks in their threads during a run, and pushes of a run afterwards: to the end, with their messages.

use super::*;

fn config(server: &Server) -> SinkConfig {
    SinkConfig::mlflow(&server.url, None, "digits", &|_| None).expect("an address")
}

#[test]
fn threads_follow_a_run_to_its_end_and_say_what_happens() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(2_300));
    server.answer("log-inputs", 503, "later");
    let configs = vec![config(&server), SinkConfig::tensorboard()];
    let sinks = Sinks::start(run.folder().path(), configs).expect("threads");
    sinks.notify();
    run.status(RunStatus::Completed);
    let (remarks, left) = sinks.finish(Duration::from_secs(20));
    assert_eq!(left, []);
    for part in ["503", "works again", "/#/experiments/0/runs/r1", "tensorboard --logdir"] {
        assert!(remarks.iter().any(|remark| remark.contains(part)), "{part} is not in {remarks:?}");
    }
    check_metrics(&run, &server);
    assert_eq!(server.kept().status, "FINISHED");
}

#[test]
fn a_push_sends_what_is_not_there_and_says_why_it_does_not() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(1_200));
    run.status(RunStatus::Completed);
    let none = Duration::ZERO;
    server.answer("log-inputs", 503, "later");
    let why = push(run.folder().path(), &config(&server), none).expect_err("it failed");
    assert!(matches!(&why, PushError::Failed(why) if why.contains("503")), "{why}");
    let first = push(run.folder().path(), &config(&server), none).expect("sent");
    assert_eq!((first.metrics, first.before), (1_200, 0));
    run.measure("train/loss", &[1.0]);
    let second = push(run.folder().path(), &config(&server), none).expect("sent");
    assert_eq!((second.metrics, second.before), (1, 1_200));
    check_metrics(&run, &server);
    server.answer("runs/get", 401, "who?");
    let why = push(run.folder().path(), &config(&server), none).expect_err("refused");
    assert!(matches!(&why, PushError::Refused(why) if why.contains("401")), "{why}");
    let why = push(&run.path("absent"), &config(&server), none).expect_err("no run");
    assert!(matches!(&why, PushError::Run(why) if why.contains("absent")), "{why}");
}
