//! What is kept and shown of a run: metrics.jsonl, run.json, the display, the status.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::coordinator::{Committed, Note, Outcome};
use protocol::ids::{MemberId, Phase};
use protocol::messages::{EndReason, View};
use serde_json::json;
use store::versions::Manifest;
use tracing::{error, info, warn};
use tracker::meaning::{Prediction, metrics};
use tracker::system::Moment;
use tracker::{
    Confusion, EventRecord, MemberRecord, Metric, MetricsError, MetricsFile, RunRecord, RunStatus,
};

use crate::beside::{Beside, Told};
use crate::data_wait::DataWait;
use crate::display::{Display, MemberLine, Progress, RunInfo};
use crate::driver::hex;
use crate::due::Due;
use crate::rates::Rates;
use crate::sinks::Running;
use crate::status::StatusReport;

/// `train/loss` is there at least every so many steps.
const METRICS_EVERY: u64 = 10;

/// What people see of an evaluation; the rest is in metrics.jsonl and run.json.
const HEADLINE: [&str; 4] = [
    "validation/loss",
    "validation/accuracy",
    "validation/mean_absolute_error",
    "validation/mean_squared_error",
];

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Keeps and shows.
pub(crate) struct Recorder {
    run_dir: PathBuf,
    info: RunInfo,
    prediction: Prediction,
    file: MetricsFile,
    record: RunRecord,
    display: Display,
    rates: Rates,
    data_wait: DataWait,
    members: BTreeMap<MemberId, usize>,
    view: Option<View>,
    progress: Progress,
    evaluations: BTreeMap<u64, BTreeMap<String, f64>>,
    newest_version: Option<u64>,
    waiting_for: String,
    /// Local workers come by themselves in a moment; workers from elsewhere are started by people, who look here.
    says_what_it_waits_for: bool,
    beside: Beside,
    /// Whether run.json, which pages and scripts look at meanwhile, is behind.
    due: Due,
    sinks: Running,
}

/// A run that held still for less is nothing that people must know at once.
const SHORT_HOLD_MS: u64 = 100;
/// Events that run.json keeps: the newest.
const EVENTS_MAX: usize = 1_000;

impl Recorder {
    /// For a run whose record says what is known before it starts.
    pub(crate) fn new(
        run_dir: PathBuf,
        info: RunInfo,
        prediction: Prediction,
        file: MetricsFile,
        record: RunRecord,
        display: Display,
        beside: Beside,
    ) -> Self {
        let progress = Progress { step: info.first_step, ..Progress::default() };
        Self {
            run_dir,
            info,
            prediction,
            file,
            record,
            display,
            rates: Rates::default(),
            data_wait: DataWait::default(),
            members: BTreeMap::new(),
            view: None,
            progress,
            evaluations: BTreeMap::new(),
            newest_version: None,
            waiting_for: String::new(),
            says_what_it_waits_for: false,
            beside,
            due: Due::default(),
            sinks: Running::default(),
        }
    }

    /// From now on the sinks are told of metrics, and people of what the sinks say.
    pub(crate) fn follow_with(&mut self, sinks: Running) {
        self.sinks = sinks;
    }

    /// The sinks, which are told nothing more.
    pub(crate) fn take_sinks(&mut self) -> Running {
        std::mem::take(&mut self.sinks)
    }

    /// From now on people are told what the run waits for.
    pub(crate) fn say_what_it_waits_for(&mut self) {
        self.says_what_it_waits_for = true;
    }

    /// The last committed step.
    pub(crate) fn step(&self) -> u64 {
        self.progress.step
    }

    /// A line for people.
    pub(crate) fn line(&mut self, text: &str) {
        self.display.event("message", text, &json!({}));
    }

    /// A view opened.
    pub(crate) fn view(&mut self, view: &View) {
        if self.view.is_none() {
            self.display.begin(&self.info);
        }
        self.record.views += 1;
        self.beside.figures.view(view);
        if let Some(spans) = &mut self.beside.spans {
            spans.view();
        }
        self.waiting_for.clear();
        self.view = Some(view.clone());
    }

    /// A step was committed.
    pub(crate) fn committed(&mut self, committed: &Committed, now_ms: u64) -> Result<(), MetricsError> {
        if let Some(spans) = &mut self.beside.spans {
            spans.committed(committed);
        }
        match committed.key.phase {
            Phase::Train => self.trained(committed, now_ms)?,
            Phase::Evaluate => self.evaluated(committed)?,
        }
        self.write_if_due();
        Ok(())
    }

