//! The list of all configuration keys. KEYS.md below is generated from it, and tests check it against the types.
//!
#![doc = include_str!("../KEYS.md")]

pub use crate::kind::{ANY, Kind};

/// Whether a run may change a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Affects the weights: frozen when the run starts.
    Trajectory,
    /// The run's length: frozen only if the schedule depends on it.
    Length,
    /// May change whenever the run is started.
    Operational,
}

/// A configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// Allowed values.
    pub kind: Kind,
    /// Default value as TOML; empty if there is none.
    pub default: &'static str,
    /// Whether it is frozen for a run.
    pub role: Role,
    /// Description for KEYS.md.
    pub meaning: &'static str,
}

/// A key of `[model]` for a built-in model. All of them are trajectory keys.
#[derive(Clone, Copy, Debug)]
pub struct ModelKey {
    /// Value of `model.kind` that the key belongs to.
    pub model: &'static str,
    /// Name within `[model]`.
    pub name: &'static str,
    /// Allowed values.
    pub kind: Kind,
    /// Default value as TOML.
    pub default: &'static str,
    /// Description for KEYS.md.
    pub meaning: &'static str,
}

/// Maximum samples per step: far more than fit in memory, few enough that no sum overflows.
const SAMPLES_MAX: u64 = 1 << 24;
/// Maximum workers: as many as a message between coordinator and worker may list.
const WORKERS_MAX: u64 = 4_096;
/// Maximum units of a layer: two such layers exceed any memory.
const WIDTH_MAX: u64 = 1 << 20;
/// Maximum layers: more than any published model has.
const LAYERS_MAX: u64 = 1 << 10;
/// Maximum channels, height or width of an image: their product fits in 64 bits.
const SIDE_MAX: u64 = 1 << 16;
/// Maximum megabytes of a cache or budget: in bytes, it fits in 64 bits.
const CACHE_MB_MAX: u64 = 1 << 24;
/// Maximum tokens of a window: more than any attention spans.
const WINDOW_MAX: u64 = 1 << 20;

const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    role: Role,
    meaning: &'static str,
) -> Key {
    Key { path, kind, default, role, meaning }
}

