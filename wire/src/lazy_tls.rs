//! TLS over tokio: accepted connections, plain or under TLS, and which of them a port speaks.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::{FallibleAccept, TlsStream};

use crate::transport::CONNECT_DEADLINE;

/// The first byte of a TLS connection: the type of a handshake record.
const HANDSHAKE: u8 = 0x16;

/// The response to plain HTTP on a TLS port.
const PLAIN_REFUSED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
This port speaks TLS: use https:// in its address.\n";

/// An accepted connection. The TLS handshake runs with the first read or write, so that accepting never waits for a
/// peer.
pub struct LazyTlsStream<S> {
    state: State<S>,
}

enum State<S> {
    Plain(S),
    Greeting(Box<FallibleAccept<FirstByteWatch<S>>>),
    Open(Box<TlsStream<FirstByteWatch<S>>>),
    /// The peer speaks plain HTTP; the hint is being sent.
    Refusing {
        stream: S,
        written: usize,
    },
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LazyTlsStream<S> {
    /// Uses TLS if a configuration is given.
    #[must_use]
    pub fn new(stream: S, tls: Option<&Arc<ServerConfig>>) -> Self {
        let state = match tls {
            None => State::Plain(stream),
            Some(config) => {
                let accept = TlsAcceptor::from(config.clone()).accept(FirstByteWatch::new(stream));
                State::Greeting(Box::new(accept.into_fallible()))
            }
        };
        Self { state }
    }

    /// Completes the negotiation. `None`: the peer was refused, and the hint sent.
    fn poll_agreed(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Negotiated<'_, S>>>> {
        if let State::Greeting(accept) = &mut self.state {
            self.state = match ready!(Pin::new(accept).poll(context)) {
                Ok(stream) => State::Open(Box::new(stream)),
                Err((_, watched)) if watched.is_plain => {
                    State::Refusing { stream: watched.stream, written: 0 }
                }
                Err((why, _)) => {
                    self.state = State::Ended;
                    return Poll::Ready(Err(why));
                }
            };
        }
        if let State::Refusing { stream, written } = &mut self.state {
            while *written < PLAIN_REFUSED.len() {
                match ready!(Pin::new(&mut *stream).poll_write(context, &PLAIN_REFUSED[*written..]))? {
                    0 => break,
                    more => *written += more,
                }
            }
            ready!(Pin::new(stream).poll_shutdown(context))?;
            return Poll::Ready(Ok(None));
        }
        match &mut self.state {
            State::Plain(stream) => Poll::Ready(Ok(Some(Negotiated::Plain(Pin::new(stream))))),
            State::Open(stream) => Poll::Ready(Ok(Some(Negotiated::Tls(Pin::new(&mut **stream))))),
            _ => Poll::Ready(Err(ErrorKind::ConnectionAborted.into())),
        }
    }
}

enum Negotiated<'a, S> {
    Plain(Pin<&'a mut S>),
    Tls(Pin<&'a mut TlsStream<FirstByteWatch<S>>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for LazyTlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        match ready!(self.poll_agreed(context))? {
            Some(Negotiated::Plain(stream)) => stream.poll_read(context, buffer),
            Some(Negotiated::Tls(stream)) => match ready!(stream.poll_read(context, buffer)) {
                // A peer that vanishes without TLS's close_notify has ended all the same: the protocol inside has
                // lengths.
                Err(why) if why.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => Poll::Ready(read),
            },
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LazyTlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match ready!(self.poll_agreed(context))? {
            Some(Negotiated::Plain(stream)) => stream.poll_write(context, bytes),
            Some(Negotiated::Tls(stream)) => stream.poll_write(context, bytes),
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        match ready!(self.poll_agreed(context))? {
            Some(Negotiated::Plain(stream)) => stream.poll_write_vectored(context, parts),
            Some(Negotiated::Tls(stream)) => stream.poll_write_vectored(context, parts),
            None => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.state {
            State::Plain(stream) => stream.is_write_vectored(),
            _ => true,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_flush(context),
            State::Open(stream) => Pin::new(&mut **stream).poll_flush(context),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.state {
            State::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            State::Open(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Checks whether the first byte is TLS. A peer that speaks anything else gets no alert, which it couldn't read.
struct FirstByteWatch<S> {
    stream: S,
    is_begun: bool,
    is_plain: bool,
}

impl<S> FirstByteWatch<S> {
    fn new(stream: S) -> Self {
        Self { stream, is_begun: false, is_plain: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstByteWatch<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(first) = buffer.filled().get(before).filter(|_| !self.is_begun) {
            self.is_plain = *first != HANDSHAKE;
            self.is_begun = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstByteWatch<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.is_plain {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if self.is_plain {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The protocol that a port speaks, determined after a failed connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerProtocol {
    /// TLS.
    Tls,
    /// Plaintext HTTP/2.
    Http2,
    /// No known protocol.
    Unknown,
}

/// The beginning of HTTP/2 with empty settings (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Type of a SETTINGS frame; it follows three bytes of length.
const SETTINGS: u8 = 4;
/// The first byte of a TLS alert, a TLS server's answer to anything else.
const ALERT: u8 = 0x15;

/// Probes which protocol a port speaks: for messages, after a failed connection.
pub async fn what_is_spoken(host: &str, port: u16) -> PeerProtocol {
    let asked = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = TcpStream::connect((host, port)).await?;
        socket.write_all(PREFACE).await?;
        let mut answer = [0; 9];
        socket.read_exact(&mut answer).await?;
        let is_refused = answer.starts_with(b"HTTP") && has_hint(&mut socket).await;
        Ok::<_, Error>(match answer {
            [ALERT, 3, ..] => PeerProtocol::Tls,
            _ if is_refused => PeerProtocol::Tls,
            [_, _, _, SETTINGS, ..] => PeerProtocol::Http2,
            _ => PeerProtocol::Unknown,
        })
    };
    match tokio::time::timeout(CONNECT_DEADLINE, asked).await {
        Ok(Ok(spoken)) => spoken,
        _ => PeerProtocol::Unknown,
    }
}

/// Whether the rest of an answer is [`PLAIN_REFUSED`].
async fn has_hint(socket: &mut TcpStream) -> bool {
    use tokio::io::AsyncReadExt;
    let mut rest = Vec::new();
    let _ = socket.take(PLAIN_REFUSED.len() as u64).read_to_end(&mut rest).await;
    PLAIN_REFUSED.ends_with(&rest) && rest.len() > PLAIN_REFUSED.len() / 2
}
