//! `coordinator --config`: builds the parts of a run, runs it, closes it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use configs::{Config, Resolved};
use datasets::{FileEntry, Plan};
use protocol::coordinator::{Coordinator, Outcome};
use protocol::history::History;
use protocol::ids::RunId;
use protocol::messages::ToWorker;
use store::RunDir;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Interceptor;
use tracing::warn;
use tracker::sink::SinkConfig;
use tracker::{DatasetRecord, FinalRecord, MetricsFile, RunRecord, RunStatus};
use wire::proto::bonfire_server::BonfireServer;
use wire::tls::ServerTls;
use wire::token::{self, Token, TokenLine};

use crate::access::Access;
use crate::audit::Audit;
use crate::beside::{self, Beside};
use crate::certificates;
use crate::cli::RunArgs;
use crate::counted;
use crate::data_plane::Reduction;
use crate::display::{Display, RunInfo};
use crate::driver::{Driver, TRIGGERS_MAX};
use crate::figures::{self, Figures, Scrapes};
use crate::identities::Identities;
use crate::journal_writer::JournalWriter;
use crate::keys::Keys;
use crate::launch::{self, Launch, Locals};
use crate::origin::Origin;
use crate::prepare::{self, Past, Place, Refusal};
use crate::record::Recorder;
use crate::retention::Retention;
use crate::rpc::{Service, guard};
use crate::signals::Signals;
use crate::sinks::{self, Running};
use crate::source::{self, Source};
use crate::spans::StepSpans;
use crate::streams::{self, Patience};
use crate::tracking;
use crate::uploads::{Lineage, Signing, Uploads};

/// A run's last record may wait for room on its disk for so long.
const RECORD_PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const RECORD_PAUSE: Duration = Duration::from_secs(2);
/// How long local workers may take to end after the run.
const WORKERS_END: Duration = Duration::from_secs(10);
/// How long the last spans may take to a collector.
const SPANS_END: Duration = Duration::from_secs(4);

/// `coordinator check`: everything that can be known before a run starts.
pub(crate) fn check(path: &Path, set: &[String]) -> Result<(), Refusal> {
    let resolved = Config::load(path, set).map_err(Refusal::config)?;
    let plan = Plan::prepare(&resolved.config.dataset, path.parent())?.augmented(&resolved.config.augment)?;
    let keys = Keys::read(&resolved)?;
    source::find(&resolved, keys.trusted.as_ref())?;
    sinks::wanted(&resolved)?;
    let resolved = prepare::with_data(resolved, &plan)?;
    let geometry = prepare::geometry(&resolved.config, &plan);
    let total = prepare::total_steps(&resolved.config, &geometry);
    check_geometry(&geometry)?;
    println!(
        "{} is good: {} ({} rows, {} of them held out), {} steps in epochs of {}, {} microbatches a step",
        path.display(),
        plan.version(),
        plan.rows,
        geometry.evaluation_samples,
        total,
        geometry.steps_per_epoch(),
        geometry.step(1).microbatches,
    );
    Ok(())
}

fn check_geometry(geometry: &protocol::plan::Geometry) -> Result<(), Refusal> {
    if geometry.samples > 0 {
        return Ok(());
    }
    Err(Refusal::data("no row is left for training: lower dataset.validation, or add rows"))
}

/// `coordinator --config FILE`: the exit code of the contract.
pub(crate) async fn run(args: &RunArgs) -> Result<u8, Refusal> {
    let began = Instant::now();
    let resolved = resolve(args)?;
    let listen = args.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    let keys = Keys::read(&resolved)?;
    let worker = local_worker(&resolved.config)?;
    if worker.is_some() && args.tls_ca.is_some() {
        return Err(Refusal::config(
            "--tls-ca asks every worker for a certificate, and workers that are started here have none: pass \
             --local-workers 0, and start them with --tls-cert and --tls-key",
        ));
    }
    certificates::own_tls(&args.security, args.tls_ca.as_deref())?;
    let sinks = sinks::wanted(&resolved)?;
    let dataset = &resolved.config.dataset;
    let plan = Plan::prepare(dataset, resolved.path.parent())?.augmented(&resolved.config.augment)?;
    let mut resolved = prepare::with_data(resolved, &plan)?;
    let config = &resolved.config;
    check_geometry(&prepare::geometry(config, &plan))?;
    let source = source::find(&resolved, keys.trusted.as_ref());
    if source.is_err() && !source::is_begun(&resolved, args.resume)? {
        // Before a folder is made for it.
        return source.map(|_| 0);
    }
    let place = prepare::place(&resolved, &plan, args.resume)?;
    let source = match &place {
        Place::Completed(_) => None,
        _ => source::settle(source, &place, &mut resolved.config)?,
    };
    let config = &resolved.config;
    let dir = match place {
        Place::Fresh(dir) | Place::Begun(dir) => dir,
        Place::Completed(path) => {
            println!(
                "{} is completed: nothing is left to do (a greater train.epochs or train.steps makes it go on)",
                path.display()
            );
            return Ok(0);
        }
    };
    let devices = match &worker {
        Some(binary) => launch::devices(&config.local.devices, config.local.workers, binary)
            .await
            .map_err(Refusal::config)?,
        None => Vec::new(),
    };
    let past = prepare::past(dir.path(), config, &plan, keys.trusted.as_ref())?;
    let files = files_by_digest(&plan, source)?;
    let signing = keys.signing;
    let parts = Parts { args, resolved: &resolved, dir: &dir, plan: &plan, signing, sinks, began };
    parts.start(past, listen, worker, devices, files).await
}

