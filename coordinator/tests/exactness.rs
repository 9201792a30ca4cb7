//! The same bits for any number of workers, run after run, and across resumes: on real processes.

mod support;

use support::Place;

#[test]
fn the_digest_is_the_same_for_1_2_3_and_5_workers_and_run_after_run() {
    let place = Place::new();
    let mut digests = Vec::new();
    for (run, workers) in ["1", "2", "3", "5", "1"].into_iter().enumerate() {
        let name = format!("run-{run}");
        place.complete(&["--local-workers", workers, "--set", &format!("run.name={name}")]);
        let record = place.record(&name);
        assert_eq!(record["status"], "completed");
        assert_eq!(record["exact"], true);
        assert_eq!(record["members"].as_array().map(Vec::len), workers.parse().ok());
        digests.push(place.digest(&name));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    assert_eq!(digests[0].len(), 64);
}

/// The digest of a run with 1 worker, which is that of 2 and 3 of them.
fn digest_of_any(place: &Place, name: &str, keys: &[&str]) -> String {
    for workers in ["1", "2", "3"] {
        let run = format!("run.name={name}-{workers}");
        let set = keys.iter().flat_map(|key| ["--set", *key]);
        let all: Vec<&str> = ["--local-workers", workers, "--set", &run].into_iter().chain(set).collect();
        place.complete(&all);
        assert_eq!(
            place.digest(&format!("{name}-{workers}")),
            place.digest(&format!("{name}-1")),
            "{keys:?}"
        );
    }
    place.digest(&format!("{name}-1"))
}

#[test]
fn every_order_and_every_sampling_has_one_digest_for_any_number_of_workers() {
    let place = Place::new();
    // A column of weights for the digits: the row's number, so that later rows come more often.
    let rows = std::fs::read_to_string(place.path().join("rows.csv")).expect("rows");
    let weighted: Vec<String> = rows
        .lines()
        .enumerate()
        .map(|(row, line)| match row {
            0 => format!("weight,{line}"),
            row => format!("{row},{line}"),
        })
        .collect();
    std::fs::write(place.path().join("weighted.csv"), weighted.join("\n") + "\n").expect("written");
    let digests = [
        digest_of_any(&place, "full", &[]),
        digest_of_any(&place, "window", &["dataset.shuffle=window", "dataset.shuffle_window=10"]),
        digest_of_any(&place, "stored", &["dataset.shuffle=none"]),
        digest_of_any(&place, "balanced", &["dataset.sampling=balanced"]),
        digest_of_any(&place, "weights", &["model.class_weights=balanced"]),
        digest_of_any(
            &place,
            "weighted",
            &["dataset.uri=weighted.csv", "dataset.sampling=weighted", "dataset.weight_column=weight"],
        ),
    ];
    let different: std::collections::BTreeSet<&String> = digests.iter().collect();
    assert_eq!(different.len(), digests.len(), "each key changes what is trained: {digests:?}");
    // The numbers that were worked out stand in the run's own configuration.
    let config = std::fs::read_to_string(place.run_dir("weights-1").join("config.toml")).expect("read");
    let weights = config.lines().find_map(|line| line.strip_prefix("class_weights = [")).expect("weights");
    assert_eq!(weights.split(',').count(), 10, "{weights}");
}

#[test]
fn another_seed_gives_other_weights() {
    let place = Place::new();
    place.complete(&["--set", "run.name=a"]);
    place.complete(&["--set", "run.name=b", "--set", "run.seed=8"]);
    assert_ne!(place.digest("a"), place.digest("b"));
}

#[test]
fn a_run_stopped_at_any_step_resumes_to_the_digest_of_an_uninterrupted_one() {
    let place = Place::new();
    place.complete(&["--set", "run.name=whole"]);
    let whole = place.digest("whole");
    let steps = place.record("whole")["final"]["step"].as_u64().expect("steps");
    assert_eq!(steps, 10, "96 training rows in batches of 20, the last one short, twice");

    // A crash right after version k leaves the run's folder as it was then: later versions, commits and metrics
    // are not there. The journal of the whole run is kept: its later commits must come again with their hashes.
    for step in 0..steps {
        let name = format!("from-{step}");
        copy(&place.run_dir("whole"), &place.run_dir(&name));
        let versions = place.run_dir(&name).join("checkpoints");
        for later in step + 1..=steps {
            let _ = std::fs::remove_dir_all(versions.join(format!("step-{later:08}")));
        }
        mark_interrupted(&place.run_dir(&name).join("run.json"));
        let workers = (step % 3 + 1).to_string();
        place.complete(&["--set", &format!("run.name={name}"), "--resume", "--local-workers", &workers]);
        assert_eq!(place.digest(&name), whole, "resumed from step {step} with {workers} workers");
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn mark_interrupted(path: &std::path::Path) {
    let text = std::fs::read_to_string(path).expect("run.json");
    std::fs::write(path, text.replace("\"completed\"", "\"interrupted\"")).expect("written");
}
