//! Uploads from members to the store: checkpoints, exports and states.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::ids::MemberId;
use protocol::messages::UploadKind;
use store::signing::SigningKey;
use store::versions::{self, FileWriter, Manifest, VersionWriter};
use store::{FolderLocation, HeldFolder, write_file};
use tracing::{info, warn};

use crate::checkpoints::upload_stage::UploadStage;

/// Manifest fields that don't depend on the files.
#[derive(Clone, Debug)]
pub(crate) struct ManifestInfo {
    /// Digest of the configuration keys that affect the weights.
    pub(crate) config_digest: String,
    pub(crate) dataset_digest: String,
    pub(crate) steps_per_epoch: u64,
}

/// The keys that sign checkpoints and exports.
#[derive(Clone, Default)]
pub(crate) struct Signing {
    /// For checkpoints.
    pub(crate) versions: Option<Arc<SigningKey>>,
    pub(crate) exports: Option<Arc<SigningKey>>,
}

/// Shared by the driver, which expects uploads, and the rpc server, which receives them.
#[derive(Clone)]
pub(crate) struct Uploads {
    run_dir: Arc<Mutex<PathBuf>>,
    /// Handle on the run's folder, to notice when it is moved or deleted.
    held: Arc<Mutex<Option<Arc<HeldFolder>>>>,
    lineage: Arc<ManifestInfo>,
    signing: Signing,
    expected: Arc<Mutex<BTreeMap<UploadKind, Expected>>>,
}

/// The last upload of its kind that the machine requested.
struct Expected {
    step: u64,
    from: MemberId,
    /// The state digest that it must have, if known.
    digest: Option<[u8; 32]>,
    /// Sequence number within its kind.
    number: u64,
    has_begun: bool,
}

impl Uploads {
    /// Uploads into this run's folder.
    pub(crate) fn new(run_dir: &Path, lineage: ManifestInfo, signing: Signing) -> Self {
        Self {
            run_dir: Arc::new(Mutex::new(run_dir.to_owned())),
            held: Arc::default(),
            lineage: Arc::new(lineage),
            signing,
            expected: Arc::default(),
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.run_dir.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Accepts uploads only while the folder is in place.
    pub(crate) fn hold(&self, held: Arc<HeldFolder>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    /// Refuses an upload if the run's folder is not in place: another one may have its name.
    fn check_place(&self) -> Result<(), String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match held.filter(|held| held.whereabouts() != FolderLocation::InPlace) {
            Some(lost) => Err(format!("{} is not in its place any more", lost.path().display())),
            None => Ok(()),
        }
    }

    /// Redirects uploads to this folder.
    pub(crate) fn move_to(&self, run_dir: &Path) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.run_dir.lock().unwrap_or_else(PoisonError::into_inner) = run_dir.to_owned();
    }

    /// The folder of checkpoints.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.run_dir().join("checkpoints")
    }

    /// Expects this checkpoint from this member; one with another state digest replaces nothing.
    pub(crate) fn expect_version(&self, step: u64, from: MemberId, digest: Option<[u8; 32]>) {
        self.expect(UploadKind::Version, step, from, digest);
    }

    /// Expects the exports from this member.
    pub(crate) fn expect_export(&self, step: u64, from: MemberId) {
        self.expect(UploadKind::Export, step, from, None);
    }

    /// Expects this member's state.
    pub(crate) fn expect_state(&self, step: u64, from: MemberId) {
        self.expect(UploadKind::State, step, from, None);
    }

    /// File for a state while others download it. It needn't survive a crash, so it is never synced.
    pub(crate) fn shown(&self) -> PathBuf {
        self.run_dir().join("shown.state")
    }

    /// Deletes the state file.
    pub(crate) fn forget_shown(&self) {
        // Open readers can still read it to the end.
        let _ = std::fs::remove_file(self.shown());
    }

