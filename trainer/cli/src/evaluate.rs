//! `trainer eval`: recomputes a version's metrics exactly as the run does.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use datasets::{Batch, DataPlan, Dataset, Output};
use run_record::keys;
use run_record::metric_definitions::{self, Prediction, TreeSum};
use serde_json::{Value, json};
use store::versions::Manifest;
use trainer::{Engine, HostBatch, Registry};

use crate::cli::{Eval, OutputForm};
use crate::failure::Failure;
use crate::model::Model;
use crate::run::Run;
use crate::samples;

/// Evaluates the version on the validation split of the run's dataset.
pub(crate) fn evaluate(ask: &Eval, registry: &Registry) -> Result<String, Failure> {
    let run = Run::open(&ask.source.run_dir, ask.source.memory)?;
    let version = run.version(ask.source.version, ask.source.verify_key.as_deref())?;
    let plan = run.plan()?;
    let dataset = Dataset::open(&plan, &data_file(&run, &plan, ask.data.as_deref())?)?;
    if dataset.evaluation_len() == 0 {
        return Err(Failure::data("the validation split is empty (dataset.validation)"));
    }
    let mut model = Model::load(&run, &plan, &version, &ask.device, registry)?;
    let microbatch = u64::from(run.config.train.evaluation_microbatch());
    let sums = sums(model.engine.as_mut(), &plan, &dataset, microbatch)?;
    let measured: Vec<(String, f64)> = metric_definitions::metrics(&prediction(&plan), &sums)
        .into_iter()
        .map(|(name, value)| (format!("{}{name}", keys::VALIDATION), value))
        .collect();
    let logged: BTreeMap<String, f64> = run
        .metrics()
        .unwrap_or_default()
        .into_iter()
        .filter(|metric| metric.step == version.step && metric.key.starts_with(keys::VALIDATION))
        .map(|metric| (metric.key, metric.value))
        .collect();
    Ok(match ask.output {
        OutputForm::Table => table(&run, &version, &measured, &logged, dataset.evaluation_len()),
        OutputForm::Json => {
            let report = report(&run, &version, &measured, &logged, dataset.evaluation_len());
            printable::json(&report).into_owned()
        }
    })
}

/// Path of the run's data: as given, else its original path, else as resolved from the configuration. The digest
/// decides whether they are the right data.
fn data_file(run: &Run, plan: &DataPlan, told: Option<&Path>) -> Result<PathBuf, Failure> {
    let before = Path::new(&plan.path);
    match told {
        Some(path) if path.exists() => Ok(path.to_owned()),
        Some(path) => Err(Failure::data(format!("--data {}: no such file or folder", path.display()))),
        None if before.exists() => Ok(before.to_owned()),
        None => datasets::resolve(&plan.uri, Some(&run.dir))
            .map_err(|why| Failure::data(format!("{why}; name the file with --data"))),
    }
}

/// Sums over the split in the run's own microbatches and order, added by the same tree: so they have the same bits as
/// the run's, for any number of members.
fn sums(
    engine: &mut dyn Engine,
    plan: &DataPlan,
    dataset: &Dataset,
    microbatch: u64,
) -> Result<Vec<f64>, Failure> {
    let (mut rows, mut batch) = (Batch::default(), HostBatch::empty(&samples::spec(plan)));
    let mut tree = TreeSum::default();
    let mut ordinals = Vec::new();
    let count = dataset.evaluation_len();
    for start in (0..count).step_by(usize::try_from(microbatch.max(1)).unwrap_or(usize::MAX)) {
        ordinals.clear();
        ordinals.extend(start..count.min(start + microbatch.max(1)));
        dataset.gather_evaluation(&ordinals, &mut rows)?;
        samples::fill(&rows, &mut batch);
        tree.push(engine.evaluate(&batch)?);
    }
    Ok(tree.finish())
}

fn prediction(plan: &DataPlan) -> Prediction {
    match &plan.output {
        Output::Classes { labels } => Prediction::Labels(labels.clone()),
        Output::Values { scale, .. } => Prediction::Values { scale: *scale },
        Output::Tokens { .. } => Prediction::Tokens { bytes_per_token: plan.bytes_per_token() },
    }
}

fn table(
    run: &Run,
    version: &Manifest,
    measured: &[(String, f64)],
    logged: &BTreeMap<String, f64>,
    samples: u64,
) -> String {
    let width = measured.iter().map(|(key, _)| printable::line(key).chars().count()).max().unwrap_or(0);
    let mut text = format!("{}, step {}, {samples} samples\n", printable::line(&run.name), version.step);
    let mut differing = 0;
    for (key, value) in measured {
        let key_shown = printable::line(key);
        // Writing to a String can't fail.
        let _ = write!(text, "{key_shown:width$}  {value}");
        if let Some(other) = logged.get(key).filter(|other| other.to_bits() != value.to_bits()) {
            differing += 1;
            let _ = write!(text, "  (the run logged {other})");
        }
        text.push('\n');
    }
    let common = measured.iter().filter(|(key, _)| logged.contains_key(key)).count();
    let _ = match (common, differing) {
        (0, _) => writeln!(text, "the run logged no evaluation of this step"),
        (_, 0) => writeln!(text, "as the run logged, to the last bit ({common} values)"),
        _ => writeln!(text, "{differing} of {common} values are not those that the run logged"),
    };
    text
}

fn report(
    run: &Run,
    version: &Manifest,
    measured: &[(String, f64)],
    logged: &BTreeMap<String, f64>,
    samples: u64,
) -> String {
    let metrics: serde_json::Map<String, Value> =
        measured.iter().map(|(key, value)| (key.clone(), run_record::to_json(*value))).collect();
    let logged: serde_json::Map<String, Value> =
        logged.iter().map(|(key, value)| (key.clone(), run_record::to_json(*value))).collect();
    let report = json!({
        "run": run.name, "step": version.step, "epoch": version.epoch, "digest": version.digest,
        "samples": samples, "metrics": metrics, "logged": logged,
    });
    format!("{report}\n")
}
