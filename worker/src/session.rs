//! The connection to the coordinator: token lookup, connecting with back-off, the control stream.

use std::path::PathBuf;
use std::time::Duration;

use protocol::messages::Failure;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use wire::auth::Bearer;
use wire::lazy_tls::{PeerProtocol, what_is_spoken};
use wire::proto::bonfire_client::BonfireClient;
use wire::tls::{Security, SecurityMode, TlsError};
use wire::token::{self, TokenLine};
use wire::transport::{self, CONNECT_DEADLINE};

use crate::channel::{Client, DriverEvent, Problem, Reader, Session};
use crate::failure::fail;
use crate::worker_info::WorkerInfo;

/// Messages queued for the stream: a step needs one, and a heartbeat or two may come in between.
const OUTBOX_MAX: usize = 16;
/// Pauses between attempts, growing from first to last.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// An attempt that fails for the same reason as before is logged again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// Number of the attempt that opens a worker's first control stream.
pub(crate) const FIRST: u64 = 0;
/// How long the last messages may take to be sent.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// Address of the coordinator, and this worker's credentials.
#[derive(Clone, Debug)]
pub(crate) struct CoordinatorAddress {
    /// The URL as given.
    pub(crate) url: String,
    /// Host of the control plane and the data plane.
    pub(crate) host: String,
    port: u16,
    token_file: Option<PathBuf>,
    security: Security,
    /// Information about this worker outside the protocol.
    pub(crate) about: WorkerInfo,
}

impl CoordinatorAddress {
    /// Parses the command line's URL.
    pub(crate) fn parse(url: &str, token_file: Option<PathBuf>, security: Security) -> Result<Self, Failure> {
        let Some((host, port)) = token::host_and_port(url) else {
            return Err(fail(2, format!("--coordinator {url}: expected https://HOST:PORT")));
        };
        Ok(Self { url: url.to_owned(), host, port, token_file, security, about: WorkerInfo::default() })
    }

    /// Adds the information about this worker.
    pub(crate) fn with(self, about: WorkerInfo) -> Self {
        Self { about, ..self }
    }

