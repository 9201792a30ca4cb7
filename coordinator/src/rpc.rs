//! The rpc server: parses, hands on, replies; it never decides.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::ids::{MemberId, RunId};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Interceptor;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use wire::CHUNK_BYTES;
use wire::auth::Guard;
use wire::convert::{from_worker_in, to_worker_out};
use wire::proto::bonfire_server::Bonfire;
use wire::proto::{
    CheckpointReply, CheckpointRequest, DownloadChunk, DownloadRequest, FromWorker, StatusReply,
    StatusRequest, StopReply, StopRequest, ToWorker, UploadBegin, UploadChunk, UploadKind, UploadReply,
    download_request, upload_chunk,
};
use wire::token::Token;
use wire::transport::{FINISH_DEADLINE, JOIN_DEADLINE, STALL_DEADLINE};

use crate::beside::Told;
use crate::counted::Number;
use crate::driver::{OUTBOX_MAX, Trigger};
use crate::uploads::{Kind, Receiving, Uploads};

/// Chunks that may wait for the disk or the network.
const CHUNKS_MAX: usize = 4;

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Service {
    /// To the driver.
    pub(crate) triggers: mpsc::Sender<Trigger>,
    /// The run.
    pub(crate) run: RunId,
    /// Where versions and exports go.
    pub(crate) uploads: Uploads,
    /// The dataset's files by digest.
    pub(crate) data: Arc<HashMap<String, PathBuf>>,
    /// Numbers of control streams.
    pub(crate) connections: Arc<AtomicU64>,
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
        self.tell(Trigger::Opened { connection, outbox }).await?;
        tokio::spawn(listen(connection, request.into_inner(), self.triggers.clone()));
        let outgoing = ReceiverStream::new(inbox).map(|message| Ok(to_worker_out(message)));
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadChunk>>,
    ) -> Result<Response<UploadReply>, Status> {
        let mut chunks = request.into_inner();
        let first = timeout(JOIN_DEADLINE, chunks.message()).await.map_err(|_| {
            Status::deadline_exceeded(format!("nothing of an upload came for {} s", JOIN_DEADLINE.as_secs()))
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
        tokio::spawn(async move {
            loop {
                let mut bytes = vec![0; CHUNK_BYTES];
                let chunk = match file.read(&mut bytes).await {
                    Ok(0) => return,
                    Ok(read) => {
                        bytes.truncate(read);
                        Ok(DownloadChunk { bytes })
                    }
                    Err(why) => Err(Status::internal(format!("{}: {why}", path.display()))),
                };
                let broken = chunk.is_err();
                match timeout(STALL_DEADLINE, sender.send(chunk)).await {
                    Ok(Ok(())) if !broken => {}
                    Ok(_) => return,
                    Err(_) => {
                        let seconds = STALL_DEADLINE.as_secs();
                        warn!(
                            "a download of {} is given up: nothing was taken for {seconds} s",
                            path.display()
                        );
                        return;
                    }
                }
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
        let begun =
            self.uploads.begin(kind, step, MemberId(begin.member)).map_err(Status::failed_precondition)?;
        let ticket = begun.ticket();
        let received = receive(begun, chunks).await;
        let reply =
            received.as_ref().map(|_| Response::new(UploadReply {})).map_err(|e| Status::aborted(e.clone()));
        if !ticket.is_valid() {
            warn!(member = begin.member, ?kind, step, "an upload that was given up has ended");
            return reply;
        }
        self.tell(match kind {
            Kind::Version => Trigger::Version {
                step,
                result: received
                    .and_then(|(m, _)| m.ok_or_else(|| "a version without a manifest".to_owned())),
            },
            Kind::Export => Trigger::Exports { result: received.map(drop) },
            Kind::State => Trigger::State { step, result: received.map(|(_, digest)| digest) },
        })
        .await?;
        reply
    }

    async fn tell(&self, trigger: Trigger) -> Result<(), Status> {
        self.triggers.send(trigger).await.map_err(|_| over())
    }

    fn kind(&self, begin: &UploadBegin) -> Result<Kind, Status> {
        if begin.run != self.run.0 {
            return Err(Status::failed_precondition("an upload for another run"));
        }
        match UploadKind::try_from(begin.kind) {
            Ok(UploadKind::Version) => Ok(Kind::Version),
            Ok(UploadKind::Export) => Ok(Kind::Export),
            Ok(UploadKind::State) => Ok(Kind::State),
            _ => Err(Status::invalid_argument(format!("an upload of kind {}", begin.kind))),
        }
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

/// Hands a worker's messages on until its stream ends, and says how it ended.
async fn listen(connection: u64, mut stream: Streaming<FromWorker>, triggers: mpsc::Sender<Trigger>) {
    let mut instance = None;
    // Whoever has not joined by then says nothing that anybody waits for.
    let mut until = Some(Instant::now() + JOIN_DEADLINE);
    let reason = loop {
        let message = match until {
            None => stream.message().await,
            Some(at) => match timeout_at(at, stream.message()).await {
                Ok(message) => message,
                Err(_) => break format!("it did not join within {} s", JOIN_DEADLINE.as_secs()),
            },
        };
        match message {
            Ok(Some(mut message)) => {
                if let Some(told) = Told::of(&mut message, &mut instance) {
                    // Nothing waits for what is said beside the protocol: where triggers pile up it is dropped.
                    let _ = triggers.try_send(Trigger::Told(told));
                }
                match from_worker_in(message) {
                    Ok(message) => {
                        if matches!(message, protocol::messages::FromWorker::Join(_)) {
                            until = None;
                        }
                        if triggers.send(Trigger::Message { connection, message }).await.is_err() {
                            return;
                        }
                    }
                    Err(bad) => break bad.to_string(),
                }
            }
            Ok(None) => break "its control stream ended".to_owned(),
            Err(status) => break format!("its control stream broke ({})", status.message()),
        }
    };
    let _ = triggers.send(Trigger::Disconnected { connection, reason }).await;
}

/// Writes an upload on a thread that may wait for the disk; its manifest, if it is a version, and the digest that its
/// sender told.
async fn receive(
    mut receiving: Receiving,
    chunks: Streaming<UploadChunk>,
) -> Result<(Option<store::versions::Manifest>, [u8; 32]), String> {
    let ticket = receiving.ticket();
    let (sender, mut parts) = mpsc::channel::<upload_chunk::Part>(CHUNKS_MAX);
    let mut writer = tokio::task::spawn_blocking(move || {
        while let Some(part) = parts.blocking_recv() {
            match part {
                upload_chunk::Part::Begin(_) => return Err("an upload that begins twice".to_owned()),
                upload_chunk::Part::File(file) => receiving.file(&file.name, file.size)?,
                upload_chunk::Part::Bytes(bytes) => receiving.bytes(&bytes)?,
                upload_chunk::Part::Finish(finish) => {
                    let digest = <[u8; 32]>::try_from(finish.state_digest.as_slice());
                    let digest = digest.map_err(|_| "a state digest that has not 32 bytes".to_owned())?;
                    let manifest = receiving.finish(&finish.model_digest, &digest)?;
                    return Ok((manifest, digest));
                }
            }
        }
        Err("the upload ended before it was complete".to_owned())
    });
    pass_on(chunks, sender).await.inspect_err(|_| _ = ticket.give_up())?;
    let mut written = timeout(FINISH_DEADLINE, &mut writer).await;
    if written.is_err() && !ticket.give_up() {
        // It was put in place this very moment.
        written = timeout(FINISH_DEADLINE, &mut writer).await;
    }
    let Ok(written) = written else {
        return Err(format!("the upload was not durable within {} s", FINISH_DEADLINE.as_secs()));
    };
    written.unwrap_or_else(|why| Err(format!("the writer of the upload failed: {why}")))
}

/// Hands what comes to the thread that writes it, until its end or the thread's.
async fn pass_on<E>(
    mut chunks: impl Stream<Item = Result<UploadChunk, E>> + Unpin,
    sender: mpsc::Sender<upload_chunk::Part>,
) -> Result<(), String> {
    let seconds = STALL_DEADLINE.as_secs();
    loop {
        let next = timeout(STALL_DEADLINE, chunks.next()).await;
        let next = next.map_err(|_| format!("nothing of the upload came for {seconds} s"))?;
        let Some(Ok(chunk)) = next else { return Ok(()) };
        let Some(part) = chunk.part else { continue };
        match timeout(STALL_DEADLINE, sender.send(part)).await {
            Ok(Ok(())) => {}
            // A closed channel means that the writer has its result already.
            Ok(Err(_)) => return Ok(()),
            // Its thread ends when the disk lets it go; what it has of the version goes then.
            Err(_) => return Err(format!("the disk took nothing of the upload for {seconds} s")),
        }
    }
}