const fn model(
    model: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> ModelKey {
    ModelKey { model, name, kind, default, meaning }
}

const T: Role = Role::Trajectory;
const L: Role = Role::Length;
const O: Role = Role::Operational;

/// Reserved keys without an effect yet: rejected with a description of the present behaviour.
pub const RESERVED: &[(&str, &str)] = &[
    ("checkpoint.uri", "not available yet: versions are kept in the run's folder"),
    ("elastic.digest_every", "not available yet: replicas are compared at every step"),
];

/// All keys, ordered by section.
pub const KEYS: &[Key] = &[
    key(
        "run.name",
        Kind::Text,
        "",
        O,
        "Name of the run and of its folder; without it the file's stem and the next free number",
    ),
    key(
        "run.dir",
        Kind::Path,
        "\"runs\"",
        O,
        "Folder in which runs are kept, relative to the working directory",
    ),
    key("run.seed", Kind::Count(0, ANY), "42", T, "Seed of initial weights, order of samples and dropout"),
    key(
        "dataset.uri",
        Kind::Text,
        "\"\"",
        O,
        "Path of the data, which must be set, relative to the working directory, then to the configuration. It may move: what counts on resume is its digest",
    ),
    key(
        "dataset.format",
        Kind::Word(&["csv", "parquet", "idx", "images", "text"]),
        "\"csv\"",
        T,
        "Form of the data: a table (csv, parquet), a file of images and one of labels as MNIST has them (idx, gzipped or not), a folder with a folder of PNG and JPEG files for each class (images), or a file or folder of .txt files whose bytes, or the tokens of dataset.tokenizer, are predicted one after another (text)",
    ),
    key("dataset.name", Kind::Text, "", O, "Name for people; without it the file's stem"),
    key(
        "dataset.target",
        Kind::Text,
        "",
        T,
        "Column that is predicted; without it the last one that is not ignored",
    ),
    key(
        "dataset.kind",
        Kind::Word(&["classification", "regression"]),
        "",
        T,
        "What the target is; without it classification if it has few distinct values or is text",
    ),
    key(
        "dataset.columns",
        Kind::Table(&["numeric", "categorical", "ignore"]),
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
    key(
        "dataset.validation",
        Kind::Number,
        "0.2",
        T,
        "Fraction of the rows that is held out, at least 0 and below 1; of a text its end",
    ),
    key("dataset.split_seed", Kind::Count(0, ANY), "0", T, "Seed of the split"),
    key(
        "dataset.normalise",
        Kind::Word(&["standard", "minmax", "none"]),
        "\"standard\"",
        T,
        "Scaling of numeric columns, or of the channels of images, whose pixels are 0 to 1 without it; from the training split alone",
    ),
    key(
        "dataset.image_shape",
        Kind::Counts(3, SIDE_MAX),
        "",
        T,
        "[channels, height, width] of the features, for models of images. A folder of images has that of its first one without it, with three channels if any has colour",
    ),
    key(
        "dataset.labels",
        Kind::Text,
        "",
        T,
        "File of the labels of idx images, relative to their folder; without it the one with the usual name",
    ),
    key(
        "dataset.resize",
        Kind::Flag,
        "false",
        T,
        "Whether images of another size are scaled to dataset.image_shape; without it they are refused",
    ),
    key(
        "dataset.cache_mb",
        Kind::Count(0, CACHE_MB_MAX),
        "512",
        O,
        "Megabytes of memory in which a folder of images may be kept decoded; one that needs more is decoded as it is read",
    ),
    key(
        "dataset.memory_mb",
        Kind::Count(1, CACHE_MB_MAX),
        "4096",
        O,
        "Megabytes of memory that reading the data may take in each process: what is kept of them, and what decoding a file takes on the way. What needs more is refused before it is read, with what it needs. The default is half of a machine with 8 GB",
    ),
    key(
        "dataset.window",
        Kind::Count(1, WINDOW_MAX),
        "128",
        T,
        "Tokens of a sample of text; the windows don't overlap",
    ),
    key(
        "dataset.tokenizer",
        Kind::Path,
        "",
        O,
        "Tokenizer's JSON file for text, relative to the working directory, then to the configuration; without it tokens are bytes. It may move: what counts on resume is its digest. Text must be UTF-8 then; a file that isn't is refused, or left out by dataset.on_bad = \"skip\"",
    ),
    key(
        "dataset.shuffle",
        Kind::Word(&["full", "window", "none"]),
        "\"full\"",
        T,
        "Order of an epoch's samples: any order of all, anew in each epoch (full); pieces of dataset.shuffle_window consecutive samples in any order, each in any order within itself, so that data larger than memory are read piece by piece, but data that are sorted give batches of one kind (window); or as they are stored (none). Each sample comes once an epoch with all three",
    ),
    key(
        "dataset.shuffle_window",
        Kind::Count(1, ANY),
        "65536",
        T,
        "Consecutive samples of a piece, for dataset.shuffle = \"window\"",
    ),
    key(
        "dataset.sampling",
        Kind::Word(&["each", "balanced", "weighted"]),
        "\"each\"",
        T,
        "What an epoch has: each sample once (each), or as many draws with replacement, each label as likely as another (balanced) or each row by its weight (weighted). Then some samples come twice and some not at all in an epoch; each draw comes once, the same for any number of workers. Evaluation has each sample once in any case",
    ),
    key(
        "dataset.weight_column",
        Kind::Text,
        "",
        T,
        "Column of a table that says how often a row is drawn, for dataset.sampling = \"weighted\": numbers from 0, twice as often for twice the number. It is no feature",
    ),
    key(
        "dataset.on_bad",
        Kind::Word(&["stop", "skip"]),
        "\"stop\"",
        T,
        "What happens to images that can't be decoded or (without dataset.resize) have another size, and to rows of a csv file with too many or too few fields: refuse the data, or leave them out. Which are left out is decided when the run starts, and a resume that finds others is refused",
    ),
    key(
        "augment.shift",
        Kind::Count(0, SIDE_MAX),
        "0",
        T,
        "Images of training are moved by up to so many pixels in each direction; what comes in is black. Anew in each epoch, by run.seed, as the other two",
    ),
    key("augment.flip", Kind::Flag, "false", T, "Whether half of the images are mirrored, left to right"),
    key(
        "augment.crop",
        Kind::Count(0, SIDE_MAX),
        "0",
        T,
        "Images are continued by so many pixels, mirrored at their edges, and a window of their own size is cut out somewhere",
    ),
    key(
        "train.epochs",
        Kind::Count(1, ANY),
        "",
        L,
        "Length of the run in epochs; either this or train.steps",
    ),
    key("train.steps", Kind::Count(1, ANY), "", L, "Length of the run in steps; either this or train.epochs"),
    key("train.batch_size", Kind::Count(1, SAMPLES_MAX), "64", T, "Samples of a step, over all workers"),
    key(
        "train.microbatch_size",
        Kind::Count(1, SAMPLES_MAX),
        "",
        T,
        "Samples whose gradient is computed at once; without it an eighth of the batch. Fewer need less memory; choose about as many microbatches as workers are expected, since many small ones cost a small dense net a factor",
    ),
    key("train.clip_norm", Kind::Number, "", T, "Bound on the norm of the mean gradient; without it none"),
    key(
        "train.on_nan",
        Kind::Word(&["stop", "skip"]),
        "\"stop\"",
        T,
        "What happens at a step whose loss or gradient is not finite",
    ),
    key("train.evaluate_every", Kind::Count(0, ANY), "1", O, "Epochs between evaluations; 0 for none"),
    key(
        "train.patience",
        Kind::Count(1, ANY),
        "",
        O,
        "The run ends early when so many evaluations in a row have not improved train.monitor; without it never. The best version is kept, and run.json names it (final.best_step)",
    ),
    key(
        "train.monitor",
        Kind::Text,
        "\"validation/loss\"",
        O,
        "Metric of train.patience: validation/loss, validation/accuracy, validation/mean_absolute_error or validation/mean_squared_error; lower is better but for the accuracy",
    ),
    key(
        "train.min_delta",
        Kind::Number,
        "0.0",
        O,
        "What counts as an improvement for train.patience: to be better than the best by more than this, at least 0",
    ),
    key(
        "train.precision",
        Kind::Word(&["f32", "bf16", "f16"]),
        "\"f32\"",
        T,
        "What forward and backward are computed in, where the worker's device has it. Weights, gradients between members, the optimizer, losses, sums and evaluations are f32 in any case",
    ),
    key("model.kind", Kind::Text, "\"mlp\"", T, "The task: mlp, cnn, resnet, gpt, or one of your own"),
    key(
        "init.from",
        Kind::Text,
        "",
        O,
        "Whose parameters the model begins with, by their names: a .safetensors file, or a run's folder, RUN_DIR@STEP for a version other than its newest. Relative to the working directory, then to the configuration. It may move: what counts on resume is its digest",
    ),
    key(
        "init.digest",
        Kind::Text,
        "",
        T,
        "BLAKE3 of the file that init.from names, in hexadecimal; filled in when the run starts, and refused where the file's is another",
    ),
    key(
        "init.allow_missing",
        Kind::Texts,
        "[]",
        T,
        "Names of tensors, with * for any characters, that the file may lack, have in another shape, or have beyond the model's: such parameters keep their first values. All others must fit",
    ),
    key(
        "init.freeze",
        Kind::Texts,
        "[]",
        T,
        "Names of parameters, with * for any characters, that stay as they are: no gradient, which the norm for train.clip_norm doesn't count then, no update, no decay",
    ),
    key("optimizer.kind", Kind::Word(&["sgd", "adam", "adamw"]), "\"adamw\"", T, "The optimizer"),
    key("optimizer.learning_rate", Kind::Number, "0.001", T, "Learning rate, before the schedule"),
    key("optimizer.momentum", Kind::Number, "0.9", T, "Momentum of sgd, at least 0 and below 1"),
    key("optimizer.beta1", Kind::Number, "0.9", T, "Decay of Adam's first moment, at least 0 and below 1"),
    key("optimizer.beta2", Kind::Number, "0.999", T, "Decay of Adam's second moment, at least 0 and below 1"),
    key("optimizer.epsilon", Kind::Number, "1e-8", T, "Added to the root of Adam's second moment"),
    key(
        "optimizer.weight_decay",
        Kind::Number,
        "0.01",
        T,
        "Decoupled in adamw, added to the gradient in sgd and adam",
    ),
    key(
        "optimizer.decay_1d",
        Kind::Flag,
        "true",
        T,
        "Whether the weight decay falls on parameters of one dimension too, which are biases and normalisations; GPT-2 is trained without",
    ),
    key(
        "schedule.kind",
        Kind::Word(&["constant", "warmup", "cosine", "step"]),
        "\"constant\"",
        T,
        "How the learning rate changes",
    ),
    key("schedule.warmup_steps", Kind::Count(0, ANY), "0", T, "Steps of linear warm-up (not for constant)"),
    key(
        "schedule.final_factor",
        Kind::Number,
        "0.0",
        T,
        "Fraction of the learning rate at the end, 0 to 1 (cosine)",
    ),
    key("schedule.step_every", Kind::Count(1, ANY), "1000", T, "Steps between two multiplications (step)"),
    key("schedule.gamma", Kind::Number, "0.1", T, "Factor of a multiplication (step)"),
    key("elastic.min_workers", Kind::Count(1, WORKERS_MAX), "1", O, "Fewest workers that a run has"),
    key("elastic.max_workers", Kind::Count(1, WORKERS_MAX), "64", O, "Most workers that a run has"),
    key(
        "elastic.lease",
        Kind::Span,
        "\"10s\"",
        O,
        "A worker that says nothing for so long is lost; at least \"100ms\"",
    ),
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
    key("checkpoint.keep", Kind::Count(1, ANY), "3", O, "Newest versions that are kept, beside the best"),
    key(
        "checkpoint.best",
        Kind::Text,
        "\"validation/loss\"",
        O,
        "Metric of the best version: the lowest loss or error, the highest of anything else",
    ),
    key(
        "checkpoint.sign",
        Kind::Path,
        "",
        O,
        "Private key (ed25519, PEM) that signs each version's manifest, relative to the working directory, then to this file",
    ),
    key(
        "checkpoint.verify_key",
        Kind::Path,
        "",
        O,
        "File of public keys: a resume and init.from take only what one of them signed",
    ),
    key(
        "tracker.sinks",
        Kind::Words(&["embedded", "mlflow", "wandb", "tensorboard"]),
        "[\"embedded\"]",
        O,
        "Where metrics go, beside the run's folder: an MLflow server, offline files for `wandb sync`, event files for TensorBoard",
    ),
    key(
        "tracker.mlflow_uri",
        Kind::Text,
        "",
        O,
        "Address of the MLflow server, http or https; without it MLFLOW_TRACKING_URI. Who may write there is said by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    key(
        "tracker.mlflow_experiment",
        Kind::Text,
        "",
        O,
        "Experiment that the run is put into; without it MLFLOW_EXPERIMENT_NAME, else the file's stem",
    ),
    key(
        "tracker.wandb_project",
        Kind::Text,
        "",
        O,
        "Project that the offline files name; without it WANDB_PROJECT, else the file's stem",
    ),
    key(
        "tracker.listen",
        Kind::Text,
        "\"127.0.0.1:0\"",
        O,
        "Address of the tracker while the run goes on, if embedded is among the sinks: port 0 for a free one, empty for \
         none; off this machine under TLS, and a token is asked for",
    ),
    key(
        "tracker.git_diff",
        Kind::Flag,
        "true",
        O,
        "Whether changes to tracked files of the git checkout that the run is started in are kept as git.diff",
    ),
    key(
        "tracker.system_every",
        Kind::Span,
        "\"10s\"",
        O,
        "How often CPU, memory, network and GPU of the run's machines go to system.jsonl; \"0s\" for never",
    ),
    key(
        "telemetry.metrics_listen",
        Kind::Text,
        "\"\"",
        O,
        "Address at which the coordinator serves /metrics for Prometheus, such as \"127.0.0.1:9464\"; without it none; \
         off this machine under TLS, and a token is asked for",
    ),
    key(
        "telemetry.otlp",
        Kind::Text,
        "\"\"",
        O,
        "OpenTelemetry collector that gets a trace of each step, such as \"http://127.0.0.1:4317\"; without it none",
    ),
    key(
        "export.formats",
        Kind::Words(&["safetensors"]),
        "[\"safetensors\"]",
        O,
        "Exports at the end; [] for none",
    ),
    key(
        "export.sign",
        Kind::Path,
        "",
        O,
        "Private key (ed25519, PEM) that signs the exports, as checkpoint.sign",
    ),
    key(
        "local.workers",
        Kind::Count(0, WORKERS_MAX),
        "2",
        O,
        "Workers that the coordinator starts on its own machine",
    ),
    key(
        "local.devices",
        Kind::Devices,
        "\"auto\"",
        O,
        "Their devices, dealt in turn: auto takes the GPUs if there are any, else the CPU. Several kinds only with elastic.mixed",
    ),
    key(
        "local.worker_binary",
        Kind::Path,
        "",
        O,
        "The worker program; without it `worker` beside the coordinator",
    ),
];

/// Keys of `[model]` for the built-in models.
pub const MODEL_KEYS: &[ModelKey] = &[
    model("mlp", "hidden", Kind::CountList(WIDTH_MAX), "[128]", "Widths of the hidden layers; [] for none"),
    model(
        "mlp",
        "embedding",
        Kind::Count(1, WIDTH_MAX),
        "",
        "Width of each categorical column's embedding; without it min(600, round(1.6 n^0.56)) for n different texts and the unknown one (fastai's rule)",
    ),
    model("mlp", "activation", Kind::Word(&["relu", "gelu", "tanh"]), "\"relu\"", "Between the layers"),
    model(
        "mlp",
        "dropout",
        Kind::Number,
        "0.0",
        "Probability that a hidden activation is dropped in training, below 1",
    ),
    label_smoothing("mlp"),
    class_weights("mlp"),
    model(
        "cnn",
        "channels",
        Kind::CountList(WIDTH_MAX),
        "[16, 32]",
        "Channels of the convolutions (3x3, each followed by 2x2 max pooling)",
    ),
    model("cnn", "hidden", Kind::Count(1, WIDTH_MAX), "64", "Width of the dense layer after them"),
    model(
        "cnn",
        "dropout",
        Kind::Number,
        "0.0",
        "Probability that an activation before or after the dense layer is dropped in training, below 1",
    ),
    label_smoothing("cnn"),
    class_weights("cnn"),
    model(
        "resnet",
        "depth",
        Kind::Choice(&[8, 14, 18, 20]),
        "8",
        "Layers: 8, 14 and 20 are the nets for CIFAR-10 of He et al. 2015, 18 their smallest for ImageNet, which here begins with one 3x3 convolution",
    ),
    model(
        "resnet",
        "width",
        Kind::Count(1, WIDTH_MAX),
        "",
        "Channels of the first stage, doubled in each further one, a multiple of the groups; without it 16, and 64 at depth 18",
    ),
    model("resnet", "groups", Kind::Count(1, WIDTH_MAX), "8", "Groups of each normalisation (GroupNorm)"),
    label_smoothing("resnet"),
    class_weights("resnet"),
    model(
        "gpt",
        "preset",
        Kind::Word(&["0.8M", "3.3M", "124M"]),
        "\"0.8M\"",
        "Sizes where the next three keys don't say otherwise: 4 layers, 4 heads, width 128 (nanoGPT on a CPU); 4, 4, 256; 12, 12, 768 (GPT-2 small)",
    ),
    model("gpt", "layers", Kind::Count(1, LAYERS_MAX), "", "Blocks; without it the preset's"),
    model(
        "gpt",
        "heads",
        Kind::Count(1, WIDTH_MAX),
        "",
        "Heads of each block's attention, of which the width is a multiple; without it the preset's",
    ),
    model("gpt", "width", Kind::Count(1, WIDTH_MAX), "", "Features of each token; without it the preset's"),
    model(
        "gpt",
        "dropout",
        Kind::Number,
        "0.0",
        "Probability that an embedding's feature, an attention weight or a feature of a block's result is dropped in training, below 1",
    ),
    model(
        "gpt",
        "positions",
        Kind::Word(&["learned", "rotary"]),
        "\"learned\"",
        "Whether each position has an embedding, or turns queries and keys",
    ),
    model("gpt", "tied", Kind::Flag, "true", "Whether the output's weight is that of the token embeddings"),
];

const fn label_smoothing(kind: &'static str) -> ModelKey {
    let meaning = "Part of each label's probability that is spread over all labels, below 1; in the validation's loss too";
    model(kind, "label_smoothing", Kind::Number, "0.0", meaning)
}

const fn class_weights(kind: &'static str) -> ModelKey {
    let meaning = "What a sample of each label counts in the loss, in the labels' order; [] for 1 each; \"balanced\" for n / (k * n of the label) over the n samples of the training split and its k labels, which is put in its place when the run starts. The loss is still divided by the count of samples";
    model(kind, "class_weights", Kind::NumbersOr(&["balanced"]), "[]", meaning)
}

/// The keys of a built-in model; empty for other kinds.
pub(crate) fn of_model(kind: &str) -> impl Iterator<Item = &'static ModelKey> {
    MODEL_KEYS.iter().filter(move |key| key.model == kind)
}

/// Names of the sections, in order.
pub(crate) fn sections() -> Vec<&'static str> {
    let mut all: Vec<&str> = KEYS.iter().map(Key::section).collect();
    all.dedup();
    all
}

impl Key {
    pub(crate) fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(_, name)| name)
    }
}
