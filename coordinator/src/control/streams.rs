//! Long-lived rpc streams: a worker's messages, uploads and downloads. Each wait has a deadline, whose error names the
//! side that was late.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use wire::CHUNK_BYTES;
use wire::convert::from_worker_in;
use wire::proto::upload_chunk::Part;
use wire::proto::{DownloadChunk, FromWorker, UploadChunk};
use wire::transport::{FINISH_DEADLINE, JOIN_DEADLINE, STALL_DEADLINE};

use crate::checkpoints::uploads::{Claim, UploadTicket, VersionOutcome};
use crate::event::DriverEvent;
use crate::record::system_report::SystemReport;

/// Maximum number of chunks queued for the disk or the network.
pub(crate) const CHUNKS_MAX: usize = 4;

/// Maximum number of bytes of messages queued for the driver, over all streams. It takes a message in within
/// microseconds, so that only a flood has to wait, and that waits in its own sockets.
pub(crate) const INBOX_BYTES_MAX: usize = 32 << 20;
/// The semaphore counts units of this many bytes; every message takes at least one.
const ROOM_UNIT_BYTES: usize = 64;

/// The semaphore that limits the messages queued for the driver.
pub(crate) fn inbox_room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(INBOX_BYTES_MAX / ROOM_UNIT_BYTES))
}

/// Waits for room for a message; the permit is released when the driver has taken the message in.
async fn take_room(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let units = (bytes.min(INBOX_BYTES_MAX) / ROOM_UNIT_BYTES).max(1);
    // The semaphore is never closed.
    room.clone().acquire_many_owned(units as u32).await.ok()
}

/// Timeouts for peers and the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamTimeouts {
    /// Until a stream's first message identifies its sender.
    pub(crate) join: Duration,
    /// Without progress of a file transfer.
    pub(crate) stall: Duration,
    /// Until a complete upload is durable.
    pub(crate) finish: Duration,
}

impl Default for StreamTimeouts {
    fn default() -> Self {
        Self { join: JOIN_DEADLINE, stall: STALL_DEADLINE, finish: FINISH_DEADLINE }
    }
}

/// Forwards a worker's messages to the driver until its stream ends, and reports the reason.
pub(crate) async fn listen(
    connection: u64,
    mut stream: impl Stream<Item = Result<FromWorker, Status>> + Unpin,
    driver_events: mpsc::Sender<DriverEvent>,
    room: Arc<Semaphore>,
    patience: StreamTimeouts,
) {
    let mut instance = None;
    // A client that has not joined by then is disconnected.
    let mut until = Some(Instant::now() + patience.join);
    let reason = loop {
        let message = match until {
            None => stream.next().await,
            Some(at) => match timeout_at(at, stream.next()).await {
                Ok(message) => message,
                Err(_) => break format!("it did not join within {} s", patience.join.as_secs()),
            },
        };
        match message {
            Some(Ok(mut message)) => {
                let bytes = wire::encoded_bytes(&message);
                if let Some(report) = SystemReport::of(&mut message, &mut instance) {
                    // Nothing waits for system reports: they are dropped when the driver's channel is full.
                    let _ = driver_events.try_send(DriverEvent::SystemReport(report));
                }
                match from_worker_in(message) {
                    Ok(mut message) => {
                        if let protocol::messages::FromWorker::Join(join) = &mut message {
                            until = None;
                            // From here on, these texts go everywhere: metrics, records, logs, pages.
                            for text in [&mut join.name, &mut join.device] {
                                *text = printable::line(text).into_owned();
                            }
                        }
                        let room = take_room(&room, bytes).await;
                        let trigger = DriverEvent::Message { connection, message, room };
                        if driver_events.send(trigger).await.is_err() {
                            return;
                        }
                    }
                    Err(bad) => break bad.to_string(),
                }
            }
            None => break "its control stream ended".to_owned(),
            Some(Err(status)) => break format!("its control stream broke ({})", status.message()),
        }
    };
    let _ = driver_events.send(DriverEvent::Disconnected { connection, reason }).await;
}

/// The result of a complete upload: the outcome if it is a checkpoint, and the state digest that its sender reported.
pub(crate) type ReceivedUpload = (Option<VersionOutcome>, [u8; 32]);

