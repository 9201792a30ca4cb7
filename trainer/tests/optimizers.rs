//! The host optimizers against torch, and their other guarantees.

use std::path::Path;

use serde::Deserialize;
use trainer::{HostOptimizer, Layout, OptimizerConfig, UpdateScalars};

const START: [f32; 8] = [0.5, -0.25, 0.125, 1.0, -1.0, 0.75, 0.0, -0.0];

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    parameters: std::collections::BTreeMap<u64, Vec<f64>>,
}

/// As in vectors/optimizers.py.
fn gradient(step: u64) -> Vec<f32> {
    (0..START.len() as u64)
        .map(|i| {
            let value = ((step * 7919 + i * 104_729) % 2001) as f64 - 1000.0;
            (value / 500.0 * [0.01, 0.1, 1.0][(i % 3) as usize]) as f32
        })
        .collect()
}

fn layout(lengths: &[usize]) -> Layout {
    let mut layout = Layout::default();
    for (number, len) in lengths.iter().enumerate() {
        layout.push(format!("p{number}"), vec![*len], false);
    }
    layout
}

fn scalars(step: u64, (beta1, beta2): (f64, f64)) -> UpdateScalars {
    let t = step as i32;
    UpdateScalars {
        learning_rate: if step <= 50 { 0.01 } else { 0.003 },
        clip_factor: if step.is_multiple_of(3) { 0.5 } else { 1.0 },
        bias_correction1: (1.0 - beta1.powi(t)) as f32,
        bias_correction2_sqrt: (1.0 - beta2.powi(t)).sqrt() as f32,
    }
}

const DEFAULT: (f64, f64) = (0.9, 0.999);
const OTHER: (f64, f64) = (0.8, 0.95);

fn config(name: &str) -> (OptimizerConfig, (f64, f64)) {
    let adam = |(beta1, beta2): (f64, f64), epsilon, weight_decay| {
        (OptimizerConfig::Adam { beta1, beta2, epsilon, weight_decay }, (beta1, beta2))
    };
    let adamw = |(beta1, beta2): (f64, f64), epsilon, weight_decay| {
        (OptimizerConfig::AdamW { beta1, beta2, epsilon, weight_decay }, (beta1, beta2))
    };
    let sgd = |momentum, weight_decay| (OptimizerConfig::Sgd { momentum, weight_decay }, DEFAULT);
    match name {
        "sgd" => sgd(0.0, 0.0),
        "sgd weight_decay" => sgd(0.0, 0.1),
        "sgd momentum" => sgd(0.9, 0.0),
        "sgd momentum weight_decay" => sgd(0.9, 0.1),
        "adam" => adam(DEFAULT, 1e-8, 0.0),
        "adam weight_decay" => adam(OTHER, 1e-6, 0.1),
        "adamw" => adamw(DEFAULT, 1e-8, 0.0),
        "adamw weight_decay" => adamw(OTHER, 1e-6, 0.1),
        other => panic!("no case {other}"),
    }
}

#[test]
fn a_hundred_steps_agree_with_torch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/optimizers.json");
    let vectors: Vectors = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(vectors.cases.len(), 8);
    for case in vectors.cases {
        let (config, betas) = config(&case.name);
        let mut optimizer = HostOptimizer::new(config, &layout(&[8])).unwrap();
        let mut parameters = START.to_vec();
        for step in 1..=100 {
            optimizer.step(&mut parameters, &gradient(step), |_| true, &scalars(step, betas));
            let Some(expected) = case.parameters.get(&step) else { continue };
            for (index, (ours, torch)) in parameters.iter().zip(expected).enumerate() {
                let error = (f64::from(*ours) - torch).abs();
                assert!(error < 1e-6, "{} step {step} [{index}]: {ours} against {torch}", case.name);
            }
        }
    }
}

