//! Each model's gradient against finite differences of its loss, and its metric sums.

mod support;

use serde_json::json;
use support::{batch, build, classes, config, cpu, gradient, noise, parameters, table, text};
use trainer::{Categories, DataSpec, Engine, HostBatch, HostData, ModelConfig, OutputSpec, Registry, Target};

/// The loss sum in f64 from the outputs: f32 rounding of a sum would drown the differences.
fn loss(engine: &mut dyn Engine, batch: &HostBatch) -> f64 {
    let outputs = engine.predict(batch).unwrap();
    match &batch.y {
        Target::Labels(labels) | Target::Tokens(labels) => {
            let width = outputs.len() / labels.len();
            let row_loss = |(row, label): (&[f32], &i64)| {
                let greatest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
                let total: f64 = row.iter().map(|x| (f64::from(*x) - greatest).exp()).sum();
                total.ln() + greatest - f64::from(row[*label as usize])
            };
            outputs.chunks(width).zip(labels).map(row_loss).sum()
        }
        Target::Values { width, data } => {
            let squares = outputs.iter().zip(data).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
            squares.sum::<f64>() / *width as f64
        }
        Target::Unknown => panic!("no targets"),
    }
}

fn check(config: &ModelConfig, data: &DataSpec) {
    let mut engine = build(config, data, &cpu());
    engine.initialise(11).unwrap();
    check_here(engine.as_mut(), config, data, 4e-3);
}

/// With parameters so large that each of them matters: a transformer's initial ones are too small.
fn check_far_from_zero(config: &ModelConfig, data: &DataSpec) {
    let mut engine = build(config, data, &cpu());
    let values: Vec<f32> = noise(engine.layout().elements, 3).iter().map(|x| 0.8 * x).collect();
    engine.write_parameters(&values).unwrap();
    check_here(engine.as_mut(), config, data, 4e-3);
}

fn check_here(engine: &mut dyn Engine, config: &ModelConfig, data: &DataSpec, step: f32) {
    let batch = batch(data, 6, 5);
    let (flat, sums) = gradient(engine, &batch, 1);
    assert_eq!(flat.present, (0..engine.layout().parameters.len()).collect::<Vec<_>>());
    let value = loss(engine, &batch);
    assert!((sums[0] - value).abs() < 1e-4 * value, "loss sum {} against {value}", sums[0]);
    let targets = if let Target::Tokens(tokens) = &batch.y { tokens.len() } else { batch.count };
    assert_eq!(sums[1], targets as f64);

    let start = parameters(engine);
    let mut kinks = 0;
    for index in 0..start.len() {
        let mut at = |offset: f32| {
            let mut moved = start.clone();
            moved[index] += offset;
            engine.write_parameters(&moved).unwrap();
            loss(engine, &batch)
        };
        let (above, below, middle) = (at(step), at(-step), value);
        let difference = (above - below) / (2.0 * f64::from(step));
        let bend = (above + below - 2.0 * middle).abs() / f64::from(step);
        let error = (difference - f64::from(flat.values[index])).abs();
        // If a ReLU or a maximum switches within the step, compare with the one-sided difference.
        let tolerance = 5e-3 * difference.abs().max(1.0);
        if error > tolerance {
            kinks += 1;
            assert!(
                error < bend + tolerance,
                "{config:?} [{index}]: {} against {difference}",
                flat.values[index]
            );
        }
    }
    assert!(kinks * 50 <= start.len(), "{config:?}: {kinks} of {} are off", start.len());
}

#[test]
fn mlp_classifies() {
    for activation in ["relu", "gelu", "tanh"] {
        check(&config("mlp", &json!({ "hidden": [7, 5], "activation": activation })), &table(4, 3));
    }
    check(&config("mlp", &json!({ "hidden": [] })), &table(4, 3));
}

