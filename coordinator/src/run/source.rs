//! Initial parameters of a run: finds and hashes `init.from`, and serves it to the worker that writes checkpoint 0.

use std::path::{Path, PathBuf};

use configs::{Config, Resolved};
use store::signing::TrustedKeys;
use store::{RunDir, versions};

use crate::run::prepare::{RunTarget, StartError};

/// The parameters file of a checkpoint, as workers name it.
const MODEL_FILE: &str = "model.safetensors";

/// The parameters file and its digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    path: PathBuf,
    /// BLAKE3 digest, in hexadecimal.
    digest: String,
}

impl Source {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The digest, by which workers request the file, and its path.
    pub(crate) fn file(self) -> (String, PathBuf) {
        (self.digest, self.path)
    }
}

/// Resolves `init.from`, if set. With `trusted` keys, the file must be signed by one of them.
pub(crate) fn find(resolved: &Resolved, trusted: Option<&TrustedKeys>) -> Result<Option<Source>, StartError> {
    let init = &resolved.config.init;
    let Some(from) = &init.from else { return Ok(None) };
    let (path, verified) = file(from, resolved.path.parent(), trusted)
        .map_err(|why| StartError::data(format!("init.from = {from:?}: {why}")))?;
    let failed = |why: std::io::Error| StartError::data(format!("{}: {why}", path.display()));
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(&path).map_err(failed)?).map_err(failed)?;
    let digest = hasher.finalize().to_hex().to_string();
    if verified.is_some_and(|verified| verified != digest) {
        return Err(StartError::data(format!("{} changed while it was read", path.display())));
    }
    match &init.digest {
        Some(expected) if !expected.eq_ignore_ascii_case(&digest) => Err(StartError::data(format!(
            "init.from = {from:?}: the BLAKE3 of {} is {digest}, init.digest says {expected}",
            path.display()
        ))),
        _ => Ok(Some(Source { path, digest })),
    }
}

/// Whether the start resumes an existing run, which may have checkpoint 0 already and no longer need the file.
pub(crate) fn is_begun(resolved: &Resolved, resume: bool) -> Result<bool, StartError> {
    let run = &resolved.config.run;
    Ok(resume
        && match &run.name {
            Some(name) => RunDir::exists(&run.dir, name),
            None => RunDir::to_resume(&run.dir, &resolved.stem)?.is_some(),
        })
}

/// Writes the file's digest into the configuration. If the file is gone, a resumed run keeps the digest that it was
/// started with.
pub(crate) fn settle(
    found: Result<Option<Source>, StartError>,
    place: &RunTarget,
    config: &mut Config,
) -> Result<Option<Source>, StartError> {
    let why = match found {
        Ok(source) => {
            config.init.digest = source.as_ref().map(|source| source.digest.clone());
            return Ok(source);
        }
        Err(why) => why,
    };
    let (RunTarget::Begun(dir) | RunTarget::Completed(dir)) = place else { return Err(why) };
    let Ok(before) = Config::load(&dir.path().join("config.toml"), &[]) else { return Err(why) };
    let before = before.config.init;
    if before.digest.is_none() || before.from != config.init.from {
        return Err(why);
    }
    tracing::warn!("{}; the run goes on from its own versions", why.message);
    config.init.digest = before.digest;
    Ok(None)
}

/// A file, and the digest of its verified content.
type VerifiedFile = (PathBuf, Option<String>);

/// Finds the file for `RUN_DIR`, `RUN_DIR@STEP` or a path, relative to the working directory first, then to the
/// configuration.
fn file(
    from: &str,
    config_dir: Option<&Path>,
    trusted: Option<&TrustedKeys>,
) -> Result<VerifiedFile, String> {
    let places = |text: &str| {
        let beside = config_dir.map(|dir| dir.join(text)).filter(|path| path != Path::new(text));
        [Some(PathBuf::from(text)), beside].into_iter().flatten()
    };
    if let Some(path) = places(from).find(|path| path.is_file()) {
        let Some(keys) = trusted else { return Ok((path, None)) };
        let bytes = std::fs::read(&path).map_err(|why| format!("{}: {why}", path.display()))?;
        keys.verify_file(&path, &bytes).map_err(|why| format!("{} {why}", path.display()))?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        return Ok((path, Some(digest)));
    }
    if let Some(dir) = places(from).find(|path| path.is_dir()) {
        return of_run(&dir, None, trusted);
    }
    if let Some((dir, step)) = from.rsplit_once('@')
        && let Some(dir) = places(dir).find(|path| path.is_dir())
    {
        let step =
            step.parse().map_err(|_| format!("{step:?} after the @ is no step, which is a whole number"))?;
        return of_run(&dir, Some(step), trusted);
    }
    let tried: Vec<String> = places(from).map(|path| path.display().to_string()).collect();
    Err(format!("there is no such file or run (tried {})", tried.join(", ")))
}

fn of_run(dir: &Path, step: Option<u64>, trusted: Option<&TrustedKeys>) -> Result<VerifiedFile, String> {
    let checkpoints = dir.join("checkpoints");
    let steps = versions::list(&checkpoints).unwrap_or_default();
    let found = match step {
        Some(step) if !steps.contains(&step) => {
            let known: Vec<String> = steps.iter().rev().map(u64::to_string).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("{} has no version of step {step}; it has {known}", dir.display()));
        }
        Some(step) => versions::verify(&checkpoints, step, trusted).map_err(|damaged| damaged.to_string())?,
        None => {
            let (newest, damaged) =
                versions::newest_valid(&checkpoints, |_| true, trusted).map_err(|why| why.to_string())?;
            if let Some(untrusted) = damaged.iter().find(|damaged| damaged.is_untrusted) {
                return Err(untrusted.to_string());
            }
            damaged.iter().for_each(|damaged| tracing::warn!("{damaged}; the one before is taken"));
            newest.ok_or_else(|| {
                format!(
                    "{} is no run with versions: it has no checkpoints folder with a whole one",
                    dir.display()
                )
            })?
        }
    };
    let path = versions::folder(&checkpoints, found.step).join(MODEL_FILE);
    match found.files.into_iter().find(|entry| entry.name == MODEL_FILE) {
        Some(entry) => Ok((path, Some(entry.blake3))),
        None => Err(format!("{} is missing", path.display())),
    }
}
