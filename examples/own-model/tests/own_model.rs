//! The example as a reader would use it: real coordinators with this project's worker, then this project's trainer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Maximum duration of any program in these tests.
const DEADLINE: Duration = Duration::from_secs(120);
/// Maximum number of lines of Rust in the example.
const LINES_MAX: usize = 99;

/// A temporary folder for runs.
struct Place {
    dir: tempfile::TempDir,
}

/// A program's exit code and output.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    fn run_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `coordinator --config examples/own-model/rows.toml`, shortened to two epochs, with more arguments.
    fn coordinator(&self, arguments: &[&str]) -> Ended {
        let runs = format!("run.dir={:?}", self.dir.path());
        let worker = format!("local.worker_binary={:?}", env!("CARGO_BIN_EXE_own-worker"));
        let mut command =
            Command::new(Path::new(env!("CARGO_BIN_EXE_own-worker")).with_file_name("coordinator"));
        command.args(["--config", "examples/own-model/rows.toml", "--set", &runs, "--set", &worker]);
        command.args(["--set", "train.epochs=2"]).args(arguments);
        self.finish(&mut command)
    }

    fn trainer(&self, arguments: &[&str]) -> Ended {
        self.finish(Command::new(env!("CARGO_BIN_EXE_own-trainer")).args(arguments))
    }

    /// Runs a program to its end, with a deadline. Its output goes to files, so that it never waits for a reader.
    fn finish(&self, command: &mut Command) -> Ended {
        let (out, err) = (self.dir.path().join("out"), self.dir.path().join("err"));
        let file = |path| Stdio::from(std::fs::File::create(path).expect("a file"));
        command.current_dir(repository()).env("XDG_RUNTIME_DIR", self.dir.path()).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
        let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}"));
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("the child can be waited for") {
                break status;
            }
            if began.elapsed() > DEADLINE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} did not end within {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let read = |path: &Path| std::fs::read_to_string(path).expect("text");
        Ended { code: status.code(), out: read(&out), err: read(&err) }
    }

    fn complete(&self, arguments: &[&str]) -> Value {
        let ended = self.coordinator(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}\n{}\n{}", ended.out, ended.err);
        let name = arguments.iter().find_map(|argument| argument.strip_prefix("run.name="));
        let text = std::fs::read_to_string(self.run_dir(name.expect("a name")).join("run.json"));
        serde_json::from_str(&text.expect("run.json")).expect("JSON")
    }
}

