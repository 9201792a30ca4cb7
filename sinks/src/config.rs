//! Builds sinks from `[tracker]` and the environment.

use printable::shell_word;

use std::path::Path;

use super::mlflow::{Mlflow, Target};
use super::tensorboard::TensorBoard;
use super::wandb::Wandb;
use super::{RunFolder, Sink};

/// A configured sink. Its credentials, if any, are never shown.
#[derive(Clone, Debug)]
pub struct SinkConfig(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Mlflow(Target),
    Wandb { project: String, entity: String },
    TensorBoard,
}

/// Looks up environment variables, which are named as in the trackers' own clients.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a sink can't be configured.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SinkConfigError(pub(crate) String);

impl SinkConfig {
    /// The configured sinks other than `embedded`, each once. `stem` is the default name of the experiment or project.
    ///
    /// # Errors
    /// When a sink is requested without an address.
    pub fn of(
        tracker: &configs::Tracker,
        stem: &str,
        environment: Environment<'_>,
    ) -> Result<Vec<Self>, SinkConfigError> {
        let mut names: Vec<&str> = tracker.sinks.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let sink = |name: &str| match name {
            "mlflow" => {
                let uri = tracker.mlflow_uri.clone().or_else(|| environment("MLFLOW_TRACKING_URI"));
                let uri = uri.ok_or_else(|| {
                    SinkConfigError(
                        "tracker.sinks has \"mlflow\", and nothing says where that is: set tracker.mlflow_uri, or \
                         MLFLOW_TRACKING_URI in the environment"
                            .to_owned(),
                    )
                })?;
                Self::mlflow(&uri, tracker.mlflow_experiment.as_deref(), stem, environment).map(Some)
            }
            "wandb" => Ok(Some(Self::wandb(tracker.wandb_project.as_deref(), stem, environment))),
            "tensorboard" => Ok(Some(Self::tensorboard())),
            _ => Ok(None),
        };
        names.into_iter().filter_map(|name| sink(name).transpose()).collect()
    }

    /// An MLflow server.
    ///
    /// # Errors
    /// When the sink doesn't support the address, or an environment variable is invalid.
    pub fn mlflow(
        uri: &str,
        experiment: Option<&str>,
        stem: &str,
        environment: Environment<'_>,
    ) -> Result<Self, SinkConfigError> {
        Target::new(uri, experiment, stem, environment).map(|target| Self(Kind::Mlflow(target)))
    }

    /// An offline W&B run in the run's folder.
    #[must_use]
    pub fn wandb(project: Option<&str>, stem: &str, environment: Environment<'_>) -> Self {
        let project = project.map(str::to_owned).or_else(|| environment("WANDB_PROJECT"));
        let entity = environment("WANDB_ENTITY").unwrap_or_default();
        Self(Kind::Wandb { project: project.unwrap_or_else(|| stem.to_owned()), entity })
    }

