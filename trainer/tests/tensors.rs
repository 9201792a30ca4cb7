//! Tensor files, and digests that other programs can recompute.

mod support;

use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::json;
use support::{bits, build, classes, config, cpu, noise, table};
use trainer::export::ExportInfo;
use trainer::tensors::{self, Metadata};
use trainer::{DataSpec, HostOptimizer, Layout, OptimizerConfig};

fn cnn_layout() -> Layout {
    let data = DataSpec::new(vec![1, 8, 8], classes(10));
    build(&config("cnn", &json!({})), &data, &cpu()).layout().clone()
}

fn adamw(layout: &Layout) -> HostOptimizer {
    let config = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimizer = HostOptimizer::new(config, layout).unwrap();
    for (number, moment) in optimizer.moments_mut().iter_mut().enumerate() {
        moment.values = noise(layout.elements, 20 + number as u32);
    }
    optimizer
}

#[test]
fn names_are_the_modules() {
    let names: Vec<String> = cnn_layout().parameters.into_iter().map(|parameter| parameter.name).collect();
    assert_eq!(
        names,
        [
            "convolutions.0.weight",
            "convolutions.0.bias",
            "convolutions.1.weight",
            "convolutions.1.bias",
            "hidden.weight",
            "hidden.bias",
            "output.weight",
            "output.bias",
        ]
    );
    let mlp = build(&config("mlp", &json!({ "hidden": [5, 4] })), &table(3, 2), &cpu());
    let names: Vec<&str> = mlp.layout().parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "hidden.0.weight",
            "hidden.0.bias",
            "hidden.1.weight",
            "hidden.1.bias",
            "output.weight",
            "output.bias"
        ]
    );
}

#[test]
fn linear_weights_lie_as_pytorch_has_them() {
    let mlp = build(&config("mlp", &json!({ "hidden": [2] })), &table(3, 2), &cpu());
    let layout = mlp.layout();
    let values: Vec<f32> = (0..layout.elements).map(|i| i as f32).collect();
    let file = tensors::encode_model(layout, &values, &Metadata::new());
    let file = SafeTensors::deserialize(&file).unwrap();
    let weight = file.tensor("hidden.0.weight").unwrap();
    assert_eq!(weight.shape(), [2, 3]);
    let read: Vec<f32> =
        weight.data().chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    // In the module it is [in, out] = [3, 2]: 0 1 / 2 3 / 4 5.
    assert_eq!(read, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(file.tensor("hidden.0.bias").unwrap().shape(), [2]);
}

#[test]
fn convolutions_keep_their_orientation() {
    let layout = cnn_layout();
    let file = tensors::encode_model(&layout, &noise(layout.elements, 1), &Metadata::new());
    let file = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(file.tensor("convolutions.1.weight").unwrap().shape(), [32, 16, 3, 3]);
    assert_eq!(file.tensor("hidden.weight").unwrap().shape(), [64, 128]);
}

#[test]
fn files_bring_back_the_same_bits_and_are_the_same_bytes() {
    let layout = cnn_layout();
    let mut values = noise(layout.elements, 1);
    values[3] = -0.0;
    values[4] = f32::NAN;
    let metadata: Metadata = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1\n\"é".to_owned())].into();
    let file = tensors::encode_model(&layout, &values, &metadata);
    assert_eq!(file, tensors::encode_model(&layout, &values, &metadata));
    let mut back = vec![0.0; layout.elements];
    assert_eq!(tensors::decode_model(&file, &layout, &mut back).unwrap(), metadata);
    assert!(bits(&back) == bits(&values));

    let optimizer = adamw(&layout);
    let file = tensors::encode_optimizer(&optimizer, &Metadata::new());
    let mut restored = HostOptimizer::new(optimizer.config(), &layout).unwrap();
    tensors::decode_optimizer(&file, &mut restored).unwrap();
    for (ours, theirs) in restored.moments().iter().zip(optimizer.moments()) {
        assert!(bits(&ours.values) == bits(&theirs.values));
    }
    assert_eq!(
        tensors::state_digest(&values, &restored),
        tensors::state_digest(&values, &optimizer),
        "the digest is of the state"
    );
}

