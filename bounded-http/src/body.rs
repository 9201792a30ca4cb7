//! Bodies that report to the connection's slot when a request is complete and when its response has been sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::pool::ConnectionSlot;
use super::time_budget::TimeBudget;

/// A request's body: yields an error if it arrives too slowly.
pub(crate) struct RequestBody {
    body: Incoming,
    slot: Arc<ConnectionSlot>,
    patience: TimeBudget,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, slot: Arc<ConnectionSlot>, stall: Duration) -> Self {
        if body.is_end_stream() {
            slot.on_request();
        }
        Self { body, slot, patience: TimeBudget::new(stall) }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.patience.earn(data.map_or(0, Bytes::len));
                if frame.is_none() || self.body.is_end_stream() {
                    self.slot.on_request();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.patience.poll_spent(context).map(|()| {
                let why = io::Error::new(io::ErrorKind::TimedOut, "it came too slowly");
                Some(Err(why.into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes handed to a connection at once; it buffers no more than that.
pub const PIECE: usize = 64 << 10;

/// A response body. Anything longer than a piece is copied out piece by piece, so that its memory stays its own until
/// the last byte has been taken; then `held` is dropped.
pub struct Answer<H> {
    body: Body,
    rest: Bytes,
    _held: H,
}

impl<H> Answer<H> {
    /// Sends `body`; `held` is dropped when the last of it is taken.
    pub fn new(body: Body, held: H) -> Self {
        Self { body, rest: Bytes::new(), _held: held }
    }
}

/// A slot whose connection is being answered.
pub(crate) struct ActiveSlot(pub(super) Arc<ConnectionSlot>);

impl Drop for ActiveSlot {
    fn drop(&mut self) {
        self.0.on_idle();
    }
}

impl<H: Unpin> HttpBody for Answer<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let polled = Pin::new(&mut self.body).poll_frame(context);
            match polled {
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| data.len() > PIECE) => {
                    self.rest = frame.into_data().unwrap_or_default();
                }
                other => return other,
            }
        }
        let length = PIECE.min(self.rest.len());
        let piece = Bytes::copy_from_slice(&self.rest.split_to(length));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}
