//! A tracker over real sockets.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bounded_http::Access;
use bounded_http::Limits;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracker::server::{AccessToken, Tracker};

/// Far longer than anything on loopback takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A tracker on a port of its own, which is shut down on drop.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(token: Option<&str>) -> Self {
        Self::over(tempfile::tempdir().expect("a temporary folder"), token, |remark| panic!("{remark}"))
    }

    /// A tracker with these connection limits.
    pub(crate) fn bounded(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self::with(dir, None, limits, |remark| panic!("{remark}"))
    }

    /// A tracker that may emit remarks.
    pub(crate) fn over(
        dir: tempfile::TempDir,
        token: Option<&str>,
        remark: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self::with(dir, token, Limits::of(128), remark)
    }

    fn with(
        dir: tempfile::TempDir,
        token: Option<&str>,
        limits: Limits,
        remark: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let token =
            token.map(|token| Arc::new(AccessToken::parse(token).expect("a token")) as Arc<dyn Access>);
        Self::behind(dir, token, limits, remark)
    }

    /// A tracker with this access control.
    pub(crate) fn guarded(access: Arc<dyn Access>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self::behind(dir, Some(access), Limits::of(128), |remark| panic!("{remark}"))
    }

    fn behind(
        dir: tempfile::TempDir,
        access: Option<Arc<dyn Access>>,
        limits: Limits,
        remark: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let tracker = Tracker::open(dir.path(), access, remark).expect("opened");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel::<()>();
        let ended = async move { drop(ended.await) };
        runtime.spawn(tracker::server::serve(listener, bounded_http::plain, tracker, limits, ended));
        Self { address, end: Some(end), runtime, dir }
    }

    pub(crate) fn runs(&self) -> &Path {
        self.dir.path()
    }

    /// Sends bytes and reads to the end of the response.
    pub(crate) fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream.write_all(request).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer)
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let host = self.address;
        let length = body.len();
        self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\
                 {body}"
            )
            .as_bytes(),
        )
    }

    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.request(method, path, "", &body);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) fn mlflow(&self, path: &str, body: &Value) -> (u16, Value) {
        self.json("POST", &format!("/api/2.0/mlflow/{path}"), body)
    }

    pub(crate) fn new_run(&self) -> (String, String) {
        let (status, run) = self.mlflow("runs/create", &json!({ "experiment_id": "0", "start_time": "5" }));
        assert_eq!(status, 200, "{run}");
        let id = run["run"]["info"]["run_id"].as_str().expect("an id").to_owned();
        let files = format!("/api/2.0/mlflow-artifacts/artifacts/0/{id}/artifacts");
        (id, files)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        // Shutdown must not wait for connections that were left open.
        let _ = &self.runtime;
    }
}

pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}
