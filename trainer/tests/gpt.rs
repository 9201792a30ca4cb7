//! Properties of the language model other than its numbers: causality, determinism, initial values, errors.

mod support;

use serde_json::json;
use support::{batch, bits, build, config, cpu, gradient, noise, parameters, table, text, tokens};
use trainer::{Engine, HostBatch, HostData, Registry, Target};

const WINDOW: usize = 9;
const VOCABULARY: usize = 11;

fn small(keys: &serde_json::Value) -> Box<dyn Engine> {
    let mut engine = build(&config("gpt", keys), &text(WINDOW, VOCABULARY), &cpu());
    let values: Vec<f32> = noise(engine.layout().elements, 3).iter().map(|x| 0.5 * x).collect();
    engine.write_parameters(&values).unwrap();
    engine
}

fn of(tokens: Vec<i64>, count: usize) -> HostBatch {
    let mut batch = HostBatch::empty(&text(WINDOW, VOCABULARY));
    batch.x.shape[1] = tokens.len() / count;
    batch.x.data = HostData::I64(tokens);
    batch.set_count(count);
    batch.y = Target::Unknown;
    batch
}

#[test]
fn a_later_token_changes_no_earlier_output() {
    for positions in ["learned", "rotary"] {
        let mut engine = small(&json!({ "layers": 2, "heads": 2, "width": 8, "positions": positions }));
        let text = tokens(WINDOW, VOCABULARY, 1);
        let before = engine.predict(&of(text.clone(), 1)).unwrap();
        for changed in 0..WINDOW {
            let mut other = text.clone();
            other[changed] = (other[changed] + 1) % VOCABULARY as i64;
            let after = engine.predict(&of(other, 1)).unwrap();
            let cut = changed * VOCABULARY;
            assert!(
                bits(&before[..cut]) == bits(&after[..cut]),
                "{positions}: {changed} is seen before it comes"
            );
            for row in changed..WINDOW {
                let row = row * VOCABULARY..(row + 1) * VOCABULARY;
                assert!(
                    bits(&before[row.clone()]) != bits(&after[row]),
                    "{positions}: {changed} is not seen"
                );
            }
        }
    }
}

#[test]
fn samples_and_shorter_windows_do_not_change_each_other() {
    let mut engine = small(&json!({ "layers": 2, "heads": 2, "width": 8 }));
    let text = tokens(2 * WINDOW, VOCABULARY, 1);
    let both = engine.predict(&of(text.clone(), 2)).unwrap();
    let second = engine.predict(&of(text[WINDOW..].to_vec(), 1)).unwrap();
    let start = engine.predict(&of(text[WINDOW..WINDOW + 4].to_vec(), 1)).unwrap();
    // Other sizes have other summation orders.
    let is_close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(is_close(&both[WINDOW * VOCABULARY..], &second));
    assert!(start.len() == 4 * VOCABULARY && is_close(&second[..start.len()], &start));
}

#[test]
fn positions_matter() {
    for positions in ["learned", "rotary"] {
        let mut engine = small(&json!({ "layers": 1, "heads": 2, "width": 8, "positions": positions }));
        let at = |engine: &mut dyn Engine, text: [i64; 3]| {
            engine.predict(&of(text.to_vec(), 1)).unwrap()[2 * VOCABULARY..].to_vec()
        };
        let (one, other) = (at(engine.as_mut(), [1, 2, 3]), at(engine.as_mut(), [2, 1, 3]));
        assert!(one.iter().zip(&other).any(|(a, b)| (a - b).abs() > 1e-3), "{positions}");
    }
}

#[test]
fn a_gradient_is_a_function_of_parameters_samples_and_key() {
    let data = text(WINDOW, VOCABULARY);
    for keys in [
        json!({ "layers": 2, "heads": 4, "width": 64 }),
        json!({ "layers": 2, "heads": 4, "width": 64, "dropout": 0.3, "positions": "rotary", "tied": false }),
    ] {
        let run = |key| {
            let mut engine = build(&config("gpt", &keys), &data, &cpu());
            engine.initialise(5).unwrap();
            let (flat, sums) = gradient(engine.as_mut(), &batch(&data, 6, 3), key);
            (bits(&flat.values), sums)
        };
        let first = run(1);
        assert!(first == run(1));
        assert!((first == run(2)) == keys.get("dropout").is_none(), "only dropout knows the key");
    }
}

#[test]
fn sums_count_tokens() {
    let data = text(WINDOW, VOCABULARY);
    let mut engine = small(&json!({ "layers": 1, "heads": 1, "width": 4 }));
    let batch = batch(&data, 6, 3);
    let Target::Tokens(targets) = &batch.y else { panic!("tokens") };
    let logits = engine.predict(&batch).unwrap();
    let is_hit = |(row, target): (&[f32], &i64)| row.iter().all(|x| *x <= row[*target as usize]);
    let hits = logits.chunks(VOCABULARY).zip(targets).filter(|pair| is_hit(*pair)).count();
    let sums = engine.evaluate(&batch).unwrap();
    assert_eq!(sums[1..], [54.0, hits as f64]);
    assert!(hits > 0);
    let (_, training) = gradient(engine.as_mut(), &batch, 1);
    assert!((training[0] - sums[0]).abs() < 1e-4 * sums[0]);
    assert_eq!(training[1..], sums[1..]);
}