    fn expect(&self, kind: UploadKind, step: u64, from: MemberId, digest: Option<[u8; 32]>) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        // The machine has given up any previous upload of this kind, begun or not.
        let number = expected.get(&kind).map_or(0, |before| before.number + 1);
        expected.insert(kind, Expected { step, from, digest, number, has_begun: false });
    }

    /// Claims an expected upload, once; unexpected ones are refused.
    pub(crate) fn claim(&self, kind: UploadKind, step: u64, from: MemberId) -> Result<Claim, String> {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = expected.get_mut(&kind).filter(|asked| (asked.step, asked.from) == (step, from));
        let Some(asked) = asked.filter(|asked| !asked.has_begun) else {
            return Err(format!("nobody asked member {:#x} for {kind:?} {step}", from.0));
        };
        asked.has_begun = true;
        let ticket = UploadTicket { own: self.clone(), kind, number: asked.number, stage: Arc::default() };
        Ok(Claim { ticket, step, digest: asked.digest })
    }

    /// Moves void checkpoints out of the way.
    pub(crate) fn set_aside(&self, is_void: impl Fn(u64) -> bool) {
        match versions::set_aside(&self.checkpoints(), is_void) {
            Ok(void) if void.is_empty() => {}
            Ok(void) => warn!(?void, "void versions are set aside"),
            // The journal marks them as void, so nothing resumes from them.
            Err(trouble) => warn!(%trouble, "a void version can't be set aside"),
        }
    }

    /// Removes old checkpoints after a new one was written: keeps the newest `keep`, and those in `spare`.
    pub(crate) fn retain(&self, written: u64, keep: usize, spare: &[u64]) {
        match versions::retain(&self.checkpoints(), written, keep, spare) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(?removed, "old versions removed"),
            Err(trouble) => warn!(%trouble, "an old version can't be removed"),
        }
    }
}

enum UploadTarget {
    Version(VersionWriter),
    /// Written as the bytes arrive.
    State(std::fs::File),
    /// Whole files in memory: (format/file, bytes so far).
    Export(Vec<(String, Vec<u8>)>),
}

/// Identifies one of the requested uploads.
#[derive(Clone)]
pub(crate) struct UploadTicket {
    own: Uploads,
    kind: UploadKind,
    number: u64,
    stage: Arc<UploadStage>,
}

impl UploadTicket {
    /// Whether this is still the newest request of its kind. A given-up upload must not be taken for the current one:
    /// its sender may have been evicted for a wrong state.
    pub(crate) fn is_valid(&self) -> bool {
        let expected = self.own.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.get(&self.kind).is_some_and(|newest| newest.number == self.number)
    }

    /// Gives the upload up, whatever the disk does with it later; false if it is in place already.
    pub(crate) fn give_up(&self) -> bool {
        self.stage.give_up()
    }

    /// Marks the upload as in place, if it is still wanted.
    pub(crate) fn put_in_place(&self) -> bool {
        self.is_valid() && self.stage.put_in_place()
    }
}

/// The outcome of a complete checkpoint upload.
#[derive(Debug)]
pub(crate) enum VersionOutcome {
    /// The checkpoint is in place.
    InPlace(Manifest),
    /// Its state digest differs from the expected one; nothing of it is kept.
    Deviates,
}

/// An expected upload that has begun, before any disk access.
pub(crate) struct Claim {
    ticket: UploadTicket,
    step: u64,
    digest: Option<[u8; 32]>,
}

impl Claim {
    /// The ticket, which tells whether the upload is still wanted.
    pub(crate) fn ticket(&self) -> UploadTicket {
        self.ticket.clone()
    }

    /// Opens its files on the disk. Blocks, like all that follows.
    pub(crate) fn open(self) -> Result<ActiveUpload, String> {
        let Self { ticket, step, digest } = self;
        ticket.own.check_place()?;
        let place = match ticket.kind {
            UploadKind::Version => {
                let checkpoints = ticket.own.checkpoints();
                let writer = VersionWriter::begin(&checkpoints, step).map_err(|e| e.to_string())?;
                UploadTarget::Version(writer.signed(ticket.own.signing.versions.clone()))
            }
            UploadKind::Export => UploadTarget::Export(Vec::new()),
            UploadKind::State => {
                let path = ticket.own.shown();
                ticket.own.forget_shown();
                UploadTarget::State(
                    std::fs::File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?,
                )
            }
        };
        Ok(ActiveUpload { ticket, step, digest, place, file: None })
    }
}

/// An upload in progress. Its methods block, so it belongs on a thread that may wait for the disk.
pub(crate) struct ActiveUpload {
    ticket: UploadTicket,
    step: u64,
    /// The state digest that it must have, if known.
    digest: Option<[u8; 32]>,
    place: UploadTarget,
    file: Option<(FileWriter, u64)>,
}

/// Maximum size of an export file, which is in memory before it is written; larger models need several parts.
const EXPORT_BYTES_MAX: usize = 8 << 30;

impl ActiveUpload {
    /// Begins a file.
    pub(crate) fn file(&mut self, name: &str, size: u64) -> Result<(), String> {
        self.end_file()?;
        check_name(name)?;
        match &mut self.place {
            UploadTarget::Version(writer) => {
                self.file = Some((writer.file(name).map_err(|e| e.to_string())?, size));
            }
            UploadTarget::Export(files) => files.push((name.to_owned(), Vec::new())),
            UploadTarget::State(_) => {}
        }
        Ok(())
    }

