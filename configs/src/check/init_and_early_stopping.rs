//! Checks `[init]` and early stopping.

use super::within;
use crate::error::nearest;
use crate::key_positions::Report;
use crate::types::{Init, Train};

pub(super) fn init(init: &Init, report: &mut Report) {
    let is_digest = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if init.from.as_ref().is_some_and(String::is_empty) {
        report.add(
            &["init", "from"],
            "init.from is empty: name a run's folder or a .safetensors file".to_owned(),
        );
    }
    if let Some(digest) = init.digest.as_ref().filter(|digest| !is_digest(digest)) {
        let message = format!("init.digest = {digest:?}: expected 64 hexadecimal digits, or leave it out");
        report.add(&["init", "digest"], message);
    }
    for (name, is_set) in
        [("init.digest", init.digest.is_some()), ("init.allow_missing", !init.allow_missing.is_empty())]
    {
        if is_set && init.from.is_none() {
            report.add_all(
                &[name, "init.from"],
                format!("{name} is set, but init.from is not: add it, or remove {name}"),
            );
        }
    }
}

/// Metrics that `train.patience` can monitor: means over samples.
const MONITORED: [&str; 4] = [
    "validation/loss",
    "validation/accuracy",
    "validation/mean_absolute_error",
    "validation/mean_squared_error",
];

pub(super) fn patience(train: &Train, report: &mut Report) {
    let delta = train.min_delta;
    let is_fine = delta >= 0.0 && delta.is_finite();
    within(report, "train.min_delta", delta, is_fine, "0 or a number above it");
    if !MONITORED.contains(&train.monitor.as_str()) {
        let near = nearest(&train.monitor, MONITORED.into_iter());
        let hint = near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
        let message =
            format!("train.monitor = {:?}: expected one of {}{hint}", train.monitor, MONITORED.join(", "));
        report.add(&["train", "monitor"], message);
    }
    if train.patience.is_some() && train.evaluate_every == 0 {
        report.add_all(
            &["train.patience", "train.evaluate_every"],
            "train.patience is set, but train.evaluate_every = 0: nothing is evaluated; set it to 1 or more"
                .to_owned(),
        );
    }
}
