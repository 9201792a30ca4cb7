//! State in and out: state 0, loading of checkpoints, state transfer, and snapshots for the checkpoint thread.

use protocol::messages::{Failure, UploadKind};
use protocol::worker::Event;
use trainer::export::ExportInfo;
use trainer::{Layout, flat_state, tensors};

use crate::failure::{WorkError, fail, failure};
use crate::member::Member;
use crate::transfer::Remote;
use crate::versions::{MODEL_FILE, OPTIMIZER_FILE, SnapshotJob};

impl Member {
    /// Creates state 0 from the seed, and from the run's initial file if there is one, and uploads it as the initial
    /// checkpoint.
    pub(crate) fn initialise(&mut self) -> Result<Event, WorkError> {
        self.engine.initialise(self.config.run.seed).map_err(|error| failure(&error))?;
        self.engine.read_parameters(&mut self.parameters).map_err(|error| failure(&error))?;
        if let Some(digest) = self.config.init.digest.clone() {
            self.adopt(&digest)?;
            self.engine.write_parameters(&self.parameters).map_err(|error| failure(&error))?;
        }
        // This process may have trained before: state 0 must not depend on that.
        self.optimizer.reset();
        let job = SnapshotJob::Version { step: 0 };
        self.versions.snapshot(job, &self.parameters, &self.optimizer)?;
        // A refused upload is no reason to end: the coordinator's disk may have room for the next attempt.
        self.versions
            .wait()
            .or_else(|error| if let WorkError::Failed(_) = error { Ok(()) } else { Err(error) })?;
        Ok(self.loaded(0, tensors::state_digest(&self.parameters, &self.optimizer)))
    }

    /// Adopts the parameters of the file with this digest, which the coordinator has.
    fn adopt(&mut self, digest: &str) -> Result<(), WorkError> {
        let mut bytes = Vec::new();
        self.transfer.download(&Remote::Dataset { digest }, &mut bytes)?;
        let found = blake3::hash(&bytes).to_hex();
        if found.as_str() != digest {
            return Err(
                fail(3, format!("the file of init.from arrived with BLAKE3 {found}, not {digest}")).into()
            );
        }
        let layout = self.engine.layout();
        let taken = adopt(&bytes, layout, &self.config.init, &mut self.parameters)?;
        tracing::info!(digest, taken, of = layout.parameters.len(), "parameters are taken from init.from");
        Ok(())
    }

    /// Fetches a checkpoint and loads its state.
    pub(crate) fn load(&mut self, step: u64) -> Result<Event, WorkError> {
        let mut bytes = Vec::new();
        let fetch = |name, bytes: &mut Vec<u8>| {
            bytes.clear();
            self.transfer.download(&Remote::Version { step, name }, bytes)
        };
        fetch(MODEL_FILE, &mut bytes)?;
        let layout = self.engine.layout();
        tensors::decode_model(&bytes, layout, &mut self.parameters).map_err(|error| failure(&error))?;
        fetch(OPTIMIZER_FILE, &mut bytes)?;
        tensors::decode_optimizer(&bytes, &mut self.optimizer).map_err(|error| failure(&error))?;
        drop(bytes);
        self.engine.write_parameters(&self.parameters).map_err(|error| failure(&error))?;
        Ok(self.loaded(step, tensors::state_digest(&self.parameters, &self.optimizer)))
    }

    /// Sends the state as it is in memory. Training waits for it, so nothing is converted, copied or synced.
    pub(crate) fn show_state(&self, step: u64) -> Option<Event> {
        let shown = self.transfer.upload(UploadKind::State, step).and_then(|mut upload| {
            let digest = flat_state::write(&self.parameters, &self.optimizer, &mut upload)
                .map_err(|error| fail(4, error.to_string()))?;
            upload.finish(&[], &digest)
        });
        let Err(error) = shown else {
            tracing::info!(step, "state is shown to others");
            return None;
        };
        let reason = error.message().to_owned();
        tracing::warn!("state {step} is not shown: {reason}");
        Some(Event::NotUploaded { kind: UploadKind::State, step, reason })
    }

    /// Fetches the state that another member sends.
    pub(crate) fn take_state(&mut self, step: u64) -> Result<Event, WorkError> {
        let mut reader = flat_state::Reader::new(&mut self.parameters, &mut self.optimizer);
        self.transfer.download(&Remote::State { step }, &mut reader)?;
        let digest = reader.finish().map_err(|error| fail(4, format!("state {step}: {error}")))?;
        self.engine.write_parameters(&self.parameters).map_err(|error| failure(&error))?;
        Ok(self.loaded(step, digest))
    }

    /// The state is in memory; the coordinator verifies it by the digest.
    fn loaded(&mut self, step: u64, digest: [u8; 32]) -> Event {
        self.step = step;
        // The partials were computed from another state.
        self.forget_partials();
        if let Some(void) = self.reduction.abandon() {
            // The data connection may have outlived the view: its reader waits for this buffer.
            self.give_back(void);
        }
        self.state_check = self.optimizer.state_check(&self.parameters);
        tracing::info!(step, "state is loaded");
        Event::Loaded { step, digest, state_check: self.state_check }
    }

    /// Copies the state for the checkpoint thread, which uploads it in the background.
    pub(crate) fn write_version(&mut self, step: u64) -> Result<(), WorkError> {
        let began = std::time::Instant::now();
        let snapshot =
            self.versions.snapshot(SnapshotJob::Version { step }, &self.parameters, &self.optimizer);
        self.snapshot_us = crate::step::micros(began);
        snapshot
    }

    /// Uploads the exports of the state, after the upload in progress.
    pub(crate) fn export(&mut self, step: u64) -> Result<(), WorkError> {
        let digest = tensors::model_digest(self.engine.layout(), &self.parameters);
        let digest = hex::encode(digest);
        let info = ExportInfo {
            labels: self.plan.labels().to_vec(),
            normalisation: self.plan.normalisation(self.samples.tokenizer_json()),
            config: self.welcome.config.clone(),
            lineage: serde_json::json!({
                "run": self.welcome.run_name,
                "step": step,
                "digest": digest,
                "dataset": self.plan.name,
                "dataset_digest": self.plan.digest,
                "config_digest": self.config.digest(),
                "init_digest": self.config.init.digest,
            }),
        };
        let formats = self.config.export.formats.clone();
        let job = SnapshotJob::Export { step, formats, info: Box::new(info) };
        self.versions.snapshot(job, &self.parameters, &self.optimizer)
    }
}

/// Adopts the parameters of a safetensors file by name, as `[init]` specifies; returns how many.
pub(crate) fn adopt(
    bytes: &[u8],
    layout: &Layout,
    init: &configs::Init,
    parameters: &mut [f32],
) -> Result<usize, Failure> {
    let may_differ =
        |name: &str| init.allow_missing.iter().any(|pattern| trainer::names::matches(pattern, name));
    tensors::adopt_model(bytes, layout, parameters, may_differ).map_err(|error| {
        let from = init.from.as_deref().unwrap_or_default();
        let Failure { code, message } = failure(&error);
        fail(
            code,
            format!("init.from = {from:?}: {message} (init.allow_missing = [\"NAME\"] keeps first values)"),
        )
    })
}
