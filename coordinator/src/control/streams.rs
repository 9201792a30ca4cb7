//! What flows over a call for long: a worker's messages, an upload, a download. Each wait has an end, which says for whom.

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

/// Chunks that may wait for the disk or the network.
pub(crate) const CHUNKS_MAX: usize = 4;

/// Bytes of messages from all streams together that may wait for the driver: it takes one in within microseconds, so only
/// a flood waits, and that waits in its own sockets.
pub(crate) const INBOX_BYTES_MAX: usize = 32 << 20;
/// The room is counted in units of so many bytes; no message is free.
const ROOM_UNIT_BYTES: usize = 64;

/// Room for messages that wait for the driver.
pub(crate) fn inbox_room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(INBOX_BYTES_MAX / ROOM_UNIT_BYTES))
}

/// Waits for room for a message; it is free again when the driver has taken the message in.
async fn take_room(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let units = (bytes.min(INBOX_BYTES_MAX) / ROOM_UNIT_BYTES).max(1);
    // It is never closed.
    room.clone().acquire_many_owned(units as u32).await.ok()
}

/// How long the other side, and the disk, may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamTimeouts {
    /// Until a stream says whose it is.
    pub(crate) join: Duration,
    /// Without a byte of a file.
    pub(crate) stall: Duration,
    /// Until an upload is durable.
    pub(crate) finish: Duration,
}

impl Default for StreamTimeouts {
    fn default() -> Self {
        Self { join: JOIN_DEADLINE, stall: STALL_DEADLINE, finish: FINISH_DEADLINE }
    }
}

/// Hands a worker's messages on until its stream ends, and says how it ended.
pub(crate) async fn listen(
    connection: u64,
    mut stream: impl Stream<Item = Result<FromWorker, Status>> + Unpin,
    driver_events: mpsc::Sender<DriverEvent>,
    room: Arc<Semaphore>,
    patience: StreamTimeouts,
) {
    let mut instance = None;
    // Whoever has not joined by then says nothing that anybody waits for.
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
                    // Nothing waits for what is said beside the protocol: where driver_events pile up it is dropped.
                    let _ = driver_events.try_send(DriverEvent::SystemReport(report));
                }
                match from_worker_in(message) {
                    Ok(mut message) => {
                        if let protocol::messages::FromWorker::Join(join) = &mut message {
                            until = None;
                            // From here on they go everywhere: metrics, records, logs, pages.
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

/// What is known of an upload that came whole: what has become of it, if it is a version, and the digest that its sender told.
pub(crate) type ReceivedUpload = (Option<VersionOutcome>, [u8; 32]);

/// Has an upload written by a thread that may wait for the disk.
///
/// # Errors
/// When it isn't whole and durable in time; then there is nothing of it, now or later.
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

/// Writes an upload part by part. Blocking.
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

/// Waits for the writer's end. One that takes too long is given up, unless it has put the version in place by then.
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

/// Hands what comes to the thread that writes it, until its end or the thread's.
async fn pass_on<E>(
    mut chunks: impl Stream<Item = Result<UploadChunk, E>> + Unpin,
    sender: mpsc::Sender<Part>,
    stall: Duration,
) -> Result<(), String> {
    let seconds = stall.as_secs();
    loop {
        let next = tokio::select! {
            // The writer has its result already, be it that the disk says no.
            () = sender.closed() => return Ok(()),
            next = timeout(stall, chunks.next()) => next,
        };
        let next = next.map_err(|_| format!("nothing of the upload came for {seconds} s"))?;
        let Some(Ok(chunk)) = next else { return Ok(()) };
        let Some(part) = chunk.part else { continue };
        match timeout(stall, sender.send(part)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            // Its thread ends when the disk lets it go; what it has of the version goes then.
            Err(_) => return Err(format!("the disk took nothing of the upload for {seconds} s")),
        }
    }
}

/// Sends a file in chunks, until its end or until its receiver has gone.
///
/// # Errors
/// When nothing was taken for too long. What can't be read is told to the receiver.
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