    /// The sink of `coordinator tracker push`: the URL of an MLflow server, `wandb` or `tensorboard`. Missing settings
    /// come from the run's own configuration, the environment, and the run's name without its number.
    ///
    /// # Errors
    /// When it is none of these, or as for [`SinkConfig::mlflow`].
    pub fn named(
        to: &str,
        experiment: Option<&str>,
        run_dir: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, SinkConfigError> {
        let is_url = to.contains("://");
        if experiment.is_some() && !is_url {
            let why = "--experiment goes with the URL of an MLflow server, not with --to";
            return Err(SinkConfigError(format!("{why} {to}")));
        }
        let config = RunFolder::new(run_dir).config().unwrap_or_default();
        let key = |name: &str| config.get("tracker")?.get(name)?.as_str();
        let path = run_dir.canonicalize().unwrap_or_else(|_| run_dir.to_owned());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match to {
            "wandb" => Ok(Self::wandb(key("wandb_project"), stem(&name), environment)),
            "tensorboard" => Ok(Self::tensorboard()),
            url if is_url => {
                Self::mlflow(url, experiment.or(key("mlflow_experiment")), stem(&name), environment)
            }
            other => Err(SinkConfigError(format!(
                "--to {other}: expected the address of an MLflow server such as http://127.0.0.1:5000, or wandb, or \
                 tensorboard"
            ))),
        }
    }

    /// TensorBoard event files in the run's folder.
    #[must_use]
    pub fn tensorboard() -> Self {
        Self(Kind::TensorBoard)
    }

    /// The sink's name in `tracker.sinks`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Mlflow(_) => Mlflow::NAME,
            Kind::Wandb { .. } => Wandb::NAME,
            Kind::TensorBoard => TensorBoard::NAME,
        }
    }

    /// The destination, without credentials.
    #[must_use]
    pub fn destination(&self) -> String {
        match &self.0 {
            Kind::Mlflow(target) => target.destination(),
            Kind::Wandb { .. } => Wandb::DESTINATION.to_owned(),
            Kind::TensorBoard => TensorBoard::DESTINATION.to_owned(),
        }
    }

    /// The command that sends a run to this destination, for a POSIX shell.
    #[must_use]
    pub fn push_command(&self, run_dir: &Path) -> String {
        let mut variables = String::new();
        let to = match &self.0 {
            Kind::Mlflow(target) => {
                for (name, value) in target.variables() {
                    variables.push_str(&format!("{name}={} ", shell_word(value)));
                }
                let experiment =
                    target.experiment_name().map(|name| format!(" --experiment {}", shell_word(name)));
                shell_word(target.shown()) + &experiment.unwrap_or_default()
            }
            Kind::Wandb { .. } | Kind::TensorBoard => self.name().to_owned(),
        };
        format!("{variables}coordinator tracker push {} --to {to}", shell_word(&run_dir.to_string_lossy()))
    }

    /// Creates the sink; this does no I/O.
    pub(crate) fn sink(&self, run: &RunFolder) -> Box<dyn Sink> {
        match &self.0 {
            Kind::Mlflow(target) => Box::new(Mlflow::new(target.clone())),
            Kind::Wandb { project, entity } => Box::new(Wandb::new(run, project.clone(), entity.clone())),
            Kind::TensorBoard => Box::new(TensorBoard::new(run)),
        }
    }
}

