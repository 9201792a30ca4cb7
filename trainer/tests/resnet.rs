//! Properties of residual networks other than their numbers: sizes, determinism, initial values, errors.

mod support;

use serde_json::json;
use support::{batch, bits, build, classes, config, cpu, gradient, parameters, table};
use trainer::{DataSpec, OutputSpec, Registry};

fn images(shape: [usize; 3], labels: usize) -> DataSpec {
    DataSpec::new(shape.to_vec(), classes(labels))
}

#[test]
fn images_of_any_size_are_taken() {
    for depth in [8, 14, 18, 20] {
        let keys = json!({ "depth": depth, "width": 4, "groups": 2 });
        for shape in [[3, 32, 32], [1, 1, 1], [2, 5, 3], [3, 17, 1], [1, 28, 28]] {
            let data = images(shape, 3);
            let mut engine = build(&config("resnet", &keys), &data, &cpu());
            engine.initialise(1).unwrap();
            let outputs = engine.predict(&batch(&data, 2, 1)).unwrap();
            assert!(outputs.len() == 6 && outputs.iter().all(|x| x.is_finite()), "{depth} {shape:?}");
        }
    }
}

/// He et al. 2015, table 6: ResNet-20 has 0.27 million parameters; torchvision's resnet18 has 11,689,512, including
/// 513,000 of its last layer and 9,408 of its stem.
#[test]
fn the_parameters_are_as_many_as_published() {
    let count = |depth| {
        build(&config("resnet", &json!({ "depth": depth })), &images([3, 32, 32], 10), &cpu())
            .layout()
            .elements
    };
    assert_eq!([count(8), count(14), count(20)], [75_290, 172_506, 269_722]);
    assert_eq!(count(18), 11_689_512 - 513_000 - 9_408 + 512 * 10 + 10 + 3 * 3 * 3 * 64);
}

#[test]
fn convolutions_begin_with_he_et_al_s_deviation() {
    let mut engine = build(&config("resnet", &json!({ "depth": 20 })), &images([3, 32, 32], 10), &cpu());
    engine.initialise(1).unwrap();
    let values = parameters(engine.as_mut());
    for parameter in engine.layout().parameters.iter().filter(|parameter| parameter.shape.len() == 4) {
        let region = &values[parameter.offset..parameter.offset + parameter.len];
        let inputs: usize = parameter.shape[1..].iter().product();
        let squares: f64 = region.iter().map(|x| f64::from(*x).powi(2)).sum();
        let deviation = (squares / region.len() as f64).sqrt();
        let expected = (2.0 / inputs as f64).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.1, "{}: {deviation}", parameter.name);
    }
}

#[test]
fn a_gradient_is_the_same_bits_twice() {
    let data = images([3, 13, 9], 4);
    for depth in [8, 18] {
        let keys = json!({ "depth": depth, "width": 8, "groups": 4, "label_smoothing": 0.1 });
        let run = |key| {
            let mut engine = build(&config("resnet", &keys), &data, &cpu());
            engine.initialise(5).unwrap();
            let (flat, sums) = gradient(engine.as_mut(), &batch(&data, 6, 3), key);
            (bits(&flat.values), sums)
        };
        assert!(run(1) == run(2), "there is nothing that the key could change");
    }
}

#[test]
fn configurations_and_data_that_do_not_fit_are_refused() {
    let good = images([3, 8, 8], 4);
    let values = DataSpec::new(vec![3, 8, 8], OutputSpec::Values(vec!["y".to_owned()]));
    let all = [
        (json!({ "depth": 10 }), good.clone(), "allowed are 8, 14, 18, 20"),
        (json!({ "width": 12 }), good.clone(), "multiple of the groups"),
        (json!({ "groups": 0 }), good.clone(), "model.groups = 0"),
        (json!({ "blocks": 3 }), good.clone(), "blocks"),
        (json!({}), table(192, 4), "dataset.image_shape"),
        (json!({ "label_smoothing": 1.0 }), good.clone(), "model.label_smoothing = 1"),
        (json!({ "label_smoothing": -0.1 }), good.clone(), "model.label_smoothing = -0.1"),
        (json!({ "class_weights": [1.0, 2.0] }), good.clone(), "2 weights; the dataset has 4 labels"),
        (json!({ "class_weights": [1.0, 2.0, -1.0, 1.0] }), good.clone(), "holds -1"),
        (json!({ "class_weights": [0.0, 0.0, 0.0, 0.0] }), good, "nothing to learn"),
        (json!({ "label_smoothing": 0.1 }), values.clone(), "for classifications"),
        (json!({ "class_weights": [1.0] }), values, "for classifications"),
    ];
    for (keys, data, part) in all {
        let built = Registry::builtin().build("resnet", &config("resnet", &keys), &data, &cpu());
        let message = built.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{keys}: {message:?} has no {part:?}");
    }
}