/// What workers without the data ask for.
fn files_by_digest(plan: &Plan, source: Option<Source>) -> Result<HashMap<String, PathBuf>, Refusal> {
    let root = Path::new(&plan.path);
    let file = |entry: &FileEntry| Ok((entry.md5.clone(), datasets::place(root, entry)?));
    let mut files: HashMap<String, PathBuf> = if plan.is_folder() {
        plan.files().iter().map(file).collect::<Result<_, Refusal>>()?
    } else {
        HashMap::from([(plan.digest.clone(), root.to_owned())])
    };
    files.extend(plan.tokenizer().map(|tokenizer| (tokenizer.md5.clone(), PathBuf::from(&tokenizer.path))));
    files.extend(source.map(Source::file));
    Ok(files)
}

/// Samples of a step that is not an epoch's short last one.
fn full_batch(config: &Config, plan: &Plan) -> u32 {
    let (training, _) = plan.split_lengths();
    config.train.batch_size.min(u32::try_from(training).unwrap_or(u32::MAX))
}

/// The configuration that a start asks for.
pub(crate) fn resolve(args: &RunArgs) -> Result<Resolved, Refusal> {
    let path = args.config.as_deref().ok_or_else(|| Refusal::config("--config FILE is missing"))?;
    let mut set = args.set.clone();
    if let Some(workers) = args.local_workers {
        set.push(format!("local.workers={workers}"));
    }
    Config::load(path, &set).map_err(Refusal::config)
}

fn local_worker(config: &Config) -> Result<Option<PathBuf>, Refusal> {
    if config.local.workers == 0 {
        return Ok(None);
    }
    launch::worker_binary(config.local.worker_binary.as_deref()).map(Some).map_err(Refusal::config)
}

/// What a start works with.
struct Parts<'a> {
    args: &'a RunArgs,
    resolved: &'a Resolved,
    dir: &'a RunDir,
    plan: &'a Plan,
    signing: Signing,
    sinks: Vec<SinkConfig>,
    began: Instant,
}

