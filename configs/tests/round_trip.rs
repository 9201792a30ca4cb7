//! Parsing, serialisation, and frozen keys.

use configs::{ColumnKind, Config, difference};
use proptest::prelude::*;

const GOOD: &str = "[dataset]\nuri = \"a.csv\"\n[train]\nepochs = 2\n";

fn read_text(text: &str, flags: &[&str]) -> Config {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Config::parse(text, "x", &flags).expect("right")
}

fn read(flags: &[&str]) -> Config {
    read_text(GOOD, flags)
}

#[test]
fn flags_are_toml_and_else_strings() {
    let config = read(&[
        "run.name=my run",
        "run.seed=7",
        "model.hidden=[1, 2]",
        "dataset.columns.zip=categorical",
        "dataset.columns.\"a.b\"=ignore",
        "dataset.columns.my column=numeric",
        "run.seed=8",
    ]);
    assert_eq!((config.run.name.as_deref(), config.run.seed), (Some("my run"), 8));
    assert_eq!(config.model.keys["hidden"].as_array().map(Vec::len), Some(2));
    let columns =
        [("a.b", ColumnKind::Ignore), ("my column", ColumnKind::Numeric), ("zip", ColumnKind::Categorical)];
    assert_eq!(config.dataset.columns, columns.map(|(name, kind)| (name.to_owned(), kind)).into());
}

#[test]
fn a_length_that_is_set_by_a_flag_replaces_the_one_of_the_file() {
    let length = |flags: &[&str]| {
        let train = read(flags).train;
        (train.epochs, train.steps)
    };
    assert_eq!(length(&[]), (Some(2), None));
    assert_eq!(length(&["train.steps=7"]), (None, Some(7)));
    assert_eq!(length(&["train.epochs=7"]), (Some(7), None));
    let both = ["train.epochs=7".to_owned(), "train.steps=7".to_owned()];
    assert!(Config::parse(GOOD, "x", &both).is_err());
}

#[test]
fn keys_of_a_task_of_ones_own_pass_through() {
    let config = read(&["model.kind=mine", "model.dropout=7", "model.head.units=3"]);
    assert_eq!(config.model.keys["dropout"].as_integer(), Some(7));
    assert_eq!(config.model.keys["head"]["units"].as_integer(), Some(3));
    assert_eq!(Config::parse(&config.to_toml(), "x", &[]), Ok(config));
}

#[test]
fn the_digest_is_of_what_changes_the_weights() {
    let base = read(&[]);
    for same in [
        "local.workers=1",
        "checkpoint.every=9m",
        "run.name=b",
        "train.epochs=9",
        "train.steps=9",
        "train.microbatch_size=8",
        "dataset.uri=moved.csv",
        "elastic.lease=3s",
        "model.kind=mlp",
        "model.hidden=[128]",
        "model.dropout=0",
    ] {
        assert_eq!(read(&[same]).digest(), base.digest(), "{same}");
        assert_eq!(difference(&base, &read(&[same])), [""; 0], "{same}");
    }
    for other in [
        "run.seed=1",
        "train.batch_size=32",
        "train.microbatch_size=9",
        "train.clip_norm=1",
        "train.on_nan=skip",
        "optimizer.kind=adam",
        "optimizer.beta1=0.8",
        "schedule.kind=cosine",
        "model.hidden=[9]",
        "model.kind=mine",
        "dataset.split_seed=3",
        "dataset.target=y",
        "dataset.columns.a=ignore",
    ] {
        assert_ne!(read(&[other]).digest(), base.digest(), "{other}");
        assert_ne!(difference(&base, &read(&[other])), [""; 0], "{other}");
    }
}

#[test]
fn what_differs_is_told_with_both_values() {
    let (short, long) = (read(&["schedule.kind=cosine"]), read(&["schedule.kind=cosine", "train.epochs=9"]));
    let expected = "train.epochs: 2 in the run, now 9 (a cosine schedule depends on the length)";
    assert_eq!(difference(&short, &long), [expected]);
    assert_eq!(
        difference(&read(&["train.clip_norm=1"]), &read(&["run.seed=7"])),
        ["run.seed: 42 in the run, now 7", "train.clip_norm: 1.0 in the run, now not set"]
    );
}

#[test]
fn the_order_of_keys_does_not_matter() {
    let model = |keys: &str| format!("{GOOD}[model]\nkind = \"mine\"\n{keys}");
    let one = read_text(&model("a = 1\nhead = { b = [{ x = 1, y = 2 }], c = 3 }"), &[]);
    let other = read_text(&model("head = { c = 3, b = [{ y = 2, x = 1 }] }\na = 1"), &[]);
    assert_eq!(one.digest(), other.digest());
}

