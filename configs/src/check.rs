//! Invalid combinations of values, and numbers out of bounds.

mod data;
mod init_and_early_stopping;

use toml::Value;

use crate::key_positions::Report;
use crate::keys::of_model;
use crate::types::{Config, DatasetKind, Optimizer, Schedule, ScheduleKind, Telemetry};
use crate::values::{Devices, Every};

/// Reports invalid combinations, each with the keys involved.
pub(crate) fn check(config: &Config, report: &mut Report) {
    run(config, report);
    length(config, report);
    data::check(config, report);
    optimizer(&config.optimizer, report);
    if let Some(clip) = config.train.clip_norm {
        within(report, "train.clip_norm", clip, is_positive(clip), "a number above 0");
    }
    schedule(&config.schedule, config.train.steps, report);
    workers(config, report);
    batches(config, report);
    versions(config, report);
    sinks(config, report);
    model(config, report);
    tracker(config, report);
    init_and_early_stopping::init(&config.init, report);
    init_and_early_stopping::patience(&config.train, report);
    telemetry(&config.telemetry, report);
}

fn sinks(config: &Config, report: &mut Report) {
    let Some(uri) = &config.tracker.mlflow_uri else { return };
    let address = ["http://", "https://"].iter().find_map(|scheme| uri.strip_prefix(scheme));
    let (shown, message) = match address {
        // The configuration is copied into the run's folder and to the trackers, so it must not contain passwords.
        Some(rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => (
            "...",
            "a user name or password is set by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment",
        ),
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => return,
        _ if uri.contains('@') => {
            ("...", "expected the address of an MLflow server, such as \"http://127.0.0.1:5000\"")
        }
        _ => (uri.as_str(), "expected the address of an MLflow server, such as \"http://127.0.0.1:5000\""),
    };
    let message = format!("tracker.mlflow_uri = \"{shown}\": {message}");
    report.add(&["tracker", "mlflow_uri"], message);
}

fn run(config: &Config, report: &mut Report) {
    const BYTES_MAX: usize = 200;
    let Some(name) = &config.run.name else { return };
    let is_folder = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control())
        && name.len() <= BYTES_MAX;
    if !is_folder {
        let message = format!(
            "run.name = {name:?}: expected the name of a folder, without / and \\, no dot first, at most {BYTES_MAX} \
             bytes"
        );
        report.add(&["run", "name"], message);
    }
}

fn tracker(config: &Config, report: &mut Report) {
    let listen = &config.tracker.listen;
    let is_good = listen.parse::<std::net::SocketAddr>().is_ok();
    if !listen.is_empty() && !is_good {
        let message = format!(
            "tracker.listen = {listen:?}: expected an IP address and a port, such as \"127.0.0.1:5000\", or \"\" for none"
        );
        report.add(&["tracker", "listen"], message);
    }
}

fn length(config: &Config, report: &mut Report) {
    match (config.train.epochs, config.train.steps) {
        (None, None) => {
            report.add(&["train"], "the run has no length: set train.epochs or train.steps".to_owned());
        }
        (Some(epochs), Some(steps)) => report.add_all(
            &["train.epochs", "train.steps"],
            format!(
                "train.epochs = {epochs} and train.steps = {steps}: a run has one length, remove one of them"
            ),
        ),
        _ => {}
    }
}

fn telemetry(telemetry: &Telemetry, report: &mut Report) {
    let listen = &telemetry.metrics_listen;
    if !listen.is_empty() && listen.parse::<std::net::SocketAddr>().is_err() {
        let message = format!(
            "telemetry.metrics_listen = {listen:?}: expected an IP address and a port, such as \"127.0.0.1:9464\", or \"\" \
             for none"
        );
        report.add(&["telemetry", "metrics_listen"], message);
    }
    let otlp = &telemetry.otlp;
    if !otlp.is_empty() && !is_plain_url(otlp) {
        let message = "telemetry.otlp: expected a collector's address without a name or password in it, such as \
                       \"http://127.0.0.1:4317\", or \"\" for none";
        report.add(&["telemetry", "otlp"], message.to_owned());
    }
}

/// Whether the URL is `http://HOST:PORT`. Other texts may contain a password, so messages don't repeat them.
fn is_plain_url(url: &str) -> bool {
    let authority = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    authority.and_then(|text| text.rsplit_once(':')).is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['@', '/', ' ', '?']) && port.parse::<u16>().is_ok()
    })
}

