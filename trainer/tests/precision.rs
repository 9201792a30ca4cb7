//! Half-precision microbatches compared with f32, on the CPU, where half precision is slow: only results are tested.

mod support;

use burn::module::Module;
use burn::nn::gru::{Gru, GruConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use serde_json::json;
use support::{batch, bits, build, classes, config, cpu, gradient, table, text};
use trainer::{
    Agreement, Categories, DataSpec, DeviceSpec, HostBatch, ModelConfig, OutputSpec, Precision, Registry,
    Task, TrainerError,
};

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

/// Largest relative rounding error: half the distance of neighbours above 1, with 8 or 11 bits.
fn roundoff(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2f64.powi(-24),
        Precision::Bf16 => 2f64.powi(-8),
        Precision::F16 => 2f64.powi(-11),
    }
}

/// A model, its data, and the number of layers with weights.
type Case = (ModelConfig, DataSpec, i32);

fn cases() -> Vec<Case> {
    let categories = vec![Categories { place: 1, codes: 5 }, Categories { place: 4, codes: 3 }];
    let image = DataSpec::new(vec![1, 8, 8], classes(10));
    vec![
        (config("mlp", &json!({ "hidden": [32, 32], "activation": "gelu" })), table(16, 4), 3),
        (
            config(
                "mlp",
                &json!({ "hidden": [32], "class_weights": [1.0, 2.0, 0.5], "label_smoothing": 0.1 }),
            ),
            table(6, 3).with_categories(categories),
            3,
        ),
        (
            config("mlp", &json!({ "hidden": [16], "activation": "tanh" })),
            DataSpec::new(vec![5], OutputSpec::Values(vec!["a".to_owned(), "b".to_owned()])),
            2,
        ),
        (config("cnn", &json!({ "channels": [8, 16], "hidden": 32 })), image.clone(), 4),
        (config("resnet", &json!({ "depth": 8, "width": 8, "groups": 4 })), image.clone(), 8),
        (config("resnet", &json!({ "depth": 18, "width": 4, "groups": 2 })), image, 18),
        // Four dense layers and two attention products per block, the embedding and the output.
        (config("gpt", &json!({ "layers": 2, "heads": 2, "width": 32, "tied": true })), text(12, 17), 14),
        (
            config(
                "gpt",
                &json!({ "layers": 2, "heads": 2, "width": 32, "positions": "rotary", "tied": false }),
            ),
            text(12, 17),
            14,
        ),
    ]
}

fn measured((config, data, _): &Case, precision: Precision) -> Agreement {
    let data = data.clone().with_precision(precision);
    let mut engine = build(config, &data, &cpu());
    engine.initialise(3).unwrap();
    Agreement::measure(engine.as_mut(), &batch(&data, 16, 1), 1).unwrap()
}

/// A layer rounds its weight, input and output, and three more values in the backward pass; independent errors add up
/// as their squares. Each is bounded by its largest error, though most are smaller.
///
/// At kinks (ReLU, max pooling), a value closer to the kink than its error switches sides, and all of its gradient with
/// it. In each layer, that affects a fraction of the values as large as the error itself, and the square root of that
/// of the gradient.
fn bound(config: &ModelConfig, layers: i32, precision: Precision) -> f64 {
    let (layers, roundoff) = (f64::from(layers), roundoff(precision));
    let is_smooth = config.kind == "gpt" || format!("{config:?}").contains("activation");
    let of_kinks = if is_smooth { 0.0 } else { (layers * roundoff).sqrt() };
    (6.0 * layers).sqrt() * roundoff + of_kinks
}

