//! `coordinator --config`: builds the parts of a run, runs it and shuts it down.

mod endpoint;
pub(crate) mod prepare;
mod records;
pub(crate) mod resume;
pub(crate) mod source;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use configs::{Config, Resolved, ScheduleKind};
use datasets::{DataPlan, FileEntry};
use protocol::coordinator::{Coordinator, Outcome};
use protocol::history::History;
use protocol::ids::RunId;
use protocol::messages::ToWorker;
use run_record::RunStatus;
use serde_json::json;
use sinks::SinkConfig;
use store::RunDir;
use tokio::sync::mpsc;
use tracing::warn;

use self::endpoint::Endpoint;
use self::prepare::{PriorState, RunTarget, StartError};
use crate::checkpoints::journal_writer::JournalWriter;
use crate::checkpoints::rescue::RunFolder;
use crate::checkpoints::retention::Retention;
use crate::cli::{OutputForm, RunArgs};
use crate::commands::check;
use crate::commands::keys::Keys;
use crate::commands::tracking;
use crate::control::access::Access;
use crate::control::audit::Audit;
use crate::control::certificates;
use crate::control::connection_limit;
use crate::control::identities::Identities;
use crate::control::pages::RunPages;
use crate::control::rpc::{Service, guard};
use crate::control::streams::{self, StreamTimeouts};
use crate::display;
use crate::driver::{Driver, EVENTS_MAX};
use crate::files::{self, Ports};
use crate::local::launch::{self, Launch, LocalWorkerPool};
use crate::record::Recorder;
use crate::record::metrics;
use crate::record::run_metadata;
use crate::record::run_sinks::{self, RunningSinks};
use crate::record::spans::StepSpans;
use crate::reduction::Reduction;

use self::source::Source;
use crate::signals::Signals;

/// How long a run's final record may wait for disk space.
const RECORD_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between attempts to write it.
const RECORD_PAUSE: Duration = Duration::from_secs(2);
/// How long local workers may take to exit after the run.
const WORKERS_END: Duration = Duration::from_secs(10);
/// How long flushing the last spans to a collector may take.
const SPANS_END: Duration = Duration::from_secs(4);

/// Runs `coordinator --config FILE`; returns the exit code.
pub(crate) async fn run(args: &RunArgs) -> Result<u8, StartError> {
    let began = Instant::now();
    let resolved = resolve(args)?;
    let listen = args.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    let ports = files::ports(resolved.config.elastic.max_workers)?;
    connection_limit::bound(ports.control);
    if let Some(warning) = files::warning(ports, resolved.config.elastic.max_workers) {
        printable::error_line(format_args!("coordinator: {warning}"));
    }
    let keys = Keys::read(&resolved)?;
    let worker = local_worker(&resolved.config)?;
    if worker.is_some() && args.tls_ca.is_some() {
        return Err(StartError::config(
            "--tls-ca asks every worker for a certificate, and workers that are started here have none: pass \
             --local-workers 0, and start them with --tls-cert and --tls-key",
        ));
    }
    certificates::own_tls(&args.security, args.tls_ca.as_deref())?;
    let sinks = run_sinks::wanted(&resolved)?;
    let dataset = &resolved.config.dataset;
    let plan = DataPlan::prepare(dataset, resolved.path.parent())?.augmented(&resolved.config.augment)?;
    let mut resolved = prepare::with_data(resolved, &plan)?;
    let config = &resolved.config;
    check::has_samples(&prepare::geometry(config, &plan))?;
    let source = source::find(&resolved, keys.trusted.as_ref());
    let devices = match &worker {
        Some(binary) => launch::devices(&config.local.devices, config.local.workers, binary)
            .await
            .map_err(StartError::config)?,
        None => Vec::new(),
    };
    if !source::is_begun(&resolved, args.resume)? {
        // Checked before a folder is created.
        let source = source.as_ref().map_err(StartError::clone)?.as_ref();
        prepare::early_stopping(config, &plan).map_err(StartError::config)?;
        if let (Some(binary), Some(device)) = (&worker, devices.first()) {
            check::refuse_untrainable(binary, device, &resolved, &plan, source).await?;
        }
    }
    let place = prepare::place(&resolved, &plan, args.resume)?;
    let source = source::settle(source, &place, &mut resolved.config)?;
    let config = &resolved.config;
    let (dir, is_fresh) = match place {
        RunTarget::Fresh(dir) => (dir, true),
        RunTarget::Begun(dir) => (dir, false),
        RunTarget::Completed(dir) => {
            prepare::check_completed(dir.path(), config, &plan)?;
            say_completed(dir.path(), config, args.output);
            return Ok(0);
        }
    };
    let parts = StartContext {
        args,
        resolved: &resolved,
        dir: &dir,
        is_fresh,
        plan: &plan,
        keys,
        sinks,
        began,
        ports,
    };
    let ended = parts.begin(listen, worker, devices, source).await;
    // Removed, so that a start after the fix can use the same name.
    let has_begun = matches!(ended, Ok(RunOutcome { has_begun: true, .. }));
    if is_fresh
        && !has_begun
        && let Err(why) = dir.discard()
    {
        warn!(%why, "the folder of a run that has not begun stays");
    }
    ended.map(|ended| ended.code)
}