/// Reports a number that is out of bounds.
fn within(report: &mut Report, path: &str, value: f64, is_within: bool, allowed: &str) {
    if !is_within {
        report.add_all(&[path], format!("{path} = {value:?}: expected {allowed}"));
    }
}

/// Weights are updated in single precision, so the number must be positive and finite as an f32.
fn is_positive(value: f64) -> bool {
    let single = value as f32;
    single > 0.0 && single.is_finite()
}

fn is_decay(value: f64) -> bool {
    value >= 0.0 && (value as f32) < 1.0
}

fn optimizer(optimizer: &Optimizer, report: &mut Report) {
    for (path, value) in
        [("optimizer.learning_rate", optimizer.learning_rate), ("optimizer.epsilon", optimizer.epsilon)]
    {
        within(report, path, value, is_positive(value), "a number above 0, in single precision");
    }
    for (path, value) in [
        ("optimizer.beta1", optimizer.beta1),
        ("optimizer.beta2", optimizer.beta2),
        ("optimizer.momentum", optimizer.momentum),
    ] {
        within(report, path, value, is_decay(value), "at least 0 and below 1, in single precision");
    }
    let decay = optimizer.weight_decay;
    let is_fine = decay == 0.0 || is_positive(decay);
    within(report, "optimizer.weight_decay", decay, is_fine, "0 or a number above it");
}

fn schedule(schedule: &Schedule, steps: Option<u64>, report: &mut Report) {
    let (end, gamma) = (schedule.final_factor, schedule.gamma);
    within(report, "schedule.final_factor", end, (0.0..=1.0).contains(&end), "0 to 1");
    within(report, "schedule.gamma", gamma, is_positive(gamma), "a number above 0");
    let warmup = schedule.warmup_steps;
    let both = ["schedule.kind", "schedule.warmup_steps"];
    match schedule.kind {
        ScheduleKind::Constant if warmup > 0 => report.add_all(
            &both,
            format!(
                "schedule.warmup_steps = {warmup} with schedule.kind = \"constant\": choose \"warmup\" or another kind"
            ),
        ),
        ScheduleKind::Warmup if warmup == 0 => report.add_all(
            &both,
            "schedule.kind = \"warmup\" with schedule.warmup_steps = 0: set the steps, or choose \"constant\""
                .to_owned(),
        ),
        _ => {}
    }
    if let Some(steps) = steps
        && warmup >= steps
    {
        report.add_all(
            &["schedule.warmup_steps", "train.steps"],
            format!(
                "schedule.warmup_steps = {warmup} in a run of train.steps = {steps}: it would never be over"
            ),
        );
    }
}

fn workers(config: &Config, report: &mut Report) {
    let (elastic, local) = (&config.elastic, &config.local);
    if elastic.max_workers < elastic.min_workers {
        report.add_all(
            &["elastic.max_workers", "elastic.min_workers"],
            format!(
                "elastic.max_workers = {} is less than elastic.min_workers = {}",
                elastic.max_workers, elastic.min_workers
            ),
        );
    }
    if local.workers > elastic.max_workers {
        report.add_all(
            &["local.workers", "elastic.max_workers"],
            format!(
                "local.workers = {} is more than elastic.max_workers = {}",
                local.workers, elastic.max_workers
            ),
        );
    }
    if elastic.lease.as_millis() < 100 {
        let message = format!("elastic.lease = \"{}\": expected at least \"100ms\"", elastic.lease);
        report.add(&["elastic", "lease"], message);
    }
    let devices = local.devices.parse::<Devices>();
    if let Ok(Devices { kinds }) = devices
        && kinds.len() > 1
        && !elastic.mixed
    {
        report.add_all(
            &["local.devices", "elastic.mixed"],
            format!(
                "local.devices = \"{}\" mixes {}, whose numbers differ: use one kind, or set elastic.mixed = true",
                local.devices,
                kinds.join(" and ")
            ),
        );
    }
}

fn batches(config: &Config, report: &mut Report) {
    let train = &config.train;
    if train.microbatch() > train.batch_size {
        report.add_all(
            &["train.microbatch_size", "train.batch_size"],
            format!(
                "train.microbatch_size = {} is more than train.batch_size = {}",
                train.microbatch(),
                train.batch_size
            ),
        );
    }
}

