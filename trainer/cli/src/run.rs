//! Reads a run's directory: its configuration, its data plan, its versions.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use configs::Config;
use datasets::{DataError, DataPlan, Format, TextTokenizer};
use run_record::{MetricsFile, keys};
use store::signing::TrustedKeys;
use store::versions::{self, Manifest};

use crate::cli::Memory;
use crate::failure::Failure;
use crate::version_selector::VersionSelector;

/// File of the run's data plan, as made by the coordinator at the start.
const PLAN_FILE: &str = "data.json";
/// Maximum size of a configuration in bytes, the same as for writing.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Memory for reading a data plan, in multiples of its file size.
const PLAN_TIMES: u64 = 8;
/// File of the tokenizer, for runs on tokenised text.
const TOKENIZER_FILE: &str = "tokenizer.json";

pub(crate) struct Run {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    /// Text of `config.toml`.
    pub(crate) config_text: String,
    pub(crate) config: Config,
    /// Memory for reading files, in megabytes.
    pub(crate) memory_mb: u64,
}

impl Run {
    /// Opens a run and reads its configuration.
    pub(crate) fn open(dir: &Path, memory: Memory) -> Result<Self, Failure> {
        let path = dir.join("config.toml");
        let config_text = read_text(&path).map_err(|why| match why.kind() {
            ErrorKind::NotFound if dir.is_dir() => {
                Failure::data(format!("{} is no run directory: it has no config.toml", dir.display()))
            }
            ErrorKind::NotFound => {
                Failure::data(format!("there is no run directory {}{}", dir.display(), near(dir)))
            }
            _ => Failure::data(format!("{}: {why}", path.display())),
        })?;
        let config = Config::parse(&config_text, &path.display().to_string(), &[])
            .map_err(|why| Failure::usage(why.to_string()))?;
        // Resolves a name for "runs/a/." and for symlinks.
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let memory_mb = memory.memory_mb.unwrap_or(config.dataset.memory_mb);
        Ok(Self { dir: dir.to_owned(), name, config_text, config, memory_mb })
    }

