//! Error messages for invalid configurations.

use configs::Config;
use insta::assert_snapshot;

const GOOD: &str = "[dataset]\nuri = \"a.csv\"\n[train]\nepochs = 2\n";

fn said(text: &str, flags: &[&str]) -> String {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    match Config::parse(text, "run.toml", &flags) {
        Ok(_) => "fine".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn each(texts: &[&str]) -> String {
    texts.iter().map(|text| said(text, &[])).collect::<Vec<_>>().join("\n")
}

fn each_flag(flags: &[&str]) -> String {
    flags.iter().map(|flag| said(GOOD, &[flag])).collect::<Vec<_>>().join("\n")
}

#[test]
fn unknown_keys_get_the_nearest_right_one() {
    assert_snapshot!(each(&[
        "[train]\nepochs = 2\nbatchsize = 3",
        "[train]\n\nlearning_rate = 0.1",
        "[optimizer]\nlr = 0.1",
        "[export]\nformat = [\"safetensors\"]",
        "[elastic]\nworkers = 3",
        "[reduce]\nqqq = 3",
        "[model]\nhiden = [3]",
        "[model]\nkind = \"mlp\"\nchannels = [3]",
        "train.epohcs = 3",
        "[checkpoint]\nuri = \"s3://bucket\"",
    ]), @r#"
    run.toml:3: unknown key train.batchsize (= 3): did you mean train.batch_size?
    run.toml:3: unknown key train.learning_rate (= 0.1): did you mean optimizer.learning_rate?
    run.toml:2: unknown key optimizer.lr (= 0.1): did you mean optimizer.learning_rate?
    run.toml:2: unknown key export.format (= ["safetensors"]): did you mean export.formats?
    run.toml:2: unknown key elastic.workers (= 3): did you mean local.workers?
    run.toml:2: unknown key reduce.qqq (= 3): keys of [reduce] are at, wire
    run.toml:2: unknown key model.hiden (= [3]): did you mean model.hidden?
    run.toml:3: unknown key model.channels (= [3]): it belongs to model.kind = "cnn"
    run.toml:1: unknown key train.epohcs (= 3): did you mean train.epochs?
    run.toml:2: checkpoint.uri = "s3://bucket": not available yet: versions are kept in the run's folder
    "#);
}

#[test]
fn sizes_of_models_must_fit_each_other() {
    let said_of = |keys: &[&str]| {
        let texts: Vec<String> = keys.iter().map(|keys| format!("{GOOD}[model]\n{keys}")).collect();
        each(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_snapshot!(said_of(&[
        "kind = \"gpt\"\nheads = 3",
        "kind = \"gpt\"\npreset = \"124M\"\nheads = 5",
        "kind = \"gpt\"\nwidth = 20\npositions = \"rotary\"",
        "kind = \"gpt\"\nwidth = 20",
        "kind = \"gpt\"\npreset = \"1M\"",
        "kind = \"gpt\"\nlabel_smoothing = 0.1",
        "kind = \"resnet\"",
        "kind = \"resnet\"\ndepth = 10",
        "kind = \"mlp\"\nlabel_smoothing = 1",
        "kind = \"mlp\"\nclass_weights = [1, \"2\"]",
        "kind = \"mlp\"\nclass_weights = [1, 0.5]",
    ]), @r#"
    run.toml:7: a width of 128 with 3 heads: the width must be a multiple of the heads
    run.toml:8: a width of 768 with 5 heads: the width must be a multiple of the heads
    run.toml:7: a width of 20 with 4 heads and model.positions = "rotary": width / heads must be even
    fine
    run.toml:7: model.preset = "1M": expected one of "0.8M", "3.3M", "124M"
    run.toml:7: unknown key model.label_smoothing (= 0.1): it belongs to model.kind = "mlp" or "cnn" or "resnet"
    run.toml:6: model.kind = "resnet" needs dataset.image_shape = [channels, height, width]
    run.toml:7: model.depth = 10: expected one of 8, 14, 18, 20
    run.toml:7: model.label_smoothing = 1.0: expected at least 0 and below 1
    run.toml:7: model.class_weights = [1, "2"]: expected a list of finite numbers, or "balanced"
    fine
    "#);
    assert_snapshot!(each(&[
        "[model]\nkind = \"resnet\"\nwidth = 12\n[dataset]\nuri = \"a\"\nimage_shape = [1, 8, 9]\n[train]\nepochs = 9",
        "[model]\nkind = \"resnet\"\n[dataset]\nuri = \"a\"\nkind = \"regression\"\n[train]\nepochs = 9",
    ]), @r#"
    run.toml:3: model.groups = 8 with a width of 12: the width must be a multiple of the groups
    run.toml:2: model.kind = "resnet" needs dataset.image_shape = [channels, height, width]
    run.toml:5: dataset.kind = "regression" with model.kind = "resnet", which is for classes of images: use "mlp"
    "#);
}

#[test]
fn unknown_sections_and_keys_outside_of_them() {
    assert_snapshot!(each(&[
        "[trian]\nepochs = 2",
        "[qqq]",
        "epochs = 3",
        "epoch = 3",
        "qqq = 3",
        "train = 3",
        "[[train]]\nepochs = 3",
    ]), @r#"
    run.toml:1: unknown section [trian]: did you mean [train]?
    run.toml:1: unknown section [qqq]: sections are run, dataset, augment, train, model, init, optimizer, schedule, elastic, reduce, checkpoint, tracker, telemetry, export, local
    run.toml:1: unknown key epochs outside of a section; did you mean train.epochs?
    run.toml:1: unknown key epoch outside of a section; did you mean train.epochs?
    run.toml:1: unknown key qqq outside of a section
    run.toml:1: train = 3: expected a section, [train]
    run.toml:1: train = [{ epochs = 3 }]: expected a section, [train]
    "#);
}

#[test]
fn wrong_values_get_what_is_allowed() {
    assert_snapshot!(each(&[
        "[train]\nepochs = \"two\"",
        "[train]\nepochs = 0",
        "[train]\nbatch_size = 5000000000",
        "[train]\nclip_norm = nan",
        "[optimizer]\nkind = \"AdamW\"",
        "[optimizer]\nkind = \"qqq\"",
        "[dataset]\ncolumns = { zip = \"text\" }",
        "[dataset]\ncolumns = 3",
        "[dataset]\ndelimiter = \", \"",
        "[dataset]\nimage_shape = [8, 8]",
        "[checkpoint]\nevery = \"often\"",
        "[checkpoint]\nkeep = 0",
        "[elastic]\nlease = 10",
        "[local]\ndevices = \"gpu\"",
        "[reduce]\nat = \"workers\"",
        "[export]\nformats = [\"onnx\"]",
        "[model]\nhidden = [0]",
        "[model]\nkind = 3",
    ]), @r#"
    run.toml:2: train.epochs = "two": expected a whole number, at least 1
    run.toml:2: train.epochs = 0: expected a whole number, at least 1
    run.toml:2: train.batch_size = 5000000000: expected a whole number from 1 to 16777216
    run.toml:2: train.clip_norm = nan: expected a finite number
    run.toml:2: optimizer.kind = "AdamW": expected one of "sgd", "adam", "adamw"; did you mean "adamw"?
    run.toml:2: optimizer.kind = "qqq": expected one of "sgd", "adam", "adamw"
    run.toml:2: dataset.columns.zip = "text": expected one of "numeric", "categorical", "ignore"
    run.toml:2: dataset.columns = 3: expected a table from names to one of "numeric", "categorical", "ignore"
    run.toml:2: dataset.delimiter = ", ": expected a single ASCII character
    run.toml:2: dataset.image_shape = [8, 8]: expected a list of 3 whole numbers, each from 1 to 65536
    run.toml:2: checkpoint.every = "often": expected a span of time ("10m"), "N steps" or "N epochs"
    run.toml:2: checkpoint.keep = 0: expected a whole number, at least 1
    run.toml:2: elastic.lease = 10: expected a span of time such as "500ms", "3s", "5m" or "2h"
    run.toml:2: local.devices = "gpu": expected "auto", or a list with commas of cpu, ndarray, wgpu[:N], vulkan[:N], cuda[:N]
    run.toml:2: reduce.at = "workers": expected "coordinator" (nothing else yet)
    run.toml:2: export.formats = ["onnx"]: expected a list of "safetensors" (nothing else yet)
    run.toml:2: model.hidden = [0]: expected a list of whole numbers, each from 1 to 1048576
    run.toml:2: model.kind = 3: expected a string, in quotes
    "#);
}

#[test]
fn what_is_no_toml_gets_its_line() {
    assert_snapshot!(each(&["[train\nepochs = 1", "[train]\nepochs = 1\nepochs = 2", "[train]\nepochs = "]), @r#"
    run.toml:1: this is no TOML: unclosed table, expected `]`
    run.toml:3: this is no TOML: duplicate key
    run.toml:2: this is no TOML: string values must be quoted, expected literal string
    "#);
}

#[test]
fn combinations_that_cannot_be() {
    assert_snapshot!(each(&[
        "",
        "[dataset]\nuri = \"a\"",
        "[dataset]\nuri = \"a\"\n[train]\nsteps = 1\nepochs = 9",
        "[dataset]\nuri = \"a\"\ntarget = \"y\"\ncolumns.y = \"ignore\"\n[train]\nepochs = 9",
        "[dataset]\nuri = \"a\"\ntarget = \"y\"\nkind = \"regression\"\n[dataset.columns]\ny = \"categorical\"\n\
         [train]\nepochs = 9",
        "[model]\nkind = \"cnn\"\n[dataset]\nuri = \"a\"\nkind = \"regression\"\n[train]\nepochs = 9",
        "[model]\nkind = \"cnn\"\nchannels = [8, 8, 8, 8]\n[dataset]\nuri = \"a\"\nimage_shape = [1, 8, 9]\n\
         [train]\nepochs = 9",
    ]), @r#"
    run.toml: the run has no length: set train.epochs or train.steps
    run.toml: dataset.uri is missing: the path of the data, such as "datasets/digits/digits.csv"
    run.toml: the run has no length: set train.epochs or train.steps
    run.toml:5: train.epochs = 9 and train.steps = 1: a run has one length, remove one of them
    run.toml:4: column "y" is dataset.target, and ignored by dataset.columns: remove one of them
    run.toml:6: the target "y" is categorical by dataset.columns, but dataset.kind = "regression": remove one of them
    run.toml:2: model.kind = "cnn" needs dataset.image_shape = [channels, height, width]
    run.toml:5: dataset.kind = "regression" with model.kind = "cnn", which is for classes of images: use "mlp"
    run.toml:6: model.channels lists 4 convolutions, each of which halves the image: 8 x 9 pixels allow at most 3
    "#);
}

#[test]
fn keys_that_the_form_of_the_data_has_no_use_for_are_refused() {
    assert_snapshot!(each_flag(&[
        "augment.flip=true",
        "dataset.labels=l",
        "dataset.resize=true",
        "dataset.format=jpeg",
        "dataset.window=0",
    ]), @r#"
    --set augment.flip=true: augment.flip is set, but dataset.format = "csv": it is for "idx" and "images", remove it
    --set dataset.labels=l: dataset.labels is set, but dataset.format = "csv": it is for "idx", remove it
    --set dataset.resize=true: dataset.resize is set, but dataset.format = "csv": it is for "images", remove it
    --set dataset.format=jpeg: dataset.format = "jpeg": expected one of "csv", "parquet", "idx", "images", "text"
    --set dataset.window=0: dataset.window = 0: expected a whole number from 1 to 1048576
    "#);
    let text = "[dataset]\nuri = \"d\"\nformat = \"text\"\ntarget = \"y\"\nimage_shape = [1, 2, 2]\n[train]\nsteps = 1";
    assert_snapshot!(said(text, &[]), @r#"
    run.toml:4: dataset.target is set, but dataset.format = "text": it is for tables, remove it
    run.toml:5: dataset.image_shape is set, but dataset.format = "text": it is for tables and images, remove it
    "#);
    let parquet = "[dataset]\nuri = \"d\"\nformat = \"parquet\"\non_bad = \"skip\"\n[train]\nsteps = 1";
    assert_snapshot!(said(parquet, &[]), @r#"run.toml:4: dataset.on_bad is set, but dataset.format = "parquet": it is for "csv", "images" and text with a dataset.tokenizer (what is bad of others is refused as a whole), remove it"#);
    let cnn = "[dataset]\nuri = \"d\"\nformat = \"idx\"\n[train]\nsteps = 1\n[model]\nkind = \"cnn\"";
    assert!(configs::Config::parse(cnn, "x", &[]).is_ok(), "images say their own shape");
}

#[test]
fn what_an_epoch_has_is_said_once() {
    assert_snapshot!(each_flag(&[
        "dataset.sampling=weighted",
        "dataset.weight_column=w",
        "dataset.shuffle=all",
        "dataset.shuffle_window=0",
    ]), @r#"
    --set dataset.sampling=weighted: dataset.sampling = "weighted" needs dataset.weight_column: the column of the weights
    --set dataset.weight_column=w: dataset.weight_column = "w" with dataset.sampling = "each": set it to "weighted", or remove the column
    --set dataset.shuffle=all: dataset.shuffle = "all": expected one of "full", "window", "none"; did you mean "full"?
    --set dataset.shuffle_window=0: dataset.shuffle_window = 0: expected a whole number, at least 1
    "#);
    let text = |keys: &str| format!("[dataset]\nuri = \"d\"\n{keys}\n[train]\nsteps = 1");
    let said = |keys: &str| said(&text(keys), &[]);
    let all = [
        "format = \"text\"\nsampling = \"balanced\"",
        "format = \"idx\"\nsampling = \"weighted\"\nweight_column = \"w\"",
        "sampling = \"balanced\"\nkind = \"regression\"",
        "sampling = \"balanced\"\nweight_column = \"w\"",
        "sampling = \"weighted\"\nweight_column = \"y\"\ntarget = \"y\"",
        "sampling = \"balanced\"\nshuffle = \"window\"",
    ];
    assert_snapshot!(all.map(said).join("\n"), @r#"
    run.toml:4: dataset.sampling = "balanced", but dataset.format = "text": a text has no labels
    run.toml:4: dataset.sampling = "weighted", but dataset.format = "idx": only tables have weights
    run.toml:4: dataset.sampling = "balanced" with dataset.kind = "regression", which has no labels
    run.toml:4: dataset.weight_column = "w" with dataset.sampling = "balanced": set it to "weighted", or remove the column
    run.toml:5: dataset.weight_column = "y" is dataset.target too: name another one
    run.toml:4: dataset.shuffle is set with dataset.sampling = "balanced": draws come from everywhere and have no order of their own, remove one of them
    "#);
}

#[test]
fn combinations_with_a_flag_name_the_flag() {
    assert_snapshot!(each_flag(&[
        "train.microbatch_size=65",
        "train.batch_size=65536000",
        "optimizer.beta1=1.0",
        "optimizer.beta2=0.99999999999",
        "optimizer.learning_rate=0",
        "optimizer.epsilon=1e-60",
        "optimizer.weight_decay=-1",
        "optimizer.momentum=-0.1",
        "schedule.final_factor=2",
        "schedule.gamma=0",
        "schedule.warmup_steps=3",
        "schedule.kind=warmup",
        "train.clip_norm=0",
        "elastic.min_workers=100",
        "elastic.lease=5ms",
        "local.workers=65",
        "local.devices=cpu,wgpu:0",
        "dataset.validation=1.0",
        "dataset.delimiter='\"'",
        "checkpoint.every=0s",
        "model.kind=cnn",
        "model.kind=",
        "model.dropout=2",
        "run.name=../elsewhere",
        "run.name=7",
    ]), @r#"
    --set train.microbatch_size=65: train.microbatch_size = 65 is more than train.batch_size = 64
    --set train.batch_size=65536000: train.batch_size = 65536000: expected a whole number from 1 to 16777216
    --set optimizer.beta1=1.0: optimizer.beta1 = 1.0: expected at least 0 and below 1, in single precision
    --set optimizer.beta2=0.99999999999: optimizer.beta2 = 0.99999999999: expected at least 0 and below 1, in single precision
    --set optimizer.learning_rate=0: optimizer.learning_rate = 0.0: expected a number above 0, in single precision
    --set optimizer.epsilon=1e-60: optimizer.epsilon = 1e-60: expected a number above 0, in single precision
    --set optimizer.weight_decay=-1: optimizer.weight_decay = -1.0: expected 0 or a number above it
    --set optimizer.momentum=-0.1: optimizer.momentum = -0.1: expected at least 0 and below 1, in single precision
    --set schedule.final_factor=2: schedule.final_factor = 2.0: expected 0 to 1
    --set schedule.gamma=0: schedule.gamma = 0.0: expected a number above 0
    --set schedule.warmup_steps=3: schedule.warmup_steps = 3 with schedule.kind = "constant": choose "warmup" or another kind
    --set schedule.kind=warmup: schedule.kind = "warmup" with schedule.warmup_steps = 0: set the steps, or choose "constant"
    --set train.clip_norm=0: train.clip_norm = 0.0: expected a number above 0
    --set elastic.min_workers=100: elastic.max_workers = 64 is less than elastic.min_workers = 100
    --set elastic.lease=5ms: elastic.lease = "5ms": expected at least "100ms"
    --set local.workers=65: local.workers = 65 is more than elastic.max_workers = 64
    --set local.devices=cpu,wgpu:0: local.devices = "cpu,wgpu:0" mixes cpu and wgpu, whose numbers differ: use one kind, or set elastic.mixed = true
    --set dataset.validation=1.0: dataset.validation = 1.0: expected a fraction, at least 0 and below 1
    --set dataset.delimiter='"': dataset.delimiter = '"': it ends a line or quotes a field
    --set checkpoint.every=0s: checkpoint.every = "0s": expected a longer span of time
    --set model.kind=cnn: model.kind = "cnn" needs dataset.image_shape = [channels, height, width]
    --set model.kind=: model.kind = "": expected "mlp", "cnn", "resnet", "gpt" or the name of a task of your own
    --set model.dropout=2: model.dropout = 2.0: expected at least 0 and below 1
    --set run.name=../elsewhere: run.name = "../elsewhere": expected the name of a folder, without / and \, no dot first, at most 200 bytes
    --set run.name=7: run.name = 7: expected a string, in quotes
    "#);
    assert_snapshot!(
        said(GOOD, &["schedule.kind=cosine", "train.steps=5", "schedule.warmup_steps=5"]),
        @r#"
    --set schedule.warmup_steps=5: schedule.warmup_steps = 5 in a run of train.steps = 5: it would never be over
    "#
    );
}

#[test]
fn wrong_flags_say_what_a_flag_is() {
    assert_snapshot!(each_flag(&[
        "train.epochs",
        "epochs=3",
        "train=3",
        "train.epochs.x=3",
        "train.epocs=2",
        "train.epochs=two",
        "dataset.columns.zip=text",
    ]), @r#"
    --set train.epochs: expected section.key=value, such as train.epochs=5
    --set epochs=3: unknown key epochs outside of a section; did you mean train.epochs?
    --set train=3: train is a section; expected section.key=value, such as train.epochs=5
    --set train.epochs.x=3: train.epochs has a value and no keys of its own; expected section.key=value, such as train.epochs=5
    --set train.epocs=2: unknown key train.epocs (= 2): did you mean train.epochs?
    --set train.epochs=two: train.epochs = "two": expected a whole number, at least 1
    --set dataset.columns.zip=text: dataset.columns.zip = "text": expected one of "numeric", "categorical", "ignore"
    "#);
}

#[test]
fn several_problems_are_reported_together_in_the_order_of_the_file_and_the_flags() {
    let text = "[train]\nepoch = 2\nbatch_size = 0\n[dataset]\nuri = 3\n[optimizer]\nkind = \"lion\"";
    assert_snapshot!(said(text, &["run.sed=3", "nonsense", "checkpoint.keep=0"]), @r#"
    run.toml:2: unknown key train.epoch (= 2): did you mean train.epochs?
    run.toml:3: train.batch_size = 0: expected a whole number from 1 to 16777216
    run.toml:5: dataset.uri = 3: expected a string, in quotes
    run.toml:7: optimizer.kind = "lion": expected one of "sgd", "adam", "adamw"
    --set run.sed=3: unknown key run.sed (= 3): did you mean run.seed?
    --set nonsense: expected section.key=value, such as train.epochs=5
    --set checkpoint.keep=0: checkpoint.keep = 0: expected a whole number, at least 1
    "#);
    let text = "[dataset]\nvalidation = 2\n[optimizer]\nbeta1 = 1";
    assert_snapshot!(said(text, &["elastic.max_workers=0x1", "elastic.min_workers=2"]), @r#"
    run.toml: the run has no length: set train.epochs or train.steps
    run.toml:1: dataset.uri is missing: the path of the data, such as "datasets/digits/digits.csv"
    run.toml:2: dataset.validation = 2.0: expected a fraction, at least 0 and below 1
    run.toml:4: optimizer.beta1 = 1.0: expected at least 0 and below 1, in single precision
    --set elastic.max_workers=0x1: local.workers = 2 is more than elastic.max_workers = 1
    --set elastic.min_workers=2: elastic.max_workers = 1 is less than elastic.min_workers = 2
    "#);
}

#[test]
fn a_long_value_is_shown_on_one_line_and_not_whole() {
    let text = format!("[train]\nepochs = \"\"\"{}\n\"\"\"", "many\n".repeat(1000));
    let message = said(&text, &[]);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.len() < 300, "{message}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |path: &std::path::Path| {
        Config::load(path, &[])
            .expect_err("refused")
            .to_string()
            .replace(&dir.path().display().to_string(), "DIR")
    };
    assert_snapshot!(refused(&dir.path().join("absent.toml")), @r#"
    DIR/absent.toml: the configuration can't be read: No such file or directory (os error 2)
    "#);
    let long = dir.path().join("long.toml");
    std::fs::write(&long, "# a table, perhaps\n".repeat(100_000)).expect("written");
    assert_snapshot!(refused(&long), @r#"
    DIR/long.toml: the configuration can't be read: it is longer than 1048576 bytes
    "#);
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0]).expect("written");
    assert_snapshot!(refused(&binary), @r#"
    DIR/binary.toml: the configuration can't be read: stream did not contain valid UTF-8
    "#);
}

#[test]
fn an_address_with_a_password_is_refused_and_not_repeated() {
    let flags = |uri: &str| said(GOOD, &[&format!("tracker.mlflow_uri={uri}")]);
    for uri in ["http://me:geheim@host:1/p", "https://geheim@host", "http://me:ge@heim@host"] {
        let message = flags(uri);
        assert!(message.contains("MLFLOW_TRACKING_PASSWORD") && !message.contains("heim"), "{message}");
    }
    for uri in ["sqlite:///mlflow.db", "http://", "http:///path", "mlruns"] {
        assert!(flags(uri).contains("expected the address of an MLflow server"), "{uri}");
    }
    let database = flags("postgresql://me:geheim@host/mlflow");
    assert!(
        database.contains("expected the address of an MLflow server") && !database.contains("geheim"),
        "{database}"
    );
    let file = said("[tracker]\nmlflow_uri = \"http://me:geheim@host\"", &[]);
    assert!(file.contains("run.toml:2") && !file.contains("geheim"), "{file}");
}

#[test]
fn what_a_run_begins_with_and_when_it_ends_early() {
    let said_of = |keys: &[&str]| {
        let texts: Vec<String> = keys.iter().map(|keys| format!("{GOOD}{keys}")).collect();
        each(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_snapshot!(said_of(&[
        "patience = 3\nmonitor = \"validation/acuracy\"",
        "patience = 3\nmin_delta = -0.1",
        "patience = 0",
        "patience = 3\nevaluate_every = 0",
        "patience = 3\nmonitor = \"validation/accuracy\"\nmin_delta = 0.001",
        "[init]\nfrom = \"\"",
        "[init]\nfrom = \"a.safetensors\"\ndigest = \"abc\"",
        "[init]\nallow_missing = [\"head.*\"]",
        "[init]\nfreeze = \"head.*\"",
        "[init]\nfreeze = [\"head.*\"]",
        "precision = \"bf16\"",
        "precision = \"fp16\"",
        "precision = 16",
    ]), @r#"
    run.toml:6: train.monitor = "validation/acuracy": expected one of validation/loss, validation/accuracy, validation/mean_absolute_error, validation/mean_squared_error; did you mean "validation/accuracy"?
    run.toml:6: train.min_delta = -0.1: expected 0 or a number above it
    run.toml:5: train.patience = 0: expected a whole number, at least 1
    run.toml:6: train.patience is set, but train.evaluate_every = 0: nothing is evaluated; set it to 1 or more
    fine
    run.toml:6: init.from is empty: name a run's folder or a .safetensors file
    run.toml:7: init.digest = "abc": expected 64 hexadecimal digits, or leave it out
    run.toml:6: init.allow_missing is set, but init.from is not: add it, or remove init.allow_missing
    run.toml:6: init.freeze = "head.*": expected a list of strings
    fine
    fine
    run.toml:5: train.precision = "fp16": expected one of "f32", "bf16", "f16"; did you mean "f16"?
    run.toml:5: train.precision = 16: expected one of "f32", "bf16", "f16"
    "#);
}

#[test]
fn addresses_of_telemetry_are_checked_and_a_password_is_not_repeated() {
    let base = "[dataset]\nuri = \"a\"\n[train]\nepochs = 1\n[telemetry]\n";
    assert_snapshot!(said(&format!("{base}metrics_listen = \"localhost\""), &[]), @r#"run.toml:6: telemetry.metrics_listen = "localhost": expected an IP address and a port, such as "127.0.0.1:9464", or "" for none"#);
    for wrong in ["localhost:4317", "http://me:hunter2@host:1", "http://host", "http://host:1/path"] {
        let message = said(&format!("{base}otlp = \"{wrong}\""), &[]);
        assert!(message.contains("http://127.0.0.1:4317") && !message.contains("hunter2"), "{message}");
    }
    for right in ["http://127.0.0.1:4317", "http://[::1]:4317/", "http://collector:4317"] {
        Config::parse(&format!("{base}otlp = \"{right}\""), "run.toml", &[]).expect(right);
    }
}
