//! Bitwise reproducibility of initialisation, dropout and gradients. A separate process: burn's generator is global.

mod support;

use serde_json::json;
use support::{batch, bits, build, classes, config, cpu, gradient, parameters, table, text};
use trainer::{DataSpec, DeviceSpec};

#[test]
fn initialisation_depends_on_the_seed_alone_and_not_on_the_device() {
    let data = DataSpec::new(vec![1, 8, 8], classes(10));
    let config = config("cnn", &json!({}));
    let first = |device, seed| {
        let mut engine = build(&config, &data, &device);
        engine.initialise(seed).unwrap();
        parameters(engine.as_mut())
    };
    let ndarray = || trainer::device::open(&DeviceSpec::NdArray).unwrap();
    let seven = first(cpu(), 7);
    assert!(bits(&seven) == bits(&first(cpu(), 7)));
    assert!(bits(&seven) == bits(&first(ndarray(), 7)));
    assert!(bits(&seven) != bits(&first(cpu(), 8)));
    assert!(seven.iter().any(|x| *x != seven[0]));
}

/// Initial values are determined by the seed: they must not change inadvertently between versions of Bonfire or burn.
#[test]
fn initial_values_have_not_changed() {
    let mut engine = build(&config("mlp", &json!({ "hidden": [3] })), &table(2, 2), &cpu());
    engine.initialise(42).unwrap();
    let values = parameters(engine.as_mut());
    let digest = trainer::tensors::model_digest(engine.layout(), &values);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "88ed6ee3ba5ccbc937d8bca8510ebb30028e33f0b7701e339456731108786eee");
}

#[test]
fn dropout_depends_on_the_key_alone() {
    let data = table(16, 4);
    let mut engine = build(&config("mlp", &json!({ "hidden": [32, 32], "dropout": 0.5 })), &data, &cpu());
    engine.initialise(1).unwrap();
    let batch = batch(&data, 8, 3);
    let (first, sums) = gradient(engine.as_mut(), &batch, 17);
    let (other, _) = gradient(engine.as_mut(), &batch, 18);
    engine.evaluate(&batch).unwrap();
    let (again, sums_again) = gradient(engine.as_mut(), &batch, 17);
    assert!(bits(&first.values) == bits(&again.values));
    assert_eq!(sums, sums_again);
    assert!(bits(&first.values) != bits(&other.values));
}

#[test]
fn without_dropout_the_key_does_not_matter_and_the_bits_repeat() {
    let data = DataSpec::new(vec![1, 8, 8], classes(10));
    let config = config("cnn", &json!({}));
    let run = |key| {
        let mut engine = build(&config, &data, &cpu());
        engine.initialise(1).unwrap();
        let (flat, sums) = gradient(engine.as_mut(), &batch(&data, 32, 3), key);
        (bits(&flat.values), sums)
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn parameters_survive_the_device_bit_for_bit() {
    let mut engine = build(&config("mlp", &json!({ "hidden": [3] })), &table(2, 2), &cpu());
    let mut values = support::noise(engine.layout().elements, 1);
    values[0] = -0.0;
    values[1] = f32::MIN_POSITIVE / 4.0;
    engine.write_parameters(&values).unwrap();
    assert!(bits(&parameters(engine.as_mut())) == bits(&values));
}

#[test]
fn the_fingerprint_repeats_and_tells_backends_apart() {
    let cpu_print = trainer::fingerprint(&cpu()).unwrap();
    assert_eq!(cpu_print, trainer::fingerprint(&cpu()).unwrap());
    let ndarray = trainer::device::open(&DeviceSpec::NdArray).unwrap();
    assert_ne!(cpu_print, trainer::fingerprint(&ndarray).unwrap());
}

const CHILD: &str = "BONFIRE_TEST_PRINT_BITS";

/// Prints the fingerprint and the hashes of two gradients when run by [`threads_do_not_show_in_the_bits`].
#[test]
fn print_bits() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let data = DataSpec::new(vec![1, 16, 16], classes(10));
    let mut engine = build(&config("cnn", &json!({ "dropout": 0.2 })), &data, &cpu());
    engine.initialise(1).unwrap();
    let (flat, _) = gradient(engine.as_mut(), &batch(&data, 64, 3), 5);
    let digest = trainer::tensors::model_digest(engine.layout(), &flat.values);
    let data = text(64, 65);
    let mut engine = build(&config("gpt", &json!({ "layers": 2, "dropout": 0.2 })), &data, &cpu());
    engine.initialise(1).unwrap();
    let (flat, _) = gradient(engine.as_mut(), &batch(&data, 12, 3), 5);
    let of_text = trainer::tensors::model_digest(engine.layout(), &flat.values);
    println!("bits {:?} {digest:?} {of_text:?}", trainer::fingerprint(&cpu()).unwrap());
}

#[test]
fn threads_do_not_show_in_the_bits() {
    let run = |threads: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "print_bits", "--nocapture"])
            .env(CHILD, "1")
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let from = text.find("bits [").unwrap_or_else(|| panic!("no bits in {text}"));
        text[from..].lines().next().unwrap().to_owned()
    };
    let one = run("1");
    assert_eq!(one, run("1"));
    assert_eq!(one, run("2"));
    assert_eq!(one, run("3"));
}
