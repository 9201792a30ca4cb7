//! A version's model on a device.

use datasets::Plan;
use store::versions::{self, Manifest};
use trainer::{DeviceSpec, Engine, ModelConfig, Registry, tensors};

use crate::failure::Failure;
use crate::run::Run;
use crate::samples;

/// A file of a version, as workers name it.
const MODEL_FILE: &str = "model.safetensors";

/// A model with the parameters of a version.
pub(crate) struct Model {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) parameters: Vec<f32>,
}

impl Model {
    /// Builds the model that the run's configuration describes and loads the version's parameters.
    pub(crate) fn load(
        run: &Run,
        plan: &Plan,
        version: &Manifest,
        device: &DeviceSpec,
        registry: &Registry,
    ) -> Result<Self, Failure> {
        let device = trainer::device::open(device)?;
        let kind = &run.config.model.kind;
        let config = ModelConfig::new(kind, &run.config.model.keys)?;
        let mut engine = registry.build(kind, &config, &samples::spec(plan)?, &device)?;
        let path = versions::folder(&run.checkpoints(), version.step).join(MODEL_FILE);
        let named = |what: &dyn std::fmt::Display| Failure::data(format!("{}: {what}", path.display()));
        let bytes = std::fs::read(&path).map_err(|why| named(&why))?;
        let mut parameters = vec![0.0; engine.layout().elements];
        tensors::decode_model(&bytes, engine.layout(), &mut parameters).map_err(|why| named(&why))?;
        let digest = digest(engine.as_ref(), &parameters);
        if digest != version.digest {
            let expected = &version.digest;
            return Err(named(&format!(
                "its tensors have the digest {digest}, the manifest says {expected}"
            )));
        }
        engine.write_parameters(&parameters)?;
        Ok(Self { engine, parameters })
    }
}

/// `final.digest` of the parameters, in hexadecimal.
fn digest(engine: &dyn Engine, parameters: &[f32]) -> String {
    tensors::model_digest(engine.layout(), parameters).iter().map(|byte| format!("{byte:02x}")).collect()
}
