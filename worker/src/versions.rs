//! The thread that uploads checkpoints and exports, so that training doesn't wait for them.
//!
//! It works on one snapshot at a time, whose memory is reused: a second one waits until the first is uploaded.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use protocol::messages::{Failure, UploadKind};
use protocol::worker::Event;
use tokio::sync::mpsc;
use trainer::HostOptimizer;
use trainer::export::ExportInfo;
use trainer::tensors::{self, Metadata};

use crate::channel::DriverEvent;
use crate::failure::{WorkError, fail};
use crate::transfer::Transfer;

/// A checkpoint's model file.
pub(crate) const MODEL_FILE: &str = "model.safetensors";
/// A checkpoint's optimizer file.
pub(crate) const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// The purpose of a snapshot.
pub(crate) enum SnapshotJob {
    /// A checkpoint.
    Version { step: u64 },
    Export {
        /// Step of the state.
        step: u64,
        formats: Vec<String>,
        /// Metadata of the exported model.
        info: Box<ExportInfo>,
    },
}

impl SnapshotJob {
    /// The event that reports a failed job.
    fn failed(&self, error: &WorkError) -> Event {
        let (kind, step) = match self {
            Self::Version { step } => (UploadKind::Version, *step),
            Self::Export { step, .. } => (UploadKind::Export, *step),
        };
        Event::NotUploaded { kind, step, reason: error.message().to_owned() }
    }
}

impl std::fmt::Display for SnapshotJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { step } => write!(f, "version {step}"),
            Self::Export { step, .. } => write!(f, "the export of step {step}"),
        }
    }
}

struct Snapshot {
    parameters: Vec<f32>,
    optimizer: HostOptimizer,
}

/// The compute thread's end of the channel.
pub(crate) struct Versions {
    jobs: SyncSender<(SnapshotJob, Snapshot)>,
    done: Receiver<(Snapshot, Result<(), WorkError>)>,
    /// The snapshot, unless it is being uploaded.
    rest: SnapshotState,
}

enum SnapshotState {
    /// Not allocated yet: the first checkpoint does so.
    Never,
    Idle(Snapshot),
    Uploading,
}

impl Versions {
    /// Starts the thread, which reports failed uploads. It ends when this is dropped.
    pub(crate) fn start(transfer: Transfer, answers: mpsc::Sender<DriverEvent>) -> Result<Self, WorkError> {
        let (jobs, inbox) = sync_channel::<(SnapshotJob, Snapshot)>(1);
        let (outbox, done) = sync_channel(1);
        let body = move || {
            for (job, snapshot) in inbox {
                let result = upload(&transfer, &job, &snapshot);
                match &result {
                    Ok(()) => tracing::info!("{job} is uploaded"),
                    Err(error) => {
                        tracing::warn!("{job} is not uploaded: {}", error.message());
                        // A driver that has exited needs no report.
                        let _ = answers.blocking_send(DriverEvent::Worked(job.failed(error)));
                    }
                }
                if outbox.send((snapshot, result)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("versions".to_owned())
            .spawn(body)
            .map_err(|error| fail(4, format!("the versions' thread can't be started: {error}")))?;
        Ok(Self { jobs, done, rest: SnapshotState::Never })
    }

    /// Copies the state and uploads it in the background. Waits for the previous upload.
    pub(crate) fn snapshot(
        &mut self,
        job: SnapshotJob,
        parameters: &[f32],
        optimizer: &HostOptimizer,
    ) -> Result<(), WorkError> {
        // The coordinator knows the result of the previous upload by now.
        let _ = self.wait();
        let snapshot = match std::mem::replace(&mut self.rest, SnapshotState::Uploading) {
            SnapshotState::Idle(mut snapshot) => {
                snapshot.parameters.copy_from_slice(parameters);
                for (copy, moment) in snapshot.optimizer.moments_mut().iter_mut().zip(optimizer.moments()) {
                    copy.values.copy_from_slice(&moment.values);
                }
                snapshot
            }
            SnapshotState::Never | SnapshotState::Uploading => {
                Snapshot { parameters: parameters.to_vec(), optimizer: optimizer.clone() }
            }
        };
        Ok(self.jobs.send((job, snapshot)).map_err(|_| gone())?)
    }

    /// Waits for the upload in progress; returns its result, if there was one.
    pub(crate) fn wait(&mut self) -> Result<(), WorkError> {
        if !matches!(self.rest, SnapshotState::Uploading) {
            return Ok(());
        }
        let (snapshot, result) = self.done.recv().map_err(|_| gone())?;
        self.rest = SnapshotState::Idle(snapshot);
        result
    }
}

fn gone() -> Failure {
    fail(4, "the versions' thread has ended (see the log above)")
}

fn upload(transfer: &Transfer, job: &SnapshotJob, snapshot: &Snapshot) -> Result<(), WorkError> {
    let Snapshot { parameters, optimizer } = snapshot;
    let layout = optimizer.layout();
    let model_digest = tensors::model_digest(layout, parameters);
    let state_digest = tensors::state_digest(parameters, optimizer);
    let none = Metadata::new();
    match job {
        SnapshotJob::Version { step } => {
            let mut upload = transfer.upload(UploadKind::Version, *step)?;
            for (name, file) in [
                (MODEL_FILE, tensors::model_file(layout, parameters, &none)),
                (OPTIMIZER_FILE, tensors::optimizer_file(optimizer, &none)),
            ] {
                upload.file(name, file.size())?;
                file.write(&mut upload).map_err(|error| fail(4, error.to_string()))?;
            }
            upload.finish(&model_digest, &state_digest)
        }
        SnapshotJob::Export { step, formats, info } => {
            let mut upload = transfer.upload(UploadKind::Export, *step)?;
            for format in formats {
                match format.as_str() {
                    "safetensors" => {
                        let file = trainer::export::safetensors(layout, parameters, info);
                        upload.file("safetensors/model.safetensors", file.len() as u64)?;
                        upload.write_all(&file).map_err(|error| fail(4, error.to_string()))?;
                    }
                    other => tracing::warn!("export.formats: {other} is not known to this worker"),
                }
            }
            upload.finish(&model_digest, &state_digest)
        }
    }
}
