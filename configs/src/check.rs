//! Combinations that can't be.

use crate::types::{Config, DatasetKind, ScheduleKind};

/// Reports each impossible combination with the key that stands for it.
pub(crate) fn check(config: &Config, report: &mut dyn FnMut(&str, String)) {
    length(config, report);
    dataset(config, report);
    numbers(config, report);
    counts(config, report);
    model(config, report);
}

fn length(config: &Config, report: &mut dyn FnMut(&str, String)) {
    match (config.train.epochs, config.train.steps) {
        (None, None) => report("train", "the run has no length: set train.epochs or train.steps".to_owned()),
        (Some(epochs), Some(steps)) => report(
            "train.steps",
            format!(
                "train.epochs = {epochs} and train.steps = {steps}: a run has one length, remove one of them"
            ),
        ),
        _ => {}
    }
}

fn dataset(config: &Config, report: &mut dyn FnMut(&str, String)) {
    let dataset = &config.dataset;
    if dataset.uri.is_empty() {
        report(
            "dataset",
            "dataset.uri is missing: the path of the data, such as \"datasets/digits/digits.csv\"".to_owned(),
        );
    }
    if !(0.0..1.0).contains(&dataset.validation) {
        report(
            "dataset.validation",
            format!(
                "dataset.validation = {}: expected a fraction, at least 0 and below 1",
                dataset.validation
            ),
        );
    }
    if let (Some(target), Some(kind)) =
        (&dataset.target, dataset.target.as_ref().and_then(|target| dataset.columns.get(target)))
        && *kind == crate::ColumnKind::Ignore
    {
        report("dataset.columns", format!("column {target:?} is the target and ignored at once"));
    }
}

fn numbers(config: &Config, report: &mut dyn FnMut(&str, String)) {
    let optimizer = &config.optimizer;
    let mut within = |key: &str, value: f64, good: bool, allowed: &str| {
        if !good {
            report(key, format!("{key} = {value}: expected {allowed}"));
        }
    };
    let fraction = |value: f64| (0.0..1.0).contains(&value);
    within(
        "optimizer.learning_rate",
        optimizer.learning_rate,
        optimizer.learning_rate > 0.0,
        "a number above 0",
    );
    within("optimizer.beta1", optimizer.beta1, fraction(optimizer.beta1), "at least 0 and below 1");
    within("optimizer.beta2", optimizer.beta2, fraction(optimizer.beta2), "at least 0 and below 1");
    within("optimizer.momentum", optimizer.momentum, fraction(optimizer.momentum), "at least 0 and below 1");
    within("optimizer.epsilon", optimizer.epsilon, optimizer.epsilon > 0.0, "a number above 0");
    within(
        "optimizer.weight_decay",
        optimizer.weight_decay,
        optimizer.weight_decay >= 0.0,
        "a number, at least 0",
    );
    let schedule = &config.schedule;
    within(
        "schedule.final_factor",
        schedule.final_factor,
        (0.0..=1.0).contains(&schedule.final_factor),
        "0 to 1",
    );
    within("schedule.gamma", schedule.gamma, schedule.gamma > 0.0, "a number above 0");
    if let Some(clip) = config.train.clip_norm {
        within("train.clip_norm", clip, clip > 0.0, "a number above 0");
    }
    if schedule.kind == ScheduleKind::Constant && schedule.warmup_steps > 0 {
        report(
            "schedule.warmup_steps",
            format!(
                "schedule.warmup_steps = {} with schedule.kind = \"constant\": choose \"warmup\"",
                schedule.warmup_steps
            ),
        );
    }
    if let Some(steps) = config.train.steps
        && schedule.warmup_steps >= steps
    {
        report(
            "schedule.warmup_steps",
            format!(
                "schedule.warmup_steps = {} in a run of {steps} steps: it would never be over",
                schedule.warmup_steps
            ),
        );
    }
}

fn counts(config: &Config, report: &mut dyn FnMut(&str, String)) {
    let train = &config.train;
    if train.microbatch() > train.batch_size {
        report(
            "train.microbatch_size",
            format!(
                "train.microbatch_size = {} is more than train.batch_size = {}",
                train.microbatch(),
                train.batch_size
            ),
        );
    }
    let elastic = &config.elastic;
    if elastic.max_workers < elastic.min_workers {
        report(
            "elastic.max_workers",
            format!(
                "elastic.max_workers = {} is less than elastic.min_workers = {}",
                elastic.max_workers, elastic.min_workers
            ),
        );
    }
    if config.local.workers > elastic.max_workers {
        report(
            "local.workers",
            format!(
                "local.workers = {} is more than elastic.max_workers = {}",
                config.local.workers, elastic.max_workers
            ),
        );
    }
    if elastic.lease.as_millis() < 100 {
        report(
            "elastic.lease",
            format!("elastic.lease = \"{}\": expected at least \"100ms\"", elastic.lease),
        );
    }
    if config.checkpoint.every == crate::Every::Time(crate::Span(std::time::Duration::ZERO)) {
        report("checkpoint.every", "checkpoint.every = \"0s\": expected a longer span".to_owned());
    }
}

fn model(config: &Config, report: &mut dyn FnMut(&str, String)) {
    if let Some(dropout) = config.model.keys.get("dropout").and_then(toml::Value::as_float)
        && !(0.0..1.0).contains(&dropout)
    {
        report("model.dropout", format!("model.dropout = {dropout}: expected at least 0 and below 1"));
    }
    if config.model.kind == "cnn" {
        if config.dataset.kind == Some(DatasetKind::Regression) {
            report(
                "dataset.kind",
                "dataset.kind = \"regression\" with model.kind = \"cnn\": it classifies; use \"mlp\""
                    .to_owned(),
            );
        }
        if config.dataset.image_shape.is_none() {
            report(
                "model.kind",
                "model.kind = \"cnn\" needs dataset.image_shape = [channels, height, width]".to_owned(),
            );
        }
    }
}