    /// Appends bytes to the current file.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        match (&mut self.place, &mut self.file) {
            (UploadTarget::Version(_), Some((file, _))) => file.write(bytes).map_err(|e| e.to_string()),
            (UploadTarget::Export(files), _) if !files.is_empty() => {
                let last = files.len() - 1;
                let content = &mut files[last].1;
                if content.len() + bytes.len() > EXPORT_BYTES_MAX {
                    return Err(format!("an export file of more than {EXPORT_BYTES_MAX} bytes"));
                }
                content.extend_from_slice(bytes);
                Ok(())
            }
            (UploadTarget::State(file), _) => {
                std::io::Write::write_all(file, bytes).map_err(|e| e.to_string())
            }
            _ => Err("bytes before a file's name".to_owned()),
        }
    }

    fn end_file(&mut self) -> Result<(), String> {
        let (UploadTarget::Version(writer), Some((file, size))) = (&mut self.place, self.file.take()) else {
            return Ok(());
        };
        if file.size() != size {
            return Err(format!("a file of {} bytes that was announced with {size}", file.size()));
        }
        writer.add(file).map(drop).map_err(|e| e.to_string())
    }

    /// All files are complete: makes them durable, unless the state digest differs from the expected one. Returns the
    /// outcome for a checkpoint.
    pub(crate) fn finish(
        mut self,
        model_digest: &[u8],
        state_digest: &[u8; 32],
    ) -> Result<Option<VersionOutcome>, String> {
        self.end_file()?;
        if self.digest.is_some_and(|expected| expected != *state_digest) {
            return Ok(Some(VersionOutcome::Deviates));
        }
        let late = || "another one was asked for meanwhile, or this one was given up".to_owned();
        let ticket = self.ticket.clone();
        match self.place {
            UploadTarget::Version(writer) => {
                let lineage = &self.ticket.own.lineage;
                let manifest = Manifest {
                    step: self.step,
                    epoch: self.step / lineage.steps_per_epoch.max(1),
                    digest: hex::encode(model_digest),
                    state_digest: hex::encode(state_digest),
                    config_digest: lineage.config_digest.clone(),
                    dataset_digest: lineage.dataset_digest.clone(),
                    created: crate::clock::unix_seconds() as u64,
                    files: Vec::new(),
                };
                let manifest =
                    writer.finish(manifest, || ticket.put_in_place()).map_err(|e| e.to_string())?;
                manifest.map(|manifest| Some(VersionOutcome::InPlace(manifest))).ok_or_else(late)
            }
            _ if !ticket.put_in_place() => Err(late()),
            UploadTarget::Export(files) => {
                self.ticket.own.check_place()?;
                let exports = self.ticket.own.run_dir().join("exports");
                for (name, bytes) in files {
                    let path = exports.join(name);
                    for folder in [&*exports, path.parent().unwrap_or(&path)] {
                        match std::fs::create_dir(folder) {
                            Err(why) if why.kind() != std::io::ErrorKind::AlreadyExists => {
                                return Err(format!("{}: {why}", folder.display()));
                            }
                            _ => {}
                        }
                    }
                    write_file(&path, &bytes).map_err(|e| e.to_string())?;
                    if let Some(key) = &self.ticket.own.signing.exports {
                        key.sign_file(&path, &bytes).map_err(|e| e.to_string())?;
                    }
                }
                Ok(None)
            }
            UploadTarget::State(_) => Ok(None),
        }
    }
}

