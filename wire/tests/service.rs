//! A real server and a real client over loopback: the token, the streams, the limits.

use std::net::SocketAddr;
use std::pin::Pin;

use protocol::messages::{FromWorker, ToWorker};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use wire::auth::Bearer;
use wire::convert::{from_worker_in, from_worker_out, to_worker_in, to_worker_out};
use wire::proto::bonfire_client::BonfireClient;
use wire::proto::bonfire_server::{Bonfire, BonfireServer};
use wire::proto::{self, upload_chunk::Part};
use wire::token::{METADATA_KEY, Token};
use wire::{CHUNK_BYTES, MESSAGE_BYTES_MAX};

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers each worker's message with Alive, and echoes its input.
struct Echo;

#[tonic::async_trait]
impl Bonfire for Echo {
    type SessionStream = Outgoing<proto::ToWorker>;
    type DownloadStream = Outgoing<proto::DownloadChunk>;

    async fn session(
        &self,
        request: Request<Streaming<proto::FromWorker>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let answers = request.into_inner().map(|message| {
            from_worker_in(message?).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
            Ok(to_worker_out(ToWorker::Alive))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<proto::UploadChunk>>,
    ) -> Result<Response<proto::UploadReply>, Status> {
        let mut chunks = request.into_inner();
        let (mut announced, mut taken) = (0, 0);
        while let Some(chunk) = chunks.message().await? {
            match chunk.part {
                Some(Part::File(file)) => announced += file.size,
                Some(Part::Bytes(bytes)) => taken += bytes.len() as u64,
                Some(Part::Finish(_)) if taken == announced => {
                    return Ok(Response::new(proto::UploadReply {}));
                }
                _ => {}
            }
        }
        Err(Status::aborted(format!("{taken} bytes of {announced}")))
    }

    async fn download(
        &self,
        request: Request<proto::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let Some(proto::download_request::What::Version(file)) = request.into_inner().what else {
            return Err(Status::invalid_argument("nothing was asked for"));
        };
        let chunks = (0..file.step).map(|i| Ok(proto::DownloadChunk { bytes: vec![i as u8; CHUNK_BYTES] }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks.collect::<Vec<_>>()))))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        Ok(Response::new(proto::StatusReply { run: "digits-1".to_owned(), step: 7, ..Default::default() }))
    }

    async fn stop(&self, request: Request<proto::StopRequest>) -> Result<Response<proto::StopReply>, Status> {
        Err(Status::failed_precondition(request.into_inner().reason))
    }

    async fn checkpoint(
        &self,
        _: Request<proto::CheckpointRequest>,
    ) -> Result<Response<proto::CheckpointReply>, Status> {
        Ok(Response::new(proto::CheckpointReply {}))
    }
}

/// A server that ends when this is dropped.
struct Running {
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

/// Admits calls that carry the token.
fn guard(token: Token) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let value = request.metadata().get(METADATA_KEY).and_then(|value| value.to_str().ok());
        if token.admits(value) {
            Ok(request)
        } else {
            Err(Status::unauthenticated("the token is missing or wrong"))
        }
    }
}

async fn start(token: &Token) -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (end, ended) = oneshot::channel::<()>();
    let service = BonfireServer::new(Echo).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let guarded = InterceptedService::new(service, guard(token.clone()));
    let server = Server::builder().add_service(guarded);
    tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
        let _ = ended.await;
    }));
    Running { address, _end: end }
}

async fn channel(running: &Running) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address)).expect("a url");
    endpoint.connect().await.expect("connected")
}

async fn client(running: &Running, token: &Token) -> BonfireClient<InterceptedService<Channel, Bearer>> {
    BonfireClient::with_interceptor(channel(running).await, Bearer::new(token))
}

fn chunk(part: Part) -> proto::UploadChunk {
    proto::UploadChunk { part: Some(part) }
}

#[tokio::test]
async fn calls_and_streams_with_the_token_go_through() {
    let token = Token::random().expect("random");
    let running = start(&token).await;
    let mut client = client(&running, &token).await;
    let status = client.status(proto::StatusRequest {}).await.expect("admitted").into_inner();
    assert_eq!((status.run.as_str(), status.step), ("digits-1", 7));

    let said = [FromWorker::Heartbeat, FromWorker::Leaving { reason: "SIGTERM".to_owned() }];
    let outgoing = tokio_stream::iter(said.map(from_worker_out));
    let mut incoming = client.session(outgoing).await.expect("admitted").into_inner();
    for _ in 0..2 {
        let answer = incoming.message().await.expect("whole").expect("an answer");
        assert_eq!(to_worker_in(answer).expect("good"), ToWorker::Alive);
    }
    assert!(incoming.message().await.expect("whole").is_none());
}

