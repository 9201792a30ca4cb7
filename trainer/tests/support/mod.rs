//! Shared by the tests of engines.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its part.

use trainer::{
    DataSpec, DeviceSpec, Engine, GradientSink, HostBatch, HostData, ModelConfig, OpenDevice, OutputSpec,
    Registry, Target,
};

/// Collects a gradient, and which parameters have one.
pub struct Flat {
    pub values: Vec<f32>,
    pub present: Vec<usize>,
}

impl GradientSink for Flat {
    fn region(&mut self, parameter: usize, offset: usize, data: &[f32]) {
        self.values[offset..offset + data.len()].copy_from_slice(data);
        self.present.push(parameter);
    }
}

pub fn config(kind: &str, keys: &serde_json::Value) -> ModelConfig {
    ModelConfig::new(kind, keys).unwrap()
}

pub fn cpu() -> OpenDevice {
    trainer::device::open(&DeviceSpec::Cpu).unwrap()
}

pub fn build(config: &ModelConfig, data: &DataSpec, device: &OpenDevice) -> Box<dyn Engine> {
    Registry::builtin().build(&config.kind, config, data, device).unwrap()
}

/// Elements without a gradient are NaN.
pub fn gradient(engine: &mut dyn Engine, batch: &HostBatch, key: u64) -> (Flat, Vec<f64>) {
    let mut flat = Flat { values: vec![f32::NAN; engine.layout().elements], present: Vec::new() };
    let sums = engine.gradient(batch, key, &mut flat).unwrap();
    (flat, sums)
}

pub fn parameters(engine: &mut dyn Engine) -> Vec<f32> {
    let mut out = vec![0.0; engine.layout().elements];
    engine.read_parameters(&mut out).unwrap();
    out
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Pseudorandom values from -1 to 1.
pub fn noise(length: usize, stream: u32) -> Vec<f32> {
    let mut state = stream.wrapping_mul(2_654_435_761);
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

pub fn classes(count: usize) -> OutputSpec {
    OutputSpec::Classes((0..count).map(|label| format!("label {label}")).collect())
}

pub fn table(features: usize, labels: usize) -> DataSpec {
    DataSpec::new(vec![features], classes(labels))
}

pub fn text(window: usize, vocabulary: usize) -> DataSpec {
    DataSpec::new(vec![window], OutputSpec::Tokens { vocabulary })
}

/// Pseudorandom token indices.
pub fn tokens(length: usize, vocabulary: usize, stream: u32) -> Vec<i64> {
    noise(length, stream).iter().map(|x| ((x + 1.0) / 2.0 * vocabulary as f32) as i64).collect()
}

/// Noise, with pseudorandom codes for categorical features.
pub fn inputs(data: &DataSpec, count: usize, stream: u32) -> Vec<f32> {
    let features: usize = data.input.iter().product();
    let mut values = noise(count * features, stream);
    for category in &data.categories {
        for value in values.iter_mut().skip(category.place).step_by(features) {
            *value = ((*value + 1.0) / 2.0 * category.codes as f32).floor();
        }
    }
    values
}

/// A batch of noise that fits the data.
pub fn batch(data: &DataSpec, count: usize, stream: u32) -> HostBatch {
    let mut batch = HostBatch::empty(data);
    batch.set_count(count);
    let features: usize = data.input.iter().product();
    let width = data.output.width();
    batch.x.data = match &data.output {
        OutputSpec::Tokens { vocabulary } => HostData::I64(tokens(count * features, *vocabulary, stream)),
        _ => HostData::F32(inputs(data, count, stream)),
    };
    batch.y = match &data.output {
        OutputSpec::Classes(_) => Target::Labels((0..count).map(|i| ((i * 7 + 3) % width) as i64).collect()),
        OutputSpec::Tokens { .. } => Target::Tokens(tokens(count * features, width, stream + 1)),
        OutputSpec::Values(_) => Target::Values { width, data: noise(count * width, stream + 1) },
    };
    batch
}
