//! Transient failures: after retries, everything is there exactly once.

use std::net::TcpListener;

use super::*;

#[test]
fn a_server_that_asks_to_be_left_alone_is() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(3));
    let busy = |seconds: u32| How::Answer(429, format!("Retry-After: {seconds}\r\n"), String::new());
    server.fail("runs/create", busy(120));
    let why = drain(&mut run.worker(sink(&server.url)), false).expect_err("busy");
    assert_eq!(why.pause_asked(), Some(Duration::from_secs(120)), "{why}");
    assert!(why.to_string().contains("429") && why.to_string().contains("120 s"), "{why}");
    // A short requested pause is waited out, a long one reported.
    let none = |_: &str| None;
    let config = SinkConfig::mlflow(&server.url, None, "digits", &none).expect("an address");
    server.fail("runs/create", busy(3_000));
    let why = push(&run.path(""), &config, Duration::from_secs(20)).expect_err("busy");
    assert!(matches!(&why, PushError::Failed(why) if why.contains("600 s")), "{why}");
    server.fail("runs/create", busy(1));
    let began = std::time::Instant::now();
    push(&run.path(""), &config, Duration::from_secs(20)).expect("pushed");
    assert!(began.elapsed() >= Duration::from_secs(1));
    check_metrics(&run, &server);
}

#[test]
fn what_may_get_better_is_sent_again_and_nothing_is_lost_or_doubled() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(1_500));
    let failing = [
        ("experiments/get-by-name", 500),
        ("runs/create", 503),
        ("log-batch", 429),
        ("log-batch", 502),
        ("log-inputs", 504),
        ("artifacts", 500),
        ("log-batch", 408),
    ];
    for (path, status) in failing {
        server.answer(path, status, "<html>later</html>");
    }
    run.status(RunStatus::Completed);
    let mut worker = run.worker(sink(&server.url));
    let mut failures = 0;
    while let Err(why) = drain(&mut worker, true) {
        assert!(matches!(why, SinkError::Retry(_)), "{why}");
        assert_eq!(run.state("mlflow").last_error, Some(why.to_string()));
        failures += 1;
        assert!(failures <= failing.len(), "{why}");
    }
    assert_eq!(failures, failing.len());
    assert_eq!(run.state("mlflow").last_error, None);
    check_metrics(&run, &server);
    let kept = server.kept();
    assert_eq!((kept.runs.len(), kept.status.as_str()), (1, "FINISHED"));
}

/// The server handled the request, the response was lost, and the process crashed as well: repeating it changes
/// nothing.
#[test]
fn lost_answers_and_crashes_double_nothing() {
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(2_500));
    let lost = [
        "experiments/create",
        "runs/create",
        "log-batch",
        "log-inputs",
        "log-batch",
        "log-batch",
        "config.toml",
    ];
    for path in lost {
        server.fail(path, How::LostAnswer);
    }
    run.status(RunStatus::Completed);
    let mut crashes = 0;
    loop {
        match drain(&mut run.worker(sink(&server.url)), true) {
            Ok(()) => break,
            Err(SinkError::Refused(why)) => panic!("{why}"),
            Err(_) => crashes += 1,
        }
        assert!(crashes <= lost.len());
    }
    assert_eq!(crashes, lost.len());
    check_metrics(&run, &server);
    let kept = server.kept();
    assert!(kept.metrics.values().any(|times| *times > 1), "something was sent twice, and kept once");
    assert_eq!((kept.runs.len(), kept.experiments.len()), (1, 1));
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let run = Run::new();
    run.measure("train/loss", &[1.0]);
    // A port on which nobody listens any more.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let mut worker = run.worker(sink(&format!("http://{closed}")));
    let why = drain(&mut worker, false).expect_err("nobody is there");
    assert!(matches!(&why, SinkError::Retry(why) if why.contains(&closed.to_string())), "{why}");
    assert_eq!(run.state("mlflow").attempts, 1);
}

/// An hour's outage at ten metrics a second, with a crash of ours in it: everything is kept, and each value is there
/// once.
#[test]
fn an_hour_without_the_server_loses_and_doubles_nothing() {
    const MINUTES: u32 = 60;
    let (run, server) = (Run::new(), Server::start());
    run.measure("train/loss", &numbers(10));
    let mut worker = Some(run.worker(sink(&server.url)));
    drain(worker.as_mut().expect("a worker"), false).expect("sent");
    for minute in 1..=MINUTES {
        run.measure("train/loss", &numbers(600));
        // Each attempt fails in another way, sometimes after the server has stored the batch.
        match minute % 4 {
            0 => server.fail("log-batch", How::LostAnswer),
            1 => server.answer("log-batch", 503, "<html>maintenance</html>"),
            2 => server.answer("log-batch", 502, ""),
            _ => server.answer("log-batch", 500, "{\"message\":\"disk full\"}"),
        }
        if minute == MINUTES / 2 {
            drop(worker.take());
        }
        let worker = worker.get_or_insert_with(|| run.worker(sink(&server.url)));
        let why = drain(worker, false).expect_err("away");
        assert!(matches!(why, SinkError::Retry(_)), "{why}");
        assert_eq!(run.state("mlflow").metrics, 10, "what nobody has said to be there isn't");
    }
    run.status(RunStatus::Completed);
    drain(worker.as_mut().expect("a worker"), true).expect("sent");
    check_metrics(&run, &server);
    let (state, kept) = (run.state("mlflow"), server.kept());
    assert_eq!((state.attempts, state.metrics), (0, 10 + u64::from(600 * MINUTES)));
    assert_eq!((kept.runs.len(), kept.status.as_str()), (1, "FINISHED"));
    assert!(kept.metrics.values().any(|times| *times > 1), "something was sent twice, and kept once");
}

/// Invalid lines are reported and skipped, and a line that is still being written waits.
#[test]
fn lines_that_say_nothing_hold_no_numbers_back() {
    let (run, server) = (Run::new(), Server::start());
    run.garbled();
    let mut worker = run.worker(sink(&server.url));
    drain(&mut worker, false).expect("sent");
    let steps = || server.kept().metrics.keys().map(|(_, step, ..)| *step).collect::<Vec<_>>();
    assert_eq!(steps(), Run::GARBLED_STEPS);
    run.check_garbled(&worker.remarks());
    run.mend_the_torn_line();
    drain(&mut worker, false).expect("sent");
    assert_eq!(steps(), Run::MENDED_STEPS);
    assert!(worker.remarks().is_empty(), "said once");
}