#[tokio::test]
async fn no_call_is_admitted_without_the_right_token() {
    let running = start(&Token::random().expect("random")).await;
    let other = Token::random().expect("random");
    let mut wrong = client(&running, &other).await;
    let mut none = BonfireClient::new(channel(&running).await);
    let silent = || tokio_stream::empty::<proto::FromWorker>();
    let request = proto::DownloadRequest::default();
    let codes = [
        wrong.status(proto::StatusRequest {}).await.expect_err("refused"),
        wrong.stop(proto::StopRequest::default()).await.expect_err("refused"),
        wrong.checkpoint(proto::CheckpointRequest {}).await.expect_err("refused"),
        wrong.session(silent()).await.map(drop).expect_err("refused"),
        wrong.download(request).await.map(drop).expect_err("refused"),
        wrong.upload(tokio_stream::empty()).await.expect_err("refused"),
        none.status(proto::StatusRequest {}).await.expect_err("refused"),
        none.session(silent()).await.map(drop).expect_err("refused"),
    ];
    for status in codes {
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_message_that_means_nothing_ends_its_stream_with_a_reason() {
    let token = Token::random().expect("random");
    let running = start(&token).await;
    let mut client = client(&running, &token).await;
    let nothing = tokio_stream::iter([proto::FromWorker { message: None }]);
    let mut incoming = client.session(nothing).await.expect("admitted").into_inner();
    let status = incoming.message().await.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "control message FromWorker: is missing")
    );
    client.status(proto::StatusRequest {}).await.expect("the server lives");
}

#[tokio::test]
async fn files_go_both_ways_in_chunks() {
    let token = Token::random().expect("random");
    let running = start(&token).await;
    let mut client = client(&running, &token).await;
    let size = 5 * CHUNK_BYTES as u64;
    let whole = |chunks: usize| {
        let begin = chunk(Part::Begin(proto::UploadBegin::default()));
        let file = chunk(Part::File(proto::UploadFile { name: "model.safetensors".to_owned(), size }));
        let bytes = vec![chunk(Part::Bytes(vec![1; CHUNK_BYTES])); chunks];
        let finish = chunk(Part::Finish(proto::UploadFinish::default()));
        tokio_stream::iter([vec![begin, file], bytes, vec![finish]].concat())
    };
    client.upload(whole(5)).await.expect("taken");
    let status = client.upload(whole(4)).await.expect_err("a chunk is missing");
    assert_eq!(status.code(), Code::Aborted);

    let what = Some(proto::download_request::What::Version(proto::VersionFile {
        step: 3,
        name: "model.safetensors".to_owned(),
    }));
    let answer = client.download(proto::DownloadRequest { what }).await.expect("admitted");
    let mut incoming = answer.into_inner();
    let mut found = Vec::new();
    while let Some(part) = incoming.message().await.expect("whole") {
        assert_eq!(part.bytes.len(), CHUNK_BYTES);
        found.push(part.bytes[0]);
    }
    assert_eq!(found, [0, 1, 2]);
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_the_server_lives() {
    let token = Token::random().expect("random");
    let running = start(&token).await;
    let mut client = client(&running, &token).await;
    let fits = proto::StopRequest { reason: "x".repeat(1000) };
    assert_eq!(client.stop(fits).await.expect_err("Echo says no").code(), Code::FailedPrecondition);
    let large = proto::StopRequest { reason: "x".repeat(MESSAGE_BYTES_MAX) };
    let status = client.stop(large).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    client.status(proto::StatusRequest {}).await.expect("the server lives");
}

#[test]
fn the_guard_looks_at_the_metadata_alone() {
    let token = Token::random().expect("random");
    let mut guard = guard(token.clone());
    let request = Bearer::new(&token).call(Request::new(())).expect("filled in");
    guard(request).expect("admitted");
    for value in ["", "Bearer", "Bearer x", &token.to_hex(), &format!("bearer {}", token.to_hex())] {
        let mut request = Request::new(());
        request.metadata_mut().insert("authorization", value.parse().expect("a value"));
        assert_eq!(guard(request).expect_err("refused").code(), Code::Unauthenticated, "{value}");
    }
}
