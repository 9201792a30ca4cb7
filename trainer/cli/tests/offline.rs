//! The command on a run's directory.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Parser;
use configs::Config;
use datasets::{Batch, DataPlan, Dataset};
use run_record::{Metric, MetricsFile};
use serde_json::Value;
use store::signing::{SigningKey, TrustedKeys};
use store::versions::{self, Manifest, VersionWriter};
use tempfile::TempDir;
use trainer::{DataSpec, DeviceSpec, Engine, HostBatch, ModelConfig, OutputSpec, Registry, Target, tensors};
use trainer_cli::{Cli, Failure, answer};

const LABELS: [&str; 3] = ["ant", "bee", "cow"];

struct Left {
    dir: TempDir,
    plan: DataPlan,
    config: Config,
}

impl Left {
    /// A run on a small table: versions of steps 5 and 10, nothing logged yet.
    fn new(kind: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut table = "a,b,answer\n".to_owned();
        for row in 0..60 {
            let (a, b) = (row % 7, row % 11);
            let _ = match kind {
                "classification" => writeln!(table, "{a},{b},{}", LABELS[row % 3]),
                _ => writeln!(table, "{a},{b},{}.5", 1000 + 10 * a),
            };
        }
        let data = dir.path().join("table.csv");
        std::fs::write(&data, table).expect("written");
        let text = format!(
            "[dataset]\nuri = {:?}\ntarget = \"answer\"\nkind = {kind:?}\nvalidation = 0.4\n\
             [train]\nepochs = 1\nbatch_size = 8\n[model]\nkind = \"mlp\"\nhidden = [8]\n\
             [optimizer]\nlearning_rate = 0.1\n",
            data.display().to_string()
        );
        let config = Config::parse(&text, "test.toml", &[]).expect("a configuration");
        let plan = DataPlan::prepare(&config.dataset, None).expect("a plan");
        let left = Self { dir, plan, config };
        let run = left.run();
        std::fs::create_dir_all(run.join("checkpoints")).expect("made");
        std::fs::write(run.join("config.toml"), left.config.to_toml()).expect("written");
        std::fs::write(run.join("metrics.jsonl"), "").expect("written");
        for step in [5, 10] {
            left.write_version(step);
        }
        left
    }

    fn run(&self) -> PathBuf {
        self.dir.path().join("small-1")
    }

    fn spec(&self) -> DataSpec {
        let output = match &self.plan.output {
            datasets::Output::Classes { labels } => OutputSpec::Classes(labels.clone()),
            datasets::Output::Values { .. } => OutputSpec::Values(vec!["answer".to_owned()]),
            datasets::Output::Tokens { .. } => panic!("the tests have no text"),
        };
        DataSpec::new(vec![2], output)
    }

    /// The model, with its weights seeded by the step.
    fn engine(&self, step: u64) -> (Box<dyn Engine>, Vec<f32>) {
        let device = trainer::device::open(&DeviceSpec::Cpu).expect("a CPU");
        let model = ModelConfig::new("mlp", &self.config.model.keys).expect("keys");
        let mut engine = Registry::builtin().build("mlp", &model, &self.spec(), &device).expect("a model");
        engine.initialise(step).expect("initialised");
        let mut parameters = vec![0.0; engine.layout().elements];
        engine.read_parameters(&mut parameters).expect("read");
        (engine, parameters)
    }

    fn write_version(&self, step: u64) {
        let (engine, parameters) = self.engine(step);
        let mut writer = VersionWriter::begin(&self.run().join("checkpoints"), step).expect("begun");
        let mut file = writer.file("model.safetensors").expect("a file");
        let none = tensors::Metadata::new();
        file.write(&tensors::encode_model(engine.layout(), &parameters, &none)).expect("written");
        writer.add(file).expect("durable");
        let digest = tensors::model_digest(engine.layout(), &parameters);
        let manifest = Manifest {
            step,
            epoch: 1,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            state_digest: String::new(),
            config_digest: self.config.digest(),
            dataset_digest: self.plan.digest.clone(),
            created: 1,
            files: Vec::new(),
        };
        writer.finish(manifest, || true).expect("finished");
    }