/// The result of a start.
struct RunOutcome {
    code: u8,
    /// False for a run that its own workers refused before its first state: none of it is worth keeping.
    has_begun: bool,
}

fn say_completed(dir: &Path, config: &Config, form: OutputForm) {
    // A longer run would have had other learning rates in its last steps.
    let more = match config.schedule.kind {
        ScheduleKind::Cosine => {
            "a cosine schedule depends on the length, so more steps take another run; init.from = this folder begins it \
             from these weights"
        }
        _ => "a greater train.epochs or train.steps makes it go on",
    };
    let text = format!("{} is completed: nothing is left to do ({more})", dir.display());
    display::say(form, "end", &text, &json!({ "status": RunStatus::Completed, "code": 0 }));
}

/// Files that workers without the data can download, by digest.
fn files_by_digest(plan: &DataPlan, source: Option<Source>) -> Result<HashMap<String, PathBuf>, StartError> {
    let root = Path::new(&plan.path);
    let file = |entry: &FileEntry| Ok((entry.md5.clone(), datasets::place(root, entry)?));
    let mut files: HashMap<String, PathBuf> = if plan.is_folder() {
        plan.files().iter().map(file).collect::<Result<_, StartError>>()?
    } else {
        HashMap::from([(plan.digest.clone(), root.to_owned())])
    };
    files.extend(plan.tokenizer().map(|tokenizer| (tokenizer.md5.clone(), PathBuf::from(&tokenizer.path))));
    files.extend(source.map(Source::file));
    Ok(files)
}

/// The configuration of a start, with the command line's overrides.
pub(crate) fn resolve(args: &RunArgs) -> Result<Resolved, StartError> {
    let path = args.config.as_deref().ok_or_else(|| StartError::config("--config FILE is missing"))?;
    let mut set = args.set.clone();
    if args.resume {
        set.extend(resume::overrides_of_run_folder(path, &args.set));
    }
    if let Some(workers) = args.local_workers {
        set.push(format!("local.workers={workers}"));
    }
    prepare::load(path, &set)
}

fn local_worker(config: &Config) -> Result<Option<PathBuf>, StartError> {
    if config.local.workers == 0 {
        return Ok(None);
    }
    launch::worker_binary(config.local.worker_binary.as_deref()).map(Some).map_err(StartError::config)
}

/// Everything that a start needs.
struct StartContext<'a> {
    args: &'a RunArgs,
    resolved: &'a Resolved,
    dir: &'a RunDir,
    /// Whether this start created the folder.
    is_fresh: bool,
    plan: &'a DataPlan,
    keys: Keys,
    sinks: Vec<SinkConfig>,
    began: Instant,
    ports: Ports,
}

