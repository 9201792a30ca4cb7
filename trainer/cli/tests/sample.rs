//! `trainer sample` with a language model that has memorised a text.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Parser;
use configs::Config;
use store::versions::{Manifest, VersionWriter};
use tempfile::TempDir;
use trainer::export::ExportInfo;
use trainer::{
    DataSpec, DeviceSpec, Engine, GradientSink, HostBatch, HostData, HostOptimizer, ModelConfig,
    OptimizerConfig, OutputSpec, Registry, Target, UpdateScalars, tensors,
};
use trainer_cli::{Cli, Failure, answer};

const TEXT: &[u8] = b"the cat sat on the mat. ";
const WINDOW: usize = 16;
/// Training steps: enough to memorise the text.
const STEPS: i32 = 400;

struct Flat(Vec<f32>);

impl GradientSink for Flat {
    fn region(&mut self, _parameter: usize, offset: usize, data: &[f32]) {
        self.0[offset..offset + data.len()].copy_from_slice(data);
    }
}

fn config(positions: &str) -> Config {
    let text = format!(
        "[dataset]\nuri = \"a\"\n[train]\nsteps = 1\n[model]\nkind = \"gpt\"\nlayers = 1\nheads = 2\nwidth = 32\n\
         positions = {positions:?}\n"
    );
    Config::parse(&text, "test.toml", &[]).expect("a configuration")
}

fn build(config: &Config) -> Box<dyn Engine> {
    let data = DataSpec::new(vec![WINDOW], OutputSpec::Tokens { vocabulary: 256 });
    let model = ModelConfig::new("gpt", &config.model.keys).expect("keys");
    let device = trainer::device::open(&DeviceSpec::Cpu).expect("a CPU");
    Registry::builtin().build("gpt", &model, &data, &device).expect("a model")
}

/// Trains on the text from every offset, repeatedly.
fn learn(config: &Config) -> Vec<f32> {
    let mut engine = build(config);
    engine.initialise(1).expect("initialised");
    let mut batch = HostBatch::empty(&DataSpec::new(vec![WINDOW], OutputSpec::Tokens { vocabulary: 256 }));
    let at = |start: usize| (0..WINDOW).map(move |i| i64::from(TEXT[(start + i) % TEXT.len()]));
    batch.x.data = HostData::I64((0..TEXT.len()).flat_map(at).collect());
    batch.y = Target::Tokens((1..=TEXT.len()).flat_map(at).collect());
    batch.set_count(TEXT.len());
    let rule = OptimizerConfig::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimizer = HostOptimizer::new(rule, engine.layout()).expect("an optimizer");
    let mut parameters = vec![0.0; engine.layout().elements];
    engine.read_parameters(&mut parameters).expect("read");
    let mut flat = Flat(vec![0.0; parameters.len()]);
    for step in 1..=STEPS {
        let sums = engine.gradient(&batch, 0, &mut flat).expect("a gradient");
        let mean: Vec<f32> = flat.0.iter().map(|g| g / sums[1] as f32).collect();
        let scalars = UpdateScalars {
            // Decays to zero, so that rounding on different CPUs in the last steps doesn't matter.
            learning_rate: 0.01 * (1.0 - (step - 1) as f32 / STEPS as f32),
            clip_factor: 1.0,
            bias_correction1: 1.0 - 0.9f32.powi(step),
            bias_correction2_sqrt: (1.0 - 0.99f32.powi(step)).sqrt(),
        };
        optimizer.step(&mut parameters, &mean, |_| true, &scalars);
        engine.write_parameters(&parameters).expect("written");
    }
    parameters
}

/// An export and a run with one version, both of the trained model.
struct Left {
    dir: TempDir,
}

