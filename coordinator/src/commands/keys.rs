//! Signing keys of a run's checkpoints and exports, and the keys whose signatures it trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use configs::Resolved;
use store::signing::{KeyError, SigningKey, TrustedKeys};
use store::versions::{self, MANIFEST};

use crate::checkpoints::uploads::Signing;
use crate::cli::KeyCommand;
use crate::display;
use crate::run::prepare::StartError;

/// The keys that the configuration names. They are read before the run is created: a run that can't sign doesn't start.
pub(crate) struct Keys {
    pub(crate) signing: Signing,
    pub(crate) trusted: Option<TrustedKeys>,
}

impl Keys {
    pub(crate) fn read(resolved: &Resolved) -> Result<Self, StartError> {
        let config = &resolved.config;
        let signer = |key: &str, file: &Option<PathBuf>| read(resolved, key, file, SigningKey::read);
        let signing = Signing {
            versions: signer("checkpoint.sign", &config.checkpoint.sign)?.map(Arc::new),
            exports: signer("export.sign", &config.export.sign)?.map(Arc::new),
        };
        let trusted =
            read(resolved, "checkpoint.verify_key", &config.checkpoint.verify_key, TrustedKeys::read)?;
        let own = signing.versions.as_deref();
        if let Some(trusted) = trusted.as_ref().filter(|trusted| !own.is_some_and(|key| trusted.has(key))) {
            let why = if own.is_some() {
                "has not the public key of checkpoint.sign"
            } else {
                "is set and checkpoint.sign is not"
            };
            return Err(StartError::config(format!(
                "checkpoint.verify_key ({}) {why}: this run could not be resumed from its own versions; set both, and put the \
                 public key of the one into the other",
                trusted.path().display()
            )));
        }
        Ok(Self { signing, trusted })
    }
}

/// Reads a key file. Relative paths are resolved against the working directory first, then the configuration's folder.
fn read<T>(
    resolved: &Resolved,
    key: &str,
    file: &Option<PathBuf>,
    reader: impl Fn(&Path) -> Result<T, KeyError>,
) -> Result<Option<T>, StartError> {
    let Some(file) = file else { return Ok(None) };
    let beside = resolved.path.parent().map(|folder| folder.join(file)).filter(|path| path.is_file());
    let path = if file.is_file() { file.clone() } else { beside.unwrap_or_else(|| file.clone()) };
    reader(&path).map(Some).map_err(|why| StartError::config(format!("{key} = {:?}: {why}", file.display())))
}

/// Runs `coordinator key ...`.
pub(crate) fn command(command: &KeyCommand) -> Result<(), StartError> {
    match command {
        KeyCommand::Create { file } => {
            let public = SigningKey::create(file).map_err(StartError::config)?;
            display::print(&format!(
                "the private key is in {}, the public key, for checkpoint.verify_key, in {}",
                file.display(),
                public.display()
            ));
            Ok(())
        }
        KeyCommand::Sign { key, files } => {
            let key = SigningKey::read(key).map_err(StartError::config)?;
            files.iter().try_for_each(|file| sign(&key, file))
        }
        KeyCommand::Verify { key, path } => {
            let keys = TrustedKeys::read(key).map_err(StartError::config)?;
            verify(&keys, path)?;
            display::print(&format!("{} is signed by a key of {}", path.display(), key.display()));
            Ok(())
        }
    }
}

fn sign(key: &SigningKey, file: &Path) -> Result<(), StartError> {
    let bytes = content(file)?;
    let signature = key.sign_file(file, &bytes).map_err(StartError::failed)?;
    display::print(&format!("{} is signed in {}", file.display(), signature.display()));
    Ok(())
}

fn verify(keys: &TrustedKeys, path: &Path) -> Result<(), StartError> {
    if path.join(MANIFEST).is_file() {
        return versions::verify_folder(path, Some(keys)).map(drop).map_err(StartError::data);
    }
    let bytes = content(path)?;
    keys.verify_file(path, &bytes).map_err(|why| StartError::data(format!("{} {why}", path.display())))
}

fn content(file: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(file).map_err(|why| StartError::data(format!("{}: {why}", file.display())))
}