/// Checks that a name stays below its folder: one or two parts of harmless characters.
fn check_name(name: &str) -> Result<(), String> {
    let harmless = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.len() <= 100
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    if name.split('/').count() <= 2 && name.split('/').all(harmless) {
        return Ok(());
    }
    Err(format!("{name:?} is no name for a file of a version or export"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(dir: &Path) -> Uploads {
        std::fs::create_dir_all(dir.join("checkpoints")).expect("made");
        let lineage =
            ManifestInfo { config_digest: "c".into(), dataset_digest: "d".into(), steps_per_epoch: 5 };
        Uploads::new(dir, lineage, Signing::default())
    }

    fn begin(uploads: &Uploads, from: MemberId) -> ActiveUpload {
        uploads.claim(UploadKind::Version, 7, from).and_then(Claim::open).expect("expected")
    }

    #[test]
    fn only_what_is_expected_is_taken_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let uploads = uploads(dir.path());
        let (member, other) = (MemberId(1), MemberId(2));
        uploads.expect_version(7, member, None);
        assert!(uploads.claim(UploadKind::Version, 7, other).is_err());
        assert!(uploads.claim(UploadKind::Version, 8, member).is_err());
        let mut upload = begin(&uploads, member);
        upload.file("model.safetensors", 3).expect("begun");
        upload.bytes(b"abc").expect("written");
        let written = upload.finish(&[1], &[2; 32]).expect("finished");
        let Some(VersionOutcome::InPlace(manifest)) = written else { panic!("not in place") };
        assert_eq!((manifest.epoch, manifest.digest.as_str()), (1, "01"));
        assert!(uploads.claim(UploadKind::Version, 7, member).is_err(), "once");
        assert_eq!(versions::verify(&uploads.checkpoints(), 7, None).expect("whole").files.len(), 1);
    }

    #[test]
    fn an_upload_that_was_given_up_for_another_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let uploads = uploads(dir.path());
        let (deviant, other) = (MemberId(1), MemberId(2));
        uploads.expect_version(7, deviant, None);
        let mut old = begin(&uploads, deviant);
        old.file("model.safetensors", 3).expect("begun");
        old.bytes(b"abd").expect("written");
        let ticket = old.ticket.clone();
        assert!(ticket.is_valid());
        uploads.expect_version(7, other, None);
        assert!(!ticket.is_valid());
        let new = begin(&uploads, other);
        assert!(old.finish(&[1], &[2; 32]).is_err_and(|why| why.contains("another one was asked for")));
        assert!(versions::list(&uploads.checkpoints()).expect("listed").is_empty());
        assert!(new.ticket.is_valid());
    }

    /// The disk may be slow, and waiting for it has a deadline.
    #[test]
    fn an_upload_that_was_given_up_is_never_put_in_place_and_one_in_place_is_not_given_up() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let uploads = uploads(dir.path());
        let begin = |step| {
            uploads.expect_version(step, MemberId(1), None);
            let claim = uploads.claim(UploadKind::Version, step, MemberId(1)).expect("expected");
            let mut upload = claim.open().expect("opened");
            upload.file("model.safetensors", 3).expect("begun");
            upload.bytes(b"abc").expect("written");
            upload
        };
        let upload = begin(7);
        assert!(upload.ticket.give_up() && upload.ticket.give_up());
        assert!(upload.finish(&[1], &[2; 32]).is_err_and(|why| why.contains("given up")));
        assert!(versions::list(&uploads.checkpoints()).expect("listed").is_empty());
        let left = std::fs::read_dir(uploads.checkpoints()).expect("listed").count();
        assert_eq!(left, 0, "its files went with it");
        let upload = begin(8);
        let ticket = upload.ticket.clone();
        upload.finish(&[1], &[2; 32]).expect("finished");
        assert!(!ticket.give_up());
    }

    /// A replay that deviated must not replace the checkpoint that it should have reproduced.
    #[test]
    fn a_version_that_is_not_the_journalled_one_takes_nothings_place() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let uploads = uploads(dir.path());
        let write = |bytes: &[u8], digest: [u8; 32]| {
            uploads.expect_version(7, MemberId(1), Some([2; 32]));
            let mut upload = begin(&uploads, MemberId(1));
            upload.file("model.safetensors", 3).expect("begun");
            upload.bytes(bytes).expect("written");
            upload.finish(&[1], &digest).expect("whole")
        };
        assert!(matches!(write(b"abc", [2; 32]), Some(VersionOutcome::InPlace(_))));
        assert!(matches!(write(b"abd", [3; 32]), Some(VersionOutcome::Deviates)));
        let kept = std::fs::read(versions::folder(&uploads.checkpoints(), 7).join("model.safetensors"));
        assert_eq!(kept.expect("it is there"), b"abc");
        let left = std::fs::read_dir(uploads.checkpoints()).expect("listed").count();
        assert_eq!(left, 1, "nothing is left of the other");
    }

    #[test]
    fn a_short_file_makes_no_version() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let uploads = uploads(dir.path());
        uploads.expect_version(7, MemberId(1), None);
        let mut upload = begin(&uploads, MemberId(1));
        upload.file("model.safetensors", 4).expect("begun");
        upload.bytes(b"abc").expect("written");
        assert!(upload.finish(&[1], &[2; 32]).is_err());
        assert!(versions::list(&uploads.checkpoints()).expect("listed").is_empty());
    }

    #[test]
    fn names_stay_below_their_folder() {
        for bad in ["", "..", "../x", "a/../../b", "/etc/passwd", "a/b/c", ".hidden", "a\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("safetensors/model.safetensors").expect("harmless");
    }
}