#[test]
fn another_models_file_is_refused_by_the_tensor_that_differs() {
    let layout = cnn_layout();
    let file = tensors::encode_model(&layout, &noise(layout.elements, 1), &Metadata::new());
    let data = DataSpec::new(vec![1, 8, 8], classes(10));
    let wider = build(&config("cnn", &json!({ "hidden": 32 })), &data, &cpu());
    let mut out = vec![0.0; wider.layout().elements];
    let message = tensors::decode_model(&file, wider.layout(), &mut out).unwrap_err().to_string();
    assert!(message.contains("\"hidden.weight\"") && message.contains("[32, 128]"), "{message}");

    let mlp = build(&config("mlp", &json!({})), &table(3, 2), &cpu());
    let mut out = vec![0.0; mlp.layout().elements];
    let message = tensors::decode_model(&file, mlp.layout(), &mut out).unwrap_err().to_string();
    assert!(message.contains("8 tensors") && message.contains('4'), "{message}");
    for broken in [&file[..7], &file[..100], &file[..file.len() - 1], b"not safetensors at all".as_slice()] {
        let mut out = vec![0.0; layout.elements];
        assert!(tensors::decode_model(broken, &layout, &mut out).is_err());
    }
}

/// The digest as specified, computed from the files alone.
fn digest_from_files(files: &[Vec<u8>]) -> [u8; 32] {
    let opened: Vec<SafeTensors<'_>> =
        files.iter().map(|file| SafeTensors::deserialize(file).unwrap()).collect();
    let mut all: Vec<_> = opened.iter().flat_map(SafeTensors::tensors).collect();
    all.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut bytes = Vec::new();
    for (name, view) in all {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((view.shape().len() as u32).to_le_bytes());
        for dimension in view.shape() {
            bytes.extend((*dimension as u64).to_le_bytes());
        }
        bytes.extend(view.data());
    }
    *blake3::hash(&bytes).as_bytes()
}

#[test]
fn digests_follow_from_the_files() {
    let layout = cnn_layout();
    let values = noise(layout.elements, 1);
    let optimizer = adamw(&layout);
    let model = tensors::encode_model(&layout, &values, &Metadata::new());
    let state = tensors::encode_optimizer(&optimizer, &Metadata::new());
    assert_eq!(tensors::model_digest(&layout, &values), digest_from_files(std::slice::from_ref(&model)));
    assert_eq!(tensors::state_digest(&values, &optimizer), digest_from_files(&[model, state]));
}

