//! The rpc server: parses requests, passes them to the driver and replies; it makes no decisions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use protocol::ids::{MemberId, RunId};
use protocol::messages::{self, UploadKind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use wire::convert::{to_worker_out, upload_kind_in};
use wire::proto::bonfire_server::Bonfire;
use wire::proto::from_worker;
use wire::proto::{
    CheckpointReply, CheckpointRequest, DownloadChunk, DownloadRequest, FromWorker, StatusReply,
    StatusRequest, StopReply, StopRequest, ToWorker, UploadBegin, UploadChunk, UploadReply, download_request,
    upload_chunk,
};
use wire::token::METADATA_KEY;

use crate::checkpoints::uploads::Uploads;
use crate::control::access::{Access, Action, Caller, TokenRefusal, UntilRevoked};
use crate::control::audit::Audit;
use crate::control::connection_limit::Number;
use crate::control::identities::Identities;
use crate::control::streams::{self, CHUNKS_MAX, StreamTimeouts};
use crate::driver::OUTBOX_MAX;
use crate::event::DriverEvent;

/// Shared state of the handlers.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) driver_events: mpsc::Sender<DriverEvent>,
    pub(crate) run: RunId,
    /// Members' keys, with which uploads prove their sender.
    pub(crate) identities: Identities,
    /// Receives checkpoints and exports.
    pub(crate) uploads: Uploads,
    /// Paths of the downloadable files (dataset, tokenizer, `init.from`) by digest.
    pub(crate) data: Arc<HashMap<String, PathBuf>>,
    /// Limits the bytes of messages queued for the driver.
    pub(crate) room: Arc<Semaphore>,
    /// The next control stream's number.
    pub(crate) connections: Arc<AtomicU64>,
    /// The End message for workers that connect after the driver has ended: local workers may take a while to exit.
    pub(crate) end: Arc<OnceLock<messages::ToWorker>>,
    /// Timeouts for peers and the disk.
    pub(crate) patience: StreamTimeouts,
    pub(crate) audit: Audit,
}

/// Admits calls that carry a valid token, and marks their connection as authenticated.
pub(crate) fn guard(
    access: Access,
    audit: Audit,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |mut request| {
        let connection = request.extensions().get::<Number>().copied();
        let value = request.metadata().get(METADATA_KEY).and_then(|value| value.to_str().ok());
        match access.admit(value) {
            Ok(who) => {
                if let Some(connection) = connection {
                    connection.settle();
                }
                request.extensions_mut().insert(who);
                Ok(request)
            }
            Err(refused) => {
                let peer = connection.and_then(|connection| connection.peer);
                let mut more = vec![("reason", "its token is unknown")];
                if let TokenRefusal::Ended { name, how } = &refused {
                    more = vec![("token", name.as_str()), ("reason", how)];
                }
                audit.record("refused", None, peer, &more);
                Err(Status::from(&refused))
            }
        }
    }
}

/// The address that a call came from.
fn peer_of<T>(request: &Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<Number>().and_then(|connection| connection.peer)
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Bonfire for Service {
    type SessionStream = Outgoing<ToWorker>;
    type DownloadStream = Outgoing<DownloadChunk>;

    async fn session(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (who, peer) = (self.admit(&request, Action::Join)?, peer_of(&request));
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        if let Err(gone) = self.tell(DriverEvent::Opened { connection, outbox, secret: who.secret }).await {
            let end = self.end.get().cloned().ok_or(gone)?;
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(to_worker_out(end))))));
        }
        let name = Arc::new(OnceLock::new());
        let own = name.clone();
        let messages = UntilRevoked::new(request.into_inner(), &who).map(move |message| {
            if let Ok(FromWorker { message: Some(from_worker::Message::Join(join)) }) = &message {
                let _ = own.set(join.name.clone());
            }
            message
        });
        tokio::spawn(streams::listen(
            connection,
            messages,
            self.driver_events.clone(),
            self.room.clone(),
            self.patience,
        ));
        let (audit, by) = (self.audit.clone(), who.clone());
        let outgoing = ReceiverStream::new(inbox).map(move |message| {
            let worker = name.get().map_or("", String::as_str);
            match &message {
                messages::ToWorker::Welcome(_) => {
                    audit.record("joined", Some(&by), peer, &[("worker", worker)]);
                }
                messages::ToWorker::Refused(failure) => {
                    let more = [("worker", worker), ("reason", &failure.message)];
                    audit.record("refused", Some(&by), peer, &more);
                }
                messages::ToWorker::Evicted { reason, .. } => {
                    audit.record("evicted", Some(&by), peer, &[("worker", worker), ("reason", reason)]);
                }
                _ => {}
            }
            Ok::<_, Status>(to_worker_out(message))
        });
        Ok(Response::new(Box::pin(UntilRevoked::new(outgoing, &who))))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReply>, Status> {
        let who = self.admit(&request, Action::Join)?;
        let mut chunks = request.into_inner();
        let wait = self.patience.join;
        let first = timeout(wait, chunks.message()).await.map_err(|_| {
            Status::deadline_exceeded(format!("nothing of an upload came for {} s", wait.as_secs()))
        })?;
        let Some(upload_chunk::Part::Begin(begin)) = first?.and_then(|chunk| chunk.part) else {
            return Err(Status::invalid_argument("an upload begins with Begin"));
        };
        // A call is dropped with its connection; the spawned task still completes the upload and reports it.
        let own = self.clone();
        let taken = tokio::spawn(async move { own.take(&begin, UntilRevoked::new(chunks, &who)).await });
        taken.await.unwrap_or_else(|why| Err(Status::internal(format!("the upload failed: {why}"))))
    }

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let who = self.admit(&request, Action::Join)?;
        let path = self.path(request.into_inner())?;
        let mut file = tokio::fs::File::open(&path)
            .await
            .map_err(|why| Status::not_found(format!("{}: {why}", path.display())))?;
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let patience = self.patience;
        tokio::spawn(async move {
            if let Err(why) = streams::send(&mut file, &sender, patience).await {
                warn!("a download of {} is given up: {why}", path.display());
            }
        });
        Ok(Response::new(Box::pin(UntilRevoked::new(ReceiverStream::new(receiver), &who))))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.admit(&request, Action::Read)?;
        let (reply, answer) = oneshot::channel();
        self.tell(DriverEvent::Status(reply)).await?;
        answer.await.map(Response::new).map_err(|_| over())
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let who = self.admit(&request, Action::Operate)?;
        self.audit.record("stopped", Some(&who), peer_of(&request), &[]);
        let reason = request.into_inner().reason;
        let reason = if reason.is_empty() { "stop was asked for".to_owned() } else { reason };
        self.tell(DriverEvent::Stop { reason, signal: false }).await?;
        Ok(Response::new(StopReply {}))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointReply>, Status> {
        let who = self.admit(&request, Action::Operate)?;
        self.audit.record("checkpointed", Some(&who), peer_of(&request), &[]);
        self.tell(DriverEvent::Checkpoint).await?;
        Ok(Response::new(CheckpointReply {}))
    }
}

