//! The parts of a run's folder that sinks read in addition to its metrics.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use run_record::{RunRecord, RunStatus};
use serde_json::Value;

use super::SinkError;

/// A run's folder.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

/// The checkout that a run was started in, as far as its record knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Checkout {
    pub(crate) commit: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) dirty: Option<bool>,
}

impl RunFolder {
    /// A folder that need not exist yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads `run.json`.
    pub(crate) fn record(&self) -> Result<RunRecord, SinkError> {
        let path = self.file(RunRecord::FILE);
        RunRecord::read(&path).map_err(|why| SinkError::Retry(why.to_string()))
    }

    /// `run.json` including the fields that this crate's types don't know.
    pub(crate) fn raw_record(&self) -> Result<Value, SinkError> {
        let path = self.file(RunRecord::FILE);
        let bytes = std::fs::read(&path).map_err(|why| local(&path, &why))?;
        serde_json::from_slice(&bytes)
            .map_err(|why| SinkError::Retry(format!("{} is no run record: {why}", path.display())))
    }

    /// A fingerprint of a file's content; empty if it doesn't exist.
    pub(crate) fn mark(&self, name: &str) -> String {
        std::fs::read(self.file(name)).map_or_else(
            |_| String::new(),
            |bytes| format!("{}-{:08x}", bytes.len(), crc32fast::hash(&bytes)),
        )
    }

    pub(crate) fn config(&self) -> Result<toml::Table, SinkError> {
        let path = self.file("config.toml");
        let text = std::fs::read_to_string(&path).map_err(|why| local(&path, &why))?;
        text.parse().map_err(|why: toml::de::Error| {
            SinkError::Refused(format!("{} is no TOML: {}", path.display(), why.message()))
        })
    }

    /// The resolved configuration as `section.key` and value, strings without their quotes.
    pub(crate) fn params(&self) -> Result<Vec<(String, String)>, SinkError> {
        let mut flat = Vec::new();
        flatten("", &toml::Value::Table(self.config()?), &mut flat);
        Ok(flat)
    }

    /// When the run began, in seconds since 1970: the time of its first event, or else that of its record.
    pub(crate) fn began(&self) -> Result<f64, SinkError> {
        let record = self.record()?;
        Ok(record.events.first().map_or_else(|| self.modified(RunRecord::FILE), |event| event.time))
    }

    /// When a file was last modified, in seconds since 1970; 0 if it doesn't exist.
    pub(crate) fn modified(&self, name: &str) -> f64 {
        let time = std::fs::metadata(self.file(name)).and_then(|about| about.modified()).ok();
        time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |since| since.as_secs_f64())
    }

    /// The checkout of the newest start.
    pub(crate) fn checkout(&self) -> Result<Checkout, SinkError> {
        let raw = self.raw_record()?;
        let start = raw["provenance"]["starts"].as_array().and_then(|starts| starts.last());
        let git = start.map_or(&Value::Null, |start| &start["git"]);
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Checkout {
            commit: text(&git["commit"]).or_else(|| text(&raw["git_commit"])),
            branch: text(&git["branch"]),
            repository: text(&git["repository"]),
            dirty: git["dirty"].as_bool(),
        })
    }

    pub(crate) fn is_over(&self) -> Result<bool, SinkError> {
        Ok(self.record()?.status != RunStatus::Running)
    }
}

/// Errors of local files are retried, since they may be fixed.
pub(crate) fn local(path: &Path, why: &std::io::Error) -> SinkError {
    SinkError::Retry(format!("{}: {why}", path.display()))
}

fn flatten(prefix: &str, value: &toml::Value, flat: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, inner) in table {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, inner, flat);
            }
        }
        toml::Value::String(text) => flat.push((prefix.to_owned(), text.clone())),
        // In the shortest format that parses to the same number: 1e-8.
        toml::Value::Float(number) => flat.push((prefix.to_owned(), format!("{number:?}"))),
        other => flat.push((prefix.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_flattened() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "[a]\nlist = [1, 2]\nword = \"w\"\nsmall = 1e-8\n[a.inner]\n\"x.y\" = true\n[empty]\n";
        std::fs::write(dir.path().join("config.toml"), text).expect("written");
        let mut params = RunFolder::new(dir.path()).params().expect("read");
        params.sort();
        let expected = [("a.inner.x.y", "true"), ("a.list", "[1, 2]"), ("a.small", "1e-8"), ("a.word", "w")];
        assert_eq!(params, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_checkout_is_read_from_either_form_of_the_record() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::new(dir.path());
        let check = |json: &str, expected: Checkout| {
            std::fs::write(folder.file("run.json"), json).expect("written");
            assert_eq!(folder.checkout().expect("read"), expected, "{json}");
        };
        check("{}", Checkout::default());
        check(r#"{"git_commit":"c"}"#, Checkout { commit: Some("c".into()), ..Checkout::default() });
        check(
            r#"{"git_commit":"c","provenance":{"starts":[{}, {"git":{"commit":"d","branch":"b","dirty":true}}]}}"#,
            Checkout {
                commit: Some("d".into()),
                branch: Some("b".into()),
                repository: None,
                dirty: Some(true),
            },
        );
    }
}
