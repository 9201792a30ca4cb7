//! States in and out: state 0, versions that are loaded, and what is handed to the versions' thread.

use protocol::messages::Failure;
use protocol::worker::Event;
use trainer::export::ExportInfo;
use trainer::tensors;

use crate::compute::failure;
use crate::member::Member;
use crate::transfer::Remote;
use crate::versions::{Job, MODEL_FILE, OPTIMIZER_FILE};

impl Member {
    /// Makes state 0 from the seed and uploads it as version 0.
    pub(crate) fn initialise(&mut self) -> Result<Event, Failure> {
        self.engine.initialise(self.config.run.seed).map_err(|error| failure(&error))?;
        self.engine.read_parameters(&mut self.parameters).map_err(|error| failure(&error))?;
        let job = Job::Version { step: 0 };
        self.versions.snapshot(job, &self.parameters, &self.optimizer)?;
        // Nobody can load it before it is there.
        self.versions.wait()?;
        Ok(self.loaded(0))
    }

    /// Fetches a version and takes its state.
    pub(crate) fn load(&mut self, step: u64) -> Result<Event, Failure> {
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
        Ok(self.loaded(step))
    }

    /// The state is in memory; whether it is the right one, the coordinator sees by the digest.
    fn loaded(&mut self, step: u64) -> Event {
        self.step = step;
        // What was computed of a step was of another state.
        self.held = None;
        self.prepared = None;
        self.state_check = self.optimizer.state_check(&self.parameters);
        let digest = tensors::state_digest(&self.parameters, &self.optimizer);
        tracing::info!(step, "state is loaded");
        Event::Loaded { step, digest, state_check: self.state_check }
    }

    /// Copies the state for the versions' thread, which uploads it behind the training.
    pub(crate) fn write_version(&mut self, step: u64) -> Result<(), Failure> {
        self.versions.snapshot(Job::Version { step }, &self.parameters, &self.optimizer)
    }

    /// Uploads the exports of the state, behind whatever is being uploaded.
    pub(crate) fn export(&mut self, step: u64) -> Result<(), Failure> {
        let digest = tensors::model_digest(self.engine.layout(), &self.parameters);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
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
            }),
        };
        let formats = self.config.export.formats.clone();
        let job = Job::Export { step, formats, info: Box::new(info) };
        self.versions.snapshot(job, &self.parameters, &self.optimizer)
    }
}
