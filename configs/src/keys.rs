//! The one list of keys: what may stand in a configuration. KEYS.md is made from it, and tests hold it against the
//! types.

/// What a value may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    Path,
    Flag,
    /// A whole number of at least this.
    Count(u64),
    Number,
    Texts,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// A list of so many whole numbers.
    Counts(usize),
    /// A list of whole numbers of any length.
    CountList,
    /// A table of column name -> kind.
    Columns,
    Character,
    /// "3s"
    Span,
    /// "1 epochs"
    Every,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// Its default, as TOML; empty if it has none.
    pub default: &'static str,
    /// Whether it changes the weights: such keys are frozen for a run.
    pub trajectory: bool,
    /// What it means.
    pub meaning: &'static str,
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    trajectory: bool,
    meaning: &'static str,
) -> Key {
    Key { path, kind, default, trajectory, meaning }
}

const T: bool = true;
const O: bool = false;

/// All keys, in the order of the sections.
pub const KEYS: &[Key] = &[
    key(
        "run.name",
        Kind::Text,
        "",
        O,
        "Name of the run; without it the file's stem and the next free number",
    ),
    key("run.dir", Kind::Path, "\"runs\"", O, "Folder in which runs are kept"),
    key("run.seed", Kind::Count(0), "42", T, "Seed of initial weights, order of samples and dropout"),
    key(
        "dataset.uri",
        Kind::Text,
        "\"\"",
        T,
        "Path of the data, relative to the working directory, then to the configuration",
    ),
    key("dataset.format", Kind::Word(&["csv"]), "\"csv\"", T, "Form of the data"),
    key("dataset.name", Kind::Text, "", O, "Name for people; without it the file's stem"),
    key("dataset.target", Kind::Text, "", T, "Column that is predicted; without it the last one"),
    key(
        "dataset.kind",
        Kind::Word(&["classification", "regression"]),
        "",
        T,
        "What the target is; without it classification if it has few distinct values or is text",
    ),
    key(
        "dataset.columns",
        Kind::Columns,
        "{}",
        T,
        "Kinds of columns that are not what they seem: \"numeric\", \"categorical\" or \"ignore\"",
    ),
    key("dataset.delimiter", Kind::Character, "\",\"", T, "Character between fields"),
    key(
        "dataset.header",
        Kind::Flag,
        "true",
        T,
        "Whether the first line names the columns; without it they are c0, c1, ...",
    ),
    key(
        "dataset.missing",
        Kind::Texts,
        "[\"\", \"NA\", \"NaN\", \"nan\", \"null\", \"?\"]",
        T,
        "Fields that mean a missing value",
    ),
    key("dataset.validation", Kind::Number, "0.2", T, "Fraction of the rows that is held out"),
    key("dataset.split_seed", Kind::Count(0), "0", T, "Seed of the split"),
    key(
        "dataset.normalise",
        Kind::Word(&["standard", "minmax", "none"]),
        "\"standard\"",
        T,
        "Scaling of numeric columns, from the training split alone",
    ),
    key(
        "dataset.image_shape",
        Kind::Counts(3),
        "",
        T,
        "[channels, height, width] of the features, for models of images",
    ),
    key("train.epochs", Kind::Count(1), "", T, "Length of the run in epochs (or train.steps)"),
    key("train.steps", Kind::Count(1), "", T, "Length of the run in steps (or train.epochs)"),
    key("train.batch_size", Kind::Count(1), "64", T, "Samples of a step, over all workers"),
    key(
        "train.microbatch_size",
        Kind::Count(1),
        "",
        T,
        "Samples whose gradient is computed at once; without it an eighth of the batch. Fewer need less memory; choose about as many microbatches as workers are expected, since many small ones cost a small dense net a factor",
    ),
    key("train.clip_norm", Kind::Number, "", T, "Bound on the norm of the mean gradient"),
    key(
        "train.on_nan",
        Kind::Word(&["stop", "skip"]),
        "\"stop\"",
        T,
        "What happens at a step whose loss or gradient is not finite",
    ),
    key("train.evaluate_every", Kind::Count(0), "1", O, "Epochs between evaluations; 0 for none"),
    key("model.kind", Kind::Text, "\"mlp\"", T, "The task: mlp, cnn, or one of your own"),
    key("optimizer.kind", Kind::Word(&["sgd", "adam", "adamw"]), "\"adamw\"", T, "The optimizer"),
    key("optimizer.learning_rate", Kind::Number, "0.001", T, "Learning rate, before the schedule"),
    key("optimizer.momentum", Kind::Number, "0.9", T, "Momentum of sgd"),
    key("optimizer.beta1", Kind::Number, "0.9", T, "Decay of Adam's first moment"),
    key("optimizer.beta2", Kind::Number, "0.999", T, "Decay of Adam's second moment"),
    key("optimizer.epsilon", Kind::Number, "1e-8", T, "Added to the root of Adam's second moment"),
    key(
        "optimizer.weight_decay",
        Kind::Number,
        "0.01",
        T,
        "Decoupled in adamw, added to the gradient in sgd and adam",
    ),
    key(
        "schedule.kind",
        Kind::Word(&["constant", "warmup", "cosine", "step"]),
        "\"constant\"",
        T,
        "How the learning rate changes",
    ),
    key("schedule.warmup_steps", Kind::Count(0), "0", T, "Steps of linear warm-up (not for constant)"),
    key("schedule.final_factor", Kind::Number, "0.0", T, "Fraction of the learning rate at the end (cosine)"),
    key("schedule.step_every", Kind::Count(1), "1000", T, "Steps between two multiplications (step)"),
    key("schedule.gamma", Kind::Number, "0.1", T, "Factor of a multiplication (step)"),
    key("elastic.min_workers", Kind::Count(1), "1", O, "Fewest workers that a run has"),
    key("elastic.max_workers", Kind::Count(1), "64", O, "Most workers that a run has"),
    key("elastic.lease", Kind::Span, "\"10s\"", O, "A worker that says nothing for so long is lost"),
    key(
        "elastic.mixed",
        Kind::Flag,
        "false",
        O,
        "Admit workers whose numerics differ; bit-exactness is then not claimed",
    ),
    key("reduce.at", Kind::Word(&["coordinator"]), "\"coordinator\"", O, "Who sums the gradients"),
    key("reduce.wire", Kind::Word(&["f32"]), "\"f32\"", T, "Form of gradients on the network"),
    key(
        "checkpoint.every",
        Kind::Every,
        "\"1 epochs\"",
        O,
        "How often a version is written: a span of time, \"N steps\" or \"N epochs\"",
    ),
    key("checkpoint.keep", Kind::Count(1), "3", O, "Newest versions that are kept, beside the best"),
    key(
        "checkpoint.best",
        Kind::Text,
        "\"validation/loss\"",
        O,
        "Metric of the best version: the lowest loss or error, the highest of anything else",
    ),
    key("tracker.sinks", Kind::Words(&["embedded"]), "[\"embedded\"]", O, "Where metrics go"),
    key(
        "export.formats",
        Kind::Words(&["safetensors"]),
        "[\"safetensors\"]",
        O,
        "Exports at the end; [] for none",
    ),
    key("local.workers", Kind::Count(0), "2", O, "Workers that the coordinator starts on its own machine"),
    key(
        "local.devices",
        Kind::Text,
        "\"auto\"",
        O,
        "Their devices: auto (GPUs if there are any, else the CPU), or a list such as \"wgpu:0, wgpu:1\"",
    ),
    key(
        "local.worker_binary",
        Kind::Path,
        "",
        O,
        "The worker program; without it `worker` beside the coordinator",
    ),
];