    /// Whether all of the host's addresses are loopback.
    async fn is_loopback(&self) -> Result<bool, Problem> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|error| passing(4, format!("the host {} is not known: {error}", self.host)))?;
        Ok(found.into_iter().all(|address| token::is_loopback(address.ip())))
    }

    /// Reads the token's line now: the coordinator may write it after the worker starts.
    fn token(&self, loopback: bool) -> Result<TokenLine, Problem> {
        let path = match &self.token_file {
            Some(path) => path.clone(),
            None if !loopback => {
                let hint =
                    "name the run's token with --token-file (it is RUN_DIR/token on the coordinator's host)";
                return Err(lasting(format!("{} is another machine: {hint}", self.host)));
            }
            None => token::discovery_file(self.port).map_err(|error| lasting(error.to_string()))?,
        };
        TokenLine::read(&path).map_err(|error| passing(2, error.to_string()))
    }

    /// Opens the control stream, retrying until the timeout.
    ///
    /// Its messages arrive as events. A signal in the meantime ends the attempt with code 130.
    pub(crate) async fn join(
        &self,
        join_timeout: Duration,
        events: &mpsc::Sender<DriverEvent>,
        inbox: &mut mpsc::Receiver<DriverEvent>,
    ) -> Result<Session, Failure> {
        let give_up = Instant::now() + join_timeout;
        let (mut said, mut say_again) = (String::new(), Instant::now());
        for attempt in 0.. {
            let failure = match self.attempt(FIRST, events).await {
                Ok(session) => return Ok(session),
                Err(Problem::Lasting(failure) | Problem::Denied(failure)) => return Err(failure),
                Err(Problem::Passing(failure)) => failure,
            };
            let wait = BACKOFF[attempt.min(BACKOFF.len() - 1)];
            if Instant::now() + wait >= give_up {
                let message =
                    format!("{}: no admission within {join_timeout:?}: {}", self.url, failure.message);
                return Err(fail(failure.code, message));
            }
            // A repeated failure is logged once, then now and then: the log shows that attempts continue, and for how
            // long.
            let (is_new, is_time) = (failure.message != said, Instant::now() >= say_again);
            if is_new || is_time {
                let left = give_up.saturating_duration_since(Instant::now()).as_secs();
                tracing::warn!(
                    "{}: {}; trying again in {wait:?}, for {left} s more (--join-timeout)",
                    self.url,
                    failure.message
                );
                said = failure.message;
                say_again = Instant::now() + SAY_AGAIN;
            }
            if let Ok(Some(DriverEvent::Signalled { signal })) =
                tokio::time::timeout(wait, inbox.recv()).await
            {
                return Err(fail(130, format!("{signal} while trying to join")));
            }
        }
        unreachable!("the loop has no end of its own")
    }

    /// One numbered attempt to reopen the control stream.
    pub(crate) async fn reconnect(
        &self,
        number: u64,
        events: &mpsc::Sender<DriverEvent>,
    ) -> Result<Session, Problem> {
        self.attempt(number, events).await
    }

    /// Diagnoses the connection to the coordinator's port, if nothing listens there.
    async fn why_not_connected(&self) -> Option<Problem> {
        let connecting = tokio::net::TcpStream::connect((self.host.as_str(), self.port));
        match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(passing(4, format!("can't be reached: {error}"))),
            Err(_) => Some(passing(4, format!("can't be reached: no answer in {CONNECT_DEADLINE:?}"))),
        }
    }

    async fn attempt(&self, number: u64, events: &mpsc::Sender<DriverEvent>) -> Result<Session, Problem> {
        let loopback = self.is_loopback().await?;
        let line = match self.token(loopback) {
            Ok(line) => line,
            // Without a coordinator there is no token either: report the missing coordinator.
            Err(problem @ Problem::Passing(_)) => {
                return Err(self.why_not_connected().await.unwrap_or(problem));
            }
            Err(problem) => return Err(problem),
        };
        let mode = self.security.mode(&self.url, &self.host, loopback, line.fingerprint);
        let mode = mode.map_err(|error| lasting(format!("--coordinator {error}")))?;
        let url = with_scheme(&self.url, &mode);
        let endpoint =
            transport::endpoint(&url).map_err(|error| lasting(format!("--coordinator {url}: {error}")))?;
        let channel = match transport::connect(&endpoint, &mode).await {
            Ok(channel) => channel,
            Err(error) => return Err(self.why_not_agreed(&error, &line, loopback).await),
        };
        let token = line.token;
        let bearer = Bearer::new(&token);
        let mut client = client_over(channel, bearer.clone());
        // It connects lazily, with the first file.
        let files = client_over(transport::connect_lazily(&endpoint, &mode), bearer);
        let (outbox, outgoing) = mpsc::channel(OUTBOX_MAX);
        let about = self.about.clone();
        let outgoing = ReceiverStream::new(outgoing).map(move |message| about.out(message));
        let answer = tokio::time::timeout(CONNECT_DEADLINE, client.session(outgoing))
            .await
            .map_err(|_| passing(4, "connected, but the control stream got no answer"))?;
        let incoming = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::Unauthenticated => {
                return Err(passing(
                    2,
                    format!("the coordinator did not take the run's token: {}", status.message()),
                ));
            }
            Err(status) if status.code() == tonic::Code::PermissionDenied => {
                let message = format!("the coordinator refuses: {}", status.message());
                return Err(Problem::Denied(fail(2, message)));
            }
            Err(status) => return Err(self.why_no_answer(&mode, &status).await),
        };
        let reader = Reader(tokio::spawn(read(number, incoming, events.clone())));
        Ok(Session { files, token, tls: mode.tls().cloned(), outbox, reader })
    }

    /// Why no connection was established. A TLS rejection is permanent, unless the token's line has changed in the
    /// meantime.
    async fn why_not_agreed(
        &self,
        error: &tonic::transport::Error,
        line: &TokenLine,
        loopback: bool,
    ) -> Problem {
        let unreachable = format!("can't be reached: {}", chain(error));
        let Some(why) = TlsError::within(error) else { return passing(4, unreachable) };
        let spoken = what_is_spoken(&self.host, self.port).await;
        if !why.is_passing && spoken != PeerProtocol::Http2 {
            let has_changed = self.token(loopback).is_ok_and(|now| now.fingerprint != line.fingerprint);
            let message = format!("{}: {}", self.url, why.message);
            return if has_changed { passing(2, message) } else { lasting(message) };
        }
        match spoken {
            PeerProtocol::Http2 => lasting(format!(
                "{}: the coordinator there doesn't encrypt: use http:// and, from another machine, --insecure on both sides",
                self.url
            )),
            _ => passing(4, unreachable),
        }
    }

    /// Why an established connection produced no stream.
    async fn why_no_answer(&self, mode: &SecurityMode, status: &tonic::Status) -> Problem {
        if matches!(mode, SecurityMode::Plain)
            && what_is_spoken(&self.host, self.port).await == PeerProtocol::Tls
        {
            return lasting(format!("{}: the coordinator there speaks TLS: use https://", self.url));
        }
        // Under TLS 1.3 a server rejects a client's certificate only after the client's last handshake message.
        match TlsError::within(status) {
            Some(why) if !why.is_passing => lasting(format!("{}: {}", self.url, why.message)),
            _ => passing(4, format!("can't be reached: {}", status_text(status))),
        }
    }
}

