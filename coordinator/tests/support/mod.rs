//! Real coordinators with real local workers, in a folder of their own, each with a deadline.

#![allow(dead_code, reason = "not every test program uses all of it")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Maximum duration of any run in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with a small dataset and its configuration.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// A small run: 120 rows of the digits, 96 of them for training, in 5 steps per epoch of 20 samples, the last of them
/// short.
pub(crate) const CONFIG: &str = r#"
[run]
name = "small"
dir = "runs"
seed = 7

[dataset]
uri = "rows.csv"
target = "label"
kind = "classification"

[train]
epochs = 2
batch_size = 20
microbatch_size = 3
clip_norm = 1.0

[model]
kind = "mlp"
hidden = [16]
dropout = 0.1

[optimizer]
kind = "adamw"
learning_rate = 0.01
weight_decay = 0.01

[schedule]
kind = "cosine"
warmup_steps = 2

[checkpoint]
every = "1 steps"
keep = 100

[local]
workers = 1
devices = "cpu"
"#;

impl Place {
    /// Creates the folder with rows of the digits and [`CONFIG`].
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/digits/digits.csv");
        let text = std::fs::read_to_string(digits).expect("the digits");
        let rows: Vec<&str> = text.lines().take(121).collect();
        std::fs::write(dir.path().join("rows.csv"), rows.join("\n") + "\n").expect("written");
        std::fs::write(dir.path().join("run.toml"), CONFIG).expect("written");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn run_dir(&self, name: &str) -> PathBuf {
        self.path().join("runs").join(name)
    }

    /// `coordinator --config run.toml` with more arguments, not yet started.
    pub(crate) fn coordinator(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["--config", "run.toml"]);
        command.args(arguments);
        command
    }

    /// `coordinator` with these arguments, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_coordinator"));
        command.args(arguments);
        command
    }

    /// Any program, in this folder and without the environment variables that affect Bonfire.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A program, such as a shell, that starts the coordinator with the arguments added to it.
    pub(crate) fn through(&self, program: &[&str]) -> Command {
        let mut command = self.program(program[0]);
        command.args(&program[1..]).arg(env!("CARGO_BIN_EXE_coordinator"));
        command
    }

    /// `worker` with these arguments, in this folder.
    pub(crate) fn worker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("worker"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// An external worker for the run `small`.
    pub(crate) fn guest(&self, name: &str) -> Child {
        let address = std::fs::read_to_string(self.run_dir("small").join("address")).expect("its address");
        let arguments = ["--coordinator", address.trim(), "--name", name, "--device", "cpu"];
        self.worker(&arguments).spawn().expect("started")
    }

    /// A new log file for a program's output, for a test that must read it before the program ends.
    pub(crate) fn log(&self, name: &str) -> File {
        File::create(self.path().join(name)).expect("a log")
    }

    /// A program's output so far in [`Place::log`].
    pub(crate) fn said(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path().join(name)).expect("its log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether this worker is a member of the run `small`, according to `coordinator status`.
    pub(crate) fn has_member(&self, name: &str) -> bool {
        let output = wait(self.command(&["status", "--output", "json"]).spawn().expect("started"));
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["members"].as_array().is_some_and(|members| members.iter().any(|one| one["name"] == name))
    }

    /// Runs to the end and requires exit code 0; returns standard output.
    pub(crate) fn complete(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.finish(arguments);
        assert_eq!(code, Some(0), "coordinator {arguments:?}\n{out}\n{err}");
        out
    }

    /// Runs to the end: returns exit code, standard output, standard error.
    pub(crate) fn finish(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let child = self.coordinator(arguments).spawn().expect("the coordinator starts");
        let output = wait(child);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    pub(crate) fn record(&self, name: &str) -> Value {
        let path = self.run_dir(name).join("run.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).expect("run.json is JSON")
    }

    #[allow(dead_code, reason = "not every test program compares runs")]
    pub(crate) fn digest(&self, name: &str) -> String {
        self.record(name)["final"]["digest"].as_str().expect("a digest").to_owned()
    }
}

impl Drop for Place {
    /// Ensures that a failing test leaves no process running: all processes that work in the folder are killed.
    fn drop(&mut self) {
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let is_here = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == self.path());
            if is_here {
                let _ = Command::new("kill").arg("-9").arg(process.file_name()).status();
            }
        }
    }
}

/// Waits for the end with a deadline; a process that misses it is killed and the test fails.
pub(crate) fn wait(mut child: Child) -> Output {
    // Pipes are read on threads of their own, so that a talkative child never blocks.
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let out = read(child.stdout.take().map(|p| Box::new(p) as _));
    let err = read(child.stderr.take().map(|p| Box::new(p) as _));
    let status = wait_status(&mut child);
    Output { status, stdout: out.join().expect("read"), stderr: err.join().expect("read") }
}

/// As [`wait`], for a child whose output is read elsewhere.
pub(crate) fn wait_status_of(child: &mut Child) -> ExitStatus {
    wait_status(child)
}

fn wait_status(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status;
        }
        if began.elapsed() > DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the coordinator did not end within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number of metrics lines that the run `small` has written.
pub(crate) fn steps_committed(place: &Place) -> usize {
    std::fs::read_to_string(place.run_dir("small").join("metrics.jsonl"))
        .map_or(0, |text| text.lines().count())
}

/// Whether a process is running.
pub(crate) fn alive(pid: u32) -> bool {
    // A zombie is dead: its state in /proc says Z.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until a condition holds.
pub(crate) fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(DEADLINE, what, condition);
}

/// Waits until a condition holds, for tests that take long.
pub(crate) fn until_within(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < deadline, "waited {deadline:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    let status =
        Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill -{name} {pid}");
}

/// The worker processes of this coordinator. It briefly has other children, such as git.
pub(crate) fn workers_of(coordinator: u32) -> Vec<u32> {
    // Children belong to the thread that started them.
    let tasks = std::fs::read_dir(format!("/proc/{coordinator}/task")).expect("the coordinator lives");
    let children = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).ok();
    let found: Vec<String> = tasks.flatten().filter_map(children).collect();
    let is_worker = |pid: &u32| {
        alive(*pid)
            && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "worker")
    };
    found
        .iter()
        .flat_map(|text| text.split_whitespace())
        .filter_map(|pid| pid.parse::<u32>().ok())
        .filter(is_worker)
        .collect()
}

/// One of the worker processes of this coordinator.
pub(crate) fn worker_of(coordinator: u32) -> u32 {
    *workers_of(coordinator).last().expect("a local worker")
}

/// Stops processes, calls `act`, and lets them continue. A run whose workers are stopped doesn't advance, so `act`
/// finishes before the run's end, however slow this machine is. A step may take 30 s, and a worker be silent for its
/// lease: after that the workers are evicted.
pub(crate) fn while_stopped<T>(pids: &[u32], act: impl FnOnce() -> T) -> T {
    pids.iter().for_each(|pid| signal(*pid, "STOP"));
    let done = act();
    pids.iter().for_each(|pid| signal(*pid, "CONT"));
    done
}