/// Keys of `[model]` for the kinds that are built in: (kind, key, what it may be, default, meaning).
pub const MODEL_KEYS: &[(&str, &str, Kind, &str, &str)] = &[
    ("mlp", "hidden", Kind::CountList, "[128]", "Widths of the hidden layers"),
    ("mlp", "activation", Kind::Word(&["relu", "gelu", "tanh"]), "\"relu\"", "Between the layers"),
    ("mlp", "dropout", Kind::Number, "0.0", "Probability that an activation is dropped in training"),
    (
        "cnn",
        "channels",
        Kind::CountList,
        "[16, 32]",
        "Channels of the convolutions (3x3, each followed by 2x2 max pooling)",
    ),
    ("cnn", "hidden", Kind::Count(1), "64", "Width of the dense layer after them"),
    (
        "cnn",
        "dropout",
        Kind::Number,
        "0.0",
        "Probability that an activation of the dense layer is dropped in training",
    ),
];

impl Kind {
    /// What is allowed, in words.
    #[must_use]
    pub fn allowed(self) -> String {
        let listed = |words: &[&str]| words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ");
        match self {
            Self::Text => "a string".to_owned(),
            Self::Word(words) if words.len() == 1 => format!("{} (nothing else yet)", listed(words)),
            Self::Word(words) => format!("one of {}", listed(words)),
            Self::Path => "a path, as a string".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Count(least) => format!("a whole number, at least {least}"),
            Self::Number => "a number".to_owned(),
            Self::Texts => "a list of strings".to_owned(),
            Self::Words(words) => format!("a list of {} (nothing else yet)", listed(words)),
            Self::Counts(length) => format!("a list of {length} whole numbers"),
            Self::CountList => "a list of whole numbers, each at least 1".to_owned(),
            Self::Columns => {
                "a table such as { age = \"numeric\", zip = \"categorical\", id = \"ignore\" }".to_owned()
            }
            Self::Character => "a single character".to_owned(),
            Self::Span => "a span of time such as \"500ms\", \"3s\", \"5m\"".to_owned(),
            Self::Every => "a span of time (\"10m\"), \"N steps\" or \"N epochs\"".to_owned(),
        }
    }