#[test]
fn half_precision_is_as_far_from_f32_as_its_roundings_explain() {
    for case in cases() {
        for precision in HALVES {
            let found = measured(&case, precision);
            let kind = &case.0;
            let bound = bound(kind, case.2, precision);
            println!(
                "{precision} {:.2e} {:.2e} {:.6} of {:.2e} {kind:?}",
                found.loss, found.gradient, found.cosine, bound
            );
            assert!(found.gradient < bound, "{kind:?} in {precision}: {found:?}");
            assert!(found.loss < bound, "{kind:?} in {precision}: {found:?}");
            assert!(found.cosine > (1.0 - bound * bound).sqrt(), "{kind:?} in {precision}: {found:?}");
            // Anything closer was not computed in this precision.
            assert!(found.gradient > roundoff(precision) / 4.0, "{kind:?} in {precision}: {found:?}");
            found.check(precision).unwrap();
        }
        assert_eq!(measured(&case, Precision::F32), Agreement { loss: 0.0, gradient: 0.0, cosine: 1.0 });
    }
}

#[test]
fn dropout_drops_the_same_units_in_each_precision() {
    for (kind, keys, data) in [
        ("mlp", json!({ "hidden": [64, 64], "dropout": 0.5 }), table(16, 4)),
        ("gpt", json!({ "layers": 1, "heads": 2, "width": 32, "dropout": 0.3 }), text(12, 17)),
    ] {
        for precision in HALVES {
            let found = measured(&(config(kind, &keys), data.clone(), 0), precision);
            // Different units would be a different model, with a cosine of about a half.
            assert!(found.cosine > 0.98, "{kind} in {precision}: {found:?}");
        }
    }
}

#[test]
fn the_bits_repeat_and_evaluation_and_prediction_stay_f32() {
    for (config, data, _) in cases() {
        let mut plain = build(&config, &data, &cpu());
        plain.initialise(3).unwrap();
        let batch_f32 = batch(&data, 9, 1);
        let (_, expected) = gradient(plain.as_mut(), &batch_f32, 5);
        for precision in HALVES {
            let data = data.clone().with_precision(precision);
            let batch = batch(&data, 9, 1);
            let run = || {
                let mut engine = build(&config, &data, &cpu());
                engine.initialise(3).unwrap();
                let found = gradient(engine.as_mut(), &batch, 5);
                (found, engine)
            };
            let (((first, sums), mut engine), ((again, sums_again), _)) = (run(), run());
            assert!(bits(&first.values) == bits(&again.values), "{config:?}");
            assert_eq!(sums, sums_again);
            assert_ne!(sums[0].to_bits(), expected[0].to_bits(), "{config:?} was computed in f32");
            // A loss in half precision would have no more bits than that type.
            let beyond = if precision == Precision::Bf16 { 16 } else { 13 };
            assert!(
                (sums[0] as f32).to_bits().trailing_zeros() < beyond,
                "{config:?}: the loss is {}",
                sums[0]
            );
            assert_eq!(engine.evaluate(&batch).unwrap(), plain.evaluate(&batch_f32).unwrap());
            assert!(bits(&engine.predict(&batch).unwrap()) == bits(&plain.predict(&batch_f32).unwrap()));
            // The parameters were not rounded.
            assert_eq!(support::parameters(engine.as_mut()), support::parameters(plain.as_mut()));
        }
    }
}

/// Hundreds of one token: bf16 resolves only 1/256 of a value, so its gradient, a long sum, would stop growing.
#[test]
fn a_token_that_comes_often_has_its_whole_gradient() {
    let config = config("gpt", &json!({ "layers": 1, "heads": 1, "width": 8 }));
    let data = text(64, 4).with_precision(Precision::Bf16);
    let mut engine = build(&config, &data, &cpu());
    engine.initialise(3).unwrap();
    let mut batch = batch(&data, 64, 1);
    batch.x.data = trainer::HostData::I64(vec![1; 64 * 64]);
    let found = Agreement::measure(engine.as_mut(), &batch, 1).unwrap();
    assert!(found.gradient < bound(&config, 8, Precision::Bf16), "{found:?}");
}

