//! Custom models: registered by name, checked, and rejected if members couldn't stay identical.

mod support;

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::json;
use support::{batch, bits, config, cpu, gradient, parameters, table};
use trainer::{
    DataSpec, Engine, HostBatch, HostData, HostOptimizer, ModelConfig, OptimizerConfig, Registry, Scored,
    Target, Task, TrainerError, UpdateScalars,
};

/// Common part of the models below: a linear layer plus something special.
trait Special: Module + 'static {
    fn build(inputs: usize, outputs: usize, device: &Device) -> Self;
    fn forward(&self, x: Tensor<2>) -> Tensor<2>;
}

struct Own<M> {
    inputs: usize,
    outputs: usize,
    model: std::marker::PhantomData<fn() -> M>,
}

impl<M: Special> Task for Own<M> {
    type Model = M;
    const SCHEMA: u32 = 3;

    fn new(_config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        Ok(Self { inputs: data.input[0], outputs: data.output.width(), model: std::marker::PhantomData })
    }

    fn model(&self, device: &Device) -> M {
        M::build(self.inputs, self.outputs, device)
    }

    fn forward(&self, model: &M, batch: &HostBatch, device: &Device) -> Result<Scored, TrainerError> {
        let outputs = self.predict(model, batch, device)?;
        let loss = (outputs.clone() * outputs.clone()).sum();
        Ok(Scored { loss, weight: batch.count as f64, outputs })
    }

    fn predict(&self, model: &M, batch: &HostBatch, device: &Device) -> Result<Tensor<2>, TrainerError> {
        let HostData::F32(x) = &batch.x.data else { panic!("floats") };
        Ok(model.forward(Tensor::from_data(TensorData::new(x.clone(), [batch.count, self.inputs]), device)))
    }
}

fn build<M: Special>() -> Result<Box<dyn Engine>, TrainerError> {
    let registry = Registry::builtin().with::<Own<M>>("own");
    registry.build("own", &config("own", &json!({})), &table(4, 3), &cpu())
}

fn refusal<M: Special>() -> String {
    build::<M>().err().map(|error| error.to_string()).unwrap_or_default()
}

#[derive(Module, Debug)]
struct Plain {
    used: Linear,
    unused: Linear,
    frozen: Linear,
}

impl Special for Plain {
    fn build(inputs: usize, outputs: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(inputs, outputs).init(device);
        Self { used: linear(), unused: linear(), frozen: linear().no_grad() }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.used.forward(x.clone()) + self.frozen.forward(x)
    }
}

#[test]
fn the_registry_knows_names_and_schemas() {
    let registry = Registry::builtin().with::<Own<Plain>>("own");
    let names = [("cnn", 1), ("gpt", 1), ("mlp", 2), ("own", 3), ("resnet", 1)]
        .map(|(name, schema)| (name.to_owned(), schema));
    assert_eq!(registry.names(), names);
    let built = registry.build("cmn", &config("cmn", &json!({})), &table(4, 3), &cpu());
    let message = built.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("\"cmn\"") && message.contains("cnn, gpt, mlp, own, resnet"), "{message}");
}

#[test]
fn what_gets_no_gradient_is_told_by_absence_and_stays_as_it_was() {
    let mut engine = build::<Plain>().unwrap();
    engine.initialise(1).unwrap();
    let data = table(4, 3);
    let (flat, _) = gradient(engine.as_mut(), &batch(&data, 5, 1), 0);
    let present: Vec<&str> =
        flat.present.iter().map(|number| engine.layout().parameters[*number].name.as_str()).collect();
    assert_eq!(present, ["used.weight", "used.bias"]);

    let config = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
    let mut optimizer = HostOptimizer::new(config, engine.layout()).unwrap();
    let before = parameters(engine.as_mut());
    let mut after = before.clone();
    let scalars = UpdateScalars {
        learning_rate: 0.1,
        clip_factor: 1.0,
        bias_correction1: 0.1,
        bias_correction2_sqrt: 0.03,
    };
    optimizer.step(&mut after, &flat.values, |number| flat.present.contains(&number), &scalars);
    engine.write_parameters(&after).unwrap();
    let after = parameters(engine.as_mut());
    let used = engine.layout().parameters[1].offset + engine.layout().parameters[1].len;
    assert!(bits(&before[..used]) != bits(&after[..used]));
    assert!(bits(&before[used..]) == bits(&after[used..]));
}

#[test]
fn a_frozen_parameter_stays_frozen_when_it_is_written() {
    let mut engine = build::<Plain>().unwrap();
    for seed in 0..2 {
        engine.initialise(seed).unwrap();
        let (flat, _) = gradient(engine.as_mut(), &batch(&table(4, 3), 5, 1), 0);
        assert_eq!(flat.present, [0, 1]);
    }
}