fn over() -> Status {
    Status::unavailable("the run is over")
}

impl Service {
    /// Returns the caller if its role permits the action.
    fn admit<T>(&self, request: &Request<T>, need: Action) -> Result<Caller, Status> {
        let who = Caller::of(request)?;
        who.may(need).inspect_err(|status| {
            self.audit.record("refused", Some(&who), peer_of(request), &[("reason", status.message())]);
        })?;
        Ok(who)
    }

    /// Receives an upload and reports its result to the driver.
    async fn take(
        &self,
        begin: &UploadBegin,
        chunks: UntilRevoked<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReply>, Status> {
        let (kind, step) = (self.kind(begin)?, begin.step);
        self.identities.check_upload(begin).map_err(Status::permission_denied)?;
        let claim =
            self.uploads.claim(kind, step, MemberId(begin.member)).map_err(Status::failed_precondition)?;
        let ticket = claim.ticket();
        let received = streams::receive(claim, chunks, self.patience).await;
        let reply =
            received.as_ref().map(|_| Response::new(UploadReply {})).map_err(|e| Status::aborted(e.clone()));
        if !ticket.is_valid() {
            warn!(member = begin.member, ?kind, step, "an upload that was given up has ended");
            return reply;
        }
        self.tell(match kind {
            UploadKind::Version => DriverEvent::Version {
                step,
                result: received.and_then(|(written, _)| {
                    written.ok_or_else(|| "a version without a manifest".to_owned())
                }),
            },
            UploadKind::Export => DriverEvent::Exports { result: received.map(drop) },
            UploadKind::State => DriverEvent::State { step, result: received.map(|(_, digest)| digest) },
        })
        .await?;
        reply
    }

    async fn tell(&self, trigger: DriverEvent) -> Result<(), Status> {
        self.driver_events.send(trigger).await.map_err(|_| over())
    }

    fn kind(&self, begin: &UploadBegin) -> Result<UploadKind, Status> {
        if begin.run != self.run.0 {
            return Err(Status::failed_precondition("an upload for another run"));
        }
        upload_kind_in("UploadBegin.kind", begin.kind)
            .map_err(|bad| Status::invalid_argument(bad.to_string()))
    }

    fn path(&self, request: DownloadRequest) -> Result<PathBuf, Status> {
        match request.what {
            Some(download_request::What::Version(version)) => {
                if version.name.contains(['/', '\\']) || version.name.starts_with('.') {
                    return Err(Status::invalid_argument(format!(
                        "{:?} is no file of a version",
                        version.name
                    )));
                }
                Ok(store::versions::folder(&self.uploads.checkpoints(), version.step).join(version.name))
            }
            Some(download_request::What::Dataset(dataset)) => {
                self.data.get(&dataset.digest).cloned().ok_or_else(|| {
                    Status::not_found(format!(
                        "no file of the dataset or of init.from has the digest {}",
                        dataset.digest
                    ))
                })
            }
            Some(download_request::What::State(_)) => Ok(self.uploads.shown()),
            None => Err(Status::invalid_argument("nothing was asked for")),
        }
    }
}