impl Parts<'_> {
    async fn start(
        &self,
        past: Past,
        listen: SocketAddr,
        worker: Option<PathBuf>,
        devices: Vec<String>,
        files: HashMap<String, PathBuf>,
    ) -> Result<u8, Refusal> {
        let control = self.bind_control(listen)?;
        let data = TcpListener::bind(SocketAddr::new(listen.ip(), 0))
            .map_err(|why| Refusal::failed(format!("no port for the data plane: {why}")))?;
        let address = control.local_addr().map_err(Refusal::failed)?;
        let tls = self.tls(address)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (token, discovery) = self.token(address, tls.as_ref())?;
        let access = Access::open(token.clone(), self.dir.path()).map_err(Refusal::config)?;
        let audit = Audit::start(self.dir.path())
            .map_err(|why| Refusal::failed(format!("no thread for the audit log: {why}")))?;
        let (run, term) = self.take_term(&past.history)?;
        self.write(&self.dir.path().join("config.toml"), self.resolved.config.to_toml().as_bytes())?;
        let plan = serde_json::to_vec_pretty(self.plan).map_err(Refusal::failed)?;
        self.write(&self.dir.path().join("data.json"), &plan)?;
        if let Some(tokenizer) = self.plan.tokenizer()
            && let Some((_, json)) = self.plan.read_tokenizer(Path::new(&tokenizer.path))?
        {
            // `trainer sample` writes text with it, wherever the file is by then.
            self.write(&self.dir.path().join("tokenizer.json"), json.as_bytes())?;
        }
        // Whoever reads the address finds a run that ends in order when it is told to.
        let signals = Signals::listen()
            .map_err(|why| Refusal::failed(format!("signals can't be listened to: {why}")))?;
        self.write(&self.dir.path().join("address"), format!("{scheme}://{address}\n").as_bytes())?;

        let config = &self.resolved.config;
        let (triggers, inbox) = mpsc::channel(TRIGGERS_MAX);
        let geometry = prepare::geometry(config, self.plan);
        let sums_max = prepare::sums_max(&prepare::prediction(self.plan));
        let identities = Identities::new(audit.clone());
        let (of_data, secret) = ((geometry, sums_max), token.secret());
        let reduction = Reduction::start(data, tls.clone(), secret, run, of_data, identities.clone())
            .map_err(|why| Refusal::failed(format!("the data plane can't be started: {why}")))?;
        let workers = devices.len() as u32;
        let run_plan = prepare::run_plan(config, self.dir.name(), run, self.plan, workers, reduction.port())
            .map_err(Refusal::config)?;
        let uploads =
            Uploads::new(self.dir.path(), self.lineage(geometry.steps_per_epoch()), self.signing.clone());
        let (beside, scrapes) = self.beside(&past, run, worker.clone())?;
        let queue = beside.spans.as_ref().map(StepSpans::queue);
        let mut recorder =
            self.recorder(&past, (run, term), run_plan.total_steps, geometry.steps_per_epoch(), beside)?;
        if past.record.is_some() {
            recorder.starts_again(self.began);
        }
        for remark in &past.remarks {
            recorder.line(remark);
        }
        if let Some(skipped) = self.plan.form.skipped().filter(|skipped| skipped.count > 0) {
            let first = skipped.listed.first().map_or("", String::as_str);
            recorder
                .line(&format!("{} of the data are left out, first {first}: see data.json", skipped.count));
        }
        let exact = !config.elastic.mixed && past.history.is_exact();
        let journal = JournalWriter::start(past.journal)
            .map_err(|why| Refusal::failed(format!("no thread for the journal: {why}")))?;
        let (orphans, rejoin_ms) = (past.history.orphans(), run_plan.rejoin_ms);
        let now = self.began.elapsed().as_millis() as u64;
        let machine = Coordinator::new(run_plan, term, past.history, now);
        let end = Arc::new(OnceLock::new());
        let service = Service {
            triggers: triggers.clone(),
            run,
            identities,
            uploads: uploads.clone(),
            data: Arc::new(files),
            room: streams::inbox_room(),
            connections: Arc::default(),
            end: end.clone(),
            patience: Patience::default(),
            audit: audit.clone(),
        };
        let watching = access.watch();
        let server = serve(
            (control, tls),
            service,
            guard(access, audit),
            config.elastic.lease.0,
            decoded_bytes_max(sums_max),
        )?;
        beside::sample(config.tracker.system_every.0, &triggers);
        let figures = figures::serve(scrapes);
        let mut locals = worker.map(|binary| {
            let launch = Launch {
                binary,
                url: format!("{scheme}://{}", certificates::near(address)),
                token_file: self.token_path(),
                insecure: self.args.security.insecure,
                logs: self.dir.path().join("logs"),
                devices,
            };
            Locals::new(launch, triggers.clone())
        });
        match &mut locals {
            None => {
                recorder.say_what_it_waits_for();
                recorder.line(&format!(
                    "waiting for workers: worker --coordinator {scheme}://{address} --token-file {}",
                    self.token_path().display()
                ));
            }
            // Workers of a coordinator that was killed are on their way back: only those that don't come are started.
            Some(locals) if orphans > 0 => {
                recorder.line(&format!("waiting for the {orphans} workers of the last view to come back"));
                locals.start_later(locals.slots().collect(), Duration::from_millis(rejoin_ms));
            }
            Some(locals) => {
                for slot in locals.slots() {
                    locals.start(slot).map_err(Refusal::config)?;
                }
            }
        }
        let mut hosted = tracking::host(&self.resolved.config, self.dir.path(), &mut recorder);
        let following = Running::start(self.sinks.clone(), self.dir.path(), &mut recorder);
        recorder.follow_with(following.hearing(hosted.said()));
        let signals = tokio::spawn(signals.pass_on(triggers));
        let retention = Retention::new(config.checkpoint.keep, &config.checkpoint.best);
        let driver = Driver::new(machine, journal, reduction, uploads, recorder, retention, self.began);
        let (outcome, mut recorder, locals) = driver.with_locals(locals).run(inbox).await;
        let _ = end.set(ToWorker::End { reason: outcome.reason, message: outcome.message.clone() });
        signals.abort();
        end_local(locals, outcome.code).await;
        server.abort();
        watching.abort();
        hosted.end().await;
        figures.abort();
        let _ = std::fs::remove_file(discovery);
        let code = self.close(&outcome, &mut recorder, exact).await;
        recorder.take_sinks().finish(self.dir.path(), &outcome, &mut recorder).await;
        if let Some(queue) = queue {
            queue.flush(SPANS_END).await;
        }
        Ok(code)
    }

    /// What is kept and served beside the run, and what serves /metrics.
    fn beside(&self, past: &Past, run: RunId, worker: Option<PathBuf>) -> Result<(Beside, Scrapes), Refusal> {
        let (config, dir) = (&self.resolved.config, self.dir.path());
        let listener = figures::listen(&config.telemetry.metrics_listen)?;
        if let Some(address) = listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
            self.write(&dir.join("metrics-address"), format!("http://{address}/metrics\n").as_bytes())?;
        }
        let (figures, registry) = Figures::new(self.dir.name());
        let first = past.history.resume().map_or(0, |resume| resume.step);
        let origin = Origin::begin(worker, config.tracker.git_diff, self.plan, first);
        let spans = StepSpans::start(&config.telemetry.otlp, run, self.dir.name())?;
        let beside = Beside::new(origin, figures, spans, dir, config.tracker.system_every.0)?;
        Ok((beside, Scrapes { listener, registry }))
    }

    /// Writes the run's last record and says the last word; the exit code. Where there is no room it waits for some: a run
    /// is not over before its record says so.
    async fn close(&self, outcome: &Outcome, recorder: &mut Recorder, exact: bool) -> u8 {
        let seconds = self.began.elapsed().as_secs_f64();
        recorder.conclude(outcome, seconds, exact);
        let until = Instant::now() + RECORD_PATIENCE;
        let mut said = String::new();
        while let Err(why) = recorder.settle() {
            if Instant::now() >= until {
                tracing::error!("{why}; given up after {} s", RECORD_PATIENCE.as_secs());
                recorder.say_end(
                    &Outcome { message: format!("{}; {why}", outcome.message), ..outcome.clone() },
                    seconds,
                );
                return if outcome.code == 0 { 4 } else { outcome.code };
            }
            if said != why {
                let (every, patience) = (RECORD_PAUSE.as_secs(), RECORD_PATIENCE.as_secs());
                tracing::error!("the run is over, but {why}; trying again every {every} s for {patience} s");
                said = why;
            }
            tokio::time::sleep(RECORD_PAUSE).await;
        }
        recorder.say_end(outcome, seconds);
        outcome.code
    }

    /// The control address: as asked for, else the port that this run had before, else a free one.
    fn bind_control(&self, listen: SocketAddr) -> Result<TcpListener, Refusal> {
        let before = std::fs::read_to_string(self.dir.path().join("address"))
            .ok()
            .and_then(|text| token::host_and_port(text.trim()))
            .map(|(_, port)| SocketAddr::new(listen.ip(), port));
        if listen.port() == 0
            && let Some(kept) = before
            && let Ok(listener) = TcpListener::bind(kept)
        {
            return Ok(listener);
        }
        TcpListener::bind(listen).map_err(|why| match why.kind() {
            std::io::ErrorKind::AddrInUse => Refusal::config(format!(
                "--listen {listen} is in use by another program: choose another port"
            )),
            _ => Refusal::config(format!("--listen {listen}: {why}")),
        })
    }

    fn token_path(&self) -> PathBuf {
        self.args.token_file.clone().unwrap_or_else(|| self.dir.path().join("token"))
    }

    /// What encrypts the run's ports, if anything does.
    fn tls(&self, address: SocketAddr) -> Result<Option<ServerTls>, Refusal> {
        let (security, authority) = (&self.args.security, self.args.tls_ca.as_deref());
        let tls = certificates::server_tls(security, authority, address.ip(), &self.dir.path().join("tls"))?;
        if tls.is_none() && !token::is_loopback(address.ip()) {
            eprintln!("coordinator: {}", certificates::INSECURE);
        }
        Ok(tls)
    }

    /// The run's token, kept from before or made now, and the file where workers of this user find it. The line says whom
    /// they trust, as it is at this start.
    fn token(&self, address: SocketAddr, tls: Option<&ServerTls>) -> Result<(Token, PathBuf), Refusal> {
        let path = self.token_path();
        let before = path.exists().then(|| TokenLine::read(&path)).transpose().map_err(Refusal::config)?;
        let token = match &before {
            Some(line) => line.token.clone(),
            None => Token::random().map_err(|why| Refusal::failed(format!("no random bytes: {why}")))?,
        };
        let line = TokenLine { token, fingerprint: tls.map(ServerTls::fingerprint) };
        if before.as_ref() != Some(&line) {
            line.write(&path).map_err(Refusal::failed)?;
        }
        let discovery = token::discovery_file(address.port()).map_err(Refusal::failed)?;
        line.write(&discovery).map_err(Refusal::failed)?;
        Ok((line.token, discovery))
    }

    fn take_term(&self, history: &History) -> Result<(RunId, u32), Refusal> {
        let term = self.dir.last_term()?.max(history.term()) + 1;
        self.dir.take_term(term)?;
        let run = match history.run() {
            Some(run) => run,
            None => {
                RunId(wire::random_bytes().map_err(|why| Refusal::failed(format!("no random bytes: {why}")))?)
            }
        };
        Ok((run, term))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Refusal> {
        store::write_file(path, bytes).map_err(Refusal::failed)
    }

    fn lineage(&self, steps_per_epoch: u64) -> Lineage {
        Lineage {
            config_digest: self.resolved.config.digest(),
            dataset_digest: self.plan.digest.clone(),
            steps_per_epoch,
        }
    }

    fn recorder(
        &self,
        past: &Past,
        (run, term): (RunId, u32),
        total_steps: u64,
        steps_per_epoch: u64,
        beside: Beside,
    ) -> Result<Recorder, Refusal> {
        let path = self.dir.path().to_owned();
        let file = MetricsFile::open(&path.join("metrics.jsonl")).map_err(Refusal::data)?;
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
        let display = Display::new(self.args.output).map_err(Refusal::failed)?;
        let mut recorder =
            Recorder::new(path, info, prepare::prediction(self.plan), file, record, display, beside);
        recorder.write();
        Ok(recorder)
    }

    /// Rows that are left out of the data.
    fn skipped(&self) -> u64 {
        self.plan.form.skipped().map_or(0, |skipped| skipped.count)
    }

    fn new_record(&self, run: RunId) -> RunRecord {
        let id = crate::driver::hex(&run.0);
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
            provenance: tracker::provenance::Provenance::default(),
        }
    }
}