    fn log(&self, step: u64, key: &str, value: f64) {
        let mut file = MetricsFile::open(&self.run().join("metrics.jsonl")).expect("opened");
        let metric = Metric { step, epoch: 1.0, samples: 1, time: 1.0, key: key.to_owned(), value };
        assert_eq!(file.append(vec![metric]).expect("written").len(), 1);
    }

    fn ask(&self, words: &[&str]) -> Result<String, Failure> {
        let run = self.run().display().to_string();
        let line = ["trainer", words[0], &run].into_iter().chain(words[1..].iter().copied());
        answer(&Cli::try_parse_from(line).expect("a command line"), &Registry::builtin())
    }

    fn ask_json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ask(words).expect("an answer")).expect("JSON")
    }

    fn fails(&self, words: &[&str], says: &[&str]) {
        let failure = self.ask(words).expect_err("no answer");
        assert_eq!(failure.code, 3, "{failure}");
        for word in says {
            assert!(failure.message.contains(word), "{word:?} is not in: {failure}");
        }
    }

    /// Evaluation sums by definition: 24 samples in six microbatches of 4.
    fn sums(&self, step: u64) -> Vec<f64> {
        let (mut engine, _) = self.engine(step);
        let dataset = Dataset::open(&self.plan, Path::new(&self.plan.path)).expect("opened");
        assert_eq!((dataset.evaluation_len(), self.config.train.evaluation_microbatch()), (24, 4));
        let mut parts = Vec::new();
        for start in (0..24).step_by(4) {
            let (mut rows, ordinals) = (Batch::default(), Vec::from_iter(start..start + 4));
            dataset.gather_evaluation(&ordinals, &mut rows).expect("gathered");
            let mut batch = HostBatch::empty(&self.spec());
            batch.x.data = trainer::HostData::F32(rows.features);
            match &mut batch.y {
                Target::Labels(labels) | Target::Tokens(labels) => {
                    labels.extend(rows.labels.iter().map(|label| i64::from(*label)));
                }
                Target::Values { data, .. } => *data = rows.values,
                Target::Unknown => {}
            }
            batch.set_count(4);
            parts.push(engine.evaluate(&batch).expect("evaluated"));
        }
        let node = |i: usize| {
            let part = |microbatch: usize| -> f64 { parts[microbatch][i] };
            ((part(0) + part(1)) + (part(2) + part(3))) + (part(4) + part(5))
        };
        (0..parts[0].len()).map(node).collect()
    }
}

fn f64_at(json: &Value, key: &str) -> f64 {
    // Parse the text: serde_json may be off in the last bit.
    json["metrics"][key].to_string().parse().expect("a number")
}

#[test]
fn an_evaluation_is_that_of_the_run() {
    let left = Left::new("classification");
    let sums = left.sums(10);
    let json = left.ask_json(&["eval", "--output", "json"]);
    assert_eq!((json["step"].as_u64(), json["samples"].as_u64()), (Some(10), Some(24)));
    assert!((f64_at(&json, "validation/loss") - sums[0] / sums[1]).abs() < 1e-15);
    assert!((f64_at(&json, "validation/accuracy") - sums[2] / sums[1]).abs() < 1e-15);
    assert!(json["metrics"]["validation/macro_f1"].is_number());

    assert!(left.ask(&["eval"]).expect("an answer").contains("logged no evaluation of this step"));
    left.log(10, "validation/loss", sums[0] / sums[1]);
    left.log(10, "train/loss", 7.0);
    assert!(left.ask(&["eval"]).expect("an answer").contains("to the last bit (1 values)"));
    left.log(10, "validation/accuracy", 2.0);
    let said = left.ask(&["eval"]).expect("an answer");
    assert!(said.contains("(the run logged 2)") && said.contains("1 of 2 values are not"), "{said}");
}