/// A run's name without its number: `digits` for `digits-7`.
fn stem(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, number)) if !stem.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(toml: &str, variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let tracker: configs::Tracker = toml::from_str(toml).expect("a section");
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let sinks = SinkConfig::of(&tracker, "digits", &variable).map_err(|why| why.to_string())?;
        let shown = |sink: &SinkConfig| {
            assert!(!format!("{sink:?}").contains("geheim"), "{sink:?}");
            let command = sink.push_command(Path::new("r"));
            format!("{} {} | {command}", sink.name(), sink.destination())
        };
        Ok(sinks.iter().map(shown).collect())
    }

    #[test]
    fn keys_go_before_the_environment_and_the_stem_stands_in() {
        assert_eq!(configs("", &[]), Ok(vec![]));
        assert_eq!(configs("sinks = []", &[]), Ok(vec![]));
        let all = "sinks = [\"wandb\", \"embedded\", \"mlflow\", \"tensorboard\", \"mlflow\"]";
        let sinks = configs(all, &[("MLFLOW_TRACKING_URI", "http://me:geheim@h:5000/")]).expect("good");
        assert_eq!(
            sinks,
            [
                "mlflow http://h:5000, experiment digits | coordinator tracker push r --to http://h:5000 --experiment digits",
                "tensorboard tensorboard | coordinator tracker push r --to tensorboard",
                "wandb wandb | coordinator tracker push r --to wandb",
            ]
        );
        let keys = "sinks = [\"mlflow\"]\nmlflow_uri = \"https://k\"\nmlflow_experiment = \"e\"";
        let variables = [("MLFLOW_TRACKING_URI", "http://v"), ("MLFLOW_EXPERIMENT_NAME", "f")];
        assert_eq!(
            configs(keys, &variables).expect("good"),
            ["mlflow https://k, experiment e | coordinator tracker push r --to https://k --experiment e"]
        );
    }

    #[test]
    fn runs_and_experiments_that_are_there_are_named_by_the_environment() {
        let mlflow = "sinks = [\"mlflow\"]\nmlflow_uri = \"http://h\"";
        let id = ("MLFLOW_EXPERIMENT_ID", "7");
        assert_eq!(
            configs(mlflow, &[id]).expect("good"),
            [
                "mlflow http://h, experiment number 7 | MLFLOW_EXPERIMENT_ID=7 coordinator tracker push r --to http://h"
            ]
        );
        let named =
            [id, ("MLFLOW_EXPERIMENT_NAME", "f"), ("MLFLOW_RUN_ID", "abc"), ("MLFLOW_RUN_NAME", "a b")];
        assert_eq!(
            configs(mlflow, &named).expect("good"),
            [
                "mlflow http://h, experiment f, number 7, run abc | MLFLOW_RUN_ID=abc MLFLOW_RUN_NAME='a b' coordinator tracker push r \
              --to http://h --experiment f"
            ]
        );
    }

    #[test]
    fn what_cannot_be_is_said() {
        let said =
            |variables: &[(&str, &str)]| configs("sinks = [\"mlflow\"]", variables).expect_err("refused");
        assert!(said(&[]).contains("tracker.mlflow_uri"));
        let uri = said(&[("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")]);
        assert!(uri.contains("sqlite:///mlflow.db") && uri.contains("http"), "{uri}");
        let tls = said(&[("MLFLOW_TRACKING_URI", "https://h"), ("MLFLOW_TRACKING_INSECURE_TLS", "perhaps")]);
        assert!(tls.contains("MLFLOW_TRACKING_INSECURE_TLS"), "{tls}");
    }

    #[test]
    fn credentials_of_an_address_that_is_refused_are_not_repeated() {
        for uri in [
            "postgresql://me:geheim@db/mlflow",
            "http://me:geheim@/x",
            "me:geheim@h",
            "https://me:geheim@h/?q",
        ] {
            let said = configs("sinks = [\"mlflow\"]", &[("MLFLOW_TRACKING_URI", uri)]).expect_err("refused");
            assert!(!said.contains("geheim") && said.contains("http"), "{said}");
        }
    }

    #[test]
    fn what_is_pushed_is_named_after_the_run_unless_something_says_otherwise() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().join("digits-7");
        std::fs::create_dir(&run).expect("made");
        let none = |_: &str| None;
        let to = |to: &str, experiment: Option<&str>| {
            let sink = SinkConfig::named(to, experiment, &run, &none).map_err(|why| why.to_string())?;
            Ok::<String, String>(sink.destination())
        };
        let url = "http://h:5000";
        assert_eq!(to(url, None), Ok("http://h:5000, experiment digits".into()));
        std::fs::write(run.join("config.toml"), "[tracker]\nmlflow_experiment = \"mine\"").expect("written");
        assert_eq!(to(url, None), Ok("http://h:5000, experiment mine".into()));
        assert_eq!(to(url, Some("e")), Ok("http://h:5000, experiment e".into()));
        assert_eq!(to("wandb", None), Ok("wandb".into()));
        assert!(to("wandb", Some("e")).expect_err("refused").contains("--experiment"));
        assert!(to("elsewhere", None).expect_err("refused").contains("tensorboard"));
    }

    #[test]
    fn stems_and_words_for_a_shell() {
        for (name, expected) in [("digits-7", "digits"), ("a-b", "a-b"), ("small", "small"), ("-1", "-1")] {
            assert_eq!(stem(name), expected, "{name}");
        }
        for (text, expected) in [("a/b-1", "a/b-1"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''")] {
            assert_eq!(shell_word(text), expected);
        }
    }
}