#[test]
fn mlp_embeds_categories() {
    let categories = [(0, 2), (3, 4)].map(|(place, codes)| Categories { place, codes }).to_vec();
    check(&config("mlp", &json!({ "hidden": [7] })), &table(5, 3).with_categories(categories.clone()));
    let all = vec![Categories { place: 0, codes: 5 }];
    check(&config("mlp", &json!({ "hidden": [], "embedding": 3 })), &table(1, 3).with_categories(all));
    let data = table(5, 3).with_categories(categories);
    let mut engine = build(&config("mlp", &json!({ "hidden": [7] })), &data, &cpu());
    engine.initialise(1).unwrap();
    let shapes: Vec<(&str, &[usize])> =
        engine.layout().parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
    let expected: [(&str, &[usize]); 3] =
        [("embeddings.0.weight", &[2, 2]), ("embeddings.1.weight", &[4, 3]), ("hidden.0.weight", &[8, 7])];
    assert_eq!(shapes[..3], expected);
    let mut batch = batch(&data, 2, 3);
    let HostData::F32(values) = &mut batch.x.data else { panic!("numbers") };
    values[3] = 4.0;
    let said = engine.predict(&batch).unwrap_err().to_string();
    assert!(said.contains("feature 3 is 4, where a code from 0 to 3"), "{said}");
    let images = DataSpec::new(vec![1, 4, 4], classes(3)).with_categories(data.categories);
    let said = Registry::builtin().build("cnn", &config("cnn", &json!({})), &images, &cpu());
    assert!(said.err().unwrap().to_string().contains("takes numbers alone"));
}

#[test]
fn mlp_regresses() {
    let output = OutputSpec::Values(vec!["a".to_owned(), "b".to_owned()]);
    check(&config("mlp", &json!({ "hidden": [6], "activation": "tanh" })), &DataSpec::new(vec![5], output));
}

#[test]
fn cnn_classifies() {
    let data = DataSpec::new(vec![2, 6, 7], classes(3));
    check(&config("cnn", &json!({ "channels": [3, 4], "hidden": 5 })), &data);
}

/// Depth 8 only: finite differences of deeper networks take long, and their gradients are compared with torch's.
#[test]
fn resnet_classifies() {
    let data = DataSpec::new(vec![2, 5, 4], classes(3));
    let config = config("resnet", &json!({ "depth": 8, "width": 2, "groups": 1 }));
    let mut engine = build(&config, &data, &cpu());
    engine.initialise(11).unwrap();
    // Normalised after each layer, the loss is more curved than that of other models.
    check_here(engine.as_mut(), &config, &data, 5e-4);
}

#[test]
fn gpt_predicts_the_next_token() {
    for keys in [
        json!({ "layers": 2, "heads": 2, "width": 8 }),
        json!({ "layers": 1, "heads": 2, "width": 8, "positions": "rotary", "tied": false }),
    ] {
        check_far_from_zero(&config("gpt", &keys), &text(5, 7));
    }
}

#[test]
fn evaluation_adds_the_confusion_matrix_and_leaves_dropout_out() {
    let data = table(4, 3);
    let mut engine = build(&config("mlp", &json!({ "hidden": [8], "dropout": 0.5 })), &data, &cpu());
    engine.initialise(1).unwrap();
    let batch = batch(&data, 12, 3);
    let sums = engine.evaluate(&batch).unwrap();
    assert_eq!(sums.len(), 3 + 9);
    assert!((sums[0] - loss(engine.as_mut(), &batch)).abs() < 1e-4);
    assert_eq!(sums[1], 12.0);
    assert_eq!(sums[3] + sums[7] + sums[11], sums[2], "the diagonal is what is right");
    assert_eq!(sums[3..].iter().sum::<f64>(), 12.0);
    assert_eq!(engine.evaluate(&batch).unwrap(), sums);
}

#[test]
fn regression_sums() {
    let data = DataSpec::new(vec![3], OutputSpec::Values(vec!["y".to_owned()]));
    let mut engine = build(&config("mlp", &json!({ "hidden": [4] })), &data, &cpu());
    engine.initialise(1).unwrap();
    let batch = batch(&data, 5, 3);
    let outputs = engine.predict(&batch).unwrap();
    let Target::Values { data, .. } = &batch.y else { panic!("values") };
    let errors: Vec<f64> = outputs.iter().zip(data).map(|(x, y)| f64::from(*x) - f64::from(*y)).collect();
    let sums = engine.evaluate(&batch).unwrap();
    let expected = [
        errors.iter().map(|e| e * e).sum(),
        5.0,
        errors.iter().map(|e| e.abs()).sum(),
        errors.iter().map(|e| e * e).sum::<f64>(),
    ];
    for (ours, expected) in sums.iter().zip(expected) {
        assert!((ours - expected).abs() < 1e-5, "{sums:?} against {expected}");
    }
}