#[test]
fn first_values_are_those_of_gpt_2() {
    let mut engine =
        build(&config("gpt", &json!({ "preset": "0.8M", "tied": false })), &text(64, 65), &cpu());
    engine.initialise(1).unwrap();
    let values = parameters(engine.as_mut());
    for parameter in &engine.layout().parameters {
        let region = &values[parameter.offset..parameter.offset + parameter.len];
        let name = parameter.name.as_str();
        if name.ends_with("gamma") {
            assert!(region.iter().all(|x| *x == 1.0), "{name}");
        } else if name.ends_with("beta") || name.ends_with("bias") {
            assert!(region.iter().all(|x| *x == 0.0), "{name}");
        } else {
            let is_residual = name.contains("projection") || name.contains("contract");
            let expected = if is_residual { 0.02 / 8f64.sqrt() } else { 0.02 };
            let squares: f64 = region.iter().map(|x| f64::from(*x).powi(2)).sum();
            let deviation = (squares / region.len() as f64).sqrt();
            assert!((deviation / expected - 1.0).abs() < 0.05, "{name}: {deviation}");
        }
    }
    // Logits near 0: all tokens are about equally likely.
    let sums = engine.evaluate(&batch(&text(64, 65), 2, 3)).unwrap();
    assert!((sums[0] / sums[1] - 65f64.ln()).abs() < 0.1);
}

#[test]
fn presets_have_the_parameters_that_they_are_called_after() {
    let count = |preset: &str, window, vocabulary| {
        let engine = build(&config("gpt", &json!({ "preset": preset })), &text(window, vocabulary), &cpu());
        engine.layout().elements
    };
    assert_eq!(count("0.8M", 64, 65), 809_856);
    assert_eq!(count("3.3M", 256, 256), 3_290_624);
    // GPT-2 small with its own vocabulary and window.
    assert_eq!(count("124M", 1024, 50_257), 124_439_808);
}

#[test]
fn configurations_and_data_that_do_not_fit_are_refused() {
    let good = text(WINDOW, VOCABULARY);
    let all = [
        ("gpt", json!({ "heads": 3 }), good.clone(), "multiple of the heads"),
        ("gpt", json!({ "layers": 0 }), good.clone(), "model.layers = 0"),
        ("gpt", json!({ "width": 12, "heads": 4, "positions": "rotary" }), good.clone(), "must be even"),
        ("gpt", json!({ "positions": "sinusoidal" }), good.clone(), "sinusoidal"),
        ("gpt", json!({ "preset": "1M" }), good.clone(), "1M"),
        ("gpt", json!({ "dropout": 1.0 }), good.clone(), "model.dropout = 1"),
        ("gpt", json!({ "layer": 1 }), good.clone(), "layer"),
        ("gpt", json!({}), table(4, 3), "next token"),
        ("gpt", json!({}), text(0, 5), "window of 0"),
        ("gpt", json!({}), text(5, 1), "1 tokens"),
        ("mlp", json!({}), good.clone(), "model.kind = \"gpt\""),
        ("cnn", json!({}), good, "model.kind = \"gpt\""),
    ];
    for (kind, keys, data, part) in all {
        let built = Registry::builtin().build(kind, &config(kind, &keys), &data, &cpu());
        let message = built.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{kind} {keys}: {message:?} has no {part:?}");
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let mut engine = small(&json!({ "layers": 1, "heads": 1, "width": 4 }));
    let good = batch(&text(WINDOW, VOCABULARY), 2, 1);
    let wrong = |change: fn(&mut HostBatch)| {
        let mut batch = good.clone();
        change(&mut batch);
        batch
    };
    let all = [
        (wrong(|b| b.x.data = HostData::F32(vec![0.0; 18])), "f32 inputs"),
        (wrong(|b| b.x.data = HostData::I64(vec![0; 17])), "17 tokens for 2 samples"),
        (wrong(|b| b.x.data = HostData::I64(vec![0; 20])), "a window of 1 to 9"),
        (wrong(|b| b.x.data = HostData::I64(vec![])), "0 tokens"),
        (wrong(|b| b.x.data = HostData::I64(vec![11; 18])), "token 11 is outside"),
        (wrong(|b| b.y = Target::Tokens(vec![-1; 18])), "token -1 is outside"),
        (wrong(|b| b.y = Target::Tokens(vec![0; 17])), "17 target tokens for 18"),
        (wrong(|b| b.y = Target::Labels(vec![0; 18])), "no target tokens"),
        (wrong(|b| b.y = Target::Unknown), "no target tokens"),
    ];
    for (batch, part) in all {
        let message = engine.evaluate(&batch).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} has no {part:?}");
    }
}
