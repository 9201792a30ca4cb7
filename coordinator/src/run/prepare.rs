//! Builds the state machine's inputs from a configuration and a run directory, for new and resumed runs.

use std::path::Path;

use anyhow::anyhow;
use configs::{Config, Every, OptimizerKind, Resolved, ScheduleKind};
use datasets::{DataError, DataPlan, Output};
use protocol::coordinator::{CheckpointEvery, OnNan, RunPlan};
use protocol::early_stopping::EarlyStopping;
use protocol::history::History;
use protocol::ids::RunId;
use protocol::order::Order;
use protocol::plan::Geometry;
use protocol::schedule::Schedule;
use run_record::RunRecord;
use run_record::metric_definitions::Prediction;
use store::signing::TrustedKeys;
use store::{RunDir, RunDirError, versions};
use tracing::warn;

use crate::checkpoints::journal_file::JournalFile;

/// Why a run can't start, with its exit code.
#[derive(Clone, Debug)]
pub(crate) struct StartError {
    /// 2 for the command line and configuration, 3 for data and checkpoints, 4 for other failures.
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl StartError {
    /// With exit code 2.
    pub(crate) fn config(message: impl std::fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// With exit code 3.
    pub(crate) fn data(message: impl std::fmt::Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// With exit code 4.
    pub(crate) fn failed(message: impl std::fmt::Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

impl From<DataError> for StartError {
    fn from(error: DataError) -> Self {
        Self::data(error)
    }
}

impl From<RunDirError> for StartError {
    fn from(error: RunDirError) -> Self {
        match error {
            RunDirError::Store(_) => Self::failed(format!(
                "{error}: a run is kept below run.dir, which this user must be able to write"
            )),
            _ => Self::config(error),
        }
    }
}

/// Reads a configuration. A folder is refused; the message names the configuration inside a run's folder.
pub(crate) fn load(path: &Path, set: &[String]) -> Result<Resolved, StartError> {
    if path.is_dir() {
        let inside = path.join("config.toml");
        let way_out = if inside.is_file() {
            format!("its configuration is {}", inside.display())
        } else {
            "give the file of a configuration".to_owned()
        };
        return Err(StartError::config(format!("--config {} is a folder: {way_out}", path.display())));
    }
    Config::load(path, set).map_err(StartError::config)
}

/// A run's folder, and whether the run existed before.
pub(crate) enum RunTarget {
    /// A new folder.
    Fresh(RunDir),
    /// A run that was started before, or a completed one that now has more steps.
    Begun(RunDir),
    Completed(RunDir),
}

/// Fills in the settings that depend on the data: `model.class_weights = "balanced"` becomes numbers, so that all
/// workers get the same ones and the run's copy of the configuration records them.
pub(crate) fn with_data(mut resolved: Resolved, plan: &DataPlan) -> Result<Resolved, StartError> {
    let model = &mut resolved.config.model;
    if model.wants_balanced_weights() {
        model.set_class_weights(&plan.class_weights()?);
    }
    Ok(resolved)
}

/// Finds or creates the run's folder.
pub(crate) fn place(resolved: &Resolved, plan: &DataPlan, resume: bool) -> Result<RunTarget, StartError> {
    let run = &resolved.config.run;
    let name = match (&run.name, resume) {
        (Some(name), _) => Some(name.clone()),
        (None, true) => RunDir::to_resume(&run.dir, &resolved.stem)?,
        (None, false) => None,
    };
    match name {
        None => Ok(RunTarget::Fresh(RunDir::create_numbered(&run.dir, &resolved.stem)?)),
        Some(name) if !resume || !RunDir::exists(&run.dir, &name) => {
            Ok(RunTarget::Fresh(RunDir::create(&run.dir, &name)?))
        }
        Some(name) => {
            let dir = RunDir::open(&run.dir, &name)?;
            let is_completed = RunDir::status(dir.path()).as_deref() == Some("completed");
            if is_completed && !is_longer(dir.path(), &resolved.config, plan) {
                return Ok(RunTarget::Completed(dir));
            }
            Ok(RunTarget::Begun(dir))
        }
    }
}

/// Whether the configuration has more steps than at the run's last start. For a run that stopped early, this differs
/// from whether all of its steps were taken.
fn is_longer(dir: &Path, config: &Config, plan: &DataPlan) -> bool {
    let Ok(before) = Config::load(&dir.join("config.toml"), &[]) else { return false };
    let geometry = geometry(config, plan);
    total_steps(config, &geometry) > total_steps(&before.config, &geometry)
}

/// The state of a run before the first step of this term.
pub(crate) struct PriorState {
    /// The open journal.
    pub(crate) journal: JournalFile,
    /// The replayed journal, with the checkpoint to resume from chosen.
    pub(crate) history: History,
    /// The run's record, if it was started before.
    pub(crate) record: Option<RunRecord>,
    /// Notes for people about what was found.
    pub(crate) remarks: Vec<String>,
}

/// Reads a run's prior state from its folder. If `trusted` is set, a checkpoint that none of its keys signed is an
/// error.
pub(crate) fn past(
    dir: &Path,
    config: &Config,
    plan: &DataPlan,
    trusted: Option<&TrustedKeys>,
) -> Result<PriorState, StartError> {
    let mut remarks = Vec::new();
    let (journal, records, cut) = JournalFile::open(&dir.join("journal")).map_err(StartError::data)?;
    if cut > 0 {
        remarks.push(format!("the journal's last {cut} bytes were torn by a crash and are cut off"));
    }
    let mut history = History::replay(&records)
        .map_err(|why| StartError::data(format!("{}: {why}", dir.join("journal").display())))?;
    if history.term() > 0 {
        check_same_run(dir, config, plan, &history)?;
        choose_version(dir, trusted, &mut history, &mut remarks)?;
    }
    let record = RunRecord::read(&dir.join("run.json")).ok();
    Ok(PriorState { journal, history, record, remarks })
}

/// Refuses a configuration or data that would have changed the weights of a completed run.
pub(crate) fn check_completed(dir: &Path, config: &Config, plan: &DataPlan) -> Result<(), StartError> {
    let journal = dir.join("journal");
    let (_, records, _) = JournalFile::open(&journal).map_err(StartError::data)?;
    let history =
        History::replay(&records).map_err(|why| StartError::data(format!("{}: {why}", journal.display())))?;
    if history.term() == 0 { Ok(()) } else { check_same_run(dir, config, plan, &history) }
}

fn check_same_run(dir: &Path, config: &Config, plan: &DataPlan, history: &History) -> Result<(), StartError> {
    let identity = plan.identity();
    let before = history.data_digest().unwrap_or("none");
    let of_bytes = |identity: &str| identity.split('+').next().map(str::to_owned);
    if before != identity && of_bytes(before) == of_bytes(&identity) {
        let skipped = plan.form.skipped().map_or(0, |skipped| skipped.count);
        return Err(StartError::data(format!(
            "{} has the bytes that the run was started on, but something else is made of them: other rows are left out \
             ({skipped} now), or dataset.tokenizer is another one (identity {identity}, the run's is {before})",
            plan.path
        )));
    }
    if before != identity {
        return Err(StartError::data(format!(
            "{} has changed since the run was started: its MD5 is {}, the run's data have {}",
            plan.path,
            plan.digest,
            of_bytes(before).unwrap_or_default()
        )));
    }
    if history.config_digest() == Some(config.digest().as_str()) {
        return Ok(());
    }
    let path = dir.join("config.toml");
    let changes = Config::load(&path, &[]).map_or_else(
        |why| format!("(the run's own configuration can't be read: {why})"),
        |old| configs::difference(&old.config, config).join("\n  "),
    );
    Err(StartError::config(format!(
        "{} was started with other keys that change its weights:\n  {changes}\nput them back, or start a new run",
        dir.display()
    )))
}

/// Chooses the newest valid checkpoint that the journal lists.
fn choose_version(
    dir: &Path,
    trusted: Option<&TrustedKeys>,
    history: &mut History,
    remarks: &mut Vec<String>,
) -> Result<(), StartError> {
    let checkpoints = dir.join("checkpoints");
    let known: std::collections::BTreeMap<u64, [u8; 32]> = history.versions().collect();
    // Checkpoints missing from the journal may be invalid, or durable just before a crash kept the journal from
    // recording them, or good if the journal lost its tail. They are left unused, in place, for a person to inspect.
    let mut strangers = versions::list(&checkpoints).map_err(StartError::data)?;
    strangers.retain(|step| !known.contains_key(step));
    if !strangers.is_empty() {
        remarks.push(format!("versions {strangers:?} are not in the journal, so they are not used"));
    }
    let (found, passed_over) =
        versions::newest_valid(&checkpoints, |step| known.contains_key(&step), trusted)
            .map_err(StartError::data)?;
    // An untrusted checkpoint is no disk error, and falling back to the one before may not be wanted.
    if let Some(untrusted) = passed_over.iter().find(|rejected| rejected.is_untrusted) {
        return Err(StartError::data(format!(
            "{untrusted}; take it out of the way if it is known who wrote it, or leave checkpoint.verify_key out"
        )));
    }
    for rejected in &passed_over {
        let remark =
            format!("{} can't be used: {}; the version before is", rejected.path.display(), rejected.reason);
        warn!(remark);
        remarks.push(remark);
    }
    let Some(manifest) = found else {
        if passed_over.is_empty() && known.is_empty() {
            return Ok(());
        }
        if passed_over.is_empty() {
            remarks.push("no version is left: the run starts again from its seed".to_owned());
            return Ok(());
        }
        return Err(StartError::data(format!("no version in {} can be used", checkpoints.display())));
    };
    let digest = |step: u64| known.get(&step).copied().unwrap_or_default();
    history.resume_from(manifest.step, digest(manifest.step)).map_err(StartError::data)?;
    // A replica that was wrong when the newest checkpoint was written may be detected only now: keep an earlier one to
    // fall back to.
    let proven = history.proven_step();
    let mut step = manifest.step;
    while step > proven {
        let is_before = |other: u64| known.contains_key(&other) && other < step;
        let (before, _) =
            versions::newest_valid(&checkpoints, is_before, trusted).map_err(StartError::data)?;
        let Some(before) = before else { break };
        step = before.step;
        history.fall_back_to(step, digest(step)).map_err(StartError::data)?;
    }
    remarks.push(format!("going on from version {} ({})", manifest.step, checkpoints.display()));
    Ok(())
}

/// The run's geometry, fixed by configuration and data.
pub(crate) fn geometry(config: &Config, plan: &DataPlan) -> Geometry {
    let (samples, evaluation_samples) = plan.split_lengths();
    Geometry {
        samples,
        batch: config.train.batch_size,
        microbatch: config.train.microbatch(),
        seed: config.run.seed,
        order: order(&config.dataset),
        evaluation_samples,
        evaluation_microbatch: config.train.evaluation_microbatch(),
    }
}

/// The order of samples within an epoch; workers derive the same one.
fn order(dataset: &configs::Dataset) -> Order {
    match dataset.shuffle {
        configs::Shuffle::Full => Order::Full,
        configs::Shuffle::Window => Order::Window(dataset.shuffle_window),
        configs::Shuffle::None => Order::AsStored,
    }
}

pub(crate) fn total_steps(config: &Config, geometry: &Geometry) -> u64 {
    match (config.train.steps, config.train.epochs) {
        (Some(steps), _) => steps,
        (None, epochs) => epochs.unwrap_or(1).saturating_mul(geometry.steps_per_epoch()),
    }
}

/// The configuration for workers, without sinks and key paths, which workers don't need: they stay out of the files
/// that workers write, and workers that don't know these settings don't see them.
pub(crate) fn for_workers(config: &Config) -> Config {
    let configs::Tracker { git_diff, system_every, listen, .. } = config.tracker.clone();
    let tracker = configs::Tracker { git_diff, system_every, listen, ..configs::Tracker::default() };
    let mut config = Config { tracker, ..config.clone() };
    (config.checkpoint.sign, config.checkpoint.verify_key, config.export.sign) = (None, None, None);
    config
}

/// The coordinator machine's parameters.
pub(crate) fn run_plan(
    config: &Config,
    name: &str,
    run: RunId,
    plan: &DataPlan,
    workers: u32,
    data_port: u16,
) -> anyhow::Result<RunPlan> {
    let geometry = geometry(config, plan);
    let total_steps = total_steps(config, &geometry);
    Ok(RunPlan {
        run,
        run_name: name.to_owned(),
        config: for_workers(config).to_toml(),
        config_digest: config.digest(),
        data_plan: serde_json::to_string(plan).map_err(|why| anyhow!("the data plan: {why}"))?,
        data_digest: plan.identity(),
        data_port,
        task: config.model.kind.clone(),
        geometry,
        total_steps,
        schedule: schedule(config, total_steps),
        betas: (config.optimizer.kind != OptimizerKind::Sgd)
            .then_some((config.optimizer.beta1, config.optimizer.beta2)),
        clip_norm: config.train.clip_norm,
        on_nan: match config.train.on_nan {
            configs::OnNan::Stop => OnNan::Stop,
            configs::OnNan::Skip => OnNan::Skip,
        },
        wait_for_workers: workers.max(config.elastic.min_workers),
        min_workers: config.elastic.min_workers,
        max_workers: config.elastic.max_workers,
        mixed: config.elastic.mixed,
        checkpoint_every: match config.checkpoint.every {
            Every::Time(span) => CheckpointEvery::Millis(span.as_millis()),
            Every::Steps(steps) => CheckpointEvery::Steps(steps),
            Every::Epochs(epochs) => CheckpointEvery::Epochs(epochs),
        },
        evaluate_every_epochs: config.train.evaluate_every,
        early_stopping: early_stopping(config, plan)?,
        export: !config.export.formats.is_empty(),
        lease_ms: config.elastic.lease.as_millis(),
        join_timeout_ms: JOIN_TIMEOUT_MS,
        rejoin_ms: RunPlan::REJOIN_MS,
        load_timeout_ms: RunPlan::LOAD_TIMEOUT_MS,
        step_timeout_ms: RunPlan::STEP_TIMEOUT_MS,
        transfer_timeout_ms: RunPlan::TRANSFER_TIMEOUT_MS,
        last_version_ms: RunPlan::LAST_VERSION_MS,
    })
}

/// Maps `train.monitor` to one of an evaluation's sums (see `run_record::metric_definitions`).
pub(crate) fn early_stopping(config: &Config, plan: &DataPlan) -> anyhow::Result<Option<EarlyStopping>> {
    let train = &config.train;
    let Some(patience) = train.patience else { return Ok(None) };
    let (sum, scale) = match (train.monitor.as_str(), &plan.output) {
        ("validation/loss", _) => (0, 1.0),
        ("validation/accuracy", Output::Classes { .. } | Output::Tokens { .. }) => (2, 1.0),
        ("validation/mean_absolute_error", Output::Values { scale, .. }) => (2, *scale),
        ("validation/mean_squared_error", Output::Values { scale, .. }) => (3, scale * scale),
        (other, _) => {
            return Err(anyhow!("train.monitor = {other:?}: a run on these data has no such metric"));
        }
    };
    if plan.split_lengths().1 == 0 {
        return Err(anyhow!("train.patience = {patience}, but no row is held out: raise dataset.validation"));
    }
    Ok(Some(EarlyStopping {
        metric: train.monitor.clone(),
        sum,
        scale,
        lower_is_better: run_record::keys::lower_is_better(&train.monitor),
        min_delta: train.min_delta,
        patience,
    }))
}

/// How long a start waits for its workers: long enough to walk to another machine and start one there.
const JOIN_TIMEOUT_MS: u64 = 3_600_000;

fn schedule(config: &Config, total_steps: u64) -> Schedule {
    let (learning_rate, schedule) = (config.optimizer.learning_rate, &config.schedule);
    let warmup_steps = schedule.warmup_steps;
    match schedule.kind {
        ScheduleKind::Constant => Schedule::Constant { learning_rate },
        ScheduleKind::Warmup => Schedule::WarmUp { learning_rate, warmup_steps },
        ScheduleKind::Cosine => {
            Schedule::Cosine { learning_rate, warmup_steps, total_steps, final_factor: schedule.final_factor }
        }
        ScheduleKind::Step => {
            Schedule::Step { learning_rate, warmup_steps, every: schedule.step_every, gamma: schedule.gamma }
        }
    }
}

/// Maximum number of sums a step for a custom task, whose sums are not known here.
const OWN_SUMS_MAX: usize = 1 << 16;

/// Maximum number of sums a step of this run: loss, weight, number correct, and a confusion matrix.
pub(crate) fn sums_max(prediction: &Prediction) -> usize {
    let labels = match prediction {
        Prediction::Labels(labels) => labels.len(),
        Prediction::Tokens { .. } | Prediction::Values { .. } => 0,
    };
    labels.saturating_mul(labels).saturating_add(3).clamp(OWN_SUMS_MAX, wire::convert::SUMS_MAX)
}

/// How to interpret the metric sums for this dataset.
pub(crate) fn prediction(plan: &DataPlan) -> Prediction {
    match &plan.output {
        Output::Classes { labels } => Prediction::Labels(labels.clone()),
        Output::Values { scale, .. } => Prediction::Values { scale: *scale },
        Output::Tokens { .. } => Prediction::Tokens { bytes_per_token: plan.bytes_per_token() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_not_told_where_metrics_go_and_get_all_else() {
        let preset = include_str!("../../../configs/csv.toml");
        let parsed = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|key| format!("tracker.{key}")).collect();
            Config::parse(preset, "csv.toml", &set).expect("a configuration")
        };
        let every = "system_every=2s";
        let config = parsed(&["sinks=[\"mlflow\"]", "mlflow_uri=http://h", "wandb_project=p", every]);
        let plain = parsed(&[every]);
        assert_eq!(for_workers(&config).to_toml(), plain.to_toml());
        assert_eq!(for_workers(&config).digest(), config.digest());
        let keys =
            ["checkpoint.sign=/k", "checkpoint.verify_key=/k.pub", "export.sign=/k"].map(str::to_owned);
        let signed = Config::parse(preset, "csv.toml", &keys).expect("a configuration");
        assert!(!for_workers(&signed).to_toml().contains("/k"), "where keys are kept");
        assert_eq!(signed.digest(), parsed(&[]).digest(), "signing changes no weight");
    }
}
