//! `coordinator reproduce RUN_DIR [--start]`: prints the commands that repeat a run and what differs on this machine,
//! and checks whether the weights come out bit-identical.

mod compare;

use std::path::{Path, PathBuf};
use std::process::Command;

use configs::{Config, Resolved};
use datasets::DataPlan;
use run_record::provenance::Start;
use run_record::{RunRecord, RunStatus};
use store::RunDir;

use crate::cli::ReproduceArgs;
use crate::display;
use crate::run::prepare::StartError;

/// Maximum number of names tried for the repeated run.
const NAMES_MAX: u32 = 10_000;

/// The run to repeat.
struct OriginalRun {
    /// Canonical path of the run's folder.
    dir: PathBuf,
    record: RunRecord,
    resolved: Resolved,
    /// The run's first start.
    start: Start,
}

/// Prints the commands and differences, and starts the run if requested. Returns the exit code: 4 if the weights
/// differ.
pub(crate) fn reproduce(args: &ReproduceArgs) -> Result<u8, StartError> {
    let original = OriginalRun::read(&args.run_dir)?;
    // Paths in the configuration are relative to the folder in which the run was started.
    if Path::new(&original.start.directory).is_dir() {
        std::env::set_current_dir(&original.start.directory)
            .map_err(|why| StartError::config(format!("{}: {why}", original.start.directory)))?;
    }
    let plan = DataPlan::prepare(&original.resolved.config.dataset, original.resolved.path.parent());
    let name = original.free_name()?;
    display::print(&original.about());
    for line in original.commands(plan.is_ok(), &name) {
        display::print(&line);
    }
    display::print("\n# What differs here:");
    let then = (&original.record, &original.start);
    for line in compare::differences(&original.dir, then, &original.resolved.config, plan.as_ref()) {
        display::print(&format!("#   {line}"));
    }
    if !args.start {
        return Ok(0);
    }
    original.check_can_start(plan.as_ref().map_err(ToString::to_string))?;
    original.start(&name)
}

impl OriginalRun {
    fn read(run_dir: &Path) -> Result<Self, StartError> {
        let shown = run_dir.display();
        let dir = run_dir.canonicalize().map_err(|why| {
            StartError::data(format!("{shown} is no run: {why}; give a run's folder, such as runs/digits-1"))
        })?;
        let record = RunRecord::read(&dir.join(RunRecord::FILE)).map_err(StartError::data)?;
        let resolved = Config::load(&dir.join("config.toml"), &[]).map_err(StartError::config)?;
        let start = record.provenance.starts.first().cloned().unwrap_or_default();
        Ok(Self { dir, record, resolved, start })
    }

    fn about(&self) -> String {
        let record = &self.record;
        let digest = if record.final_state.digest.is_empty() { "none" } else { &record.final_state.digest };
        let exact = if record.exact {
            ""
        } else {
            "\n# It makes no claim to be exact: devices of different kinds took part."
        };
        format!("# {}: {} steps, the model's digest is {digest}{exact}", record.run, record.final_state.step)
    }

    /// The first free name of `NAME-again`, `NAME-again-2`, ...
    fn free_name(&self) -> Result<String, StartError> {
        let runs = self.runs();
        let first = format!("{}-again", self.record.run);
        let others = (2..NAMES_MAX).map(|number| format!("{first}-{number}"));
        let free = std::iter::once(first.clone()).chain(others).find(|name| !RunDir::exists(runs, name));
        free.ok_or_else(|| {
            StartError::config(format!("{}: too many runs that repeat this one", runs.display()))
        })
    }

    fn runs(&self) -> &Path {
        self.dir.parent().unwrap_or(Path::new("."))
    }

    /// Shell commands that repeat the run.
    fn commands(&self, has_data: bool, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(git) = &self.start.git {
            match &git.repository {
                Some(url) => lines.push(format!("git clone {} checkout && cd checkout", quoted(url))),
                None => lines.push(format!("cd {}", quoted(&self.start.directory))),
            }
            lines.push(format!("git checkout {}", quoted(&git.commit)));
            if let Some(diff) = &git.diff {
                lines.push(format!("git apply {}", quoted(&self.dir.join(diff).display().to_string())));
            }
            if let Some(reason) = &git.diff_left_out {
                lines.push(format!("# There were changes to tracked files, which were not kept: {reason}"));
            }
        }
        lines.push("cargo build --release --locked".to_owned());
        let (dataset, uri) = (&self.record.dataset, &self.resolved.config.dataset.uri);
        lines.push(format!("# The data: {}, digest {}, from {uri}", dataset.version, dataset.digest));
        if !has_data {
            lines.push(format!("datasets checkout {} {}", quoted(&dataset.version), quoted(uri)));
        }
        let arguments = self.arguments(name);
        let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        lines.push(format!("target/release/coordinator {}", arguments.join(" ")));
        lines
    }

    /// Arguments for the resolved configuration under another name. The metrics address is dropped: it may be in use.
    fn arguments(&self, name: &str) -> Vec<String> {
        let set = |key: &str, value: &str| ["--set".to_owned(), format!("{key}={value}")];
        let text = |value: &str| toml_string(value);
        let mut arguments = vec!["--config".to_owned(), self.resolved.path.display().to_string()];
        arguments.extend(set("run.name", &text(name)));
        arguments.extend(set("run.dir", &text(&self.runs().display().to_string())));
        if !self.resolved.config.telemetry.metrics_listen.is_empty() {
            arguments.extend(set("telemetry.metrics_listen", "\"\""));
        }
        arguments
    }

    fn check_can_start(&self, plan: Result<&DataPlan, String>) -> Result<(), StartError> {
        if self.record.status != RunStatus::Completed {
            return Err(StartError::config(format!(
                "{} is not completed: there is no final digest to compare with (--resume goes on with it)",
                self.dir.display()
            )));
        }
        let plan = plan.map_err(StartError::data)?;
        if plan.digest == self.record.dataset.digest {
            return Ok(());
        }
        Err(StartError::data(format!(
            "{} has the digest {}, the run's data had {}: put them back, such as by datasets checkout {}",
            plan.path, plan.digest, self.record.dataset.digest, self.record.dataset.version
        )))
    }

    /// Runs the run again in a child process that shares this one's output, and compares the digests.
    fn start(&self, name: &str) -> Result<u8, StartError> {
        let program = std::env::current_exe()
            .map_err(|why| StartError::failed(format!("the coordinator's own path can't be had: {why}")))?;
        display::print("");
        let status = Command::new(&program)
            .args(self.arguments(name))
            .status()
            .map_err(|why| StartError::failed(format!("{} can't be started: {why}", program.display())))?;
        if !status.success() {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(4);
            return Err(StartError { code, message: format!("{name} did not come to its end ({status})") });
        }
        let again =
            RunRecord::read(&self.runs().join(name).join(RunRecord::FILE)).map_err(StartError::data)?;
        let (expected, found) = (&self.record.final_state.digest, &again.final_state.digest);
        if expected == found {
            display::print(&format!(
                "reproduced: {name} ends with the same bits as {}, digest {found}",
                self.record.run
            ));
            return Ok(0);
        }
        display::print(&format!(
            "not reproduced: {} ended with the digest {expected}, {name} with {found}",
            self.record.run
        ));
        Ok(4)
    }
}

/// A value for `--set`, which reads it as TOML.
pub(crate) fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Quotes a word for a POSIX shell.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        for (text, expected) in
            [("a-b/c.d", "a-b/c.d"), ("", "''"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(quoted(text), expected);
            let said = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(text))]).output();
            assert_eq!(said.expect("a shell").stdout, text.as_bytes());
        }
    }
}
