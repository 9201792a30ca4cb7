//! `coordinator status`, `stop` and `checkpoint`: calls to a running coordinator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use run_record::{RunRecord, RunStatus};
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use wire::auth::Bearer;
use wire::lazy_tls::{PeerProtocol, what_is_spoken};
use wire::proto::bonfire_client::BonfireClient;
use wire::proto::{CheckpointRequest, StatusRequest, StopRequest};
use wire::tls::{Security, SecurityMode, TlsError};
use wire::token::{self, TokenLine};

use crate::cli::{OutputForm, RunSelector};
use crate::commands::status::{self, StatusReport};
use crate::run::prepare::StartError;

/// Deadline of a call.
const DEADLINE: Duration = Duration::from_secs(10);

/// Exit code when no coordinator answers, or none can be reached.
const NOBODY: u8 = 4;

type Client = BonfireClient<InterceptedService<Channel, Bearer>>;

/// Runs `coordinator status`.
pub(crate) async fn status(target: &RunSelector) -> Result<(), StartError> {
    let dir = directory(target)?;
    let report = match ask(target, dir.as_deref()).await {
        Ok(report) => report,
        // Nobody answers: the last state in run.json is the status.
        Err(refusal) if refusal.code == NOBODY => return from_record(dir.as_deref(), target.output, refusal),
        Err(refusal) => return Err(refusal),
    };
    show(&report, target.output);
    let may_need_workers = matches!(&*report.state, "starting" | "paused");
    if may_need_workers && target.output == OutputForm::Text {
        let address = address(target, dir.as_deref())?;
        print(&format!("  a worker joins with: worker --coordinator {address}\n"));
    }
    Ok(())
}

async fn ask(target: &RunSelector, dir: Option<&Path>) -> Result<StatusReport, StartError> {
    let mut called = connect(target, dir).await?;
    match called.client.status(StatusRequest {}).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(called.refusal(&status).await),
    }
}

fn show(report: &StatusReport, form: OutputForm) {
    let text = match form {
        OutputForm::Text => status::to_text(report),
        OutputForm::Json => printable::json(&status::to_json(report)).into_owned() + "\n",
    };
    print(&text);
}

/// Runs `coordinator stop`.
pub(crate) async fn stop(target: &RunSelector) -> Result<(), StartError> {
    let mut called = connect(target, directory(target)?.as_deref()).await?;
    let reason = "coordinator stop was called".to_owned();
    if let Err(status) = called.client.stop(StopRequest { reason }).await {
        return Err(called.refusal(&status).await);
    }
    print("the run finishes its step, writes a version and ends; --resume goes on\n");
    Ok(())
}

/// Runs `coordinator checkpoint`.
pub(crate) async fn checkpoint(target: &RunSelector) -> Result<(), StartError> {
    let mut called = connect(target, directory(target)?.as_deref()).await?;
    if let Err(status) = called.client.checkpoint(CheckpointRequest {}).await {
        return Err(called.refusal(&status).await);
    }
    print("a version follows the step in flight\n");
    Ok(())
}

fn print(text: &str) {
    printable::print(text);
}

/// A connection to a coordinator.
struct ConnectedClient {
    client: Client,
    /// For messages.
    address: String,
    host: String,
    port: u16,
    is_plain: bool,
}

impl ConnectedClient {
    /// Turns the status of a failed call into an error for the user.
    async fn refusal(&self, status: &Status) -> StartError {
        // A broken connection may cancel or fail its calls with any of these codes.
        let is_of_transport = matches!(
            status.code(),
            tonic::Code::Unknown | tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Internal
        );
        if !is_of_transport {
            return said(status);
        }
        if self.is_plain && what_is_spoken(&self.host, self.port).await == PeerProtocol::Tls {
            return StartError::config(format!(
                "{}: the coordinator there speaks TLS: use https://",
                self.address
            ));
        }
        match TlsError::within(status) {
            Some(trouble) if !trouble.is_passing => {
                StartError::config(format!("{}: {}", self.address, trouble.message))
            }
            _ => said(status),
        }
    }
}

fn said(status: &Status) -> StartError {
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => StartError::config(status.message()),
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => StartError::failed(format!(
            "the coordinator took the call and has not answered within {} s: it is stopped, or its machine is at its \
             limit",
            DEADLINE.as_secs()
        )),
        _ => StartError::failed(status.message()),
    }
}

/// The run directory: the named one, else the newest below ./runs; none with --connect.
fn directory(target: &RunSelector) -> Result<Option<PathBuf>, StartError> {
    if target.connect.is_some() {
        return Ok(None);
    }
    run_dir(target.run_dir.as_deref()).map(Some)
}

/// The run directory of this name, else the newest below ./runs.
pub(crate) fn run_dir(named: Option<&Path>) -> Result<PathBuf, StartError> {
    if let Some(dir) = named {
        if dir.join("config.toml").is_file() {
            return Ok(dir.to_owned());
        }
        return Err(StartError::data(format!(
            "{} is no run directory (it has no config.toml)",
            dir.display()
        )));
    }
    let runs = Path::new("runs");
    let newest = std::fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("config.toml").is_file())
        .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok());
    newest
        .map(|entry| entry.path())
        .ok_or_else(|| StartError::data("there is no run below ./runs: name one, or use --connect URL"))
}