fn versions(config: &Config, report: &mut Report) {
    let checkpoint = &config.checkpoint;
    if let Every::Time(span) = checkpoint.every
        && span.as_millis() == 0
    {
        report.add(
            &["checkpoint", "every"],
            format!("checkpoint.every = \"{span}\": expected a longer span of time"),
        );
    }
    if checkpoint.best == "validation/accuracy" && config.dataset.kind == Some(DatasetKind::Regression) {
        report.add_all(
            &["checkpoint.best", "dataset.kind"],
            "checkpoint.best = \"validation/accuracy\" with dataset.kind = \"regression\", which has none: use \
             \"validation/loss\""
                .to_owned(),
        );
    }
}

fn model(config: &Config, report: &mut Report) {
    let kind = config.model.kind.as_str();
    if kind.is_empty() {
        let message = "model.kind = \"\": expected \"mlp\", \"cnn\", \"resnet\", \"gpt\" or the name of a task of your own";
        report.add(&["model", "kind"], message.to_owned());
    }
    if of_model(kind).next().is_some() {
        for name in ["dropout", "label_smoothing"] {
            if let Some(part) = config.model.keys.get(name).and_then(Value::as_float) {
                let is_part = (0.0..1.0).contains(&part);
                within(report, &format!("model.{name}"), part, is_part, "at least 0 and below 1");
            }
        }
    }
    match kind {
        "cnn" => {
            images(config, kind, report);
            cnn(config, report);
        }
        "resnet" => {
            images(config, kind, report);
            resnet(config, report);
        }
        "gpt" => gpt(config, report),
        _ => {}
    }
}

/// An integer of `[model]`, or `absent`.
fn count(config: &Config, name: &str, absent: u64) -> u64 {
    let found = config.model.keys.get(name).and_then(Value::as_integer);
    found.and_then(|count| u64::try_from(count).ok()).unwrap_or(absent)
}

fn images(config: &Config, kind: &str, report: &mut Report) {
    if config.dataset.kind == Some(DatasetKind::Regression) {
        report.add_all(
            &["dataset.kind", "model.kind"],
            format!(
                "dataset.kind = \"regression\" with model.kind = \"{kind}\", which is for classes of images: use \"mlp\""
            ),
        );
    }
    // Image files determine the shape; the model is checked against it when it is built.
    let says_it = matches!(config.dataset.format.as_str(), "idx" | "images");
    if config.dataset.image_shape.is_none() && !says_it {
        let message =
            format!("model.kind = \"{kind}\" needs dataset.image_shape = [channels, height, width]");
        report.add(&["model", "kind"], message);
    }
}

fn resnet(config: &Config, report: &mut Report) {
    let published = if count(config, "depth", 8) == 18 { 64 } else { 16 };
    let (width, groups) = (count(config, "width", published), count(config, "groups", 8));
    if !width.is_multiple_of(groups) {
        report.add_all(
            &["model.width", "model.groups"],
            format!(
                "model.groups = {groups} with a width of {width}: the width must be a multiple of the groups"
            ),
        );
    }
}

/// Number of heads and width without explicit keys: those of the task's presets.
fn gpt(config: &Config, report: &mut Report) {
    let (heads, width) = match config.model.keys.get("preset").and_then(Value::as_str) {
        Some("124M") => (12, 768),
        Some("3.3M") => (4, 256),
        _ => (4, 128),
    };
    let (heads, width) = (count(config, "heads", heads), count(config, "width", width));
    let keys = ["model.width", "model.heads"];
    let turns = config.model.keys.get("positions").and_then(Value::as_str) == Some("rotary");
    if !width.is_multiple_of(heads) {
        report.add_all(
            &keys,
            format!("a width of {width} with {heads} heads: the width must be a multiple of the heads"),
        );
    } else if turns && !(width / heads).is_multiple_of(2) {
        report.add_all(
            &keys,
            format!(
                "a width of {width} with {heads} heads and model.positions = \"rotary\": width / heads must be even"
            ),
        );
    }
}

fn cnn(config: &Config, report: &mut Report) {
    let Some([_, height, width]) = config.dataset.image_shape else { return };
    let layers = config.model.keys.get("channels").and_then(Value::as_array).map_or(0, Vec::len);
    let halvings_max = height.min(width).checked_ilog2().unwrap_or(0) as usize;
    let keys = ["model.channels", "dataset.image_shape"];
    if layers == 0 {
        report.add_all(&keys, "model.channels = []: a cnn has at least one convolution".to_owned());
    } else if layers > halvings_max {
        report.add_all(
            &keys,
            format!(
                "model.channels lists {layers} convolutions, each of which halves the image: {height} x {width} pixels \
                 allow at most {halvings_max}"
            ),
        );
    }
}
