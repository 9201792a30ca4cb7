//! Files to and from the coordinator, over its control address. Blocking: for dedicated threads.

use std::io::Write;

use protocol::ids::{MemberId, MemberKey, RunId};
use protocol::messages::{UploadKind, Welcome};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use wire::CHUNK_BYTES;
use wire::convert::upload_kind_out;
use wire::identity;
use wire::proto::{
    DatasetFile, DownloadRequest, ShownState, UploadChunk, UploadFile, UploadFinish, VersionFile,
    download_request, upload_chunk,
};
use wire::transport::{FINISH_DEADLINE, STALL_DEADLINE};

use crate::channel::Client;
use crate::failure::{WorkError, fail};

/// Chunks queued for the network.
const CHUNKS_MAX: usize = 4;

/// Transfers files for one member of one run.
#[derive(Clone)]
pub(crate) struct Transfer {
    pub(crate) client: Client,
    /// The runtime that drives the connection.
    pub(crate) runtime: Handle,
    run: RunId,
    pub(crate) member: MemberId,
    key: MemberKey,
}

/// The error of a status: `refused` is the exit code if the coordinator answered.
fn error_of(status: &tonic::Status, refused: u8, message: String) -> WorkError {
    use tonic::Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
    if matches!(status.code(), Cancelled | DeadlineExceeded | Unavailable | Unknown) {
        WorkError::ConnectionLost(message)
    } else {
        fail(refused, message).into()
    }
}

pub(crate) enum Remote<'a> {
    /// A file of a checkpoint.
    Version {
        step: u64,
        /// File name in the checkpoint's folder.
        name: &'a str,
    },
    /// The state that another member sends.
    State { step: u64 },
    /// A file of the dataset.
    Dataset {
        /// The digest that identifies it.
        digest: &'a str,
    },
}

impl Transfer {
    /// Creates the transfer of a member from its Welcome.
    pub(crate) fn new(client: Client, runtime: Handle, welcome: &Welcome) -> Self {
        Self { client, runtime, run: welcome.run, member: welcome.member, key: welcome.key.clone() }
    }

    /// Starts an upload; its files follow with [`Upload::file`].
    pub(crate) fn upload(&self, kind: UploadKind, step: u64) -> Result<Upload, WorkError> {
        let (chunks, outgoing) = mpsc::channel(CHUNKS_MAX);
        let mut client = self.client.clone();
        let call = self.runtime.spawn(async move { client.upload(ReceiverStream::new(outgoing)).await });
        let mut upload = Upload { chunks, call, runtime: self.runtime.clone(), pending: Vec::new() };
        let (member, kind) = ((self.member, &self.key), upload_kind_out(kind).into());
        upload.send(upload_chunk::Part::Begin(identity::upload_begin(self.run, member, kind, step)))?;
        Ok(upload)
    }

    /// Downloads a file into `sink`. The caller verifies the contents.
    pub(crate) fn download(&self, what: &Remote<'_>, sink: &mut dyn Write) -> Result<(), WorkError> {
        let (label, request) = match *what {
            Remote::Version { step, name } => (
                format!("version {step}, {name}"),
                download_request::What::Version(VersionFile { step, name: name.to_owned() }),
            ),
            Remote::State { step } => {
                (format!("state {step}"), download_request::What::State(ShownState { step }))
            }
            Remote::Dataset { digest } => (
                format!("dataset {digest}"),
                download_request::What::Dataset(DatasetFile { digest: digest.to_owned() }),
            ),
        };
        let refused = |status: &tonic::Status| {
            let message = format!("{label} can't be had: {}", status.message());
            // Another member may send it again.
            if let Remote::State { .. } = what {
                return WorkError::ConnectionLost(message);
            }
            error_of(status, 3, message)
        };
        let stalled = |_| {
            let waited = STALL_DEADLINE.as_secs();
            WorkError::ConnectionLost(format!(
                "{label} can't be had: the coordinator sent nothing for {waited} s"
            ))
        };
        let mut client = self.client.clone();
        self.runtime.block_on(async {
            let request = DownloadRequest { what: Some(request) };
            let answer = timeout(STALL_DEADLINE, client.download(request)).await.map_err(stalled)?;
            let mut incoming = answer.map_err(|status| refused(&status))?.into_inner();
            loop {
                let next = timeout(STALL_DEADLINE, incoming.message()).await.map_err(stalled)?;
                let Some(chunk) = next.map_err(|status| refused(&status))? else { break };
                sink.write_all(&chunk.bytes).map_err(|error| fail(3, format!("{label}: {error}")))?;
            }
            Ok(())
        })
    }
}

/// An upload in progress. Written bytes belong to the file that was begun last.
pub(crate) struct Upload {
    chunks: mpsc::Sender<UploadChunk>,
    call: tokio::task::JoinHandle<Result<tonic::Response<wire::proto::UploadReply>, tonic::Status>>,
    runtime: Handle,
    pending: Vec<u8>,
}

impl Upload {
    /// Begins a file of `size` bytes, which are then written to this upload.
    pub(crate) fn file(&mut self, name: &str, size: u64) -> Result<(), WorkError> {
        self.send_pending()?;
        self.send(upload_chunk::Part::File(UploadFile { name: name.to_owned(), size }))
    }

    /// Ends the upload and waits until the coordinator has received everything.
    pub(crate) fn finish(mut self, model_digest: &[u8], state_digest: &[u8]) -> Result<(), WorkError> {
        self.send_pending()?;
        let (model_digest, state_digest) = (model_digest.to_vec(), state_digest.to_vec());
        self.send(upload_chunk::Part::Finish(UploadFinish { model_digest, state_digest }))?;
        let Self { chunks, call, runtime, .. } = self;
        drop(chunks);
        let abort = call.abort_handle();
        match runtime.block_on(async { timeout(FINISH_DEADLINE, call).await }) {
            Err(_) => {
                abort.abort();
                let waited = FINISH_DEADLINE.as_secs();
                Err(WorkError::ConnectionLost(format!(
                    "the coordinator did not say within {waited} s that it has it"
                )))
            }
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(status))) => {
                let message = format!("the coordinator did not take it: {}", status.message());
                Err(error_of(&status, 4, message))
            }
            Ok(Err(error)) => Err(fail(4, format!("the upload was cut short: {error}")).into()),
        }
    }

    fn send_pending(&mut self) -> Result<(), WorkError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        self.send(upload_chunk::Part::Bytes(bytes))
    }

    fn send(&mut self, part: upload_chunk::Part) -> Result<(), WorkError> {
        let sending = self.chunks.send(UploadChunk { part: Some(part) });
        match self.runtime.block_on(async { timeout(STALL_DEADLINE, sending).await }) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => {}
            Err(_) => {
                self.call.abort();
                let waited = STALL_DEADLINE.as_secs();
                return Err(WorkError::ConnectionLost(format!(
                    "the coordinator took nothing of it for {waited} s"
                )));
            }
        }
        // The call ended early: its status gives the reason.
        let message = |reason: &str| format!("the coordinator did not take it: {reason}");
        Err(match self.runtime.block_on(&mut self.call) {
            Ok(Err(status)) => error_of(&status, 4, message(status.message())),
            Ok(Ok(_)) => fail(4, message("it ended too early")).into(),
            Err(error) => fail(4, message(&error.to_string())).into(),
        })
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(CHUNK_BYTES);
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.send_pending().map_err(|failure| std::io::Error::other(failure.message().to_owned()))
    }
}
