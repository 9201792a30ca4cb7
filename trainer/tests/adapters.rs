//! A model with burn's interface (items, batcher, a step with a mean loss), run as a task.

mod support;

use burn::module::Module;
use burn::nn::loss::{CrossEntropyLossConfig, MseLoss, Reduction};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::json;
use support::{batch, config, cpu, gradient, parameters, table, text};
use trainer::adapters::{Adapted, Learner, Sample, SampleTarget, Step};
use trainer::{
    DataSpec, Engine, HostBatch, ModelConfig, OutputSpec, Registry, Scored, Target, Task, TrainerError,
};

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    last: Linear,
}

impl Net {
    fn new(data: &DataSpec, device: &Device) -> Self {
        let inputs = data.input.iter().product();
        Self {
            first: LinearConfig::new(inputs, 5).init(device),
            last: LinearConfig::new(5, data.output.width()).init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.last.forward(self.first.forward(x).tanh())
    }
}

/// An item of a burn dataset.
struct Item {
    features: Vec<f32>,
    label: i64,
    values: Vec<f32>,
}

struct Batch {
    features: Tensor<2>,
    labels: Tensor<1, Int>,
    values: Tensor<2>,
    classifies: bool,
}

struct AsInBurn {
    data: DataSpec,
}

impl Learner for AsInBurn {
    type Model = Net;
    type Item = Item;
    type Batch = Batch;
    const SCHEMA: u32 = 7;

    fn new(_config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        Ok(Self { data: data.clone() })
    }

    fn model(&self, device: &Device) -> Net {
        Net::new(&self.data, device)
    }

    fn item(&self, sample: Sample<'_>) -> Item {
        assert_eq!(sample.shape, self.data.input);
        let values = if let SampleTarget::Values(values) = sample.target { values.to_vec() } else { vec![] };
        Item { features: sample.features.to_vec(), label: sample.label().unwrap_or(0), values }
    }

    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        let count = items.len();
        let floats = |of: &dyn Fn(&Item) -> &[f32]| {
            let data: Vec<f32> = items.iter().flat_map(|item| of(item).to_vec()).collect();
            let width = data.len() / count;
            Tensor::from_data(TensorData::new(data, [count, width]), device)
        };
        let labels: Vec<i64> = items.iter().map(|item| item.label).collect();
        Batch {
            features: floats(&|item| &item.features),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
            values: floats(&|item| if item.values.is_empty() { &[0.0] } else { &item.values }),
            classifies: matches!(self.data.output, OutputSpec::Classes(_)),
        }
    }

    fn step(&self, model: &Net, batch: Batch) -> Step {
        let output = model.forward(batch.features);
        let loss = if batch.classifies {
            CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), batch.labels)
        } else {
            MseLoss::new().forward(output.clone(), batch.values, Reduction::Mean)
        };
        Step { loss, output }
    }
}

/// The same model, written as a task.
struct AsTask {
    data: DataSpec,
}

impl Task for AsTask {
    type Model = Net;

    fn new(_config: &ModelConfig, data: &DataSpec) -> Result<Self, TrainerError> {
        Ok(Self { data: data.clone() })
    }

    fn model(&self, device: &Device) -> Net {
        Net::new(&self.data, device)
    }

    fn predict(&self, model: &Net, batch: &HostBatch, device: &Device) -> Result<Tensor<2>, TrainerError> {
        let features = self.data.input.iter().product();
        Ok(model.forward(batch.features([batch.count, features], device)?))
    }
}

fn build(kind: &str, data: &DataSpec) -> Box<dyn Engine> {
    let registry = Registry::builtin().with::<Adapted<AsInBurn>>("adapted").with::<AsTask>("task");
    assert_eq!(registry.schema("adapted"), Some(7));
    let mut engine = registry.build(kind, &config(kind, &json!({})), data, &cpu()).unwrap();
    engine.initialise(5).unwrap();
    engine
}

fn check_like_the_task(data: &DataSpec) {
    let (mut adapted, mut task) = (build("adapted", data), build("task", data));
    assert_eq!(parameters(adapted.as_mut()), parameters(task.as_mut()));
    for count in [1, 7] {
        let batch = batch(data, count, 3);
        let (ours, our_sums) = gradient(adapted.as_mut(), &batch, 1);
        let (expected, sums) = gradient(task.as_mut(), &batch, 1);
        assert_eq!(ours.present, expected.present);
        for (ours, expected) in ours.values.iter().zip(&expected.values) {
            assert!((ours - expected).abs() < 1e-5 * expected.abs().max(1.0), "{ours} against {expected}");
        }
        assert!((our_sums[0] - sums[0]).abs() < 1e-5 * sums[0], "{our_sums:?} against {sums:?}");
        assert_eq!(our_sums[1..], sums[1..], "weight and metrics");
        assert_eq!(adapted.predict(&batch).unwrap(), task.predict(&batch).unwrap());
        assert_eq!(adapted.evaluate(&batch).unwrap().len(), task.evaluate(&batch).unwrap().len());
    }
}

