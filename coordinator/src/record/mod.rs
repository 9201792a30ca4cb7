//! The recorder: writes metrics.jsonl and run.json, feeds the display and answers status requests.

pub(crate) mod data_wait;
mod ending;
mod events;
mod member_log;
pub(crate) mod metrics;
mod ongoing_events;
pub(crate) mod origin;
pub(crate) mod pending_write;
pub(crate) mod run_metadata;
pub(crate) mod run_sinks;
pub(crate) mod spans;
mod status;
mod steps;
mod storage_trouble;
pub(crate) mod system_report;
mod throttle;
pub(crate) mod throughput;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use protocol::coordinator::Committed;
use protocol::ids::Phase;
use protocol::messages::View;
use run_record::metric_definitions::Prediction;
use run_record::{ActiveRecord, MetricsFile, RunRecord};
use serde_json::json;
use store::versions::Manifest;
use store::{FolderLocation, HeldFolder};
use telemetry::system::ReadingContext;
use tracing::error;

use self::member_log::MemberLog;
use self::ongoing_events::OngoingEvents;
use self::storage_trouble::StorageTrouble;
use self::throttle::Throttle;
use crate::clock::unix_seconds;
use crate::display::{Display, Progress, RunInfo};
use crate::record::data_wait::DataWait;
use crate::record::pending_write::PendingWrite;
use crate::record::run_metadata::RunMetadata;
use crate::record::run_sinks::RunningSinks;
use crate::record::system_report::SystemReport;
use crate::record::throughput::ThroughputWindow;

/// Records and shows a run.
pub(crate) struct Recorder {
    run_dir: PathBuf,
    /// Handle on the run's folder, to notice when it is moved or deleted.
    held: Option<Arc<HeldFolder>>,
    info: RunInfo,
    prediction: Prediction,
    file: MetricsFile,
    metrics_trouble: StorageTrouble,
    record_trouble: StorageTrouble,
    /// Limits the shown refusals, which any client can cause.
    refusals: Throttle,
    record: RunRecord,
    display: Display,
    rates: ThroughputWindow,
    data_wait: DataWait,
    members: MemberLog,
    ongoing: OngoingEvents,
    /// When this coordinator started, Unix time in seconds.
    started: f64,
    began: Instant,
    /// Seconds that earlier coordinators worked on the run.
    active_before: f64,
    view: Option<View>,
    progress: Progress,
    newest_version: Option<u64>,
    waiting_for: String,
    /// Whether the wait is within a step.
    waits_in_step: bool,
    /// Whether to show what the run waits for: local workers join by themselves in a moment; remote ones are started by
    /// people who watch this output.
    says_what_it_waits_for: bool,
    metadata: RunMetadata,
    /// Whether run.json, which pages and scripts read during the run, is out of date.
    run_json_write: PendingWrite,
    sinks: RunningSinks,
    /// The command that resumes the run.
    resume_line: String,
}

impl Recorder {
    /// A recorder for a run, with its record as it is before the start.
    pub(crate) fn new(
        run_dir: PathBuf,
        info: RunInfo,
        prediction: Prediction,
        file: MetricsFile,
        record: RunRecord,
        display: Display,
        metadata: RunMetadata,
    ) -> Self {
        let active_before = record.active.map_or(0.0, |active| active.seconds);
        let progress = Progress { step: info.first_step, ..Progress::default() };
        Self {
            run_dir,
            held: None,
            info,
            prediction,
            file,
            metrics_trouble: StorageTrouble::default(),
            record_trouble: StorageTrouble::default(),
            refusals: Throttle::new(Instant::now()),
            record,
            display,
            rates: ThroughputWindow::default(),
            data_wait: DataWait::default(),
            members: MemberLog::default(),
            ongoing: OngoingEvents::default(),
            started: unix_seconds(),
            began: Instant::now(),
            active_before,
            view: None,
            progress,
            newest_version: None,
            waiting_for: String::new(),
            waits_in_step: false,
            says_what_it_waits_for: false,
            metadata,
            run_json_write: PendingWrite::default(),
            sinks: RunningSinks::default(),
            resume_line: String::new(),
        }
    }

    /// The command that resumes the run.
    pub(crate) fn goes_on_with(&mut self, line: String) {
        self.resume_line = line;
    }

    /// Switches to another run folder.
    pub(crate) fn move_to(&mut self, run_dir: &Path) {
        self.run_dir = run_dir.to_owned();
        self.held = None;
    }

    /// Writes run.json only while the folder is in place.
    pub(crate) fn hold(&mut self, held: Arc<HeldFolder>) {
        self.held = Some(held);
    }