/// Bytes of what a peer can have to say at most: a chunk of a file, or a step's sums (twice: in a Join, a commit has them
/// in the journal's form) with some words.
fn decoded_bytes_max(sums_max: usize) -> usize {
    const WORDS: usize = 64 << 10;
    let sums = sums_max.saturating_mul(2 * size_of::<f64>());
    (wire::CHUNK_BYTES.max(sums) + WORDS).min(wire::MESSAGE_BYTES_MAX)
}

fn serve(
    (control, tls): (TcpListener, Option<ServerTls>),
    service: Service,
    guard: impl Interceptor + Clone + Send + Sync + 'static,
    lease: Duration,
    decoded_bytes_max: usize,
) -> Result<tokio::task::JoinHandle<()>, Refusal> {
    control.set_nonblocking(true).map_err(Refusal::failed)?;
    let listener = tokio::net::TcpListener::from_std(control).map_err(Refusal::failed)?;
    let incoming =
        TcpListenerStream::new(listener).filter_map(move |accepted| counted::admit(accepted, tls.as_ref()));
    let bonfire = BonfireServer::new(service)
        .max_decoding_message_size(decoded_bytes_max)
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
    let guarded = tonic::service::interceptor::InterceptedService::new(bonfire, guard);
    let server = wire::transport::server(lease).add_service(guarded);
    Ok(tokio::spawn(async move {
        if let Err(why) = server.serve_with_incoming(incoming).await {
            warn!(%why, "the rpc server ended");
        }
    }))
}

/// Local workers end with the run: by themselves, or by force where that takes too long or the run broke off.
async fn end_local(locals: Option<Locals>, code: u8) {
    let patience = if code == 0 { WORKERS_END } else { Duration::from_secs(2) };
    let deadline = tokio::time::Instant::now() + patience;
    if let Some(locals) = locals {
        locals.finish(deadline).await;
    }
}
