//! Checks with the worker binary, before a run is created, that it can train the run: only workers know tasks and their
//! constraints.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use configs::Resolved;
use datasets::DataPlan;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::run::prepare::{self, StartError};
use crate::run::source::Source;

/// Building a large model, or opening a GPU for the first time, takes seconds.
const DEADLINE: Duration = Duration::from_secs(120);
/// An answer is a line; anything longer is not read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The worker binary's answer.
pub(crate) enum TaskCheck {
    /// The worker can train the run.
    Good {
        /// Number of model parameters.
        parameters: u64,
        /// The device that the model was built on.
        device: String,
    },
    /// The worker can't train the run.
    Refused(StartError),
    /// No answer, with the reason: the first worker will find out.
    Unknown(String),
}

/// Asks the worker binary; `device` is its `--device`.
pub(crate) async fn ask(
    worker: &Path,
    device: &str,
    resolved: &Resolved,
    plan: &DataPlan,
    source: Option<&Source>,
) -> TaskCheck {
    let question = match serde_json::to_string(plan) {
        Ok(data_plan) => json!({
            "config": prepare::for_workers(&resolved.config).to_toml(),
            "data_plan": data_plan,
            "init": source.map(|source| source.path().display().to_string()),
        }),
        Err(why) => return TaskCheck::Unknown(format!("the data plan can't be written: {why}")),
    };
    match tokio::time::timeout(DEADLINE, converse(worker, device, &question.to_string())).await {
        Ok(Ok(said)) => understood(worker, resolved, &said),
        Ok(Err(why)) => TaskCheck::Unknown(format!("{} can't be run: {why}", worker.display())),
        Err(_) => TaskCheck::Unknown(format!(
            "{} --check-task gave no answer in {} s",
            worker.display(),
            DEADLINE.as_secs()
        )),
    }
}

/// A program's output and exit status.
struct ProgramOutput {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
}

async fn converse(worker: &Path, device: &str, question: &str) -> std::io::Result<ProgramOutput> {
    let mut child = Command::new(worker)
        .args(["--check-task", "--device", device])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async move {
        if let Some(mut input) = input {
            // A program that doesn't know `--check-task` doesn't read its input.
            let _ = input.write_all(question.as_bytes()).await;
        }
    };
    let ((), out, err) = tokio::join!(write, read(out), read(err));
    Ok(ProgramOutput { status: child.wait().await?, out, err })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // If the pipe breaks, the bytes read so far count.
        let _ = pipe.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
    }
    bytes
}

fn understood(worker: &Path, resolved: &Resolved, said: &ProgramOutput) -> TaskCheck {
    let answer: Value = serde_json::from_slice(&said.out).unwrap_or_default();
    if let Some(parameters) = answer["parameters"].as_u64() {
        let device = answer["device"].as_str().unwrap_or("cpu").to_owned();
        return TaskCheck::Good { parameters, device };
    }
    let code = answer["code"].as_u64().and_then(|code| u8::try_from(code).ok());
    match (answer["message"].as_str(), code) {
        (Some(message), Some(code @ (2 | 3))) => TaskCheck::Refused(StartError {
            code,
            message: format!("{}: {message} (says {})", resolved.path.display(), worker.display()),
        }),
        // Such as a device that is temporarily out of memory.
        (Some(message), _) => TaskCheck::Unknown(format!("{}: {message}", worker.display())),
        (None, _) => {
            let err = String::from_utf8_lossy(&said.err);
            let why = err.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            TaskCheck::Unknown(format!(
                "{} doesn't answer --check-task ({}): {}",
                worker.display(),
                said.status,
                why.trim()
            ))
        }
    }
}