    /// Whether a value is allowed.
    #[must_use]
    pub fn admits(self, value: &toml::Value) -> bool {
        use toml::Value as V;
        let whole =
            |v: &V, least: u64| v.as_integer().is_some_and(|i| u64::try_from(i).is_ok_and(|u| u >= least));
        match self {
            Self::Text | Self::Path => value.is_str(),
            Self::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Flag => value.is_bool(),
            Self::Count(least) => whole(value, least),
            Self::Number => value.is_integer() || value.as_float().is_some_and(f64::is_finite),
            Self::Texts => value.as_array().is_some_and(|list| list.iter().all(V::is_str)),
            Self::Words(words) => value.as_array().is_some_and(|list| {
                list.iter().all(|v| v.as_str().is_some_and(|word| words.contains(&word)))
            }),
            Self::Counts(length) => {
                value.as_array().is_some_and(|list| list.len() == length && list.iter().all(|v| whole(v, 1)))
            }
            Self::CountList => value.as_array().is_some_and(|list| list.iter().all(|v| whole(v, 1))),
            Self::Columns => value.as_table().is_some_and(|table| {
                table.values().all(|v| matches!(v.as_str(), Some("numeric" | "categorical" | "ignore")))
            }),
            Self::Character => {
                value.as_str().is_some_and(|text| text.chars().count() == 1 && text.is_ascii())
            }
            Self::Span => value.as_str().is_some_and(|text| text.parse::<crate::Span>().is_ok()),
            Self::Every => value.as_str().is_some_and(|text| text.parse::<crate::Every>().is_ok()),
        }
    }
}

/// The page of all keys, KEYS.md.
#[must_use]
pub fn page() -> String {
    let mut text = String::from(
        "# Keys of a configuration\n\n\
         A run's trajectory keys change its weights: they are frozen when it starts, and `--resume` refuses others.\n\
         Operational keys may change from start to start. `--set section.key=value` overrides any of them.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (own, name) = key.path.split_once('.').unwrap_or((key.path, ""));
        if own != section {
            section = own;
            text.push_str(&format!(
                "\n## [{own}]\n\n| key | value | default | | meaning |\n| --- | --- | --- | --- | --- |\n"
            ));
        }
        let role = if key.trajectory { "trajectory" } else { "operational" };
        text.push_str(&row(name, key.kind, key.default, role, key.meaning));
        if key.path == "model.kind" {
            for (kind, name, value, default, meaning) in MODEL_KEYS {
                text.push_str(&row(name, *value, default, role, &format!("({kind}) {meaning}")));
            }
        }
    }
    text
}

fn row(name: &str, kind: Kind, default: &str, role: &str, meaning: &str) -> String {
    let default = if default.is_empty() { "-".to_owned() } else { format!("`{default}`") };
    format!("| `{name}` | {} | {default} | {role} | {meaning} |\n", kind.allowed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    /// A configuration in which every key has a value.
    fn full() -> toml::Table {
        let sample = |key: &Key| match key.path {
            "train.steps" | "train.microbatch_size" | "train.epochs" => "4".to_owned(),
            "train.clip_norm" => "1.0".to_owned(),
            "dataset.image_shape" => "[1, 8, 8]".to_owned(),
            "dataset.kind" => "\"regression\"".to_owned(),
            _ if key.default.is_empty() => "\"x\"".to_owned(),
            _ => key.default.to_owned(),
        };
        KEYS.iter().fold(toml::Table::new(), |mut table, key| {
            let (section, name) = key.path.split_once('.').expect("section.key");
            let value: toml::Table = format!("v = {}", sample(key)).parse().expect("TOML");
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            section.as_table_mut().expect("a table").insert(name.to_owned(), value["v"].clone());
            table
        })
    }

    #[test]
    fn every_key_of_the_list_is_one_of_the_types_and_admits_its_default() {
        full().try_into::<Config>().expect("each key of the list is a field");
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            let table: toml::Table = format!("v = {}", key.default).parse().expect("TOML");
            assert!(key.kind.admits(&table["v"]), "{}", key.path);
        }
    }

    #[test]
    fn every_field_of_the_types_is_in_the_list_with_its_default() {
        let typed: Config = full().try_into().expect("a configuration");
        let listed = |path: &str| KEYS.iter().find(|key| key.path == path);
        for (section, keys) in toml::Table::try_from(&typed).expect("a table") {
            for name in keys.as_table().expect("sections only").keys() {
                assert!(
                    listed(&format!("{section}.{name}")).is_some(),
                    "{section}.{name} is not in the list"
                );
            }
        }
        for (section, keys) in toml::Table::try_from(Config::default()).expect("a table") {
            for (name, value) in keys.as_table().expect("sections only") {
                let key = listed(&format!("{section}.{name}")).expect("listed");
                let default: toml::Table = format!("v = {}", key.default).parse().expect("TOML");
                assert_eq!(default["v"], *value, "default of {section}.{name}");
            }
        }
    }

    #[test]
    fn the_page_is_the_list() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/KEYS.md");
        if std::env::var_os("BONFIRE_WRITE_PAGES").is_some() {
            std::fs::write(path, page()).expect("written");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "configs/KEYS.md is not the list of keys: run this test with BONFIRE_WRITE_PAGES=1"
        );
    }
}