impl StartContext<'_> {
    async fn begin(
        &self,
        listen: SocketAddr,
        worker: Option<PathBuf>,
        devices: Vec<String>,
        source: Option<Source>,
    ) -> Result<RunOutcome, StartError> {
        let (config, dir) = (&self.resolved.config, self.dir.path());
        let past = prepare::past(dir, config, self.plan, self.keys.trusted.as_ref())?;
        let files = files_by_digest(self.plan, source)?;
        let endpoint = self.endpoint(listen)?;
        let access = Access::open(endpoint.token.clone(), dir).map_err(StartError::config)?;
        let audit = Audit::start(dir)
            .map_err(|why| StartError::failed(format!("no thread for the audit log: {why}")))?;
        let (run, term) = self.take_term(&past.history)?;
        self.write_files()?;
        // Signals are handled before the address is published: a run that can be found can be stopped cleanly.
        let signals = Signals::listen()
            .map_err(|why| StartError::failed(format!("signals can't be listened to: {why}")))?;
        self.write(&dir.join("address"), format!("{}\n", endpoint.url()).as_bytes())?;

        let (driver_events, inbox) = mpsc::channel(EVENTS_MAX);
        let geometry = prepare::geometry(config, self.plan);
        let Endpoint { control, data, address, tls, token, discovery: _discovery } = endpoint;
        let sums_max = prepare::sums_max(&prepare::prediction(self.plan));
        let identities = Identities::new(audit.clone());
        let (of_data, secret) = ((geometry, sums_max), token.secret());
        let data = (data, self.ports.data);
        let reduction = Reduction::start(data, tls.clone(), secret, run, of_data, identities.clone())
            .map_err(|why| StartError::failed(format!("the data plane can't be started: {why}")))?;
        let workers = devices.len() as u32;
        let run_plan = prepare::run_plan(config, self.dir.name(), run, self.plan, workers, reduction.port())
            .map_err(StartError::config)?;
        let (total_steps, rejoin_ms) = (run_plan.total_steps, run_plan.rejoin_ms);
        let uploads = self.uploads(geometry.steps_per_epoch());
        let (metadata, scrapes) = self.metadata(&past, run, worker.clone())?;
        let queue = metadata.spans.as_ref().map(StepSpans::queue);
        let mut recorder =
            self.recorder(&past, (run, term), total_steps, geometry.steps_per_epoch(), metadata)?;
        let folder = RunFolder::hold(self.dir).map_err(StartError::failed)?;
        uploads.hold(folder.held());
        recorder.hold(folder.held());
        self.say_first(&mut recorder, &past);
        let exact = !config.elastic.mixed && past.history.is_exact();
        let journal = JournalWriter::start(past.journal)
            .map_err(|why| StartError::failed(format!("no thread for the journal: {why}")))?;
        let orphans = past.history.orphans();
        let now = self.began.elapsed().as_millis() as u64;
        let machine = Coordinator::new(run_plan, term, past.history, now);
        let end = Arc::new(OnceLock::new());
        let service = Service {
            driver_events: driver_events.clone(),
            run,
            identities,
            uploads: uploads.clone(),
            data: Arc::new(files),
            room: streams::inbox_room(),
            connections: Arc::default(),
            end: end.clone(),
            patience: StreamTimeouts::default(),
            audit: audit.clone(),
        };
        let url = |address| endpoint::url(address, tls.is_some());
        let outward = SocketAddr::new(certificates::outward(address.ip()), address.port());
        let (near, far) = (url(certificates::near(address)), url(outward));
        let watching = access.watch();
        let guard = guard(access.clone(), audit.clone());
        let server = endpoint::serve((control, tls), service, guard, config.elastic.lease.0, sums_max)?;
        run_metadata::sample(config.tracker.system_every.0, &driver_events);
        let pages = self.pages(access, audit);
        let metrics = metrics::serve(scrapes, &pages);
        let locals = worker.map(|binary| {
            let launch = Launch {
                binary,
                url: near,
                token_file: self.token_path(),
                insecure: self.args.security.insecure,
                logs: dir.join("logs"),
                devices,
            };
            LocalWorkerPool::new(launch, driver_events.clone())
        });
        let is_local = locals.is_some();
        let locals = self.call_workers(locals, (orphans, rejoin_ms), &far, &mut recorder)?;
        let mut hosted = tracking::host(config, dir, (&pages, self.ports.tracker), &mut recorder);
        let following = RunningSinks::start(self.sinks.clone(), dir, |line| recorder.line(line));
        recorder.follow_with(following.with_remarks_of(hosted.said()));
        folder.watch(&driver_events);
        let signals = tokio::spawn(signals.pass_on(driver_events));
        let kept = (Retention::new(config.checkpoint.keep, &config.checkpoint.best), folder);
        let driver = Driver::new(machine, journal, reduction, uploads, recorder, kept, self.began);
        let driver = driver.with_locals(locals, self.args.listen.is_some());
        let (outcome, mut recorder, locals) = driver.run(inbox).await;
        let _ = end.set(ToWorker::End { reason: outcome.reason, message: outcome.message.clone() });
        signals.abort();
        end_local(locals, outcome.code).await;
        server.abort();
        watching.abort();
        drop(metrics);
        let is_refused = self.is_fresh && is_local && recorder.is_refused_start(&outcome);
        let code = if is_refused {
            recorder.say_refused(&outcome);
            outcome.code
        } else {
            self.close(&outcome, &mut recorder, exact).await
        };
        // Pages stay up until the outcome is recorded.
        hosted.end().await;
        recorder.take_sinks().finish(dir, &outcome, |line| recorder.line(line)).await;
        if let Some(queue) = queue {
            queue.flush(SPANS_END).await;
        }
        Ok(RunOutcome { code, has_begun: !is_refused })
    }

    /// Shows messages before the first step: how to resume, and what was found of the run's past and data.
    fn say_first(&self, recorder: &mut Recorder, past: &PriorState) {
        let is_named = self.resolved.config.run.name.is_some();
        recorder.goes_on_with(resume::line(self.args, self.dir.name(), is_named));
        if self.args.resume && past.history.term() == 0 {
            recorder.nothing_to_resume(self.is_fresh);
        }
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
    }

    /// Starts the local workers, or shows how remote ones join.
    fn call_workers(
        &self,
        mut locals: Option<LocalWorkerPool>,
        (orphans, rejoin_ms): (usize, u64),
        url: &str,
        recorder: &mut Recorder,
    ) -> Result<Option<LocalWorkerPool>, StartError> {
        match &mut locals {
            None => {
                recorder.say_what_it_waits_for();
                recorder.line(&format!(
                    "waiting for workers: worker --coordinator {url} --token-file {}",
                    self.token_path().display()
                ));
            }
            // Workers of a killed coordinator are reconnecting: only missing ones are started.
            Some(locals) if orphans > 0 => {
                recorder.line(&format!("waiting for the {orphans} workers of the last view to come back"));
                locals.start_later(locals.slots().collect(), Duration::from_millis(rejoin_ms));
            }
            Some(locals) => {
                if let Err(why) = locals.slots().try_for_each(|slot| locals.start(slot)) {
                    locals.kill();
                    return Err(StartError::config(format!("{why:#}")));
                }
            }
        }
        Ok(locals)
    }

    /// Writes the run's final record and prints its last message; returns the exit code. If the disk is full it retries
    /// for a while: a run is not over before its record says so.
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

    /// Access control for the run's pages.
    fn pages(&self, access: Access, audit: Audit) -> RunPages {
        let security = self.args.security.clone();
        RunPages { access, audit, security, folder: self.dir.path().join("tls") }
    }

    fn take_term(&self, history: &History) -> Result<(RunId, u32), StartError> {
        let term = self.dir.last_term()?.max(history.term()) + 1;
        self.dir.take_term(term)?;
        let run = match history.run() {
            Some(run) => run,
            None => RunId(
                wire::random_bytes().map_err(|why| StartError::failed(format!("no random bytes: {why}")))?,
            ),
        };
        Ok((run, term))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StartError> {
        store::write_file(path, bytes).map_err(StartError::failed)
    }

    /// Writes the files that make a run's folder self-contained: the configuration and the data plan.
    fn write_files(&self) -> Result<(), StartError> {
        let dir = self.dir.path();
        self.write(&dir.join("config.toml"), self.resolved.config.to_toml().as_bytes())?;
        let plan = serde_json::to_vec_pretty(self.plan).map_err(StartError::failed)?;
        self.write(&dir.join("data.json"), &plan)?;
        if let Some(tokenizer) = self.plan.tokenizer()
            && let Some((_, json)) = self.plan.read_tokenizer(Path::new(&tokenizer.path))?
        {
            // `trainer sample` generates text with it, wherever the original is by then.
            self.write(&dir.join("tokenizer.json"), json.as_bytes())?;
        }
        Ok(())
    }
}

/// Waits for local workers to exit with the run; kills them if that takes too long or the run broke off.
async fn end_local(locals: Option<LocalWorkerPool>, code: u8) {
    let patience = if code == 0 { WORKERS_END } else { Duration::from_secs(2) };
    let deadline = tokio::time::Instant::now() + patience;
    if let Some(locals) = locals {
        locals.finish(deadline).await;
    }
}
