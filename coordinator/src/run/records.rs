//! Builds the parts that record and show a run: the record, metrics, checkpoints, and the endpoints served alongside.

use std::net::SocketAddr;
use std::path::PathBuf;

use configs::Config;
use datasets::DataPlan;
use protocol::ids::RunId;
use run_record::{DatasetRecord, FinalRecord, MetricsFile, RunRecord, RunStatus};
use wire::token;

use super::{StartContext, endpoint};
use crate::checkpoints::uploads::{ManifestInfo, Uploads};
use crate::control::certificates;
use crate::display::{Display, RunInfo};
use crate::record::Recorder;
use crate::record::metrics::{self, Metrics, Scrapes};
use crate::record::origin::Origin;
use crate::record::run_metadata::RunMetadata;
use crate::record::spans::StepSpans;
use crate::run::prepare::{self, PriorState, StartError};

impl StartContext<'_> {
    /// The run's metadata, and the parts of its /metrics endpoint.
    pub(super) fn metadata(
        &self,
        past: &PriorState,
        run: RunId,
        worker: Option<PathBuf>,
    ) -> Result<(RunMetadata, Scrapes), StartError> {
        let (config, dir) = (&self.resolved.config, self.dir.path());
        let listener = metrics::listen(&config.telemetry.metrics_listen)?;
        if let Some(address) = listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
            let in_the_open = self.args.security.insecure || token::is_loopback(address.ip());
            let shown = SocketAddr::new(certificates::outward(address.ip()), address.port());
            let url = endpoint::url(shown, !in_the_open);
            self.write(&dir.join("metrics-address"), format!("{url}/metrics\n").as_bytes())?;
        }
        let (metrics, registry) = Metrics::new(self.dir.name());
        let first = past.history.resume().map_or(0, |resume| resume.step);
        let origin = Origin::begin(worker, config.tracker.git_diff, self.plan, first);
        let spans = StepSpans::start(&config.telemetry.otlp, run, self.dir.name())?;
        let metadata = RunMetadata::new(origin, metrics, spans, dir, config.tracker.system_every.0)?;
        Ok((metadata, Scrapes { listener, registry }))
    }

    /// Receiver for checkpoints and exports, into the run's folder.
    pub(super) fn uploads(&self, steps_per_epoch: u64) -> Uploads {
        let lineage = ManifestInfo {
            config_digest: self.resolved.config.digest(),
            dataset_digest: self.plan.digest.clone(),
            steps_per_epoch,
        };
        Uploads::new(self.dir.path(), lineage, self.keys.signing.clone())
    }

    pub(super) fn recorder(
        &self,
        past: &PriorState,
        (run, term): (RunId, u32),
        total_steps: u64,
        steps_per_epoch: u64,
        metadata: RunMetadata,
    ) -> Result<Recorder, StartError> {
        let path = self.dir.path().to_owned();
        let file = MetricsFile::open(&path.join("metrics.jsonl")).map_err(StartError::data)?;
        let info = RunInfo {
            name: self.dir.name().to_owned(),
            total_steps,
            steps_per_epoch,
            batch: full_batch(&self.resolved.config, self.plan),
            first_step: past.history.resume().map_or(0, |resume| resume.step),
            term,
        };
        let record = past.record.clone().unwrap_or_else(|| self.new_record(run));
        let record = RunRecord { status: RunStatus::Running, message: String::new(), ..record };
        let display = Display::new(self.args.output).map_err(StartError::failed)?;
        let mut recorder =
            Recorder::new(path, info, prepare::prediction(self.plan), file, record, display, metadata);
        recorder.write();
        Ok(recorder)
    }

    /// Number of rows that the data plan leaves out.
    fn skipped(&self) -> u64 {
        self.plan.form.skipped().map_or(0, |skipped| skipped.count)
    }

    fn new_record(&self, run: RunId) -> RunRecord {
        let id = hex::encode(run.0);
        RunRecord {
            run: self.dir.name().to_owned(),
            id: format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]),
            status: RunStatus::Running,
            message: String::new(),
            seed: self.resolved.config.run.seed,
            config_digest: self.resolved.config.digest(),
            git_commit: None,
            dataset: DatasetRecord {
                name: self.plan.name.clone(),
                version: self.plan.version(),
                digest: self.plan.digest.clone(),
                skipped: self.skipped(),
            },
            final_state: FinalRecord::default(),
            members: Vec::new(),
            members_left_out: 0,
            events: Vec::new(),
            views: 0,
            retries: 0,
            exact: !self.resolved.config.elastic.mixed,
            timings: std::collections::BTreeMap::new(),
            active: None,
            provenance: run_record::provenance::Provenance::default(),
        }
    }
}

/// Samples of a full step (an epoch's last step may be shorter).
fn full_batch(config: &Config, plan: &DataPlan) -> u32 {
    let (training, _) = plan.split_lengths();
    config.train.batch_size.min(u32::try_from(training).unwrap_or(u32::MAX))
}