#[test]
fn a_frozen_parameter_gets_no_gradient() {
    let data = table(4, 3).with_precision(Precision::Bf16);
    let mut engine = build(&config("mlp", &json!({ "hidden": [8] })), &data, &cpu());
    engine.initialise(1).unwrap();
    engine.freeze(&[true, true, false, false]).unwrap();
    assert_eq!(gradient(engine.as_mut(), &batch(&data, 8, 1), 1).0.present, [2, 3]);
}

#[test]
fn a_device_without_it_is_refused_with_the_way_out() {
    let device = trainer::device::open(&DeviceSpec::NdArray).unwrap();
    for precision in HALVES {
        let data = table(4, 3).with_precision(precision);
        let refused = Registry::builtin().build("mlp", &config("mlp", &json!({})), &data, &device);
        let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
        let expected = format!(
            "train.precision = \"{precision}\", but the device ndarray, CPU (ndarray) doesn't compute in it: set \
             train.precision to \"f32\", or give the worker another --device"
        );
        assert_eq!(said, expected);
    }
    let f32_is_fine = Registry::builtin().build("mlp", &config("mlp", &json!({})), &table(4, 3), &device);
    assert!(f32_is_fine.is_ok());
}

/// A user's task, unaware of half precision.
struct Plain {
    inputs: usize,
    outputs: usize,
}

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    last: Linear,
}

impl Task for Plain {
    type Model = Net;

    fn new(_config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        Ok(Self { inputs: data.input[0], outputs: data.output.width() })
    }

    fn model(&self, device: &Device) -> Net {
        Net {
            first: LinearConfig::new(self.inputs, 16).init(device),
            last: LinearConfig::new(16, self.outputs).init(device),
        }
    }

    fn predict(&self, net: &Net, batch: &HostBatch, device: &Device) -> Result<Tensor<2>, TrainerError> {
        let x = batch.features([batch.count, self.inputs], device)?;
        Ok(net.last.forward(burn::tensor::activation::tanh(net.first.forward(x))))
    }
}

#[test]
fn a_task_of_ones_own_needs_no_change() {
    for precision in HALVES {
        let data = table(6, 3).with_precision(precision);
        let registry = Registry::builtin().with::<Plain>("plain");
        let config = config("plain", &json!({ "activation": "tanh" }));
        let mut engine = registry.build("plain", &config, &data, &cpu()).unwrap();
        engine.initialise(1).unwrap();
        let found = Agreement::measure(engine.as_mut(), &batch(&data, 16, 1), 1).unwrap();
        assert!(found.gradient < bound(&config, 2, precision), "{found:?}");
        assert!(found.gradient > roundoff(precision) / 4.0, "{found:?}");
    }
}

/// burn's Gru creates its output in the device's default type, f32.
struct Recurrent(usize);

impl Task for Recurrent {
    type Model = Gru;

    fn new(_config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        Ok(Self(data.output.width()))
    }

    fn model(&self, device: &Device) -> Gru {
        GruConfig::new(2, self.0, true).init(device)
    }

    fn predict(&self, gru: &Gru, batch: &HostBatch, device: &Device) -> Result<Tensor<2>, TrainerError> {
        let x = batch.features([batch.count, 3, 2], device)?;
        Ok(gru.forward(x, None).narrow(1, 2, 1).reshape([batch.count, self.0]))
    }
}

#[test]
fn a_model_that_makes_f32_tensors_itself_is_refused_with_the_way_out() {
    let data = table(6, 3).with_precision(Precision::Bf16);
    let registry = Registry::builtin().with::<Recurrent>("recurrent");
    let mut engine = registry.build("recurrent", &config("recurrent", &json!({})), &data, &cpu()).unwrap();
    engine.initialise(1).unwrap();
    let said = Agreement::measure(engine.as_mut(), &batch(&data, 4, 1), 1).unwrap_err().to_string();
    assert!(said.contains("train.precision = \"bf16\": this model can't be computed in it"), "{said}");
    assert!(said.contains("HostBatch::dtype") && said.contains("set train.precision = \"f32\""), "{said}");
}
