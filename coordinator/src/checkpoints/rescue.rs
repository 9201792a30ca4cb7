//! Rescue of a run whose folder is moved or deleted while it runs: detects the loss and saves what the members hold
//! elsewhere.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::coordinator::Outcome;
use protocol::messages::EndReason;
use store::{FolderLocation, HeldFolder, RunDir, StoreError, versions};
use tokio::sync::mpsc;
use tracing::warn;

use crate::commands::reproduce::quoted;
use crate::event::DriverEvent;

/// How often the folder is checked. (It is also checked after each checkpoint.)
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Maximum number of rescue folders per run.
const NUMBER_MAX: u32 = 1_000;
/// Files that a run's folder needs to be usable or resumable. (Checkpoints are uploaded anyway.)
const FILES: [&str; 5] = ["config.toml", "data.json", "tokenizer.json", "journal", "metrics.jsonl"];

/// The folder of a running run.
pub(crate) struct RunFolder {
    held: Arc<HeldFolder>,
    name: String,
    /// Open files, which stay readable even if their names are deleted.
    files: Vec<(&'static str, File)>,
}

impl RunFolder {
    /// Opens the folder and its current files.
    pub(crate) fn hold(dir: &RunDir) -> Result<Self, StoreError> {
        let held = Arc::new(HeldFolder::open(dir.path(), "lock")?);
        let open = |name| File::open(dir.path().join(name)).ok().map(|file| (name, file));
        Ok(Self { held, name: dir.name().to_owned(), files: FILES.into_iter().filter_map(open).collect() })
    }

    /// The handle on the folder.
    pub(crate) fn held(&self) -> Arc<HeldFolder> {
        self.held.clone()
    }

    /// Starts a thread that polls the folder. It has a thread of its own because a disk may hang.
    pub(crate) fn watch(&self, driver_events: &mpsc::Sender<DriverEvent>) {
        let (held, driver_events) = (self.held.clone(), driver_events.clone());
        let watch = move || {
            while !driver_events.is_closed() {
                std::thread::sleep(LOOK_EVERY);
                if held.whereabouts() != FolderLocation::InPlace {
                    // Fails only if the run is over, which needs no folder.
                    let _ = driver_events.blocking_send(DriverEvent::FolderLost);
                    return;
                }
            }
        };
        if let Err(why) = std::thread::Builder::new().name("run-folder".to_owned()).spawn(watch) {
            warn!(%why, "no thread looks after the run's folder");
        }
    }

    /// If the folder is not in place any more, finds or creates another one.
    pub(crate) fn rescue(&self) -> Option<Rescue> {
        let from = self.held.path().to_owned();
        match self.held.whereabouts() {
            FolderLocation::InPlace => None,
            FolderLocation::Moved(to) => {
                let how = format!("{} was moved to {} while the run went on", from.display(), to.display());
                Some(Rescue { how, place: Ok(to), made: None })
            }
            FolderLocation::Gone => {
                let how = format!("{} was removed while the run went on", from.display());
                let made = self.make_place(&from);
                let place = made.as_ref().map(|made| made.path().to_owned()).map_err(Clone::clone);
                let rescue = Rescue { how, place, made: made.ok() };
                self.copy_files(&rescue);
                Some(rescue)
            }
        }
    }

    /// Creates a folder next to the lost one, else in the temporary folder.
    fn make_place(&self, from: &Path) -> Result<RunDir, String> {
        let beside = from.parent().filter(|runs| !runs.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut whys = Vec::new();
        for runs in [beside.to_owned(), std::env::temp_dir()] {
            for number in 1..NUMBER_MAX {
                match RunDir::create(&runs, &format!("{}-rescued-{number}", self.name)) {
                    Ok(made) => return Ok(made),
                    Err(store::RunDirError::Exists { .. }) => {}
                    Err(why) => {
                        whys.push(why.to_string());
                        break;
                    }
                }
            }
        }
        Err(whys.join("; "))
    }

    /// Copies the open files to the rescue folder, if one was created.
    fn copy_files(&self, rescue: &Rescue) {
        let Some(made) = &rescue.made else { return };
        for (name, file) in &self.files {
            let copied = copy(file, &made.path().join(name));
            if let Err(why) = copied {
                warn!("{name} of the lost folder can't be saved: {why}");
            }
        }
    }

    /// At the run's end, saves what the files have gained since; returns the outcome to report.
    pub(crate) fn conclude(&self, rescue: &Rescue, outcome: Outcome) -> Outcome {
        self.copy_files(rescue);
        let message = match &rescue.place {
            Ok(place) => match newest_version(place) {
                // The folder was moved at the very end.
                Some(_) if outcome.code == 0 => return outcome,
                Some(step) => format!("{}; version {step} is saved in {}", rescue.how, place.display()),
                None => format!("{}; no version of it could be saved ({})", rescue.how, outcome.message),
            },
            Err(why) => format!("{}; it could not be saved: {why}", rescue.how),
        };
        Outcome { reason: EndReason::Failed, code: 4, message, ..outcome }
    }
}

/// Copies the whole file, replacing the target.
fn copy(mut from: &File, to: &Path) -> std::io::Result<()> {
    from.seek(SeekFrom::Start(0))?;
    let mut file = File::create(to)?;
    std::io::copy(&mut from, &mut file)?;
    file.sync_all()
}

fn newest_version(place: &Path) -> Option<u64> {
    versions::newest_valid(&place.join("checkpoints"), |_| true, None).ok()?.0.map(|manifest| manifest.step)
}

/// The folder to which a run writes after its own was lost.
pub(crate) struct Rescue {
    /// What happened, for people.
    pub(crate) how: String,
    /// The folder, or why there is none.
    pub(crate) place: Result<PathBuf, String>,
    /// Kept for its lock, if the folder was created for the rescue.
    made: Option<RunDir>,
}

impl Rescue {
    /// The warning to show at once.
    pub(crate) fn warning(&self) -> String {
        match &self.place {
            Ok(place) => format!(
                "{}: the run ends, and what its workers hold is saved in {}",
                self.how,
                place.display()
            ),
            Err(why) => {
                format!("{}: the run ends, and what its workers hold can't be saved: {why}", self.how)
            }
        }
    }

    /// The command that resumes from the rescued folder.
    pub(crate) fn resume_line(&self) -> Option<String> {
        let program = std::env::args_os().next()?.to_string_lossy().into_owned();
        let config = self.place.as_ref().ok()?.join("config.toml").display().to_string();
        Some(format!("{} --config {} --resume", quoted(&program), quoted(&config)))
    }
}