/// Shows the status from run.json, if there is one. A run that should have a coordinator and has none is a failure:
/// somebody has to restart it.
fn from_record(dir: Option<&Path>, form: OutputForm, refusal: StartError) -> Result<(), StartError> {
    let record = dir.and_then(|dir| Some((dir, RunRecord::read(&dir.join(RunRecord::FILE)).ok()?)));
    let Some((dir, record)) = record else { return Err(refusal) };
    let report = status::of_record(&record, dir);
    show(&report, form);
    if report.state == status::LOST {
        return Err(StartError::failed(format!(
            "{}; if no coordinator of it is alive, start it again: the same command with --resume",
            refusal.message
        )));
    }
    Ok(())
}

async fn connect(target: &RunSelector, dir: Option<&Path>) -> Result<ConnectedClient, StartError> {
    let address = address(target, dir)?;
    let (host, port) = token::host_and_port(&address)
        .ok_or_else(|| StartError::config(format!("{address:?}: expected https://HOST:PORT")))?;
    let line = token_of(target, dir, port)?;
    let mode = mode(target, &address, &host, port, &line).await?;
    let url = match mode {
        _ if address.contains("://") => address.clone(),
        SecurityMode::Plain => format!("http://{address}"),
        SecurityMode::Tls(_) => format!("https://{address}"),
    };
    let endpoint = wire::transport::endpoint(&url)
        .map_err(|why| StartError::config(format!("{address:?}: {why}")))?
        .timeout(DEADLINE);
    match wire::transport::connect(&endpoint, &mode).await {
        Ok(channel) => {
            let client = BonfireClient::with_interceptor(channel, Bearer::new(&line.token));
            Ok(ConnectedClient { client, address, host, port, is_plain: matches!(mode, SecurityMode::Plain) })
        }
        Err(why) => {
            if let Some(trouble) = TlsError::within(&why).filter(|trouble| !trouble.is_passing) {
                let message = match what_is_spoken(&host, port).await {
                    PeerProtocol::Http2 => "the coordinator there doesn't encrypt: use http://".to_owned(),
                    _ => trouble.message,
                };
                return Err(StartError::config(format!("{address}: {message}")));
            }
            Err(StartError::failed(nobody(dir, &address, &why)))
        }
    }
}

/// How to secure the connection. A plain address that the coordinator wrote into its run's folder was its own choice
/// and needs no flag.
async fn mode(
    target: &RunSelector,
    address: &str,
    host: &str,
    port: u16,
    line: &TokenLine,
) -> Result<SecurityMode, StartError> {
    let mut security = Security::from(&target.security);
    if target.connect.is_none() && address.starts_with("http://") {
        security.insecure = true;
    }
    let is_loopback = match tokio::net::lookup_host((host, port)).await {
        Ok(found) => found.into_iter().all(|address| token::is_loopback(address.ip())),
        Err(why) => return Err(StartError::failed(format!("the host {host} is not known: {why}"))),
    };
    security.mode(address, host, is_loopback, line.fingerprint).map_err(StartError::config)
}

/// The coordinator's address.
fn address(target: &RunSelector, dir: Option<&Path>) -> Result<String, StartError> {
    let path = match (&target.connect, dir) {
        (Some(url), _) => return Ok(url.clone()),
        (None, Some(dir)) => dir.join("address"),
        (None, None) => return Err(StartError::config("name a run directory, or --connect URL")),
    };
    let text = std::fs::read_to_string(&path).map_err(|why| {
        StartError::failed(format!("{}: {why}: the run has no coordinator", path.display()))
    })?;
    Ok(text.trim().to_owned())
}

/// Why nobody answers; for an ended run, how it ended.
fn nobody(dir: Option<&Path>, address: &str, why: &dyn std::fmt::Display) -> String {
    let record = dir.and_then(|dir| RunRecord::read(&dir.join(RunRecord::FILE)).ok());
    let state = record.as_ref().and_then(|record| match record.status {
        RunStatus::Running => None,
        RunStatus::Completed => Some("it is completed"),
        RunStatus::Interrupted => Some("it was interrupted, and --resume goes on"),
        RunStatus::Failed => Some("it failed, and --resume goes on once that is mended"),
    });
    match (record, state) {
        (Some(record), Some(state)) => format!("{} isn't running: {state}", record.run),
        _ => format!("nobody answers at {address}: {why}"),
    }
}

fn token_of(target: &RunSelector, dir: Option<&Path>, port: u16) -> Result<TokenLine, StartError> {
    let path = match (&target.token_file, dir) {
        (Some(path), _) => path.clone(),
        (None, Some(dir)) => dir.join("token"),
        (None, None) => token::discovery_file(port).map_err(StartError::config)?,
    };
    TokenLine::read(&path).map_err(StartError::config)
}
