//! A stream that lives as long as the token that opened it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::Status;

use super::Caller;

/// Ends the stream with `permission_denied` when the token ends.
pub(crate) struct UntilRevoked<S> {
    stream: S,
    ended: Option<Pin<Box<dyn Future<Output = String> + Send>>>,
}

impl<S> UntilRevoked<S> {
    pub(crate) fn new(stream: S, who: &Caller) -> Self {
        Self { stream, ended: Some(Box::pin(who.clone().ended())) }
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for UntilRevoked<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(None) };
        if let Poll::Ready(why) = ended.as_mut().poll(context) {
            self.ended = None;
            return Poll::Ready(Some(Err(Status::permission_denied(why))));
        }
        Pin::new(&mut self.stream).poll_next(context)
    }
}
