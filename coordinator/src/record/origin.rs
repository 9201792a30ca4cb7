//! The provenance of a run, gathered on a thread of its own alongside the start.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use datasets::DataPlan;
use run_record::RunRecord;
use run_record::provenance::{Build, GitDiff, Input, Start, StartInfo};
use tracing::warn;

use crate::clock::unix_seconds;

/// How long the end of a run may wait for the provenance of its start: git has deadlines of its own.
const DEADLINE: Duration = Duration::from_secs(20);
/// Interval at which it polls.
const POLL: Duration = Duration::from_millis(5);

/// Provenance that is being gathered.
pub(crate) struct Origin {
    thread: Option<JoinHandle<(Start, Option<GitDiff>)>>,
    input: Input,
    step: u64,
}

impl Origin {
    /// Starts gathering, for a run that continues from `step`.
    pub(crate) fn begin(worker: Option<PathBuf>, git_diff: bool, plan: &DataPlan, step: u64) -> Self {
        let time = unix_seconds();
        let look = move || {
            let asked = StartInfo {
                command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
                directory: std::env::current_dir().unwrap_or_default(),
                git_diff,
                build: build(worker.as_deref()),
            };
            asked.gather(time)
        };
        let thread = std::thread::Builder::new().name("origin".to_owned()).spawn(look);
        let rows_and_columns = (plan.rows, columns(plan));
        let input = Input::training(&plan.name, &plan.version(), &plan.digest, &plan.uri, rows_and_columns);
        Self { thread: thread.ok(), input, step }
    }

    /// Adds the provenance to the record once it is complete; at the run's end, waits for it.
    pub(crate) fn record(&mut self, record: &mut RunRecord, run_dir: &Path, is_end: bool) {
        let began = Instant::now();
        while is_end
            && self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
            && began.elapsed() < DEADLINE
        {
            std::thread::sleep(POLL);
        }
        let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) else { return };
        let Ok((mut start, diff)) = thread.join() else { return };
        start.step = self.step;
        if let (Some(git), Some(diff)) = (&mut start.git, diff) {
            let before =
                record.provenance.starts.iter().rev().filter_map(|start| start.git.as_ref()?.diff.clone());
            match keep(run_dir, &diff.0, before.collect()) {
                Ok(name) => git.diff = Some(name),
                Err(why) => {
                    warn!(why, "git.diff can't be written");
                    git.diff_left_out = Some(why);
                }
            }
        }
        if let Some(git) = &start.git {
            record.git_commit.get_or_insert_with(|| git.commit.clone());
        }
        record.provenance.push(start);
        if !record.provenance.inputs.contains(&self.input) {
            record.provenance.inputs.push(self.input.clone());
        }
    }
}

/// Writes the diff next to run.json, unless an earlier start kept the same one; returns the file's name.
fn keep(run_dir: &Path, diff: &[u8], before: Vec<String>) -> Result<String, String> {
    let is_same = |name: &String| std::fs::read(run_dir.join(name)).is_ok_and(|kept| kept == diff);
    if let Some(name) = before.into_iter().find(is_same) {
        return Ok(name);
    }
    let names =
        std::iter::once("git.diff".to_owned()).chain((2..).map(|number| format!("git-{number}.diff")));
    let name = names.into_iter().find(|name| !run_dir.join(name).exists()).unwrap_or_default();
    store::write_file(&run_dir.join(&name), diff).map_err(|why| why.to_string())?;
    Ok(name)
}

/// Build information, and the digests of this program and the worker binary.
pub(crate) fn build(worker: Option<&Path>) -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rustc: option_env!("BONFIRE_RUSTC").map(str::to_owned),
        cargo_lock: option_env!("BONFIRE_CARGO_LOCK").map(str::to_owned),
        coordinator: std::env::current_exe().ok().as_deref().and_then(digest),
        worker: worker.and_then(digest),
    }
}

/// BLAKE3 digest of a file, in hexadecimal.
fn digest(path: &Path) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path).ok()?).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}

/// Columns of a table, including the target; for other data, the number of features of a row.
fn columns(plan: &DataPlan) -> u64 {
    let columns = plan.columns().len();
    if columns > 0 { columns as u64 } else { plan.features() as u64 }
}