    /// `--resume` found nothing to resume, so the run starts from scratch: schedulers rely on that, but people may have
    /// meant another run.
    pub(crate) fn nothing_to_resume(&mut self, is_fresh: bool) {
        let (name, dir) = (&self.info.name, self.run_dir.display());
        let text = if is_fresh {
            format!("nothing to resume: there was no such run, so {dir} is a new one")
        } else {
            format!("nothing to resume: {dir} has not begun, so it starts now")
        };
        self.display.event("nothing_to_resume", &text, &json!({ "run": name }));
    }

    /// Attaches the sinks: they are notified of metrics, and their remarks are shown.
    pub(crate) fn follow_with(&mut self, sinks: RunningSinks) {
        self.sinks = sinks;
    }

    /// Detaches the sinks.
    pub(crate) fn take_sinks(&mut self) -> RunningSinks {
        std::mem::take(&mut self.sinks)
    }

    /// Shows what the run waits for from now on.
    pub(crate) fn say_what_it_waits_for(&mut self) {
        self.says_what_it_waits_for = true;
    }

    pub(crate) fn step(&self) -> u64 {
        self.progress.step
    }

    /// Shows a message.
    pub(crate) fn line(&mut self, text: &str) {
        self.display.event("message", text, &json!({}));
    }

    pub(crate) fn view(&mut self, view: &View) {
        if self.view.is_none() {
            self.display.begin(&self.info);
        }
        self.record.views += 1;
        self.metadata.metrics.view(view);
        if let Some(spans) = &mut self.metadata.spans {
            spans.view();
        }
        self.goes_on();
        self.view = Some(view.clone());
    }

    pub(crate) fn committed(&mut self, committed: &Committed, now_ms: u64) {
        if let Some(spans) = &mut self.metadata.spans {
            spans.committed(committed);
        }
        match committed.key.phase {
            Phase::Train => {
                self.trained(committed, now_ms);
                self.reached(committed.key.step);
            }
            Phase::Evaluate => self.evaluated(committed),
        }
        self.write_if_due();
    }

    /// Records metrics from outside the protocol; they influence nothing.
    pub(crate) fn report(&mut self, report: SystemReport) {
        let epoch = self.progress.step as f64 / self.info.steps_per_epoch.max(1) as f64;
        let at = ReadingContext { epoch, samples: self.record.final_state.samples, time: unix_seconds() };
        if let Err(trouble) = self.metadata.report(report, at, &self.progress.members) {
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

    /// A checkpoint is in place: writes run.json and syncs the metrics, as none of its steps will be repeated.
    pub(crate) fn version(&mut self, manifest: &Manifest) {
        if let Err(trouble) = self.file.sync() {
            self.metrics_wait(&trouble);
        }
        self.newest_version = Some(manifest.step);
        self.metadata.metrics.checkpoint_age.reset();
        self.record.final_state.digest.clone_from(&manifest.digest);
        self.write();
    }

    /// The metrics of the last evaluation.
    pub(crate) fn evaluation(&self) -> &BTreeMap<String, f64> {
        &self.record.final_state.metrics
    }

    /// Records the step with the best evaluation so far, in a run with early stopping.
    pub(crate) fn best_is(&mut self, step: Option<u64>) {
        self.record.final_state.best_step = step;
    }

    /// Updates the time that the run has been active.
    fn note_activity(&mut self) {
        let seconds = self.active_before + self.began.elapsed().as_secs_f64();
        self.record.active = Some(ActiveRecord { seconds, until: unix_seconds() });
    }

    /// Writes run.json.
    pub(crate) fn write(&mut self) {
        if self.held.as_ref().is_some_and(|held| held.whereabouts() != FolderLocation::InPlace) {
            // The rescue is about to find another folder.
            return self.run_json_write.mark();
        }
        self.note_activity();
        self.metadata.origin.record(&mut self.record, &self.run_dir, false);
        let path = self.run_dir.join("run.json");
        let written = store::write_file(&path, &self.record.to_bytes());
        self.run_json_write.written(Instant::now());
        match written {
            Ok(()) if self.record_trouble.is_over() => self.line("run.json is written again"),
            Ok(()) => {}
            Err(trouble) => {
                error!(%trouble, "run.json can't be written");
                let text = format!("run.json can't be written: {trouble}; it is tried again");
                if self.record_trouble.is_news(&text) {
                    self.warning(&text);
                }
                self.run_json_write.mark();
            }
        }
    }

    /// Writes run.json if it is out of date and was not written a moment ago.
    fn write_if_due(&mut self) {
        if self.run_json_write.is_due(Instant::now()) {
            self.write();
        }
    }
}