    fn trained(&mut self, committed: &Committed, now_ms: u64) -> Result<(), MetricsError> {
        self.rates.committed(now_ms, committed.batch);
        let named = metrics(&self.prediction, &committed.sums);
        let value = |key: &str| named.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
        let step = committed.key.step;
        let steps_per_second = self.rates.steps_per_second();
        let left = self.info.total_steps.saturating_sub(step) as f64;
        self.progress = Progress {
            step,
            epoch: committed.epoch,
            samples_per_second: self.rates.samples_per_second(),
            loss: value("loss").unwrap_or(f64::NAN),
            accuracy: value("accuracy"),
            data_wait: self.waited(committed),
            eta_s: if steps_per_second > 0.0 { left / steps_per_second } else { f64::NAN },
            members: self.member_lines(committed),
        };
        self.record.final_state.step = step;
        self.record.final_state.samples = committed.samples;
        self.record.final_state.epoch = step / self.info.steps_per_epoch.max(1);
        self.display.progress(&self.progress);
        self.beside.figures.trained(committed, &self.progress);
        let due = step == 1 || step.is_multiple_of(METRICS_EVERY) || step == self.info.total_steps;
        if !due && !committed.skipped {
            return Ok(());
        }
        let mut values: Vec<(String, f64)> =
            named.into_iter().map(|(key, value)| (format!("train/{key}"), value)).collect();
        values.push(("train/learning_rate".to_owned(), f64::from(committed.learning_rate)));
        values.push(("train/gradient_norm".to_owned(), committed.gradient_norm));
        values.push(("train/samples_per_second".to_owned(), self.progress.samples_per_second));
        self.append(committed, values).map(drop)
    }

    /// Takes in how long the members waited for data, for run.json; their share of the last steps, for people.
    fn waited(&mut self, committed: &Committed) -> Option<f64> {
        let [waited, all] = self.data_wait.committed(committed.timings.iter().map(|(_, timings)| timings));
        let mut sum = |key: &str, seconds: f64| {
            let sum = self.record.timings.entry(key.to_owned()).or_default();
            *sum += seconds;
            *sum
        };
        // Of all members together, over all starts of the run.
        let (waited, all) = (sum("data_wait_seconds", waited), sum("member_step_seconds", all));
        if all > 0.0 {
            self.record.timings.insert("data_wait_share".to_owned(), waited / all);
        }
        self.data_wait.share()
    }

    fn member_lines(&self, committed: &Committed) -> Vec<MemberLine> {
        let batch = f64::from(committed.batch.max(1));
        // A short batch at an epoch's end may have work for some members only: it says nothing about share and speed.
        let is_short = committed.batch < self.info.batch;
        committed
            .timings
            .iter()
            .map(|(member, timings)| {
                let known = self.members.get(member).and_then(|index| self.record.members.get(*index));
                let seconds = f64::from(timings.compute_us + timings.data_us) / 1e6;
                let samples = f64::from(timings.samples);
                let name = known.map_or_else(|| format!("{:#x}", member.0), |m| m.name.clone());
                let before = self.progress.members.iter().find(|line| line.name == name);
                if let Some(before) = before.filter(|_| is_short) {
                    return before.clone();
                }
                MemberLine {
                    name,
                    device: known.map_or_else(String::new, |m| m.device.clone()),
                    samples_per_second: if seconds > 0.0 { samples / seconds } else { 0.0 },
                    share: samples / batch,
                    data_ms: f64::from(timings.data_us) / 1_000.0,
                }
            })
            .collect()
    }

    fn evaluated(&mut self, committed: &Committed) -> Result<(), MetricsError> {
        let named: Vec<(String, f64)> = metrics(&self.prediction, &committed.sums)
            .into_iter()
            .map(|(key, value)| (format!("validation/{key}"), value))
            .collect();
        let headline: Vec<(String, f64)> =
            named.iter().filter(|(key, _)| HEADLINE.contains(&key.as_str())).cloned().collect();
        self.display.evaluated(committed.epoch, committed.key.step, &headline);
        let values: BTreeMap<String, f64> = named.iter().cloned().collect();
        self.record.final_state.metrics = values.clone();
        self.record.final_state.confusion =
            Confusion::of(&self.prediction, &committed.sums, committed.key.step);
        self.due.mark();
        self.evaluations.insert(committed.key.step, values);
        self.append(committed, named).map(drop)
    }

    fn append(&mut self, committed: &Committed, values: Vec<(String, f64)>) -> Result<(), MetricsError> {
        let epoch = committed.key.step as f64 / self.info.steps_per_epoch.max(1) as f64;
        let time = unix_seconds();
        let metrics = values
            .into_iter()
            .map(|(key, value)| Metric {
                step: committed.key.step,
                epoch,
                samples: committed.samples,
                time,
                key,
                value,
            })
            .collect();
        let fresh = self.file.append(metrics)?;
        self.display.metrics(&fresh);
        self.sinks.notify();
        self.repeat_sinks();
        Ok(())
    }