#[test]
fn the_version_is_chosen_by_step_by_value_or_by_age() {
    let left = Left::new("classification");
    let step =
        |words: &[&str]| left.ask_json(&[&["eval", "--output", "json"], words].concat())["step"].as_u64();
    assert_eq!(step(&[]), Some(10));
    assert_eq!(step(&["--version", "5"]), Some(5));
    left.fails(&["eval", "--version", "best"], &["validation/loss", "5, 10"]);
    left.fails(&["eval", "--version", "7"], &["no version of step 7", "5, 10"]);
    left.log(5, "validation/loss", 0.1);
    left.log(7, "validation/loss", 0.01);
    left.log(10, "validation/loss", 0.2);
    assert_eq!(step(&["--version", "best"]), Some(5));

    // A damaged version is skipped, unless it was selected by step.
    let file = versions::folder(&left.run().join("checkpoints"), 5).join("model.safetensors");
    let mut bytes = std::fs::read(&file).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("damaged");
    assert_eq!(step(&["--version", "best"]), Some(10));
    left.fails(&["eval", "--version", "5"], &["step-00000005", "model.safetensors is damaged"]);
    std::fs::remove_dir_all(left.run().join("checkpoints")).expect("removed");
    left.fails(&["eval"], &["no version"]);
}

#[test]
fn predictions_are_in_the_targets_own_terms() {
    let left = Left::new("classification");
    let table = left.dir.path().join("new.csv");
    // Reordered columns, one extra, no target.
    std::fs::write(&table, "b,more,a\n1,x,2\n3,y,4\n5,z,6\n").expect("written");
    let table = table.display().to_string();
    let text = left.ask(&["predict", "--input", &table, "--output", "json"]).expect("an answer");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    for (row, line) in (1..).zip(&lines) {
        assert_eq!(line["row"].as_u64(), Some(row));
        let all: Vec<f64> = LABELS.iter().filter_map(|label| line["probabilities"][label].as_f64()).collect();
        assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{line}");
        let label = line["label"].as_str().expect("a label");
        assert_eq!(line["probabilities"][label], line["probability"]);
        assert!(all.iter().all(|p| *p <= line["probability"].as_f64().unwrap_or(0.0)), "{line}");
    }
    let text = left.ask(&["predict", "--input", &table]).expect("an answer");
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().nth(1).is_some_and(|line| line.contains(lines[0]["label"].as_str().unwrap_or("?"))));

    std::fs::write(left.dir.path().join("new.csv"), "b\n1\n").expect("written");
    left.fails(&["predict", "--input", &table], &["new.csv", "\"a\""]);
    left.fails(&["predict", "--input", "absent.csv"], &["absent.csv", "no such file"]);
}

#[test]
fn what_takes_more_memory_than_it_may_is_refused() {
    let left = Left::new("classification");
    // A row that never ends, in a sparse file.
    let path = left.run().join("long.csv");
    std::fs::write(&path, "a,b").expect("written");
    std::fs::File::options().write(true).open(&path).and_then(|file| file.set_len(40_000_000)).expect("set");
    let input = path.display().to_string();
    let says = ["long.csv, line 1", "10 MB are allowed", "--memory-mb"];
    left.fails(&["predict", "--input", &input, "--memory-mb", "10"], &says);
    left.fails(&["predict", "--input", &input, "--memory-mb", "1000"], &["long.csv"]);
    // A model whose header claims nearly the whole file, and an invalid data plan.
    let model = left.run().join("model.safetensors");
    std::fs::write(&model, 39_000_000u64.to_le_bytes()).expect("written");
    std::fs::File::options().write(true).open(&model).and_then(|file| file.set_len(40_000_000)).expect("set");
    let line = ["trainer", "sample", &model.display().to_string(), "--memory-mb", "100"];
    let failure =
        answer(&Cli::try_parse_from(line).expect("a command line"), &Registry::builtin()).expect_err("none");
    assert!(failure.code == 3 && failure.message.contains("100 MB are allowed"), "{failure}");
    let plan = left.run().join("data.json");
    std::fs::write(&plan, "{").expect("written");
    std::fs::File::options().write(true).open(&plan).and_then(|file| file.set_len(40_000_000)).expect("set");
    left.fails(&["eval", "--memory-mb", "100"], &["data.json", "--memory-mb"]);
}