    /// The run's data plan. Without a stored plan, plans again, with the same result if the file is unchanged.
    pub(crate) fn plan(&self) -> Result<DataPlan, Failure> {
        let path = self.dir.join(PLAN_FILE);
        match datasets::read_within(&path, self.memory_mb, PLAN_TIMES) {
            Ok(text) => {
                let plan = serde_json::from_slice(&text);
                let mut plan: DataPlan = plan.map_err(|why| {
                    Failure::data(format!("{} is no dataset's plan: {why}", path.display()))
                })?;
                plan.memory_mb = self.memory_mb;
                Ok(self.with_own_tokenizer(plan))
            }
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                let config = configs::Dataset { memory_mb: self.memory_mb, ..self.config.dataset.clone() };
                Ok(DataPlan::prepare(&config, Some(&self.dir))?)
            }
            Err(why) => Err(why.into()),
        }
    }

    /// Whether the run has stored its data plan.
    pub(crate) fn has_plan(&self) -> bool {
        self.dir.join(PLAN_FILE).is_file()
    }

    /// Uses the run's own copy of the tokenizer, since the original may be gone.
    fn with_own_tokenizer(&self, mut plan: DataPlan) -> DataPlan {
        let own = self.dir.join(TOKENIZER_FILE);
        if let Format::Text(text) = &mut plan.form
            && let Some(tokenizer) = &mut text.tokenizer
            && own.is_file()
        {
            tokenizer.path = own.display().to_string();
        }
        plan
    }

    /// The tokenizer of the run's text, which the coordinator keeps in the run's folder, and its file's contents;
    /// `None` for byte tokens.
    pub(crate) fn tokenizer(&self, plan: &DataPlan) -> Result<Option<(TextTokenizer, String)>, Failure> {
        Ok(plan.read_tokenizer(&self.dir.join(TOKENIZER_FILE))?)
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// The selected version, verified, including its signature if a file of public keys is given here or in the run's
    /// configuration. Damaged versions are reported and, unless selected by step, skipped.
    pub(crate) fn version(
        &self,
        which: VersionSelector,
        verify_key: Option<&Path>,
    ) -> Result<Manifest, Failure> {
        let trusted =
            verify_key.or(self.config.checkpoint.verify_key.as_deref()).map(trusted_keys).transpose()?;
        let trusted = trusted.as_ref();
        let checkpoints = self.checkpoints();
        let steps = match versions::list(&checkpoints) {
            Err(why) if why.kind() == store::StoreErrorKind::Absent => Vec::new(),
            other => other.map_err(|why| Failure::data(why.to_string()))?,
        };
        let manifest = match which {
            VersionSelector::Step(step) if !steps.contains(&step) => {
                return Err(Failure::data(format!(
                    "run {} has no version of step {step}; it has {}",
                    self.name,
                    listed(&steps)
                )));
            }
            VersionSelector::Step(step) => versions::verify(&checkpoints, step, trusted)
                .map_err(|damaged| Failure::data(damaged.to_string()))?,
            VersionSelector::Newest => self.first_whole(steps, trusted, "whole")?,
            VersionSelector::Best => {
                self.first_whole(self.by_value(&steps)?, trusted, "whole and has been evaluated")?
            }
        };
        if manifest.config_digest != self.config.digest() {
            tracing::warn!("config.toml has changed since the version of step {} was written", manifest.step);
        }
        Ok(manifest)
    }

    fn first_whole(
        &self,
        steps: Vec<u64>,
        trusted: Option<&TrustedKeys>,
        wanted: &str,
    ) -> Result<Manifest, Failure> {
        for step in steps {
            match versions::verify(&self.checkpoints(), step, trusted) {
                Ok(manifest) => return Ok(manifest),
                // Not a disk failure: falling back to an older version may be an attacker's aim.
                Err(untrusted) if untrusted.is_untrusted => return Err(Failure::data(untrusted.to_string())),
                Err(damaged) => tracing::warn!("{damaged}; trying the next one"),
            }
        }
        Err(Failure::data(format!("run {} has no version that is {wanted}", self.name)))
    }

    /// The steps that have a value of `checkpoint.best`, best first.
    fn by_value(&self, steps: &[u64]) -> Result<Vec<u64>, Failure> {
        let key = &self.config.checkpoint.best;
        let logged = self.metrics()?.into_iter().filter(|metric| metric.key == *key);
        let mut values: BTreeMap<u64, f64> = logged
            .filter(|metric| steps.contains(&metric.step))
            .map(|metric| (metric.step, metric.value))
            .collect();
        let mut ordered = Vec::with_capacity(values.len());
        while let Some(best) = versions::best(&values, keys::lower_is_better(key)) {
            values.remove(&best);
            ordered.push(best);
        }
        if ordered.is_empty() {
            return Err(Failure::data(format!(
                "run {} has no {key} for any of its versions ({}): name one by its step",
                self.name,
                listed(steps)
            )));
        }
        Ok(ordered)
    }

    /// Everything that the run logged.
    pub(crate) fn metrics(&self) -> Result<Vec<run_record::Metric>, Failure> {
        MetricsFile::read(&self.dir.join("metrics.jsonl")).map_err(|why| Failure::data(why.to_string()))
    }
}

/// Reads a configuration; rejects overlong files.
fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Reads a file of public keys.
pub(crate) fn trusted_keys(path: &Path) -> Result<TrustedKeys, Failure> {
    TrustedKeys::read(path).map_err(|why| Failure::usage(format!("the keys to verify with: {why}")))
}

fn listed(steps: &[u64]) -> String {
    if steps.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = steps.iter().rev().map(u64::to_string).collect();
    words.join(", ")
}

/// Suggests a run: one below `runs`, or one next to `dir` with a similar name.
fn near(dir: &Path) -> String {
    let below = Path::new("runs").join(dir);
    if below.join("config.toml").is_file() {
        return format!("; did you mean {}?", below.display());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside: Vec<String> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("config.toml").is_file())
        .map(|entry| entry.path().display().to_string())
        .collect();
    beside.sort();
    beside.truncate(12);
    if beside.is_empty() { String::new() } else { format!("; there are {}", beside.join(", ")) }
}