impl Session {
    /// Sends the last messages, once every clone of the outbox is dropped.
    pub(crate) async fn close(self) {
        let Self { outbox, mut reader, .. } = self;
        drop(outbox);
        if tokio::time::timeout(FLUSH_DEADLINE, &mut reader.0).await.is_err() {
            tracing::debug!("the coordinator did not close the control stream in time");
        }
    }
}

/// Turns incoming messages into events until the stream ends.
async fn read(
    attempt: u64,
    mut incoming: tonic::Streaming<wire::proto::ToWorker>,
    events: mpsc::Sender<DriverEvent>,
) {
    let reason = loop {
        match incoming.message().await {
            Ok(Some(message)) => match wire::convert::to_worker_in(message) {
                Ok(message) => {
                    if events.send(DriverEvent::Control(message)).await.is_err() {
                        return;
                    }
                }
                Err(error) => break error.to_string(),
            },
            Ok(None) => break "the coordinator closed the control stream".to_owned(),
            Err(status) => break format!("the control stream broke: {}", status_text(&status)),
        }
    };
    // Without a receiver the worker is already ending.
    let _ = events.send(DriverEvent::ControlLost { attempt, reason }).await;
}

/// The URL with the scheme actually used.
fn with_scheme(url: &str, mode: &SecurityMode) -> String {
    match (url.contains("://"), mode) {
        (true, _) => url.to_owned(),
        (false, SecurityMode::Plain) => format!("http://{url}"),
        (false, SecurityMode::Tls(_)) => format!("https://{url}"),
    }
}

fn client_over(channel: Channel, bearer: Bearer) -> Client {
    BonfireClient::with_interceptor(channel, bearer)
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX)
}

fn passing(code: u8, message: impl Into<String>) -> Problem {
    Problem::Passing(fail(code, message))
}

fn lasting(message: String) -> Problem {
    Problem::Lasting(fail(2, message))
}

/// The message of a status, without its code and metadata.
fn status_text(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(chain).unwrap_or_default();
    match status.message() {
        "" => cause,
        message if cause.is_empty() || message.contains(&cause) => message.to_owned(),
        message => format!("{message}: {cause}"),
    }
}

/// An error with its causes, which tonic keeps separate.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use wire::token::Token;

    use super::*;

    #[test]
    fn addresses() {
        let parse = |url| CoordinatorAddress::parse(url, None, Security::default());
        assert_eq!(with_scheme("127.0.0.1:7", &SecurityMode::Plain), "http://127.0.0.1:7");
        assert_eq!(with_scheme("https://host:7", &SecurityMode::Plain), "https://host:7");
        assert_eq!(parse("http://[::1]:7/").expect("IPv6").host, "::1");
        for wrong in ["", "http://host", "http://host:x"] {
            assert_eq!(parse(wrong).expect_err(wrong).code, 2);
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_code_4() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("token");
        Token::random().expect("random").write(&file).expect("written");
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let address = CoordinatorAddress::parse(&format!("http://{free}"), Some(file), Security::default())
            .expect("an address");
        let (events, mut inbox) = mpsc::channel(4);
        let failure = address.join(Duration::from_millis(300), &events, &mut inbox).await.err();
        let failure = failure.expect("nobody listens there");
        assert_eq!(failure.code, 4, "{}", failure.message);
        assert!(failure.message.contains("can't be reached"), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_missing_token_is_said_with_its_path_and_code_2() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let address = CoordinatorAddress::parse(&url, Some("/nonexistent/token".into()), Security::default());
        let (events, mut inbox) = mpsc::channel(4);
        let joined = address.expect("an address").join(Duration::ZERO, &events, &mut inbox).await;
        let failure = joined.err().expect("no token");
        assert_eq!(failure.code, 2);
        assert!(failure.message.contains("/nonexistent/token"), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_signal_ends_the_attempts() {
        let address = CoordinatorAddress::parse(
            "http://127.0.0.1:9",
            Some("/nonexistent/token".into()),
            Security::default(),
        );
        let (events, mut inbox) = mpsc::channel(4);
        events.send(DriverEvent::Signalled { signal: "SIGTERM" }).await.expect("room");
        let joined = address.expect("an address").join(Duration::from_secs(60), &events, &mut inbox).await;
        assert_eq!(joined.err().expect("no token").code, 130);
    }
}