#[test]
fn a_regression_predicts_values() {
    let left = Left::new("regression");
    let table = left.dir.path().join("new.csv");
    std::fs::write(&table, "a,b\n1,2\n").expect("written");
    let json = left.ask_json(&["predict", "--input", &table.display().to_string(), "--output", "json"]);
    // Untrained, but within a few standard deviations of targets around 1030.
    let value = json["value"].as_f64().expect("a number");
    assert!((900.0..1200.0).contains(&value), "{value}");
    let sums = left.sums(10);
    let json = left.ask_json(&["eval", "--output", "json"]);
    let datasets::Output::Values { scale, .. } = left.plan.output else { panic!("values") };
    let expected = sums[2] / sums[1] * scale;
    assert!((f64_at(&json, "validation/mean_absolute_error") - expected).abs() < 1e-9);
}

#[test]
fn an_export_is_the_version_with_what_is_needed_to_use_it() {
    let left = Left::new("classification");
    let said = left.ask(&["export", "--format", "safetensors", "--version", "5"]).expect("an answer");
    let path = left.run().join("exports/safetensors-step-00000005/model.safetensors");
    assert!(said.contains(&path.display().to_string()), "{said}");
    let bytes = std::fs::read(&path).expect("read");
    let (engine, parameters) = left.engine(5);
    let mut read = vec![0.0; parameters.len()];
    let metadata = tensors::decode_model(&bytes, engine.layout(), &mut read).expect("tensors");
    assert_eq!(read, parameters);
    assert_eq!(metadata["labels"], serde_json::json!(LABELS).to_string());
    assert_eq!(metadata["config"], left.config.to_toml());
    let lineage: Value = serde_json::from_str(&metadata["lineage"]).expect("JSON");
    assert_eq!((lineage["run"].as_str(), lineage["step"].as_u64()), (Some("small-1"), Some(5)));

    let out = left.dir.path().join("a/b");
    let words = ["export", "--format", "safetensors", "--out", &out.display().to_string()];
    left.ask(&words).expect("an answer");
    let first = std::fs::read(out.join("model.safetensors")).expect("read");
    assert_ne!(first, bytes);
    left.ask(&words).expect("an answer");
    assert_eq!(std::fs::read(out.join("model.safetensors")).expect("read"), first, "the same bytes again");
    left.ask(&["export", "--format", "safetensors"]).expect("an answer");
    assert_eq!(std::fs::read(left.run().join("exports/safetensors/model.safetensors")).expect("read"), first);
}

#[test]
fn the_plan_of_the_run_counts_and_not_the_file_of_today() {
    let left = Left::new("classification");
    std::fs::write(left.run().join("data.json"), serde_json::to_vec(&left.plan).expect("JSON"))
        .expect("written");
    let before = left.ask(&["eval"]).expect("an answer");
    let data = left.dir.path().join("table.csv");
    let moved = left.dir.path().join("moved.csv");
    std::fs::rename(&data, &moved).expect("moved");
    left.fails(&["eval"], &["table.csv", "--data"]);
    let moved = moved.display().to_string();
    assert_eq!(left.ask(&["eval", "--data", &moved]).expect("an answer"), before);
    std::fs::write(&data, "a,b,answer\n1,2,ant\n").expect("changed");
    left.fails(&["eval"], &["has changed"]);
    // Commands that need no data still work.
    left.ask(&["predict", "--input", &moved]).expect("an answer");
    left.ask(&["export", "--format", "safetensors"]).expect("an answer");
}

