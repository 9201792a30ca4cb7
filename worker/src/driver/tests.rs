//! A silent coordinator, and a worker that loses it in several ways at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::messages::Join;
use protocol::worker::Options;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use wire::proto::bonfire_server::{Bonfire, BonfireServer};
use wire::proto::{self, from_worker};
use wire::token::Token;

use super::*;
use crate::channel::EVENTS_MAX;
use crate::session::FIRST;

/// Accepts control streams like a real coordinator, keeps each until its worker ends it, and sends nothing.
#[derive(Clone, Default)]
struct Silent {
    /// Number of streams so far.
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    joins: Arc<AtomicUsize>,
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Bonfire for Silent {
    type SessionStream = Outgoing<proto::ToWorker>;
    type DownloadStream = Outgoing<proto::DownloadChunk>;

    async fn session(
        &self,
        request: Request<Streaming<proto::FromWorker>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (own, mut said) = (self.clone(), request.into_inner());
        own.opened.fetch_add(1, Ordering::Relaxed);
        own.open.fetch_add(1, Ordering::Relaxed);
        let (outbox, inbox) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                if let Some(from_worker::Message::Join(_)) = message.message {
                    own.joins.fetch_add(1, Ordering::Relaxed);
                }
            }
            own.open.fetch_sub(1, Ordering::Relaxed);
            drop(outbox);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox))))
    }

    async fn upload(
        &self,
        _: Request<Streaming<proto::UploadChunk>>,
    ) -> Result<Response<proto::UploadReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn download(
        &self,
        _: Request<proto::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stop(&self, _: Request<proto::StopRequest>) -> Result<Response<proto::StopReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn checkpoint(
        &self,
        _: Request<proto::CheckpointRequest>,
    ) -> Result<Response<proto::CheckpointReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn options() -> Options {
    let join = Join {
        protocol_version: protocol::PROTOCOL_VERSION,
        tasks: Vec::new(),
        fingerprint: [0; 32],
        build: String::new(),
        name: "w".to_owned(),
        device: String::new(),
        slot: None,
        pid: 0,
        instance: 1,
        run: None,
        holds: None,
    };
    Options { join, join_timeout_ms: 60_000 }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The control stream breaks, and moments later the compute thread notices too, while another stream is being opened.
#[tokio::test]
async fn a_coordinator_that_is_lost_twice_at_once_is_joined_again_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let silent = Silent::default();
    let serving = tonic::transport::Server::builder()
        .add_service(BonfireServer::new(silent.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("token");
    Token::random().expect("random").write(&file).expect("written");

    let address =
        CoordinatorAddress::parse(&url, Some(file), wire::tls::Security::default()).expect("an address");
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let session = address
        .join(Duration::from_secs(30), &events, &mut inbox)
        .await
        .unwrap_or_else(|failure| panic!("{}", failure.message));
    // The compute thread accepts commands and does nothing.
    let (compute, _orders) = std::sync::mpsc::sync_channel(64);
    let mut driver = Driver {
        machine: Worker::new(options(), 0),
        address,
        session: None,
        events: events.clone(),
        compute,
        started: Instant::now(),
        said: String::new(),
        attempts: FIRST,
        attempt: None,
    };
    driver.connected(session).expect("an order");
    tokio::spawn(driver.run(inbox));
    until("the first Join", || silent.joins.load(Ordering::Relaxed) == 1).await;

    // As attempts get slower, the next loss eventually falls into one of them.
    let lose = |reason: &str| DriverEvent::Worked(Event::Disconnected { reason: reason.to_owned() });
    for pause_ms in [0, 10, 40, 52, 55, 60, 100] {
        assert!(events.send(lose("the first word")).await.is_ok(), "there is a driver");
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        assert!(events.send(lose("the second")).await.is_ok(), "there is a driver");
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    let joins = silent.joins.load(Ordering::Relaxed);
    until("a Join", || {
        silent.joins.load(Ordering::Relaxed) > joins || silent.open.load(Ordering::Relaxed) == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let opened = silent.opened.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(silent.opened.load(Ordering::Relaxed), opened, "no further stream is opened");
    assert_eq!(silent.open.load(Ordering::Relaxed), 1, "and one is open");
}