#[derive(Module, Debug)]
struct Normed {
    linear: Linear,
    blocks: Vec<BatchNorm>,
}

impl Special for Normed {
    fn build(inputs: usize, outputs: usize, device: &Device) -> Self {
        let blocks = vec![BatchNormConfig::new(outputs).init(device)];
        Self { linear: LinearConfig::new(inputs, outputs).init(device), blocks }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.blocks[0].forward(self.linear.forward(x))
    }
}

#[test]
fn batch_norm_is_refused_by_the_layers_name() {
    let message = refusal::<Normed>();
    assert!(message.contains("\"blocks.0\"") && message.contains("GroupNorm"), "{message}");
}

#[derive(Module, Debug)]
struct Tied {
    linear: Linear,
    again: Linear,
}

impl Special for Tied {
    fn build(inputs: usize, outputs: usize, device: &Device) -> Self {
        let linear = LinearConfig::new(inputs, outputs).init(device);
        Self { again: linear.clone(), linear }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear.forward(x)
    }
}

#[derive(Module, Debug)]
struct Counting {
    linear: Linear,
    positions: Param<Tensor<1, Int>>,
}

impl Special for Counting {
    fn build(inputs: usize, outputs: usize, device: &Device) -> Self {
        let positions = Param::initialized(burn::module::ParamId::new(), Tensor::arange(0..4, device));
        Self { linear: LinearConfig::new(inputs, outputs).init(device), positions }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear.forward(x)
    }
}

#[test]
fn what_versions_cannot_carry_is_refused_by_name() {
    let message = refusal::<Tied>();
    assert!(message.contains("\"again.weight\"") || message.contains("\"linear.weight\""), "{message}");
    let message = refusal::<Counting>();
    assert!(message.contains("\"positions\"") && message.contains("integers"), "{message}");
}

#[derive(Module, Debug)]
struct Panicking {
    linear: Linear,
}

impl Special for Panicking {
    fn build(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self { linear: LinearConfig::new(inputs, outputs).init(device) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        // A matrix product of mismatched shapes panics inside burn.
        x.clone().matmul(self.linear.forward(x))
    }
}

#[test]
fn a_panic_inside_burn_is_an_error() {
    let mut engine = build::<Panicking>().unwrap();
    engine.initialise(1).unwrap();
    let batch = batch(&table(4, 3), 5, 1);
    let message = engine.evaluate(&batch).unwrap_err().to_string();
    assert!(message.contains("evaluation of a microbatch on cpu failed"), "{message}");
    assert!(engine.predict(&batch).is_err());
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let data = table(4, 3);
    let mut engine = support::build(&config("mlp", &json!({})), &data, &cpu());
    engine.initialise(1).unwrap();
    let good = batch(&data, 5, 1);
    let wrong = |change: fn(&mut HostBatch)| {
        let mut batch = good.clone();
        change(&mut batch);
        batch
    };
    let all = [
        (wrong(|b| b.count = 6), "20 inputs for 6 samples"),
        (wrong(|b| b.y = Target::Labels(vec![0, 1, 2, 3, 0])), "label index 3"),
        (wrong(|b| b.y = Target::Labels(vec![0, 1, 2, -1, 0])), "label index -1"),
        (wrong(|b| b.y = Target::Labels(vec![0])), "1 labels for 5 samples"),
        (wrong(|b| b.y = Target::Unknown), "no targets"),
        (wrong(|b| b.x.data = HostData::I64(vec![0; 20])), "integers"),
    ];
    for (batch, part) in all {
        let message = engine.evaluate(&batch).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    assert!(engine.write_parameters(&[0.0]).unwrap_err().to_string().contains("1 elements"));
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let image = DataSpec::new(vec![1, 8, 8], support::classes(10));
    let all = [
        ("mlp", json!({ "hiden": [3] }), table(4, 3), "hiden"),
        ("mlp", json!({ "hidden": [3, 0] }), table(4, 3), "[3, 0]"),
        ("mlp", json!({ "dropout": 1.0 }), table(4, 3), "model.dropout = 1"),
        ("mlp", json!({ "activation": "sine" }), table(4, 3), "sine"),
        ("mlp", json!({}), table(4, 1), "at least two labels"),
        ("mlp", json!({}), table(0, 3), "no feature columns"),
        ("cnn", json!({}), table(64, 3), "dataset.image_shape"),
        ("cnn", json!({ "channels": [4, 4, 4, 4] }), image.clone(), "8 x 8"),
        ("cnn", json!({ "channels": [] }), image, "at least one convolution"),
    ];
    for (kind, keys, data, part) in all {
        let built = Registry::builtin().build(kind, &config(kind, &keys), &data, &cpu());
        let message = built.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{kind}: {message:?} has no {part:?}");
    }
}