#[test]
fn a_version_of_another_model_is_refused() {
    let left = Left::new("classification");
    let text = left.config.to_toml().replace("hidden = [8]", "hidden = [9]");
    std::fs::write(left.run().join("config.toml"), text).expect("written");
    left.fails(&["eval"], &["model.safetensors"]);
}

#[test]
fn what_is_no_run_is_named() {
    let left = Left::new("classification");
    let ask = |dir: &Path| {
        let cli = Cli::try_parse_from(["trainer".as_ref(), "eval".as_ref(), dir.as_os_str()]);
        answer(&cli.expect("a command line"), &Registry::builtin()).expect_err("no run")
    };
    let failure = ask(&left.dir.path().join("small-2"));
    assert!(failure.code == 3 && failure.message.contains("small-1"), "{failure}");
    let failure = ask(left.dir.path());
    assert!(failure.code == 3 && failure.message.contains("no config.toml"), "{failure}");
    std::fs::write(left.run().join("config.toml"), "[train]\nepoch = 3\n").expect("written");
    assert_eq!(ask(&left.run()).code, 2);
}

#[test]
fn wrong_words_are_refused_by_the_command_line() {
    for words in [
        &["export", "runs/a"][..],
        &["export", "runs/a", "--format", "gif"],
        &["eval", "runs/a", "--device", "gpu"],
        &["predict", "runs/a"],
        &["eval"],
        &["train", "runs/a"],
    ] {
        let refused = Cli::try_parse_from(["trainer"].iter().chain(words)).expect_err("refused");
        assert_eq!(refused.exit_code(), 2, "{words:?}");
    }
}

#[test]
fn only_what_is_signed_by_a_trusted_key_is_used_where_one_is_given() {
    let left = Left::new("classification");
    let (key, other) = (left.dir.path().join("key"), left.dir.path().join("other"));
    let public = SigningKey::create(&key).expect("made").display().to_string();
    let others = SigningKey::create(&other).expect("made").display().to_string();
    let asks: [&[&str]; 3] =
        [&["eval"], &["predict", "--input", "absent.csv"], &["export", "--format", "safetensors"]];
    for ask in asks {
        left.fails(&[ask, &["--verify-key", &public]].concat(), &["step-00000010", "is not signed"]);
    }
    let manifest = versions::folder(&left.run().join("checkpoints"), 10).join(versions::MANIFEST);
    let bytes = std::fs::read(&manifest).expect("read");
    SigningKey::read(&key).expect("read").sign_file(&manifest, &bytes).expect("signed");
    left.ask(&["eval", "--verify-key", &public]).expect("an answer");
    left.fails(&["eval", "--verify-key", &others], &["is not signed by a key of", "other.pub"]);
    left.fails(&["eval", "--version", "5", "--verify-key", &public], &["step-00000005", "is not signed"]);

    let out = left.dir.path().join("signed");
    let (folder, key) = (out.display().to_string(), key.display().to_string());
    let words =
        ["export", "--format", "safetensors", "--verify-key", &public, "--sign", &key, "--out", &folder];
    left.ask(&words).expect("an answer");
    let file = out.join("model.safetensors");
    let trusted = TrustedKeys::read(Path::new(&public)).expect("read");
    assert_eq!(trusted.verify_file(&file, &std::fs::read(&file).expect("read")), Ok(()));
    let failure = left.ask(&["eval", "--verify-key", "absent.pub"]).expect_err("no answer");
    assert_eq!(failure.code, 2, "{failure}");

    // The run's configuration applies if the command line says nothing.
    let named = format!("[checkpoint]\nverify_key = {others:?}\n");
    let named = left.config.to_toml().replacen("[checkpoint]\n", &named, 1);
    std::fs::write(left.run().join("config.toml"), named).expect("written");
    left.fails(&["eval"], &["is not signed by a key of", "other.pub"]);
    left.ask(&["eval", "--verify-key", &public]).expect("an answer");
}
