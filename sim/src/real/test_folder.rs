//! A folder with a small dataset, its configuration, and the processes that work in it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{Programs, processes};

/// Scans of handwritten digits; a run uses the first of them.
const DIGITS: &str = include_str!("../../../datasets/digits/digits.csv");
/// With the header: 120 rows.
const LINES: usize = 121;
/// Maximum duration of a quiet run.
const QUIET_MAX: Duration = Duration::from_secs(120);

/// The model of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SmallModel {
    Mlp,
    Cnn,
    /// About four million parameters, for measurements: 64 x 2000 + 2000 x 1900 + 1900 x 10 and the biases.
    Large,
}

impl SmallModel {
    pub(super) fn of_seed(seed: u64) -> Self {
        if seed % 3 == 2 { Self::Cnn } else { Self::Mlp }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Cnn => "cnn",
            Self::Large => "mlp 4M",
        }
    }

    /// 5 steps per epoch, the last of them short: 96 training rows in batches of 20.
    fn config(self) -> String {
        let (shape, model, epochs, every) = match self {
            Self::Mlp => ("", "kind = \"mlp\"\nhidden = [16]\ndropout = 0.1", 600, "40 steps"),
            Self::Cnn => {
                ("image_shape = [1, 8, 8]", "kind = \"cnn\"\nchannels = [4]\nhidden = 8", 600, "40 steps")
            }
            Self::Large => ("", "kind = \"mlp\"\nhidden = [2000, 1900]\ndropout = 0.1", 2_000, "1m"),
        };
        format!(
            r#"
[run]
name = "chaos"
dir = "runs"
seed = 7

[dataset]
uri = "rows.csv"
target = "label"
kind = "classification"
{shape}

[train]
epochs = {epochs}
batch_size = 20
microbatch_size = 3
clip_norm = 1.0

[model]
{model}

[optimizer]
kind = "adamw"
learning_rate = 0.01
weight_decay = 0.01

[schedule]
kind = "cosine"
warmup_steps = 2

[checkpoint]
every = "{every}"
keep = 3

[elastic]
lease = "1s"

[local]
workers = 1
devices = "cpu"
"#
        )
    }
}

/// The test folder. When dropped, also by a panic, it kills all processes that work in it.
#[derive(Debug)]
pub(super) struct TestFolder {
    dir: tempfile::TempDir,
    programs: Programs,
    pub(super) small: SmallModel,
    children: Vec<Child>,
}

impl TestFolder {
    pub(super) fn new(programs: &Programs, small: SmallModel) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("chaos-").tempdir().context("a temporary folder")?;
        let rows: Vec<&str> = DIGITS.lines().take(LINES).collect();
        for (name, text) in [("rows.csv", rows.join("\n") + "\n"), ("run.toml", small.config())] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
        }
        Ok(Self { dir, programs: programs.clone(), small, children: Vec::new() })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.path().join("runs/chaos")
    }

    /// Keeps the folder on the disk.
    pub(super) fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// Runs quietly with one worker and returns the digest.
    pub(super) fn quiet(&mut self) -> anyhow::Result<String> {
        let mut child = self.coordinator(&["--local-workers", "1", "--set", "run.name=quiet"])?;
        let end = Instant::now() + QUIET_MAX;
        let status = loop {
            if let Some(status) = child.try_wait().context("the coordinator can't be waited for")? {
                break status;
            }
            if Instant::now() > end {
                processes::kill_all(self.path());
                bail!("it took longer than {QUIET_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "it ended with {status}:\n{}", self.tail(20));
        digest(&read_record(&self.path().join("runs/quiet/run.json"))?)
    }

    /// Starts a coordinator; its output goes to coordinator.out and coordinator.err.
    pub(super) fn coordinator(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.programs.coordinator);
        command.arg("--config").arg(self.path().join("run.toml")).args(arguments);
        command.args(["--output", "json"]);
        self.spawn(command, "coordinator")
    }

    /// Starts a worker that is not a child of a coordinator.
    pub(super) fn guest(&mut self, name: &str, url: &str) -> anyhow::Result<u32> {
        let mut command = Command::new(&self.programs.worker);
        command.args(["--coordinator", url, "--name", name, "--device", "cpu", "--join-timeout", "30s"]);
        // Behind a proxy the token can't be discovered by the port.
        command.arg("--token-file").arg(self.run_dir().join("token")).arg("--insecure");
        let child = self.spawn(command, name)?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    fn spawn(&self, mut command: Command, log: &str) -> anyhow::Result<Child> {
        let open = |ending: &str| {
            let path = self.path().join(format!("{log}.{ending}"));
            let file = File::options().create(true).append(true).open(&path);
            file.with_context(|| format!("{} can't be opened", path.display()))
        };
        command
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(open("out")?)
            .stderr(open("err")?);
        let program = command.get_program().to_owned();
        command.spawn().with_context(|| format!("{} can't be started", Path::new(&program).display()))
    }

    /// The running workers, both local ones and guests.
    pub(super) fn workers(&self) -> Vec<processes::FoundProcess> {
        processes::of_folder(self.path()).into_iter().filter(|found| found.is_worker).collect()
    }

    /// Reaps the guests that have ended, and returns their exit statuses.
    pub(super) fn bury(&mut self) -> Vec<(u32, ExitStatus)> {
        let mut ended = Vec::new();
        self.children.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                ended.push((child.id(), status));
                false
            }
            Err(_) => false,
        });
        ended
    }

    /// The number of living guests.
    pub(super) fn guests(&self) -> usize {
        self.children.len()
    }

    pub(super) fn record(&self) -> anyhow::Result<Value> {
        read_record(&self.run_dir().join("run.json"))
    }

    /// The last lines of all processes' output.
    pub(super) fn tail(&self, lines: usize) -> String {
        let mut files = Vec::new();
        for folder in [self.path().to_owned(), self.run_dir().join("logs")] {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            files.extend(entries.flatten().map(|entry| entry.path()).filter(|path| {
                path.extension().is_some_and(|ending| ["out", "err", "log"].iter().any(|e| ending == *e))
            }));
        }
        files.sort();
        let mut said = String::new();
        for path in files {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            // Metrics are irrelevant to faults.
            let summary: Vec<&str> = text.lines().filter(|line| !line.contains("\"key\":")).collect();
            let tail = summary[summary.len().saturating_sub(lines)..].join("\n");
            said += &format!("--- {}\n{tail}\n", path.display());
        }
        said
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        processes::kill_all(self.path());
        for child in &mut self.children {
            // Killed above; it may have been reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read_record(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// `final.digest` of a run.json.
pub(super) fn digest(record: &Value) -> anyhow::Result<String> {
    let digest = record["final"]["digest"].as_str();
    Ok(digest.context("run.json has no final.digest")?.to_owned())
}
