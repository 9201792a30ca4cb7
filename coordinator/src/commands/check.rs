//! `coordinator check`: validates everything that can be checked before a run starts.

use std::path::Path;

use configs::Resolved;
use datasets::DataPlan;
use protocol::plan::Geometry;

use crate::commands::keys::Keys;
use crate::display;
use crate::local::launch;
use crate::local::task_check::{self, TaskCheck};
use crate::record::run_sinks;
use crate::run::prepare::{self, StartError};
use crate::run::source::{self, Source};

/// Checks the configuration, the data and the model, and prints what would run.
pub(crate) async fn check(path: &Path, set: &[String]) -> Result<(), StartError> {
    let resolved = prepare::load(path, set)?;
    let plan =
        DataPlan::prepare(&resolved.config.dataset, path.parent())?.augmented(&resolved.config.augment)?;
    let keys = Keys::read(&resolved)?;
    let source = source::find(&resolved, keys.trusted.as_ref())?;
    run_sinks::wanted(&resolved)?;
    let resolved = prepare::with_data(resolved, &plan)?;
    let geometry = prepare::geometry(&resolved.config, &plan);
    has_samples(&geometry)?;
    prepare::early_stopping(&resolved.config, &plan).map_err(StartError::config)?;
    let task = task(&resolved, &plan, source.as_ref()).await?;
    let samples = format!(
        "{} is good: {} ({} rows, {} of them held out), {} steps in epochs of {}, {} microbatches a step",
        path.display(),
        plan.version(),
        plan.rows,
        geometry.evaluation_samples,
        prepare::total_steps(&resolved.config, &geometry),
        geometry.steps_per_epoch(),
        geometry.step(1).microbatches,
    );
    display::print(&format!("{samples}\n{task}"));
    Ok(())
}

/// Checks that rows are left for training.
pub(crate) fn has_samples(geometry: &Geometry) -> Result<(), StartError> {
    if geometry.samples > 0 {
        return Ok(());
    }
    Err(StartError::data("no row is left for training: lower dataset.validation, or add rows"))
}

/// Asks the worker binary to check the model; returns a line for people.
async fn task(resolved: &Resolved, plan: &DataPlan, source: Option<&Source>) -> Result<String, StartError> {
    let (kind, local) = (&resolved.config.model.kind, &resolved.config.local);
    let worker = match launch::worker_binary(local.worker_binary.as_deref()) {
        Ok(worker) => worker,
        Err(why) if local.worker_binary.is_some() => return Err(StartError::config(why)),
        Err(why) => return Ok(format!("the model {kind:?} was not checked: {why}")),
    };
    let device = launch::devices(&local.devices, 1, &worker).await.map_err(StartError::config)?;
    let device = device.first().map_or("cpu", String::as_str);
    match task_check::ask(&worker, device, resolved, plan, source).await {
        TaskCheck::Good { parameters, device } => Ok(format!(
            "the model is good: {kind:?} of {parameters} parameters, as {} builds it on {device}",
            worker.display()
        )),
        TaskCheck::Refused(refusal) => Err(refusal),
        TaskCheck::Unknown(why) => Ok(format!("the model {kind:?} was not checked: {why}")),
    }
}

/// Refuses a start that the first local worker would refuse. If the check gives no answer, the run starts and that
/// worker decides.
pub(crate) async fn refuse_untrainable(
    worker: &Path,
    device: &str,
    resolved: &Resolved,
    plan: &DataPlan,
    source: Option<&Source>,
) -> Result<(), StartError> {
    match task_check::ask(worker, device, resolved, plan, source).await {
        TaskCheck::Refused(refusal) => Err(refusal),
        TaskCheck::Good { .. } => Ok(()),
        TaskCheck::Unknown(why) => {
            tracing::warn!("the model was not checked before the start: {why}");
            Ok(())
        }
    }
}
