//! Initial parameters and early stopping, on real processes.

mod support;

use std::path::Path;

use serde_json::Value;
use support::Place;

/// The bytes of a tensor in a safetensors file, and its shape.
fn tensor(path: &Path, name: &str) -> (Vec<u8>, Value) {
    let bytes = std::fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let entry = &header[name];
    let at = |index: usize| 8 + length + entry["data_offsets"][index].as_u64().expect(name) as usize;
    (bytes[at(0)..at(1)].to_vec(), entry["shape"].clone())
}

fn model(place: &Place, run: &str, step: u64) -> std::path::PathBuf {
    place.run_dir(run).join(format!("checkpoints/step-{step:08}/model.safetensors"))
}

/// The steps of a run's checkpoints. A step's checkpoint may be skipped while the previous one is being written.
fn versions(place: &Place, run: &str) -> Vec<u64> {
    let folder = std::fs::read_dir(place.run_dir(run).join("checkpoints")).expect("its versions");
    let names = folder.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut steps: Vec<u64> = names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// A run to start from: `source`, of ten steps.
fn place_with_source() -> Place {
    let place = Place::new();
    place.complete(&["--set", "run.name=source"]);
    place
}

#[test]
fn a_run_begins_with_another_ones_parameters_and_keeps_the_frozen_ones() {
    let place = place_with_source();
    // Not the newest, which a run's folder alone would select.
    let step = versions(&place, "source")[1];
    let (source_run, freeze) = (format!("init.from=runs/source@{step}"), "init.freeze=[\"hidden*\"]");
    let mut digests = Vec::new();
    for workers in ["1", "2", "3"] {
        let name = format!("run.name=of-{workers}");
        let from = ["--set", source_run.as_str(), "--set", freeze];
        place.complete(&[&["--set", &name, "--local-workers", workers], &from[..]].concat());
        digests.push(place.digest(&format!("of-{workers}")));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let source = model(&place, "source", step);
    let (first, last) = (model(&place, "of-2", 0), model(&place, "of-2", 10));
    for name in ["hidden.0.weight", "hidden.0.bias"] {
        assert_eq!(tensor(&source, name), tensor(&last, name), "{name} is frozen");
    }
    assert_eq!(tensor(&source, "output.weight"), tensor(&first, "output.weight"));
    assert_ne!(tensor(&source, "output.weight"), tensor(&last, "output.weight"));

    let config =
        std::fs::read_to_string(place.run_dir("of-3").join("config.toml")).expect("its configuration");
    assert!(config.contains(&format!("digest = \"{}\"", blake3_of(&source))), "{config}");
}

fn blake3_of(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).expect("read")).to_hex().to_string()
}