const KINDS: [&str; 8] = [
    "sgd",
    "sgd weight_decay",
    "sgd momentum",
    "sgd momentum weight_decay",
    "adam",
    "adam weight_decay",
    "adamw",
    "adamw weight_decay",
];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Pseudorandom values of both signs.
fn noise(length: usize, stream: u32) -> Vec<f32> {
    let mut state = stream;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

#[test]
fn a_parameter_without_a_gradient_is_left_alone_and_the_others_are_not() {
    // Lengths with boundaries inside, at and beyond pieces and blocks.
    let lengths = [3, 4093, 5000, 61_000, 1, 70_000];
    let layout = layout(&lengths);
    for name in KINDS {
        let (config, betas) = config(name);
        for absent in 0..lengths.len() {
            let mut optimizer = HostOptimizer::new(config, &layout).unwrap();
            let mut parameters = noise(layout.elements, 7);
            let gradient = noise(layout.elements, 8);
            optimizer.step(&mut parameters, &gradient, |_| true, &scalars(1, betas));
            let (mut other_parameters, mut other) = (parameters.clone(), optimizer.clone());
            let (before, moments) = (parameters.clone(), optimizer.moments().to_vec());

            optimizer.step(&mut parameters, &gradient, |number| number != absent, &scalars(2, betas));
            other.step(&mut other_parameters, &gradient, |_| true, &scalars(2, betas));

            for (number, parameter) in layout.parameters.iter().enumerate() {
                let range = parameter.offset..parameter.offset + parameter.len;
                let untouched = number == absent;
                let expected = if untouched { &before } else { &other_parameters };
                assert_eq!(
                    bits(&parameters[range.clone()]),
                    bits(&expected[range.clone()]),
                    "{name} {number}"
                );
                let all = optimizer.moments().iter().zip(&moments).zip(other.moments());
                for ((now, then), full) in all {
                    let expected = if untouched { then } else { full };
                    assert_eq!(
                        bits(&now.values[range.clone()]),
                        bits(&expected.values[range.clone()]),
                        "{name}"
                    );
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // Enough for three threads and a short last block; runs of present parameters cross the threads' parts.
    let lengths = [1_000_000, 700_000, 5, 1_500_000, 123];
    let layout = layout(&lengths);
    let gradient = noise(layout.elements, 8);
    for name in ["sgd", "sgd momentum", "adamw weight_decay"] {
        let (config, betas) = config(name);
        let run = |threads| {
            let mut optimizer = HostOptimizer::new(config, &layout).unwrap().with_threads(threads);
            let mut parameters = noise(layout.elements, 7);
            let checks = [1, 2].map(|step| {
                optimizer.step(
                    &mut parameters,
                    &gradient,
                    |number| number != step,
                    &scalars(step as u64, betas),
                )
            });
            assert_eq!(checks[1], optimizer.state_check(&parameters), "{name}, {threads} threads");
            let moments: Vec<_> = optimizer.moments().iter().map(|moment| bits(&moment.values)).collect();
            (bits(&parameters), moments, checks)
        };
        let of_one = run(1);
        for threads in [2, 3, 64] {
            assert!(run(threads) == of_one, "{name}, {threads} threads");
        }
    }
}

#[test]
fn parameters_of_one_dimension_can_be_spared_the_decay() {
    let mut layout = Layout::default();
    for (name, shape) in [("a", vec![2, 3]), ("b", vec![3]), ("c", vec![1]), ("d", vec![1, 2, 2, 1])] {
        layout.push(name.to_owned(), shape, false);
    }
    let all = |weight_decay| {
        let (beta1, beta2) = DEFAULT;
        [
            OptimizerConfig::Sgd { momentum: 0.0, weight_decay },
            OptimizerConfig::Sgd { momentum: 0.9, weight_decay },
            OptimizerConfig::Adam { beta1, beta2, epsilon: 1e-8, weight_decay },
            OptimizerConfig::AdamW { beta1, beta2, epsilon: 1e-8, weight_decay },
        ]
    };
    let run = |config, decay_1d| {
        let mut optimizer = HostOptimizer::new(config, &layout).unwrap().with_decay_1d(decay_1d);
        let mut parameters = noise(layout.elements, 1);
        for step in 1..=5 {
            let gradient = noise(layout.elements, 10 + step as u32);
            optimizer.step(&mut parameters, &gradient, |_| true, &scalars(step, DEFAULT));
        }
        bits(&parameters)
    };
    for (config, undecayed) in all(0.1).into_iter().zip(all(0.0)) {
        let (spared, decayed, none) = (run(config, false), run(config, true), run(undecayed, true));
        let expected = [&decayed[..6], &none[6..10], &decayed[10..]].concat();
        assert!(spared == expected, "{config:?}");
        assert!(decayed[6..10] != none[6..10], "{config:?}");
    }
}

#[test]
fn the_first_momentum_is_the_gradient_bit_for_bit() {
    let (config, betas) = config("sgd momentum");
    let mut optimizer = HostOptimizer::new(config, &layout(&[2, 2])).unwrap();
    let mut parameters = vec![1.0; 4];
    let gradient = [-0.0, 3.0, -0.0, 5.0];
    optimizer.step(&mut parameters, &gradient, |number| number == 0, &scalars(1, betas));
    assert_eq!(bits(&optimizer.moments()[0].values[..2]), bits(&[-0.0, 3.0]));
    // The second parameter's first gradient comes later, and is copied too.
    optimizer.step(&mut parameters, &gradient, |number| number == 1, &scalars(2, betas));
    assert_eq!(bits(&optimizer.moments()[0].values), bits(&[-0.0, 3.0, -0.0, 5.0]));
}

#[test]
fn the_check_of_the_pass_is_the_check_of_the_state() {
    for length in [1, 4095, 4096, 65_535, 65_536, 65_537, 140_000] {
        let layout = layout(&[length]);
        for name in KINDS {
            let (config, betas) = config(name);
            let mut optimizer = HostOptimizer::new(config, &layout).unwrap();
            let mut parameters = noise(length, 3);
            let before = optimizer.state_check(&parameters);
            let check = optimizer.step(&mut parameters, &noise(length, 4), |_| true, &scalars(1, betas));
            assert_ne!(check, before, "{name} {length}");
            assert_eq!(check, optimizer.state_check(&parameters), "{name} {length}");
        }
    }
}

#[test]
fn one_flipped_bit_anywhere_changes_the_check() {
    let layout = layout(&[140_000]);
    let (config, betas) = config("adamw");
    let mut optimizer = HostOptimizer::new(config, &layout).unwrap();
    let mut parameters = noise(layout.elements, 3);
    let check = optimizer.step(&mut parameters, &noise(layout.elements, 4), |_| true, &scalars(1, betas));
    let flip = |value: f32| f32::from_bits(value.to_bits() ^ 1);
    for place in [0, 4095, 4096, 65_535, 65_536, 131_072, 139_999] {
        parameters[place] = flip(parameters[place]);
        assert_ne!(optimizer.state_check(&parameters), check, "parameter {place}");
        parameters[place] = flip(parameters[place]);
        for moment in 0..2 {
            let value = optimizer.moments()[moment].values[place];
            optimizer.moments_mut()[moment].values[place] = flip(value);
            assert_ne!(optimizer.state_check(&parameters), check, "moment {moment} {place}");
            optimizer.moments_mut()[moment].values[place] = value;
        }
    }
    assert_eq!(optimizer.state_check(&parameters), check);
}

#[test]
fn the_place_in_the_buffer_never_shows_in_the_bits() {
    // Vector code handles a slice's tail element by element: an element must get the same result at any position.
    let (config, betas) = config("adamw weight_decay");
    let (start, gradient) = (noise(37, 5), noise(37, 6));
    let run = |from: usize| {
        let layout = layout(&[37 - from]);
        let mut optimizer = HostOptimizer::new(config, &layout).unwrap();
        let mut parameters = start[from..].to_vec();
        for step in 1..20 {
            optimizer.step(&mut parameters, &gradient[from..], |_| true, &scalars(step, betas));
        }
        parameters
    };
    let whole = run(0);
    for from in 1..37 {
        assert_eq!(bits(&run(from)), bits(&whole[from..]), "from {from}");
    }
}

#[test]
fn constants_that_cannot_work_are_refused_by_name() {
    let wrong = [
        (OptimizerConfig::Sgd { momentum: 1.0, weight_decay: 0.0 }, "optimizer.momentum = 1"),
        (OptimizerConfig::Sgd { momentum: 0.9, weight_decay: -1.0 }, "optimizer.weight_decay = -1"),
        (
            OptimizerConfig::Adam { beta1: 0.9, beta2: 1.5, epsilon: 1e-8, weight_decay: 0.0 },
            "optimizer.beta2 = 1.5",
        ),
        (
            OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.9, epsilon: 0.0, weight_decay: 0.0 },
            "optimizer.epsilon = 0",
        ),
    ];
    for (config, part) in wrong {
        let message = HostOptimizer::new(config, &layout(&[1])).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_configurations_section_is_taken_as_it_stands() {
    let section = configs::Optimizer {
        kind: configs::OptimizerKind::Sgd,
        momentum: 0.5,
        weight_decay: 0.25,
        ..configs::Optimizer::default()
    };
    let expected = OptimizerConfig::Sgd { momentum: 0.5, weight_decay: 0.25 };
    assert_eq!(OptimizerConfig::from(&section), expected);
    let adamw = OptimizerConfig::from(&configs::Optimizer::default());
    let expected = OptimizerConfig::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    assert_eq!(adamw, expected);
}

/// Like a worker that begins a new run: the bits are those of a fresh one.
#[test]
fn a_reset_optimizer_is_a_new_one() {
    for name in KINDS {
        let (config, betas) = config(name);
        let layout = layout(&[3, 5]);
        let steps = |optimizer: &mut HostOptimizer| {
            let mut parameters = START;
            for step in 1..=4 {
                optimizer.step(&mut parameters, &gradient(step), |_| true, &scalars(step, betas));
            }
            (parameters.map(f32::to_bits), optimizer.state_check(&parameters))
        };
        let mut optimizer = HostOptimizer::new(config, &layout).expect("constants of torch's");
        let first = steps(&mut optimizer);
        optimizer.reset();
        assert_eq!(steps(&mut optimizer), first, "{name}");
    }
}
