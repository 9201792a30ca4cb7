//! The rpc server: parses, hands on, replies; it never decides.

use std::collections::HashMap;
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
use tonic::service::Interceptor;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use wire::auth::Guard;
use wire::convert::{to_worker_out, upload_kind_in};
use wire::proto::bonfire_server::Bonfire;
use wire::proto::{
    CheckpointReply, CheckpointRequest, DownloadChunk, DownloadRequest, FromWorker, StatusReply,
    StatusRequest, StopReply, StopRequest, ToWorker, UploadBegin, UploadChunk, UploadReply, download_request,
    upload_chunk,
};
use wire::token::Token;

use crate::counted::Number;
use crate::driver::{OUTBOX_MAX, Trigger};
use crate::identities::Identities;
use crate::streams::{self, CHUNKS_MAX, Patience};
use crate::uploads::Uploads;

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Service {
    /// To the driver.
    pub(crate) triggers: mpsc::Sender<Trigger>,
    /// The run.
    pub(crate) run: RunId,
    /// The members' keys: an upload is proven to be of the member that it names.
    pub(crate) identities: Identities,
    /// Where versions and exports go.
    pub(crate) uploads: Uploads,
    /// The dataset's files by digest.
    pub(crate) data: Arc<HashMap<String, PathBuf>>,
    /// Of messages that wait for the driver.
    pub(crate) room: Arc<Semaphore>,
    /// Numbers of control streams.
    pub(crate) connections: Arc<AtomicU64>,
    /// What whoever comes after the driver's end is told: local workers may take a while to go.
    pub(crate) end: Arc<OnceLock<messages::ToWorker>>,
    /// How long the other side, and the disk, may take.
    pub(crate) patience: Patience,
}

/// Admits calls that carry the run's token; a connection over which one came is no stranger's.
pub(crate) fn guard(token: Token) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    let mut guard = Guard::new(token);
    move |request| {
        let request = guard.call(request)?;
        if let Some(connection) = request.extensions().get::<Number>() {
            connection.settle();
        }
        Ok(request)
    }
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
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        if let Err(gone) = self.tell(Trigger::Opened { connection, outbox }).await {
            let end = self.end.get().cloned().ok_or(gone)?;
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(to_worker_out(end))))));
        }
        let messages = request.into_inner();
        tokio::spawn(streams::listen(
            connection,
            messages,
            self.triggers.clone(),
            self.room.clone(),
            self.patience,
        ));
        let outgoing = ReceiverStream::new(inbox).map(|message| Ok(to_worker_out(message)));
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReply>, Status> {
        let mut chunks = request.into_inner();
        let wait = self.patience.join;
        let first = timeout(wait, chunks.message()).await.map_err(|_| {
            Status::deadline_exceeded(format!("nothing of an upload came for {} s", wait.as_secs()))
        })?;
        let Some(upload_chunk::Part::Begin(begin)) = first?.and_then(|chunk| chunk.part) else {
            return Err(Status::invalid_argument("an upload begins with Begin"));
        };
        // A call is dropped with its connection; what it has begun is brought to its end, and told.
        let own = self.clone();
        let taken = tokio::spawn(async move { own.take(&begin, chunks).await });
        taken.await.unwrap_or_else(|why| Err(Status::internal(format!("the upload failed: {why}"))))
    }

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
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
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let (reply, answer) = oneshot::channel();
        self.tell(Trigger::Status(reply)).await?;
        answer.await.map(Response::new).map_err(|_| over())
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let reason = request.into_inner().reason;
        let reason = if reason.is_empty() { "stop was asked for".to_owned() } else { reason };
        self.tell(Trigger::Stop { reason, signal: false }).await?;
        Ok(Response::new(StopReply {}))
    }

    async fn checkpoint(&self, _: Request<CheckpointRequest>) -> Result<Response<CheckpointReply>, Status> {
        self.tell(Trigger::Checkpoint).await?;
        Ok(Response::new(CheckpointReply {}))
    }
}

fn over() -> Status {
    Status::unavailable("the run is over")
}

impl Service {
    /// Takes an upload that has begun, and tells the driver how it ended.
    async fn take(
        &self,
        begin: &UploadBegin,
        chunks: Streaming<UploadChunk>,
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
            UploadKind::Version => Trigger::Version {
                step,
                result: received.and_then(|(written, _)| {
                    written.ok_or_else(|| "a version without a manifest".to_owned())
                }),
            },
            UploadKind::Export => Trigger::Exports { result: received.map(drop) },
            UploadKind::State => Trigger::State { step, result: received.map(|(_, digest)| digest) },
        })
        .await?;
        reply
    }

    async fn tell(&self, trigger: Trigger) -> Result<(), Status> {
        self.triggers.send(trigger).await.map_err(|_| over())
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
