//! Resuming a run: which run a configuration inside a run's folder means, and the shell command that resumes it.

use std::path::Path;

use store::RunDir;

use crate::cli::RunArgs;
use crate::commands::reproduce::{quoted, toml_string};

/// File name of a run's own copy of its configuration.
const CONFIG: &str = "config.toml";

/// Environment variable that tells a coordinator that it is supervised, which its command line doesn't say.
pub(crate) const SUPERVISED: &str = "BONFIRE_SUPERVISED";

/// The overrides that `--resume` adds for a configuration inside a run's folder: it means that run, wherever the folder
/// is by now. Keys that the command line sets itself are left alone.
pub(crate) fn overrides_of_run_folder(config: &Path, set: &[String]) -> Vec<String> {
    let Ok(path) = config.canonicalize() else { return Vec::new() };
    let Some(folder) = path.parent().filter(|folder| path.ends_with(CONFIG) && RunDir::is_run(folder)) else {
        return Vec::new();
    };
    let (Some(name), Some(runs)) = (folder.file_name(), folder.parent()) else { return Vec::new() };
    // Prefers the path as typed: people know it by that.
    let typed = config.parent().and_then(Path::parent).filter(|runs| !runs.as_os_str().is_empty());
    let runs = typed.filter(|typed| typed.canonicalize().is_ok_and(|path| path == runs)).unwrap_or(runs);
    [("run.name", name.to_string_lossy()), ("run.dir", runs.to_string_lossy())]
        .into_iter()
        .filter(|(key, _)| !sets(set, key))
        .map(|(key, value)| format!("{key}={}", toml_string(&value)))
        .collect()
}

fn sets(set: &[String], key: &str) -> bool {
    set.iter().any(|flag| flag.split('=').next().is_some_and(|name| name.trim() == key))
}

/// The shell command that resumes the run `name`: this process's command line plus `--resume`, and the run's name if
/// the run only got a number.
pub(crate) fn line(args: &RunArgs, name: &str, is_named: bool) -> String {
    let typed = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let is_supervised = !args.supervise && std::env::var_os(SUPERVISED).is_some();
    line_of(typed.chain(is_supervised.then(|| "--supervise".to_owned())), args, name, is_named)
}

fn line_of(typed: impl Iterator<Item = String>, args: &RunArgs, name: &str, is_named: bool) -> String {
    let mut words: Vec<String> = typed.collect();
    if !is_named && !sets(&args.set, "run.name") {
        words.extend(["--set".to_owned(), format!("run.name={}", toml_value(name))]);
    }
    if !args.resume {
        words.push("--resume".to_owned());
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A name as a `--set` value: quoted if TOML would read it as another type.
fn toml_value(name: &str) -> String {
    let is_word = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        && !matches!(name, "true" | "false" | "inf" | "nan");
    if is_word { name.to_owned() } else { toml_string(name) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_line_is_what_was_typed_and_names_the_run() {
        let check = |typed: &[&str], is_named: bool, expected: &str| {
            let args = Cli::try_parse_from(typed).expect("a command line").run;
            let line = line_of(typed.iter().map(|word| (*word).to_owned()), &args, "digits-1", is_named);
            assert_eq!(line, expected);
        };
        let plain = ["coordinator", "--config", "my digits.toml"];
        check(&plain, false, "coordinator --config 'my digits.toml' --set run.name=digits-1 --resume");
        check(&plain, true, "coordinator --config 'my digits.toml' --resume");
        let set = ["coordinator", "--config", "d.toml", "--resume", "--set", "model.hidden=[3, 4]"];
        check(&set, true, "coordinator --config d.toml --resume --set 'model.hidden=[3, 4]'");
        let named = ["coordinator", "--config", "d.toml", "--set", "run.name=digits-1"];
        check(&named, false, "coordinator --config d.toml --set run.name=digits-1 --resume");
    }

    #[test]
    fn names_are_quoted_where_toml_reads_another_value() {
        let said = ["digits-1", "7", "true", "a b"].map(toml_value);
        assert_eq!(said, ["digits-1", "\"7\"", "\"true\"", "\"a b\""]);
    }

    #[test]
    fn a_configuration_in_a_runs_folder_means_that_run() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let runs = dir.path().join("runs");
        let run = RunDir::create(&runs, "a-1").expect("made");
        let config = run.path().join(CONFIG);
        std::fs::write(&config, "").expect("written");
        let set = |config: &Path, given: &[&str]| {
            overrides_of_run_folder(config, &given.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>())
        };
        let dir_of = format!("run.dir={}", toml_string(&runs.to_string_lossy()));
        assert_eq!(set(&config, &[]), ["run.name=\"a-1\"".to_owned(), dir_of.clone()]);
        assert_eq!(set(&config, &["run.name=b"]), [dir_of]);
        let elsewhere = dir.path().join(CONFIG);
        std::fs::write(&elsewhere, "").expect("written");
        assert!(set(&elsewhere, &[]).is_empty());
        assert!(set(&dir.path().join("absent.toml"), &[]).is_empty());
    }
}
