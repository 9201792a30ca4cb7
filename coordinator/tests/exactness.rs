//! Bit-exactness for any number of workers, run after run, and across resumes: on real processes.

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

/// The digest of a run with 1 worker, checked against runs with 2 and 3.
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
    // A column of weights for the digits: the row's number, so that later rows are drawn more often.
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
    // The run's own configuration holds the computed weights.
    let config = std::fs::read_to_string(place.run_dir("weights-1").join("config.toml")).expect("read");
    let weights = config.lines().find_map(|line| line.strip_prefix("class_weights = [")).expect("weights");
    assert_eq!(weights.split(',').count(), 10, "{weights}");
}

#[test]
fn half_precision_has_one_digest_for_any_number_of_workers() {
    let place = Place::new();
    let digests = ["f32", "bf16", "f16"]
        .map(|precision| digest_of_any(&place, precision, &[&format!("train.precision={precision}")]));
    assert!(
        digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2],
        "each is computed in its own: {digests:?}"
    );
}

#[test]
fn half_precision_learns_the_digits_as_well_as_f32() {
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (preset, digits) =
        (repository.join("configs/digits.toml"), repository.join("datasets/digits/digits.csv"));
    let place = Place::new();
    let accuracy = |precision: &str| {
        let mut command = place.command(&["--config"]);
        command.arg(&preset).args(["--set", &format!("dataset.uri={}", digits.display())]);
        let keys = [format!("run.name={precision}"), format!("train.precision={precision}")];
        command.args(keys.iter().flat_map(|key| ["--set", key.as_str()]));
        command.args(["--set", "train.evaluate_every=20", "--local-workers", "2"]);
        let output = support::wait(command.spawn().expect("started"));
        assert!(output.status.success(), "{precision}: {}", String::from_utf8_lossy(&output.stdout));
        place.record(precision)["final"]["metrics"]["validation/accuracy"].as_f64().expect("an accuracy")
    };
    let expected = accuracy("f32");
    let found = accuracy("bf16");
    assert!(expected > 0.95 && found > expected - 0.02, "bf16 {found}, f32 {expected}");
}

#[test]
fn a_model_that_half_precision_is_too_narrow_for_is_refused_before_step_0() {
    let place = Place::new();
    // Inputs of a million: their squares, and the first layer's outputs, exceed 65,504.
    let rows = std::fs::read_to_string(place.path().join("rows.csv")).expect("rows");
    let huge: Vec<String> = rows
        .lines()
        .enumerate()
        .map(|(row, line)| if row == 0 { format!("{line},size") } else { format!("{line},{row}000000") })
        .collect();
    std::fs::write(place.path().join("huge.csv"), huge.join("\n") + "\n").expect("written");
    let set =
        ["--set", "dataset.uri=huge.csv", "--set", "dataset.normalise=none", "--set", "train.precision=f16"];
    let (code, out, said) = place.finish(&set);
    assert_eq!(code, Some(2), "{out}{said}");
    let said = format!("{out}{said}");
    assert!(said.contains("train.precision = \"f16\" doesn't do for this model"), "{said}");
    assert!(said.contains("set train.precision = \"f32\", or \"bf16\""), "{said}");

    let ndarray = ["--set", "local.devices=ndarray", "--set", "train.precision=bf16", "--set", "run.name=nd"];
    let (code, out, said) = place.finish(&ndarray);
    let said = format!("{out}{said}");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("train.precision = \"bf16\", but the device ndarray"), "{said}");
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

    // A crash right after checkpoint k leaves the run's folder as it was then: later checkpoints, commits and metrics
    // don't exist. The journal of the whole run is kept: its later commits must be reproduced with their hashes.
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

#[test]
fn a_completed_run_goes_on_to_more_epochs_unless_its_schedule_depends_on_them() {
    let place = Place::new();
    let constant = ["--set", "schedule.kind=constant", "--set", "schedule.warmup_steps=0"];
    let run = |name: &'static str, rest: &[&'static str]| [&constant[..], &["--set", name], rest].concat();
    place.complete(&run("run.name=long", &["--set", "train.epochs=4"]));
    place.complete(&run("run.name=grown", &[]));
    let said = place.complete(&run("run.name=grown", &["--resume"]));
    assert!(said.contains("is completed"), "{said}");
    place.complete(&run("run.name=grown", &["--set", "train.epochs=4", "--local-workers", "2", "--resume"]));
    assert_eq!(place.record("grown")["final"]["step"], 20);
    assert_eq!(place.digest("grown"), place.digest("long"));

    place.complete(&["--set", "run.name=cosine"]);
    let (code, _, said) = place.finish(&["--set", "run.name=cosine", "--set", "train.epochs=4", "--resume"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("train.epochs"), "{said}");
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