    /// Something happened.
    pub(crate) fn note(&mut self, note: &Note) {
        self.beside.figures.note(note);
        match note {
            Note::Joined { member, join } => {
                info!(name = join.name, device = join.device, "joined");
                self.members.insert(*member, self.record.members.len());
                self.record.members.push(MemberRecord {
                    name: join.name.clone(),
                    device: join.device.clone(),
                    fingerprint: hex(&join.fingerprint),
                    joined_step: self.progress.step,
                    left_step: None,
                    reason: None,
                    machine: self.beside.joined(join),
                });
                let text = format!("{} joined on {}", join.name, join.device);
                self.display.event("joined", &text, &json!({ "name": join.name, "device": join.device }));
                self.keep_event("joined", &text, None);
            }
            Note::Refused { name, failure } => {
                warn!(name, failure.message, "refused");
                let text = format!("{name} was refused: {}", failure.message);
                self.display.event("refused", &text, &json!({ "name": name }));
            }
            Note::Left { member, step, reason } => self.left(*member, *step, reason),
            Note::ViewOpened { view, reason } => {
                info!(view = format!("{:#x}", view.0), reason, "view opened");
                self.happened("view", reason, None);
            }
            Note::Retry { step, reason, lost_ms } => {
                self.record.retries += 1;
                self.happened("retry", &format!("step {step} is tried again: {reason}"), Some(*lost_ms));
            }
            Note::Rewound { from_step, to_step, reason } => {
                let text = format!("back from step {from_step} to state {to_step}: {reason}");
                self.happened("rewind", &text, None);
            }
            Note::Held { step, held_ms } => {
                let text = format!("held still for {held_ms} ms after step {step}");
                self.happened("hold", &text, Some(*held_ms));
            }
            Note::Waiting { reason } => {
                info!(reason, "waiting");
                self.waiting_for.clone_from(reason);
                if self.says_what_it_waits_for {
                    self.display.event("waiting", &format!("waiting for {reason}"), &json!({}));
                }
            }
            Note::Warning { message } => {
                warn!(message);
                self.display.event("warning", &format!("warning: {message}"), &json!({}));
            }
            Note::Version { step, digest } => info!(step, digest = hex(digest), "version"),
        }
        self.write_if_due();
    }

    fn left(&mut self, member: MemberId, step: u64, reason: &str) {
        let known = self.members.get(&member).and_then(|index| self.record.members.get_mut(*index));
        let name = known.map_or_else(
            || format!("{:#x}", member.0),
            |m| {
                m.left_step = Some(step);
                m.reason = Some(reason.to_owned());
                m.name.clone()
            },
        );
        info!(name, step, reason, "left");
        self.happened("left", &format!("{name} left after step {step}: {reason}"), None);
    }

    /// Something that changed who works on what: for people, and kept in run.json with the time that it cost.
    fn happened(&mut self, event: &str, text: &str, cost_ms: Option<u64>) {
        info!(event, text, cost_ms);
        // The first view is what everybody expects.
        let is_short = event == "hold" && cost_ms.is_some_and(|ms| ms < SHORT_HOLD_MS);
        if !is_short && (event != "view" || self.record.views > 1) {
            self.display.event(event, text, &json!({ "cost_ms": cost_ms }));
        }
        self.keep_event(event, text, cost_ms);
    }

    fn keep_event(&mut self, event: &str, text: &str, cost_ms: Option<u64>) {
        let cost_seconds = cost_ms.map(|ms| ms as f64 / 1_000.0);
        if let Some(seconds) = cost_seconds {
            *self.record.timings.entry(format!("{event}_seconds")).or_default() += seconds;
        }
        self.record.events.push(EventRecord {
            time: unix_seconds(),
            step: self.progress.step,
            event: event.to_owned(),
            text: text.to_owned(),
            cost_seconds,
        });
        let surplus = self.record.events.len().saturating_sub(EVENTS_MAX);
        self.record.events.drain(..surplus);
        self.due.mark();
    }

    /// What was said beside the protocol: it is kept, and changes nothing.
    pub(crate) fn told(&mut self, told: Told) {
        let epoch = self.progress.step as f64 / self.info.steps_per_epoch.max(1) as f64;
        let at = Moment { epoch, samples: self.record.final_state.samples, time: unix_seconds() };
        if let Err(trouble) = self.beside.told(told, at, &self.progress.members) {
            error!(%trouble, "system.jsonl can't be written");
        }
        self.write_if_due();
        self.repeat_sinks();
    }

    fn repeat_sinks(&mut self) {
        for remark in self.sinks.remarks() {
            self.line(&remark);
        }
    }