#[test]
fn one_worker_and_two_end_in_the_same_bits_and_so_does_a_resume() {
    let place = Place::new();
    let one = place.complete(&["--set", "run.name=one", "--local-workers", "1"]);
    let two = place.complete(&["--set", "run.name=two", "--local-workers", "2"]);
    assert_eq!(two["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(two["exact"], true);
    assert_eq!(one["final"]["digest"], two["final"]["digest"]);

    // Undoes the second half: the run resumes from the checkpoint of the first epoch.
    let run = place.run_dir("two");
    let steps = two["final"]["step"].as_u64().expect("steps");
    std::fs::remove_dir_all(run.join(format!("checkpoints/step-{steps:08}"))).expect("the last version");
    let record = std::fs::read_to_string(run.join("run.json")).expect("run.json");
    std::fs::write(run.join("run.json"), record.replace("\"completed\"", "\"interrupted\""))
        .expect("written");
    let resumed = place.complete(&["--set", "run.name=two", "--resume", "--local-workers", "1"]);
    assert_eq!(resumed["status"], "completed");
    assert_eq!(one["final"]["digest"], resumed["final"]["digest"]);
}

#[test]
fn the_own_trainer_evaluates_predicts_and_exports() {
    let place = Place::new();
    let record = place.complete(&["--set", "run.name=done"]);
    let run = place.run_dir("done").display().to_string();
    let trainer = |arguments: &[&str]| {
        let ended = place.trainer(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}\n{}", ended.err);
        ended.out
    };

    let metrics: Value =
        serde_json::from_str(&trainer(&["eval", &run, "--output", "json"])).expect("one object");
    let logged = &record["final"]["metrics"]["validation/accuracy"];
    assert!(metrics.to_string().contains(&logged.to_string()), "{metrics} against {logged}");

    let table = place.dir.path().join("few.csv");
    let digits = std::fs::read_to_string(repository().join("datasets/digits/digits.csv")).expect("digits");
    let few: Vec<&str> = digits.lines().take(6).collect();
    std::fs::write(&table, few.join("\n")).expect("written");
    let input = table.display().to_string();
    let predicted = trainer(&["predict", &run, "--input", &input, "--output", "json"]);
    assert_eq!(predicted.lines().count(), 5, "{predicted}");

    let out = place.dir.path().join("export").display().to_string();
    trainer(&["export", &run, "--format", "safetensors", "--out", &out]);
    let bytes = std::fs::read(format!("{out}/model.safetensors")).expect("the export");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let shape = |name: &str| tensors.tensor(name).map(|view| view.shape().to_vec()).ok();
    assert_eq!(shape("output.weight"), Some(vec![10, 128]), "[out, in], as PyTorch has it");
    assert_eq!(shape("gru.new_gate.input_transform.weight"), Some(vec![128, 8]));
    assert_eq!(tensors.len(), 14, "three gates of two linear layers, and the output");

    let foreign =
        Path::new(env!("CARGO_BIN_EXE_own-trainer")).with_file_name("trainer").display().to_string();
    if Path::new(&foreign).is_file() {
        let ended = place.finish(Command::new(&foreign).args(["eval", &run]));
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(ended.err.contains("model.kind = \"rows\" is not known to this binary"), "{}", ended.err);
    }
}

#[test]
fn what_is_wrong_with_the_models_keys_is_said_before_the_first_step() {
    let place = Place::new();
    let check = |key: &str, expected: &str| {
        let ended = place.coordinator(&["--set", key]);
        assert_eq!(ended.code, Some(2), "{key}: {}", ended.err);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(said.contains(expected), "{key}: {said}");
        assert!(!ended.out.contains("epoch"), "{key}: it trained\n{}", ended.out);
    };
    check("model.hiden=3", "unknown key model.hiden (= 3): did you mean model.hidden?");
    check("model.hidden=\"wide\"", "model.hidden = \"wide\": invalid type: string \"wide\"");
    check("dataset.image_shape=[4,4,4]", "reads images of one channel; the dataset gives [4, 4, 4]");
    check(
        "model.kind=rosw",
        "\"rosw\" is not known to this binary; it has cnn, gpt, mlp, resnet, rows; did you mean \"rows\"?",
    );
    let left: Vec<String> = std::fs::read_dir(place.dir.path())
        .expect("listed")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("rows-"))
        .collect();
    assert!(left.is_empty(), "a refused start leaves no folder: {left:?}");
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            rust_files(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

#[test]
fn the_whole_of_it_is_short() {
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let lines = |path: &PathBuf| std::fs::read_to_string(path).expect("a source").lines().count();
    let total: usize = files.iter().map(lines).sum();
    assert!(files.len() == 3 && total <= LINES_MAX, "{total} lines in {files:?}");
}

/// The guide's code blocks must be excerpts of the example, so that the code it shows is built and tested.
#[test]
fn the_guide_shows_the_code_that_is_built() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(repository().join("docs/own-model.md")).expect("the guide");
    let sources = ["src/lib.rs", "src/bin/own-worker.rs", "src/bin/own-trainer.rs", "rows.toml"];
    let sources: String =
        sources.map(|name| std::fs::read_to_string(example.join(name)).expect("a source")).concat();
    let mut shown = 0;
    for block in guide.split("```rust\n").skip(1).chain(guide.split("```toml\n# rows.toml\n").skip(1)) {
        let block = block.split("```").next().unwrap_or_default();
        assert!(sources.contains(block.trim_end()), "the guide shows what isn't in the example:\n{block}");
        shown += 1;
    }
    assert!(shown >= 4, "only {shown} blocks were found");
}