#[test]
fn an_interrupted_run_goes_on_without_the_file_that_it_began_with() {
    let place = place_with_source();
    let file = place.path().join("first.safetensors");
    std::fs::copy(model(&place, "source", 10), &file).expect("copied");
    let arguments = ["--set", "init.from=first.safetensors", "--set", "init.freeze=[\"output.bias\"]"];
    let with = |more: &[&'static str]| [&arguments[..], more].concat();
    place.complete(&with(&["--set", "run.name=whole"]));

    // As after a crash in the middle: no later checkpoint, and no record of the end.
    place.complete(&with(&["--set", "run.name=cut"]));
    let dir = place.run_dir("cut");
    for step in versions(&place, "cut").split_off(2) {
        std::fs::remove_dir_all(dir.join(format!("checkpoints/step-{step:08}"))).expect("removed");
    }
    let record = std::fs::read_to_string(dir.join("run.json")).expect("its record");
    std::fs::write(dir.join("run.json"), record.replace("\"completed\"", "\"failed\"")).expect("written");
    std::fs::remove_file(&file).expect("removed");
    place.complete(&with(&["--set", "run.name=cut", "--resume"]));
    assert_eq!(place.digest("cut"), place.digest("whole"));

    // Other parameters under the same name would be another run.
    std::fs::copy(model(&place, "source", 0), &file).expect("copied");
    std::fs::write(dir.join("run.json"), record.replace("\"completed\"", "\"failed\"")).expect("written");
    let (code, _, said) = place.finish(&with(&["--set", "run.name=cut", "--resume"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("init.digest"), "{said}");
}

#[test]
fn tensors_that_do_not_fit_are_listed_and_may_be_allowed_to() {
    let place = place_with_source();
    let arguments = ["--set", "init.from=runs/source", "--set", "model.hidden=[16, 12]"];
    let refused = |more: &[&'static str], code: i32, words: &[&str]| {
        let (found, out, said) = place.finish(&[&arguments[..], more].concat());
        assert_eq!(found, Some(code), "{out}\n{said}");
        for word in words {
            assert!(format!("{out}{said}").contains(word), "no {word:?} in {said}\n{out}");
        }
    };
    refused(
        &["--set", "run.name=a"],
        3,
        &[
            "the file lacks hidden.1.weight, hidden.1.bias",
            "output.weight (F32 [10, 12] here, F32 [10, 16] there)",
        ],
    );
    refused(
        &["--set", "run.name=b", "--set", "init.freeze=[\"hiden*\"]"],
        2,
        &["\"hiden*\"", "hidden.0.weight"],
    );
    refused(&["--set", "run.name=c", "--set", "init.freeze=[\"*\"]"], 2, &["nothing would be left to train"]);
    refused(
        &["--set", "run.name=d", "--set", "init.from=runs/sauce"],
        3,
        &["runs/sauce", "no such file or run"],
    );
    refused(
        &["--set", "run.name=e", "--set", "init.from=runs/source@99"],
        3,
        &["no version of step 99; it has 0, 1"],
    );
    assert!(!place.run_dir("e").exists(), "no folder is made for what can't begin");

    let allow = "init.allow_missing=[\"output.*\", \"hidden.1.*\"]";
    place.complete(&[&arguments[..], &["--set", "run.name=new-head", "--set", allow]].concat());
    let (source, first) = (model(&place, "source", 10), model(&place, "new-head", 0));
    assert_eq!(tensor(&source, "hidden.0.weight"), tensor(&first, "hidden.0.weight"));
    assert_eq!(tensor(&first, "output.weight").1, serde_json::json!([10, 12]));
}

#[test]
fn a_run_that_no_longer_improves_ends_early_and_keeps_its_best_version() {
    let place = Place::new();
    // Nothing improves by as much as a hundred, so the first evaluation stays the best.
    let arguments =
        ["--set", "train.epochs=9", "--set", "train.patience=3", "--set", "train.min_delta=100.0"];
    let others =
        ["--set", "checkpoint.every=1h", "--set", "checkpoint.keep=1", "--set", "schedule.kind=warmup"];
    for workers in ["1", "2"] {
        let name = format!("run.name=of-{workers}");
        let more = ["--set", &name, "--local-workers", workers];
        let said = place.complete(&[&arguments[..], &others[..], &more[..]].concat());
        assert!(
            said.contains("ended early after step 20: validation/loss has not improved for 3 evaluations"),
            "{said}"
        );
        let record = place.record(&format!("of-{workers}"));
        assert_eq!((&record["status"], &record["final"]["step"]), (&"completed".into(), &20.into()));
        assert_eq!(record["final"]["best_step"], 5);
        assert!(model(&place, "of-1", 5).is_file(), "the best version stays");
        assert!(model(&place, "of-1", 20).is_file(), "the last one too");
    }
    assert_eq!(place.digest("of-1"), place.digest("of-2"));
    let said =
        place.complete(&[&arguments[..], &others[..], &["--set", "run.name=of-1", "--resume"]].concat());
    assert!(said.contains("is completed"), "{said}");
    let wrong = ["--set", "run.name=x", "--set", "train.monitor=validation/mean_squared_error"];
    let (code, _, said) = place.finish(&[&arguments[..], &wrong[..]].concat());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("has no such metric"), "{said}");
}
