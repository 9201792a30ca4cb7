//! Checks the own model's gradient, computed as a worker does, against finite differences of its loss.

use trainer::{
    DataSpec, DeviceSpec, GradientSink, HostBatch, HostData, ModelConfig, OutputSpec, Registry, Target,
};

struct Flat(Vec<f32>);

impl GradientSink for Flat {
    fn region(&mut self, _parameter: usize, offset: usize, data: &[f32]) {
        self.0[offset..offset + data.len()].copy_from_slice(data);
    }
}

fn images() -> DataSpec {
    let labels = (0..3).map(|label| format!("label {label}")).collect();
    DataSpec::new(vec![1, 4, 3], OutputSpec::Classes(labels))
}

/// Five images of 4 x 3 pseudo-random pixels.
fn batch() -> HostBatch {
    let mut batch = HostBatch::empty(&images());
    batch.set_count(5);
    batch.x.data = HostData::F32((0..60).map(|i| ((i * 37 + 11) % 23) as f32 / 11.5 - 1.0).collect());
    batch.y = Target::Labels(vec![0, 2, 1, 1, 0]);
    batch
}

/// The sum of the cross entropies of the outputs, in f64: f32's rounding would drown the differences.
fn loss(outputs: &[f32], labels: &[i64]) -> f64 {
    let of_row = |(row, label): (&[f32], &i64)| {
        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        total.ln() - f64::from(row[*label as usize])
    };
    outputs.chunks(3).zip(labels).map(of_row).sum()
}

fn refusal(keys: &serde_json::Value, data: &DataSpec) -> String {
    let device = trainer::device::open(&DeviceSpec::Cpu).expect("a CPU");
    let config = ModelConfig::new("rows", keys).expect("a table");
    let built = own_model::registry().build("rows", &config, data, &device);
    built.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn the_gradient_is_that_of_the_loss_sum() {
    let device = trainer::device::open(&DeviceSpec::Cpu).expect("a CPU");
    let config = ModelConfig::new("rows", &serde_json::json!({ "hidden": 4 })).expect("a table");
    let mut engine = own_model::registry().build("rows", &config, &images(), &device).expect("a model");
    engine.initialise(3).expect("initialised");
    let (batch, elements) = (batch(), engine.layout().elements);
    let Target::Labels(labels) = &batch.y else { panic!("labels") };

    let mut gradient = Flat(vec![f32::NAN; elements]);
    let sums = engine.gradient(&batch, 1, &mut gradient).expect("a gradient");
    let value = loss(&engine.predict(&batch).expect("outputs"), labels);
    assert!((sums[0] - value).abs() < 1e-5 * value, "loss sum {} against {value}", sums[0]);
    assert_eq!(sums[1], 5.0, "the weight is the number of samples");

    let mut start = vec![0.0; elements];
    engine.read_parameters(&mut start).expect("read");
    let step = 4e-3;
    for index in 0..elements {
        let mut at = |offset: f32| {
            let mut moved = start.clone();
            moved[index] += offset;
            engine.write_parameters(&moved).expect("written");
            loss(&engine.predict(&batch).expect("outputs"), labels)
        };
        let difference = (at(step) - at(-step)) / (2.0 * f64::from(step));
        let found = f64::from(gradient.0[index]);
        assert!(
            (found - difference).abs() < 2e-3 * difference.abs().max(1.0),
            "{index}: {found}, {difference}"
        );
    }
}

#[test]
fn what_the_model_cannot_take_is_refused() {
    let table = DataSpec { input: vec![12], ..images() };
    assert!(refusal(&serde_json::json!({}), &table).contains("images of one channel"));
    let typo = refusal(&serde_json::json!({ "hiden": 3 }), &images());
    assert_eq!(typo, "unknown key model.hiden (= 3): did you mean model.hidden?");
    assert_eq!(refusal(&serde_json::json!({ "hidden": 3 }), &images()), "");
    assert!(Registry::builtin().schema("rows").is_none(), "a model that is built in is no example");
}
