//! wgpu against flex, on any adapter (a software one will do).
//!
//! With BONFIRE_REQUIRE_WGPU=1, this fails rather than skips if there is none.

mod support;

use serde_json::json;
use support::{batch, bits, build, classes, config, cpu, gradient, parameters, text};
use trainer::{Agreement, DataSpec, DeviceSpec, OpenDevice, OutputSpec, Precision};

fn wgpu() -> Option<OpenDevice> {
    let opened = trainer::device::open(&DeviceSpec::Wgpu(None));
    if std::env::var("BONFIRE_REQUIRE_WGPU").is_ok_and(|value| value == "1") {
        return Some(opened.expect("BONFIRE_REQUIRE_WGPU=1 asks for a wgpu adapter"));
    }
    match opened {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("passed over: {error}");
            None
        }
    }
}

fn close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{what} [{index}]: {a} against {b}");
    }
}

#[test]
fn outputs_and_gradients_agree_with_the_cpu() {
    let Some(device) = wgpu() else { return };
    let data = DataSpec::new(vec![1, 8, 8], classes(4));
    let models = [
        (config("mlp", &json!({ "hidden": [16], "activation": "gelu" })), &data),
        (config("cnn", &json!({ "channels": [4], "hidden": 8 })), &data),
        (config("resnet", &json!({ "width": 4, "groups": 2 })), &data),
        (config("gpt", &json!({ "layers": 1, "heads": 2, "width": 16, "positions": "rotary" })), &text(6, 9)),
    ];
    for (config, data) in models {
        let mut ours = build(&config, data, &device);
        let mut theirs = build(&config, data, &cpu());
        ours.initialise(3).unwrap();
        theirs.initialise(3).unwrap();
        assert!(bits(&parameters(ours.as_mut())) == bits(&parameters(theirs.as_mut())));
        let batch = batch(data, 5, 1);
        close(&ours.predict(&batch).unwrap(), &theirs.predict(&batch).unwrap(), "output");
        let (our_gradient, our_sums) = gradient(ours.as_mut(), &batch, 1);
        let (their_gradient, their_sums) = gradient(theirs.as_mut(), &batch, 1);
        assert_eq!(our_gradient.present, their_gradient.present);
        close(&our_gradient.values, &their_gradient.values, "gradient");
        assert!((our_sums[0] - their_sums[0]).abs() < 1e-4 * their_sums[0]);
        assert_eq!(our_sums[1..], their_sums[1..]);
        let (our_sums, their_sums) = (ours.evaluate(&batch).unwrap(), theirs.evaluate(&batch).unwrap());
        assert_eq!(our_sums[1..], their_sums[1..]);
    }
}

#[test]
fn a_microbatch_has_the_same_bits_each_time() {
    let Some(device) = wgpu() else { return };
    // More outputs than a work group has threads: burn's own sum() over them would use atomics.
    let data = DataSpec::new(vec![1, 8, 8], OutputSpec::Values(vec!["y".to_owned(); 64]));
    let mut engine = build(&config("mlp", &json!({ "hidden": [16] })), &data, &device);
    engine.initialise(3).unwrap();
    let batch = batch(&data, 256, 1);
    let (first, sums) = gradient(engine.as_mut(), &batch, 1);
    for _ in 0..12 {
        let (again, again_sums) = gradient(engine.as_mut(), &batch, 1);
        assert!(bits(&again.values) == bits(&first.values));
        assert_eq!(again_sums[0].to_bits(), sums[0].to_bits());
    }
}

/// In f16 if the adapter supports it; the bounds are those of tests/precision.rs for models of this depth.
#[test]
fn half_precision_is_near_f32_and_has_the_same_bits_each_time() {
    let Some(device) = wgpu() else { return };
    if !device.computes_in(Precision::F16) {
        eprintln!("passed over: {} doesn't compute in f16", device.info());
        return;
    }
    let images = DataSpec::new(vec![1, 8, 8], classes(4));
    let models = [
        (config("mlp", &json!({ "hidden": [16], "activation": "gelu" })), images.clone(), 0.01),
        (config("cnn", &json!({ "channels": [4], "hidden": 8 })), images.clone(), 0.05),
        (config("resnet", &json!({ "width": 4, "groups": 2 })), images, 0.08),
        (
            config("gpt", &json!({ "layers": 1, "heads": 2, "width": 16, "positions": "rotary" })),
            text(6, 9),
            0.02,
        ),
    ];
    for (config, data, bound) in models {
        let data = data.with_precision(Precision::F16);
        let mut engine = build(&config, &data, &device);
        engine.initialise(3).unwrap();
        let batch = batch(&data, 16, 1);
        let found = Agreement::measure(engine.as_mut(), &batch, 1).unwrap();
        println!("{config:?}: {found:?}");
        assert!(found.gradient < bound && found.loss < bound, "{config:?}: {found:?}");
        assert!(found.gradient > 1e-5, "{config:?} was computed in f32: {found:?}");
        let (first, _) = gradient(engine.as_mut(), &batch, 1);
        let (again, _) = gradient(engine.as_mut(), &batch, 1);
        assert!(bits(&first.values) == bits(&again.values), "{config:?}");
    }
}

#[test]
fn the_list_names_the_adapter_and_auto_passes_over_software() {
    let Some(device) = wgpu() else { return };
    let listed = trainer::device::list_devices();
    assert!(listed.contains(device.info()), "{listed:?}");
    assert!(!device.info().name.is_empty());
    let auto = trainer::device::open(&DeviceSpec::Auto).unwrap();
    assert!(!auto.info().software);
    let print = trainer::fingerprint(&device).unwrap();
    assert_ne!(print, trainer::fingerprint(&cpu()).unwrap());
    assert_eq!(print, trainer::fingerprint(&device).unwrap());
}