#[test]
fn the_presets_are_good() {
    for preset in ["digits", "csv"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{preset}.toml"));
        let resolved = Config::load(&path, &[]).expect("a good preset");
        assert_eq!(resolved.stem, preset);
        assert_eq!(resolved.path, path);
        assert_eq!(resolved.config.run.name, None, "unnamed, so that each start makes a new run");
        assert_eq!(resolved.config.local.workers, 2);
    }
    let csv = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/csv.toml")).expect("the preset");
    assert_eq!(csv.lines().filter(|line| line.contains("# >>>")).count(), 3, "three lines to change");
}

/// A flag that sets a key to a valid value.
fn right_flag() -> impl Strategy<Value = String> {
    let name = "[a-zA-Z0-9 \"'_-][a-zA-Z0-9 .\"'_-]{0,12}";
    let as_key = |name: String| {
        let table = toml::Table::from_iter([(name, toml::Value::Integer(1))]).to_string();
        table.trim_end().trim_end_matches("= 1").to_owned()
    };
    let quoted = |text: String| toml::Value::String(text).to_string();
    prop_oneof![
        (0..=i64::MAX).prop_map(|seed| format!("run.seed={seed}")),
        name.prop_map(move |name| format!("run.name={}", quoted(name))),
        (".{1,20}").prop_map(move |uri| format!("dataset.uri={}", quoted(uri))),
        (".{0,20}").prop_map(move |column| format!("dataset.columns.{}=numeric", as_key(column))),
        (0.0..1.0f64).prop_map(|part| format!("dataset.validation={part}")),
        "[;|\t ]".prop_map(move |delimiter| format!("dataset.delimiter={}", quoted(delimiter))),
        Just("dataset.image_shape=[3, 8, 8]".to_owned()),
        (1u64..9).prop_map(|steps| format!("train.steps={steps}")),
        (100u32..=1 << 24).prop_map(|batch| format!("train.batch_size={batch}")),
        (1u32..=64).prop_map(|microbatch| format!("train.microbatch_size={microbatch}")),
        (1e-6..1e6f64).prop_map(|clip| format!("train.clip_norm={clip}")),
        (1e-6..10.0f64).prop_map(|rate| format!("optimizer.learning_rate={rate}")),
        "(sgd|adam|adamw)".prop_map(|kind| format!("optimizer.kind={kind}")),
        "(cosine|step)".prop_map(|kind| format!("schedule.kind={kind}")),
        (100u64..100_000_000).prop_map(|ms| format!("elastic.lease={ms}ms")),
        "[1-9][0-9]{0,4}( steps| epochs|s|m|h)".prop_map(|every| format!("checkpoint.every={every}")),
        (0u32..=64).prop_map(|workers| format!("local.workers={workers}")),
        (0.0..1.0f64).prop_map(|part| format!("model.dropout={part}")),
        proptest::collection::vec(1u32..=1 << 20, 0..4).prop_map(|widths| format!("model.hidden={widths:?}")),
    ]
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}", flag in "(?s).{0,40}") {
        let _ = Config::parse(&text, "x", &[]);
        let _ = Config::parse(GOOD, "x", &[flag]);
    }

    #[test]
    fn anything_that_looks_like_keys_is_read_or_refused(
        text in "(\\[{0,2}(train|model|dataset|x)\\]{0,2}\n|(kind|epochs|columns|a\\.b|\"\") ?= ?(1|\"mlp\"|\\{a=1\\}|\\[\\]|nan|-9223372036854775808|1979-05-27)\n){0,8}",
        flags in proptest::collection::vec("(train|model|dataset|x)?\\.?(kind|epochs|columns)(\\.a)?=?(1|cnn|\\{\\}|\\[\\])?", 0..4),
    ) {
        if let Err(error) = Config::parse(&text, "x", &flags) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn any_mutation_of_a_preset_is_read_or_refused(at in 0usize..800, with in "[\\x00-\\x7f]{0,2}") {
        let text = include_str!("../digits.toml");
        let at = at.min(text.len());
        let mutated = format!("{}{with}{}", &text[..at], &text[(at + 1).min(text.len())..]);
        let _ = Config::parse(&mutated, "x", &[]);
    }

    #[test]
    fn the_resolved_form_is_the_same_configuration(flags in proptest::collection::vec(right_flag(), 0..12)) {
        let config = Config::parse(GOOD, "x", &flags);
        prop_assert!(config.is_ok(), "{}", config.unwrap_err());
        let config = config.expect("right");
        let again = Config::parse(&config.to_toml(), "x", &[]).expect("right again");
        prop_assert_eq!(again.digest(), config.digest());
        prop_assert_eq!(difference(&config, &again), [""; 0]);
        prop_assert_eq!(again, config);
    }
}