#[test]
fn a_mean_over_samples_becomes_a_sum() {
    check_like_the_task(&table(4, 3));
    let output = OutputSpec::Values(vec!["a".to_owned(), "b".to_owned()]);
    check_like_the_task(&DataSpec::new(vec![2, 3], output));
}

/// Finite differences of the task's own loss sum.
#[test]
fn the_gradient_is_that_of_the_loss_sum() {
    let data = table(3, 2);
    let mut engine = build("adapted", &data);
    let batch = batch(&data, 6, 3);
    let (flat, _) = gradient(engine.as_mut(), &batch, 1);
    let start = parameters(engine.as_mut());
    let step = 1e-2;
    for (index, found) in flat.values.iter().enumerate() {
        let mut at = |offset: f32| {
            let mut moved = start.clone();
            moved[index] += offset;
            engine.write_parameters(&moved).unwrap();
            engine.evaluate(&batch).unwrap()[0]
        };
        let difference = (at(step) - at(-step)) / (2.0 * f64::from(step));
        assert!((f64::from(*found) - difference).abs() < 5e-3, "{index}: {found} against {difference}");
    }
}

#[test]
fn a_prediction_has_no_targets() {
    let data = table(4, 3);
    let mut engine = build("adapted", &data);
    let known = batch(&data, 3, 9);
    let unknown = HostBatch { y: Target::Unknown, ..known.clone() };
    assert_eq!(engine.predict(&unknown).unwrap(), engine.predict(&known).unwrap());
}

#[test]
fn a_batch_of_another_shape_is_refused() {
    let data = table(4, 3);
    let mut engine = build("adapted", &data);
    let mut wrong = batch(&data, 3, 9);
    wrong.y = Target::Labels(vec![0, 1]);
    assert!(engine.evaluate(&wrong).unwrap_err().to_string().contains("2 targets for 3 samples"));
    let mut wrong = batch(&data, 3, 9);
    wrong.set_count(4);
    assert!(engine.evaluate(&wrong).unwrap_err().to_string().contains("12 inputs"));
}

/// Tensors of a batch, and errors for what it lacks.
#[test]
fn a_batch_is_had_as_tensors() {
    let device = Device::flex();
    let message = |error: TrainerError| error.to_string();
    let labelled = batch(&table(6, 3), 4, 1);
    assert_eq!(labelled.features([4, 2, 3], &device).unwrap().dims(), [4, 2, 3]);
    let Target::Labels(labels) = &labelled.y else { panic!("labels") };
    let found: Vec<i64> = labelled.labels(&device).unwrap().into_data().iter::<i64>().collect();
    assert_eq!(&found, labels);
    assert!(message(labelled.features([4, 7], &device).unwrap_err()).contains("24 inputs"));
    assert!(message(labelled.values(&device).unwrap_err()).contains("takes values"));
    assert!(message(labelled.tokens(&device).unwrap_err()).contains("f32 inputs"));

    let written = batch(&text(5, 9), 2, 1);
    assert_eq!(written.tokens(&device).unwrap().dims(), [2, 5]);
    assert_eq!(written.token_targets(&device).unwrap().dims(), [10, 1]);
    assert!(message(written.features([10], &device).unwrap_err()).contains("integers"));
    assert!(message(written.labels(&device).unwrap_err()).contains("the batch has tokens"));

    let output = OutputSpec::Values(vec!["a".to_owned(), "b".to_owned()]);
    let measured = batch(&DataSpec::new(vec![3], output), 4, 1);
    assert_eq!(measured.values(&device).unwrap().dims(), [4, 2]);
    let unknown = HostBatch { y: Target::Unknown, ..measured };
    assert!(message(unknown.values(&device).unwrap_err()).contains("the batch has none"));
}

#[test]
fn the_loss_of_tokens_goes_by_the_vocabulary() {
    let data = text(5, 9);
    let written = batch(&data, 2, 1);
    let logits = |rows: usize, width: usize| Tensor::<2>::zeros([rows, width], &Device::flex());
    let scored = Scored::by_target(logits(10, 9), &written).unwrap();
    assert_eq!(scored.weight, 10.0);
    let loss = scored.loss.into_scalar::<f32>();
    assert!((loss - 10.0 * 9f32.ln()).abs() < 1e-4, "{loss}");
    let refusal = |rows, width| match Scored::by_target(logits(rows, width), &written) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    assert!(refusal(9, 9).contains("for 10 tokens"));
    assert!(refusal(10, 2).contains("outside of the vocabulary of 2"));
}