impl Left {
    fn new(positions: &str) -> Self {
        static LEARNT: OnceLock<Vec<f32>> = OnceLock::new();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = config(positions);
        let engine = build(&config);
        let learnt = || {
            if positions == "learned" {
                LEARNT.get_or_init(|| learn(&config)).clone()
            } else {
                learn(&config)
            }
        };
        let parameters = learnt();
        let info = ExportInfo { config: config.to_toml(), ..ExportInfo::default() };
        let export = trainer::export::safetensors(engine.layout(), &parameters, &info);
        std::fs::create_dir_all(dir.path().join("run-1/checkpoints")).expect("made");
        std::fs::create_dir_all(dir.path().join("export")).expect("made");
        std::fs::write(dir.path().join("export/model.safetensors"), export).expect("written");
        std::fs::write(dir.path().join("run-1/config.toml"), config.to_toml()).expect("written");
        let mut writer = VersionWriter::begin(&dir.path().join("run-1/checkpoints"), 60).expect("begun");
        let mut file = writer.file("model.safetensors").expect("a file");
        let none = tensors::Metadata::new();
        file.write(&tensors::encode_model(engine.layout(), &parameters, &none)).expect("written");
        writer.add(file).expect("durable");
        let manifest = Manifest {
            step: 60,
            epoch: 1,
            digest: String::new(),
            state_digest: String::new(),
            config_digest: config.digest(),
            dataset_digest: String::new(),
            created: 1,
            files: Vec::new(),
        };
        writer.finish(manifest, || true).expect("finished");
        Self { dir }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn ask(&self, source: &str, words: &[&str]) -> Result<String, Failure> {
        ask(&self.path(source), words)
    }
}

fn ask(source: &Path, words: &[&str]) -> Result<String, Failure> {
    let line = ["trainer".as_ref(), "sample".as_ref(), source.as_os_str()];
    let line = line.into_iter().chain(words.iter().map(AsRef::as_ref));
    answer(&Cli::try_parse_from(line).expect("a command line"), &Registry::builtin())
}

#[test]
fn what_was_learnt_is_written_from_an_export_a_run_and_a_version() {
    let left = Left::new("learned");
    let version = store::versions::folder(&left.path("run-1/checkpoints"), 60);
    let words = ["--prompt", "the cat", "--tokens", "41", "--temperature", "0"];
    let expected = "the cat sat on the mat. the cat sat on the mat. \n";
    for source in [left.path("export"), left.path("export/model.safetensors"), left.path("run-1"), version] {
        assert_eq!(ask(&source, &words).expect("a text"), expected, "{}", source.display());
    }
    let words = [&words[..], &["--version", "60"]].concat();
    assert_eq!(left.ask("run-1", &words).expect("a text"), expected);
}

#[test]
fn the_seed_decides() {
    let left = Left::new("learned");
    let with = |words: &[&str]| {
        let words = [&["--tokens", "60", "--prompt", "t"], words].concat();
        left.ask("export", &words).expect("a text")
    };
    let hot = with(&["--seed", "1", "--temperature", "5"]);
    assert_eq!(hot, with(&["--seed", "1", "--temperature", "5"]));
    assert_ne!(hot, with(&["--seed", "2", "--temperature", "5"]));
    assert_ne!(hot, with(&["--seed", "1"]));
    let likeliest = with(&["--temperature", "0"]);
    assert_eq!(likeliest, with(&["--seed", "3", "--top-k", "1", "--temperature", "5"]));
}

#[test]
fn rotary_positions_want_a_window() {
    let left = Left::new("rotary");
    let words = ["--prompt", "the cat", "--tokens", "17", "--temperature", "0"];
    let failure = left.ask("export", &words).expect_err("no window");
    assert!(failure.code == 2 && failure.message.contains("--window"), "{failure}");
    let words = [&words[..], &["--window", "16"]].concat();
    assert_eq!(left.ask("export", &words).expect("a text"), "the cat sat on the mat. \n");
}

#[test]
fn what_can_not_be_written_is_refused_with_code_2() {
    let left = Left::new("learned");
    for (words, part) in [
        (&["--prompt", ""][..], "--prompt is empty"),
        (&["--window", "17"], "a window of 16"),
        (&["--version", "60"], "--version"),
        (&["--device", "cuda"], "cuda"),
    ] {
        let failure = left.ask("export", words).expect_err("refused");
        assert!(failure.code == 2 && failure.message.contains(part), "{words:?}: {failure}");
    }
    for words in [
        &["--tokens", "0"][..],
        &["--tokens", "-1"],
        &["--temperature", "-1"],
        &["--temperature", "nan"],
        &["--top-k", "0"],
        &["--seed", "x"],
        &["--window", "0"],
        &["--device", "gpu"],
        &["--length", "3"],
    ] {
        let line = ["trainer", "sample", "x"].into_iter().chain(words.iter().copied());
        assert_eq!(Cli::try_parse_from(line).expect_err("refused").exit_code(), 2, "{words:?}");
    }
}

#[test]
fn what_is_no_language_model_is_named() {
    let left = Left::new("learned");
    let failure = left.ask("absent", &[]).expect_err("absent");
    assert!(failure.code == 3 && failure.message.contains("absent"), "{failure}");
    std::fs::write(left.path("export/model.safetensors"), b"no tensors").expect("written");
    let failure = left.ask("export", &[]).expect_err("no tensors");
    assert!(failure.code == 3 && failure.message.contains("model.safetensors"), "{failure}");

    let config = Config::parse("[dataset]\nuri = \"a\"\n[train]\nsteps = 1", "x", &[]).expect("right");
    let data = DataSpec::new(vec![2], OutputSpec::Classes(vec!["a".into(), "b".into()]));
    let model = ModelConfig::new("mlp", &config.model.keys).expect("keys");
    let device = trainer::device::open(&DeviceSpec::Cpu).expect("a CPU");
    let engine = Registry::builtin().build("mlp", &model, &data, &device).expect("a model");
    let info = ExportInfo { config: config.to_toml(), ..ExportInfo::default() };
    let export = trainer::export::safetensors(engine.layout(), &vec![0.0; engine.layout().elements], &info);
    std::fs::write(left.path("export/model.safetensors"), export).expect("written");
    let failure = left.ask("export", &[]).expect_err("no text");
    assert!(failure.code == 2 && failure.message.contains("\"mlp\""), "{failure}");

    let file = tensors::encode_model(
        engine.layout(),
        &vec![0.0; engine.layout().elements],
        &tensors::Metadata::new(),
    );
    std::fs::write(left.path("export/model.safetensors"), file).expect("written");
    let failure = left.ask("export", &[]).expect_err("no configuration");
    assert!(failure.code == 3 && failure.message.contains("how its model is built"), "{failure}");
}
