//! `coordinator status`, `stop` and `checkpoint`: calls to a running coordinator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use wire::proto::bonfire_client::BonfireClient;
use wire::proto::{CheckpointRequest, StatusRequest, StopRequest};
use wire::token::{self, Token};

use crate::cli::{OutputForm, Target};
use crate::prepare::Refusal;
use crate::status;

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);

type Client = BonfireClient<InterceptedService<Channel, Bearer>>;

/// `coordinator status`
pub(crate) async fn status(target: &Target) -> Result<(), Refusal> {
    let dir = directory(target)?;
    let report = match connect(target, dir.as_deref()).await {
        Ok(mut client) => client.status(StatusRequest {}).await.map_err(|status| said(&status))?.into_inner(),
        // Nobody answers: what run.json says last is the status.
        Err(refusal) => return from_record(dir.as_deref(), target.output).unwrap_or(Err(refusal)),
    };
    let text = match target.output {
        OutputForm::Text => status::to_text(&report),
        OutputForm::Json => status::to_json(&report) + "\n",
    };
    print(&text);
    Ok(())
}

/// `coordinator stop`
pub(crate) async fn stop(target: &Target) -> Result<(), Refusal> {
    let mut client = connect(target, directory(target)?.as_deref()).await?;
    let reason = "coordinator stop was called".to_owned();
    client.stop(StopRequest { reason }).await.map_err(|status| said(&status))?;
    print("the run finishes its step, writes a version and ends; --resume goes on\n");
    Ok(())
}

/// `coordinator checkpoint`
pub(crate) async fn checkpoint(target: &Target) -> Result<(), Refusal> {
    let mut client = connect(target, directory(target)?.as_deref()).await?;
    client.checkpoint(CheckpointRequest {}).await.map_err(|status| said(&status))?;
    print("a version follows the step in flight\n");
    Ok(())
}

fn print(text: &str) {
    // A reader that went away is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes());
}

fn said(status: &Status) -> Refusal {
    let code = if status.code() == tonic::Code::Unauthenticated { 2 } else { 4 };
    Refusal { code, message: status.message().to_owned() }
}

/// The run directory that is meant: the named one, else the newest below ./runs; none with --connect.
fn directory(target: &Target) -> Result<Option<PathBuf>, Refusal> {
    if target.connect.is_some() {
        return Ok(None);
    }
    if let Some(dir) = &target.run_dir {
        if dir.join("config.toml").is_file() {
            return Ok(Some(dir.clone()));
        }
        return Err(Refusal::data(format!("{} is no run directory (it has no config.toml)", dir.display())));
    }
    let runs = Path::new("runs");
    let newest = std::fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("config.toml").is_file())
        .max_by_key(|entry| entry.metadata().and_then(|meta| meta.modified()).ok());
    newest
        .map(|entry| Some(entry.path()))
        .ok_or_else(|| Refusal::data("there is no run below ./runs: name one, or use --connect URL"))
}

/// What run.json says, if there is one.
fn from_record(dir: Option<&Path>, form: OutputForm) -> Option<Result<(), Refusal>> {
    let path = dir?.join("run.json");
    let record = tracker::RunRecord::read(&path).ok()?;
    let text = match form {
        OutputForm::Json => String::from_utf8_lossy(&record.to_bytes()).into_owned(),
        OutputForm::Text => {
            let state = match record.status {
                tracker::RunStatus::Running => {
                    "no coordinator answers; it was running when run.json was written"
                }
                tracker::RunStatus::Completed => "completed",
                tracker::RunStatus::Interrupted => "interrupted; --resume goes on",
                tracker::RunStatus::Failed => "failed",
            };
            let mut text = format!("{}: {state}\n  step {}\n", record.run, record.final_state.step);
            for (key, value) in
                record.final_state.metrics.iter().filter(|(key, _)| key.matches('/').count() == 1)
            {
                text.push_str(&format!("  {key} {value:.4}\n"));
            }
            if !record.message.is_empty() {
                text.push_str(&format!("  {}\n", record.message));
            }
            text
        }
    };
    print(&text);
    Some(Ok(()))
}

async fn connect(target: &Target, dir: Option<&Path>) -> Result<Client, Refusal> {
    let address = match (&target.connect, dir) {
        (Some(url), _) => url.clone(),
        (None, Some(dir)) => {
            let path = dir.join("address");
            let text = std::fs::read_to_string(&path).map_err(|why| {
                Refusal::failed(format!("{}: {why}: the run has no coordinator", path.display()))
            })?;
            text.trim().to_owned()
        }
        (None, None) => return Err(Refusal::config("name a run directory, or --connect URL")),
    };
    let (_, port) = token::host_and_port(&address)
        .ok_or_else(|| Refusal::config(format!("{address:?}: expected http://HOST:PORT")))?;
    let token = token_of(target, dir, port)?;
    let url = if address.contains("://") { address.clone() } else { format!("http://{address}") };
    let endpoint = wire::transport::endpoint(&url)
        .map_err(|why| Refusal::config(format!("{address:?}: {why}")))?
        .timeout(DEADLINE);
    let channel = endpoint.connect().await.map_err(|why| Refusal::failed(nobody(dir, &address, &why)))?;
    Ok(BonfireClient::with_interceptor(channel, Bearer(token.bearer())))
}

/// Why nobody answers: a run that has ended says so itself.
fn nobody(dir: Option<&Path>, address: &str, why: &dyn std::fmt::Display) -> String {
    let record = dir.and_then(|dir| tracker::RunRecord::read(&dir.join("run.json")).ok());
    let state = record.as_ref().and_then(|record| match record.status {
        tracker::RunStatus::Running => None,
        tracker::RunStatus::Completed => Some("it is completed"),
        tracker::RunStatus::Interrupted => Some("it was interrupted, and --resume goes on"),
        tracker::RunStatus::Failed => Some("it failed, and --resume goes on once that is mended"),
    });
    match (record, state) {
        (Some(record), Some(state)) => format!("{} isn't running: {state}", record.run),
        _ => format!("nobody answers at {address}: {why}"),
    }
}

fn token_of(target: &Target, dir: Option<&Path>, port: u16) -> Result<Token, Refusal> {
    let path = match (&target.token_file, dir) {
        (Some(path), _) => path.clone(),
        (None, Some(dir)) => dir.join("token"),
        (None, None) => token::discovery_file(port).map_err(Refusal::config)?,
    };
    Token::read(&path).map_err(Refusal::config)
}

#[derive(Clone)]
struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = self.0.parse().map_err(|_| Status::internal("the token is no metadata value"))?;
        request.metadata_mut().insert(token::METADATA_KEY, value);
        Ok(request)
    }
}