    /// A version is in place: run.json is written with it.
    pub(crate) fn version(&mut self, manifest: &Manifest) {
        self.newest_version = Some(manifest.step);
        self.beside.figures.checkpoint_age.reset();
        self.record.final_state.digest.clone_from(&manifest.digest);
        self.write();
    }

    /// The version with the best value of `metric` among the evaluated ones.
    pub(crate) fn best(&self, metric: &str) -> Option<u64> {
        let values = self
            .evaluations
            .iter()
            .filter_map(|(step, values)| Some((*step, *values.get(metric)?)))
            .collect();
        store::versions::best(&values, tracker::keys::lower_is_better(metric))
    }

    /// The evaluation of this step is the best so far, in a run that may end early.
    pub(crate) fn best_is(&mut self, step: Option<u64>) {
        self.record.final_state.best_step = step;
    }

    /// run.json as it stands.
    pub(crate) fn write(&mut self) {
        self.beside.origin.record(&mut self.record, &self.run_dir, false);
        let path = self.run_dir.join("run.json");
        if let Err(trouble) = store::write_file(&path, &self.record.to_bytes()) {
            error!(%trouble, "run.json can't be written");
        }
        self.due.written(Instant::now());
    }

    /// run.json, if something has happened and it wasn't written a moment ago.
    fn write_if_due(&mut self) {
        if self.due.is_due(Instant::now()) {
            self.write();
        }
    }

    /// The run is over: the last word to run.json and to people.
    pub(crate) fn end(&mut self, outcome: &Outcome, seconds: f64, exact: bool) {
        self.record.status = match outcome.reason {
            EndReason::Completed => RunStatus::Completed,
            EndReason::Interrupted => RunStatus::Interrupted,
            EndReason::Failed => RunStatus::Failed,
        };
        self.record.message.clone_from(&outcome.message);
        self.record.exact = exact;
        self.record.final_state.step = outcome.step;
        self.record.timings.insert("run_seconds".to_owned(), seconds);
        self.beside.origin.record(&mut self.record, &self.run_dir, true);
        self.write();
        let details = json!({
            "status": self.record.status, "step": outcome.step, "code": outcome.code, "digest": self.record.final_state.digest,
        });
        let line = self.last_line(outcome, seconds);
        match outcome.reason {
            EndReason::Failed => self.display.fail(&line, &details),
            EndReason::Completed | EndReason::Interrupted => self.display.end(&line, &details),
        }
    }

    fn last_line(&self, outcome: &Outcome, seconds: f64) -> String {
        let dir = self.run_dir.display();
        let took = crate::display::duration(seconds);
        match outcome.reason {
            EndReason::Completed => {
                let exports = self.run_dir.join("exports");
                let exported = std::fs::read_dir(&exports).is_ok_and(|mut entries| entries.next().is_some());
                let exported =
                    if exported { format!(", the model in {}", exports.display()) } else { String::new() };
                let early = if outcome.step < self.info.total_steps {
                    format!(" ({})", outcome.message)
                } else {
                    String::new()
                };
                format!("completed {} steps in {took}{early}: everything is in {dir}{exported}", outcome.step)
            }
            EndReason::Interrupted => {
                format!("interrupted at step {}: go on with --resume; everything is in {dir}", outcome.step)
            }
            EndReason::Failed => {
                let is_said = outcome.message.contains("--resume") || self.newest_version.is_none();
                let hint = if is_said { "" } else { "; go on with --resume" };
                format!("failed at step {}: {}{hint}; everything is in {dir}", outcome.step, outcome.message)
            }
        }
    }

    /// For `coordinator status`.
    pub(crate) fn status(&self) -> StatusReport {
        let mut metrics: std::collections::HashMap<String, f64> =
            self.record.final_state.metrics.iter().map(|(key, value)| (key.clone(), *value)).collect();
        if self.progress.loss.is_finite() && self.progress.step > self.info.first_step {
            metrics.insert("train/loss".to_owned(), self.progress.loss);
        }
        StatusReport {
            run: self.info.name.clone(),
            directory: self.run_dir.display().to_string(),
            state: if self.view.is_some() { "running" } else { "starting" }.to_owned(),
            step: self.progress.step,
            total_steps: self.info.total_steps,
            epoch: self.progress.epoch,
            samples_per_second: self.progress.samples_per_second,
            eta_seconds: self.progress.eta_s,
            metrics,
            members: self
                .progress
                .members
                .iter()
                .map(|line| wire::proto::MemberStatus {
                    name: line.name.clone(),
                    device: line.device.clone(),
                    share: line.share,
                    samples_per_second: line.samples_per_second,
                })
                .collect(),
            views: self.record.views,
            waiting_for: self.waiting_for.clone(),
            newest_version: self.newest_version,
        }
    }
}
