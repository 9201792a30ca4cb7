//! Bodies that tell the connection's seat when a request is whole and when its answer is taken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::crowd::Seat;
use super::patience::Patience;

/// A request's body: an error where it comes too slowly.
pub(super) struct Question {
    body: Incoming,
    seat: Arc<Seat>,
    patience: Patience,
}

impl Question {
    pub(super) fn new(body: Incoming, seat: Arc<Seat>, stall: Duration) -> Self {
        if body.is_end_stream() {
            seat.is_asking();
        }
        Self { body, seat, patience: Patience::new(stall) }
    }
}

impl HttpBody for Question {
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
                    self.seat.is_asking();
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

/// An answer's body.
pub(super) struct Answer {
    body: Body,
    seat: Arc<Seat>,
}

impl Answer {
    pub(super) fn new(body: Body, seat: Arc<Seat>) -> Self {
        Self { body, seat }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.seat.is_silent();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
