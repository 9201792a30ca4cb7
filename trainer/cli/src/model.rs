//! Loads a version's model onto a device.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use datasets::{DataError, DataPlan};
use store::versions::{self, Manifest};
use trainer::{DeviceSpec, Engine, ModelConfig, Registry, tensors};

use crate::failure::Failure;
use crate::run::Run;
use crate::samples;

/// Memory for parsing a model file's header, in multiples of its size: its text twice, its entries, and any tokenizer.
const HEADER_TIMES: u64 = 36;
/// File of the model within a version, as written by workers.
const MODEL_FILE: &str = "model.safetensors";

/// A model with the parameters of a version.
pub(crate) struct Model {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) parameters: Vec<f32>,
}

impl Model {
    /// Builds the model described by the run's configuration and loads the version's parameters.
    pub(crate) fn load(
        run: &Run,
        plan: &DataPlan,
        version: &Manifest,
        device: &DeviceSpec,
        registry: &Registry,
    ) -> Result<Self, Failure> {
        let device = trainer::device::open(device)?;
        let kind = &run.config.model.kind;
        let config = ModelConfig::new(kind, &run.config.model.keys)?;
        let mut engine = registry.build(kind, &config, &samples::spec(plan), &device)?;
        let path = versions::folder(&run.checkpoints(), version.step).join(MODEL_FILE);
        let named = |what: &dyn std::fmt::Display| Failure::data(format!("{}: {what}", path.display()));
        let elements = engine.layout().elements;
        let bytes = read_model(&path, Some(elements), run.memory_mb)?;
        let mut parameters = vec![0.0; elements];
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

/// Reads a model's file with at most `memory_mb` megabytes for its header and, if known, `elements` numbers.
pub(crate) fn read_model(path: &Path, elements: Option<usize>, memory_mb: u64) -> Result<Vec<u8>, Failure> {
    let named = |what: &dyn std::fmt::Display| Failure::data(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|why| named(&why))?;
    let length = file.metadata().map_err(|why| named(&why))?.len();
    let mut first = [0; 8];
    // A file that is too short is reported by its parser.
    let header = (&file).read_exact(&mut first).map_or(0, |()| u64::from_le_bytes(first)).min(length);
    let takes = header.saturating_mul(HEADER_TIMES);
    if takes > memory_mb.saturating_mul(1_000_000) {
        return Err(DataError::Memory {
            file: path.display().to_string(),
            takes,
            limit: memory_mb.saturating_mul(1_000_000),
        }
        .into());
    }
    let numbers = elements.map(|elements| (elements as u64).saturating_mul(4).saturating_add(header + 8));
    if numbers.is_some_and(|most| length > most) {
        return Err(named(&format!("{length} bytes are more than this configuration's model has")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    (&first[..])
        .take(length)
        .chain(file.take(length.saturating_sub(8)))
        .read_to_end(&mut bytes)
        .map_err(|why| named(&why))?;
    Ok(bytes)
}

/// `final.digest` of the parameters, in hexadecimal.
fn digest(engine: &dyn Engine, parameters: &[f32]) -> String {
    hex::encode(tensors::model_digest(engine.layout(), parameters))
}
