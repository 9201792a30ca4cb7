//! The models against torch: logits, losses and gradients for the same parameters.

mod support;

use serde_json::Value;
use support::{build, classes, config, cpu, gradient, inputs, noise, text};
use trainer::{Categories, DataSpec, Engine, HostBatch, HostData, Parameter, Target};

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect()
}

/// Module index of the element with this index in the file.
fn place(parameter: &Parameter, index: usize) -> usize {
    if !parameter.transposed {
        return index;
    }
    let [rows, columns] = [parameter.shape[0], parameter.shape[1]];
    (index % rows) * columns + index / rows
}

/// The parameters of the test vectors: noise in file order, with one stream per parameter in torch's order.
fn fill(engine: &mut dyn Engine, names: &[&str]) {
    let layout = engine.layout().clone();
    let mut ours: Vec<&str> = layout.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let mut theirs = names.to_vec();
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
    let mut values = vec![f32::NAN; layout.elements];
    for parameter in &layout.parameters {
        let stream = names.iter().position(|name| *name == parameter.name).unwrap();
        for (index, value) in noise(parameter.len, stream as u32).iter().enumerate() {
            values[parameter.offset + place(parameter, index)] = 0.5 * value;
        }
    }
    engine.write_parameters(&values).unwrap();
}

/// Pairs of feature index and number of codes.
fn categories(pairs: &Value) -> Vec<Categories> {
    let pairs = pairs.as_array().unwrap().iter().map(integers);
    pairs.map(|pair| Categories { place: pair[0] as usize, codes: pair[1] as usize }).collect()
}

fn batch(case: &Value, data: &DataSpec) -> HostBatch {
    let mut batch = HostBatch::empty(data);
    let count = case["count"].as_u64().unwrap() as usize;
    batch.set_count(count);
    match &mut batch.x.data {
        HostData::I64(tokens) => *tokens = integers(&case["x"]),
        HostData::F32(values) => *values = inputs(data, count, 1000),
    }
    match &mut batch.y {
        Target::Tokens(labels) | Target::Labels(labels) => *labels = integers(&case["y"]),
        other => panic!("{other:?}"),
    }
    batch
}

fn close(what: &str, ours: f64, theirs: f64, scale: f64) {
    assert!((ours - theirs).abs() <= 2e-5 * scale, "{what}: {ours}, torch has {theirs}");
}

fn check(case: &Value) {
    let name = case["name"].as_str().unwrap();
    let kind = case["kind"].as_str().unwrap();
    let outputs = case["outputs"].as_u64().unwrap() as usize;
    let input: Vec<usize> = integers(&case["input"]).iter().map(|x| *x as usize).collect();
    let data = match kind {
        "gpt" => text(input[0], outputs),
        _ => DataSpec::new(input, classes(outputs)).with_categories(categories(&case["categories"])),
    };
    let mut engine = build(&config(kind, &case["keys"]), &data, &cpu());
    let names: Vec<&str> =
        case["parameters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    fill(engine.as_mut(), &names);
    let batch = batch(case, &data);

    let (ours, theirs) = (engine.predict(&batch).unwrap(), numbers(&case["logits"]));
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        close(&format!("{name}, logit"), f64::from(*ours), theirs, theirs.abs().max(1.0));
    }
    let (flat, sums) = gradient(engine.as_mut(), &batch, 0);
    let loss = case["loss"].as_f64().unwrap();
    close(&format!("{name}, loss"), sums[0], loss, loss);
    // Without autodiff, some operations are fused and round differently.
    let without = engine.evaluate(&batch).unwrap();
    close(&format!("{name}, loss without autodiff"), without[0], loss, loss);
    assert_eq!(without[1..3], sums[1..3]);

    for parameter in &engine.layout().parameters {
        let number = names.iter().position(|name| *name == parameter.name).unwrap();
        let region = &flat.values[parameter.offset..parameter.offset + parameter.len];
        let in_order = (0..parameter.len).map(|index| f64::from(region[place(parameter, index)]));
        let weights = noise(parameter.len, 2000 + number as u32);
        let (mut sum, mut product, mut size) = (0.0, 0.0, 1.0);
        for (gradient, weight) in in_order.zip(weights) {
            sum += gradient;
            product += gradient * f64::from(weight);
            size += gradient.abs();
        }
        let theirs = numbers(&case["gradients"][number]);
        let what = format!("{name}, gradient of {}", parameter.name);
        close(&what, sum, theirs[0], size);
        close(&what, product, theirs[1], size);
    }
}

#[test]
fn logits_losses_and_gradients_are_those_of_torch() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/models.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        check(case);
    }
}