/// Receives an upload and writes it on a blocking thread.
///
/// # Errors
/// When the upload isn't complete and durable in time; then nothing of it is kept, now or later.
pub(crate) async fn receive<E>(
    claim: Claim,
    chunks: impl Stream<Item = Result<UploadChunk, E>> + Unpin,
    patience: StreamTimeouts,
) -> Result<ReceivedUpload, String> {
    let ticket = claim.ticket();
    let (sender, parts) = mpsc::channel(CHUNKS_MAX);
    let writer = tokio::task::spawn_blocking(move || write(claim, parts));
    pass_on(chunks, sender, patience.stall).await.inspect_err(|_| _ = ticket.give_up())?;
    let written = settle(writer, &ticket, patience.finish).await?;
    written.unwrap_or_else(|why| Err(format!("the writer of the upload failed: {why}")))
}

/// Writes an upload part by part. Blocks.
fn write(claim: Claim, mut parts: mpsc::Receiver<Part>) -> Result<ReceivedUpload, String> {
    let mut receiving = claim.open()?;
    while let Some(part) = parts.blocking_recv() {
        match part {
            Part::Begin(_) => return Err("an upload that begins twice".to_owned()),
            Part::File(file) => receiving.file(&file.name, file.size)?,
            Part::Bytes(bytes) => receiving.bytes(&bytes)?,
            Part::Finish(finish) => {
                let digest = <[u8; 32]>::try_from(finish.state_digest.as_slice());
                let digest = digest.map_err(|_| "a state digest that has not 32 bytes".to_owned())?;
                let written = receiving.finish(&finish.model_digest, &digest)?;
                return Ok((written, digest));
            }
        }
    }
    Err("the upload ended before it was complete".to_owned())
}

/// Waits for the writer. A late one is given up, unless it has put the checkpoint in place by then.
async fn settle<W: Future + Unpin>(
    mut writer: W,
    ticket: &UploadTicket,
    patience: Duration,
) -> Result<W::Output, String> {
    let late = |_| format!("the upload was not durable within {} s", patience.as_secs());
    match timeout(patience, &mut writer).await {
        Err(_) if !ticket.give_up() => timeout(patience, &mut writer).await.map_err(late),
        written => written.map_err(late),
    }
}

/// Forwards parts to the writer thread, until either ends.
async fn pass_on<E>(
    mut chunks: impl Stream<Item = Result<UploadChunk, E>> + Unpin,
    sender: mpsc::Sender<Part>,
    stall: Duration,
) -> Result<(), String> {
    let seconds = stall.as_secs();
    loop {
        let next = tokio::select! {
            // The writer has its result already, such as a disk error.
            () = sender.closed() => return Ok(()),
            next = timeout(stall, chunks.next()) => next,
        };
        let next = next.map_err(|_| format!("nothing of the upload came for {seconds} s"))?;
        let Some(Ok(chunk)) = next else { return Ok(()) };
        let Some(part) = chunk.part else { continue };
        match timeout(stall, sender.send(part)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            // The thread ends when the disk responds, and then removes what it has of the checkpoint.
            Err(_) => return Err(format!("the disk took nothing of the upload for {seconds} s")),
        }
    }
}

/// Sends a file in chunks, until its end or until the receiver is gone.
///
/// # Errors
/// When the receiver takes nothing for too long. Read errors go to the receiver.
pub(crate) async fn send(
    file: &mut (impl AsyncRead + Unpin),
    chunks: &mpsc::Sender<Result<DownloadChunk, Status>>,
    patience: StreamTimeouts,
) -> Result<(), String> {
    loop {
        let mut bytes = vec![0; CHUNK_BYTES];
        let chunk = match file.read(&mut bytes).await {
            Ok(0) => return Ok(()),
            Ok(read) => {
                bytes.truncate(read);
                Ok(DownloadChunk { bytes })
            }
            Err(why) => Err(Status::internal(format!("it can't be read: {why}"))),
        };
        let is_broken = chunk.is_err();
        match timeout(patience.stall, chunks.send(chunk)).await {
            Ok(Ok(())) if !is_broken => {}
            Ok(_) => return Ok(()),
            Err(_) => return Err(format!("nothing was taken for {} s", patience.stall.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests;
