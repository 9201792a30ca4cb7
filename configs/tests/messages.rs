//! What people are told about a wrong configuration, and what round-trips.

use configs::{Config, difference};
use proptest::prelude::*;

const GOOD: &str = "[dataset]\nuri = \"a.csv\"\n[train]\nepochs = 2\n";

fn said(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    match Config::parse(text, "run.toml", &overrides) {
        Ok(_) => "fine".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn wrong_files_get_key_value_line_and_the_way_out() {
    let cases = [
        (
            "[train]\nepochs = 2\nbatchsize = 3\n[dataset]\nuri=\"a\"",
            "run.toml:3: unknown key train.batchsize (= 3): did you mean train.batch_size?",
        ),
        ("[trian]\nepochs = 2", "run.toml:1: unknown section [trian]: did you mean [train]?"),
        (
            "[train]\nepochs = \"two\"\n[dataset]\nuri=\"a\"",
            "run.toml:2: train.epochs = \"two\": expected a whole number, at least 1",
        ),
        (
            "[train]\nlearning_rate = 0.1\nepochs = 1\n[dataset]\nuri=\"a\"",
            "run.toml:2: unknown key train.learning_rate (= 0.1): did you mean optimizer.learning_rate?",
        ),
        ("epochs = 3", "run.toml:1: unknown key epochs outside of a section; did you mean train.epochs?"),
        ("[dataset]\nuri = \"a\"", "run.toml: the run has no length: set train.epochs or train.steps"),
        (
            "[dataset]\nuri = \"a\"\n[train]\nepochs = 1\nsteps = 9",
            "run.toml:5: train.epochs = 1 and train.steps = 9: a run has one length, remove one of them",
        ),
        (
            "[train]\nepochs = 1",
            "run.toml: dataset.uri is missing: the path of the data, such as \"datasets/digits/digits.csv\"",
        ),
        (
            "[optimizer]\nkind = \"adamax\"",
            "run.toml:2: optimizer.kind = \"adamax\": expected one of \"sgd\", \"adam\", \"adamw\"",
        ),
        (
            "[checkpoint]\nevery = \"often\"",
            "run.toml:2: checkpoint.every = \"often\": expected a span of time (\"10m\"), \"N steps\" or \"N epochs\"",
        ),
        (
            "[model]\nkind = \"mlp\"\nhiden = [3]",
            "run.toml:3: unknown key model.hiden (= [3]): did you mean model.hidden?",
        ),
        (
            "[reduce]\nat = \"workers\"",
            "run.toml:2: reduce.at = \"workers\": expected \"coordinator\" (nothing else yet)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(said(text, &[]), expected);
    }
    let broken = said("[train\nepochs = 1", &[]);
    assert!(broken.starts_with("run.toml:1: "), "{broken}");
}

#[test]
fn impossible_combinations_are_refused() {
    let cases = [
        ("train.microbatch_size=65", "train.microbatch_size = 65 is more than train.batch_size = 64"),
        ("optimizer.beta1=1.0", "optimizer.beta1 = 1: expected at least 0 and below 1"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate = 0: expected a number above 0"),
        ("elastic.min_workers=100", "elastic.max_workers = 64 is less than elastic.min_workers = 100"),
        ("local.workers=65", "local.workers = 65 is more than elastic.max_workers = 64"),
        ("dataset.validation=1.0", "expected a fraction"),
        ("schedule.warmup_steps=3", "choose \"warmup\""),
        ("model.kind=cnn", "needs dataset.image_shape"),
        ("model.dropout=1.5", "below 1"),
        ("checkpoint.keep=0", "at least 1"),
        ("train.epochs=two", "--set train.epochs=two: train.epochs = \"two\": expected a whole number"),
        ("train.epocs=2", "--set train.epocs=2: unknown key train.epocs (= 2): did you mean train.epochs?"),
        ("train.epochs", "expected section.key=value"),
    ];
    for (setting, expected) in cases {
        let message = said(GOOD, &[setting]);
        assert!(message.contains(expected), "{setting}: {message}");
    }
}

#[test]
fn several_problems_are_reported_together() {
    let message = said("[train]\nepoch = 2\nbatch_size = 0\n[dataset]\nuri = 3\n", &[]);
    assert_eq!(message.lines().count(), 3, "{message}");
}

#[test]
fn overrides_are_toml_and_else_strings() {
    let read = |settings: &[&str]| {
        Config::parse(GOOD, "x", &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).expect("fine")
    };
    let config =
        read(&["run.name=my run", "run.seed=7", "model.hidden=[1, 2]", "dataset.columns.zip=categorical"]);
    assert_eq!((config.run.name.as_deref(), config.run.seed), (Some("my run"), 7));
    assert_eq!(config.model.keys["hidden"].as_array().map(Vec::len), Some(2));
    assert_eq!(config.dataset.columns["zip"], configs::ColumnKind::Categorical);
}

#[test]
fn keys_of_a_task_of_ones_own_pass_through() {
    assert_eq!(said(GOOD, &["model.kind=mine", "model.anything=3"]), "fine");
}

#[test]
fn the_digest_is_of_what_changes_the_weights() {
    let read = |settings: &[&str]| {
        Config::parse(GOOD, "x", &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).expect("fine")
    };
    let base = read(&[]);
    for operational in
        ["local.workers=1", "checkpoint.every=9m", "run.name=b", "train.epochs=9", "train.microbatch_size=8"]
    {
        assert_eq!(read(&[operational]).digest(), base.digest(), "{operational}");
    }
    for trajectory in [
        "run.seed=1",
        "train.batch_size=32",
        "optimizer.beta1=0.8",
        "model.hidden=[9]",
        "dataset.split_seed=3",
    ] {
        assert_ne!(read(&[trajectory]).digest(), base.digest(), "{trajectory}");
    }
    let (short, long) = (read(&["schedule.kind=cosine"]), read(&["schedule.kind=cosine", "train.epochs=9"]));
    assert_eq!(difference(&short, &long), ["train.epochs: 2 in the run, now 9"]);
}

#[test]
fn the_presets_are_good() {
    for preset in ["digits", "csv"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{preset}.toml"));
        let resolved = Config::load(&path, &[]).expect("a good preset");
        assert_eq!(resolved.stem, preset);
        assert_eq!(resolved.config.run.name, None, "unnamed, so that each start makes a new run");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = Config::parse(&text, "x", &[]);
    }

    #[test]
    fn any_mutation_of_a_preset_is_read_or_refused(at in 0usize..700, with in "[\\x00-\\x7f]") {
        let text = include_str!("../digits.toml");
        let at = at.min(text.len());
        let mutated = format!("{}{with}{}", &text[..at], &text[(at + 1).min(text.len())..]);
        let _ = Config::parse(&mutated, "x", &[]);
    }

    #[test]
    fn the_resolved_form_is_the_same_configuration(
        seed: u32, batch in 1u32..500, validation in 0.0..0.99f64, workers in 0u32..64, name in "[a-zA-Z0-9 \"'\\\\-]{1,12}",
    ) {
        let settings = [
            format!("run.seed={seed}"), format!("train.batch_size={batch}"), format!("dataset.validation={validation}"),
            format!("local.workers={workers}"),
        ];
        let mut config = Config::parse(GOOD, "x", &settings).expect("fine");
        config.run.name = Some(name);
        let again = Config::parse(&config.to_toml(), "x", &[]).expect("fine again");
        prop_assert_eq!(again.digest(), config.digest());
        prop_assert_eq!(again, config);
    }
}