#[test]
fn an_export_says_what_it_is() {
    let layout = cnn_layout();
    let info = ExportInfo {
        labels: vec!["zero".to_owned(), "one".to_owned()],
        normalisation: json!({ "mean": [0.5] }),
        config: "[model]\nkind = \"cnn\"\n".to_owned(),
        lineage: json!({ "run": "digits-1" }),
    };
    let file = trainer::export::safetensors(&layout, &noise(layout.elements, 1), &info);
    let mut back = vec![0.0; layout.elements];
    let metadata = tensors::decode_model(&file, &layout, &mut back).unwrap();
    assert_eq!(metadata["labels"], r#"["zero","one"]"#);
    assert_eq!(metadata["normalisation"], r#"{"mean":[0.5]}"#);
    assert_eq!(metadata["config"], info.config);
    assert_eq!(metadata["lineage"], r#"{"run":"digits-1"}"#);
    assert_eq!(metadata["format"], "pt");
}

/// A small layout with a weight that files store transposed.
fn small() -> Layout {
    let mut layout = Layout::default();
    layout.push("linear.weight".to_owned(), vec![3, 2], true);
    layout.push("linear.bias".to_owned(), vec![2], false);
    layout
}

proptest! {
    #[test]
    fn damaged_files_are_refused_or_read_but_never_panic(
        flips in prop::collection::vec((0usize..400, any::<u8>()), 1..4),
        cut in 0usize..400,
    ) {
        let layout = small();
        let mut file = tensors::encode_model(&layout, &noise(layout.elements, 1), &Metadata::new());
        for (place, byte) in flips {
            let length = file.len();
            file[place % length] = byte;
        }
        let mut out = vec![0.0; layout.elements];
        let _ = tensors::decode_model(&file, &layout, &mut out);
        file.truncate(cut.min(file.len()));
        let _ = tensors::decode_model(&file, &layout, &mut out);
    }

    #[test]
    fn any_values_come_back(values in prop::collection::vec(any::<u32>(), 8)) {
        let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
        let layout = small();
        let file = tensors::encode_model(&layout, &values, &Metadata::new());
        let mut back = vec![0.0; layout.elements];
        tensors::decode_model(&file, &layout, &mut back).unwrap();
        prop_assert!(bits(&back) == bits(&values));
    }
}

/// Adoption of an initial model: parameters load by name, mismatches are listed, and change nothing if not allowed.
#[test]
fn a_model_is_adopted_by_names_or_left_alone() {
    let device = cpu();
    let source = build(&config("mlp", &json!({ "hidden": [3] })), &table(2, 4), &device);
    let target = build(&config("mlp", &json!({ "hidden": [3, 5] })), &table(2, 4), &device);
    let values: Vec<f32> = noise(source.layout().elements, 1);
    let file = tensors::encode_model(source.layout(), &values, &Metadata::new());
    let layout = target.layout();
    let mut parameters = vec![7.0; layout.elements];
    let said = tensors::adopt_model(&file, layout, &mut parameters, |_| false).unwrap_err().to_string();
    assert!(said.contains("the file lacks hidden.1.weight, hidden.1.bias; of another shape"), "{said}");
    assert!(said.contains("output.weight (F32 [4, 5] here, F32 [4, 3] there)"), "{said}");
    assert!(parameters.iter().all(|value| *value == 7.0), "nothing is taken in part");

    let may_differ = |name: &str| name.starts_with("output.w") || name.starts_with("hidden.1");
    assert_eq!(tensors::adopt_model(&file, layout, &mut parameters, may_differ).unwrap(), 3);
    for (name, is_taken) in [
        ("hidden.0.weight", true),
        ("output.bias", true),
        ("output.weight", false),
        ("hidden.1.weight", false),
    ] {
        let own = layout.parameters.iter().find(|parameter| parameter.name == name).unwrap();
        let region = &parameters[own.offset..own.offset + own.len];
        let theirs = source.layout().parameters.iter().find(|parameter| parameter.name == name);
        let expected = theirs.map(|theirs| &values[theirs.offset..theirs.offset + theirs.len]);
        assert_eq!(expected == Some(region), is_taken, "{name}");
    }

    // Conversely, the file has tensors that the model lacks.
    let file = tensors::encode_model(layout, &parameters, &Metadata::new());
    let mut parameters = values.clone();
    let said = tensors::adopt_model(&file, source.layout(), &mut parameters, |name| name == "output.weight");
    assert!(said.unwrap_err().to_string().ends_with("the model has no hidden.1.bias, hidden.1.weight"));
}

/// Frozen parameters get no gradient, and the others get the same one as before.
#[test]
fn frozen_parameters_get_no_gradient() {
    let data = table(2, 4);
    let mut engine = build(&config("mlp", &json!({ "hidden": [3] })), &data, &cpu());
    engine.initialise(1).unwrap();
    let batch = support::batch(&data, 5, 2);
    let (before, _) = support::gradient(engine.as_mut(), &batch, 0);
    let names: Vec<String> = engine.layout().parameters.iter().map(|own| own.name.clone()).collect();
    let frozen: Vec<bool> = names.iter().map(|name| name.ends_with("weight")).collect();
    engine.freeze(&frozen).unwrap();
    // This persists when parameters are written, as after each step.
    let parameters = support::parameters(engine.as_mut());
    engine.write_parameters(&parameters).unwrap();
    let (after, _) = support::gradient(engine.as_mut(), &batch, 0);
    let free: Vec<usize> = (0..names.len()).filter(|number| !frozen[*number]).collect();
    assert_eq!(after.present, free);
    for number in free {
        let own = &engine.layout().parameters[number];
        let region = own.offset..own.offset + own.len;
        assert_eq!(support::bits(&after.values[region.clone()]), support::bits(&before.values[region]));
    }
    assert!(
        engine.freeze(&vec![true; names.len()]).unwrap_err().to_string().contains("nothing would be left")
    );
    assert!(engine.freeze(&[true]).is_err());
}
