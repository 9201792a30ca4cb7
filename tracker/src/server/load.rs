//! Limits the memory of all requests and responses together.
//!
//! Small ones are bounded by the number of connections. Large ones are counted in bytes: a request's until it is
//! answered, a response's until its reader has taken it. When the limit is reached, clients are told to retry, so that
//! nobody waits for slow clients.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bounded_http::Answer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt;

use super::{Failure, JSON_MAX, Tracker};

/// Requests and responses up to this size in bytes are small.
const SMALL: usize = 64 << 10;

/// Bytes of all large requests: eight of the largest. Parsed, they take several times as much.
const REQUESTS_MAX: usize = 8 * JSON_MAX;

/// Bytes of all large responses.
const ANSWERS_MAX: usize = 128 << 20;

/// Maximum number of concurrent artifact transfers: each keeps a file open for as long as it takes.
pub(super) const TRANSFERS_MAX: usize = 32;

/// Free bytes and transfers.
pub(super) struct Load {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            answers: Arc::new(Semaphore::new(ANSWERS_MAX)),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
        }
    }
}

impl Load {
    /// Reserves a file transfer.
    pub(super) fn transfer(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.transfers).try_acquire_owned().map_err(|_| {
            Failure::busy(format!("{TRANSFERS_MAX} files are on their way: ask again in a moment"))
        })
    }
}

/// Reserves bytes, if they are free.
fn take(of: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
}

/// Reads a request's body, answers it, and sends the response piece by piece.
pub(super) async fn bounded(State(tracker): State<Tracker>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let (body, held) = match read(tracker.load(), body).await {
        Ok(read) => read,
        Err(failure) => return failure.into_response(),
    };
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    drop(held);
    let Some(length) = response.body().size_hint().exact().filter(|length| *length > SMALL as u64) else {
        return response;
    };
    let Some(permit) = usize::try_from(length).ok().and_then(|bytes| take(&tracker.load().answers, bytes))
    else {
        return Failure::busy(format!(
            "this answer has {length} bytes, and others that are as large are still on their way: ask again in a moment, or \
             for less"
        ))
        .into_response();
    };
    response.map(|body| Body::new(Answer::new(body, permit)))
}

/// The whole body, and its reservation.
async fn read(load: &Load, body: Body) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Failure> {
    let too_long = || Failure::invalid(format!("the request has more than {JSON_MAX} bytes"));
    if body.size_hint().lower() > JSON_MAX as u64 {
        return Err(too_long());
    }
    let (mut body, mut whole) = (body.into_data_stream(), Vec::new());
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|why| Failure::invalid(format!("the request's body broke off: {why}")))?;
        let length = whole.len() + chunk.len();
        if length > JSON_MAX {
            return Err(too_long());
        }
        if length > SMALL {
            let more = length - held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = take(&load.requests, more).ok_or_else(|| {
                Failure::busy("other large requests are being read: send this one again in a moment")
            })?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
        }
        whole.extend_from_slice(&chunk);
    }
    Ok((whole, held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bounded_http::PIECE;

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn large_requests_share_a_bound_and_small_ones_pass_by() {
        let load = Load::default();
        let ask = |bytes: usize| block(read(&load, Body::from(vec![7; bytes])));
        let large: Vec<_> = (0..8).map(|_| ask(JSON_MAX).expect("room for eight")).collect();
        assert!(ask(SMALL + 1).is_err(), "no room is left");
        assert_eq!(ask(SMALL).expect("small").0.len(), SMALL);
        assert!(ask(JSON_MAX + 1).is_err(), "too long");
        drop(large);
        assert_eq!(ask(JSON_MAX).expect("room again").0, vec![7; JSON_MAX]);
    }

    #[test]
    fn an_answer_in_pieces_is_the_same_and_holds_its_bytes_to_its_last() {
        let load = Load::default();
        let whole: Vec<u8> = (0..3 * PIECE as u32 + 5).map(|i| i as u8).collect();
        let permit = take(&load.answers, whole.len()).expect("room");
        let body = Body::from(whole.clone());
        let answer = Answer::new(body, permit);
        assert_eq!(answer.size_hint().exact(), Some(whole.len() as u64));
        let mut pieces = Body::new(answer).into_data_stream();
        let mut read = Vec::new();
        while let Some(piece) = block(pieces.next()) {
            let piece = piece.expect("a piece");
            assert!(piece.len() <= PIECE && load.answers.available_permits() < ANSWERS_MAX);
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, whole);
        drop(pieces);
        assert_eq!(load.answers.available_permits(), ANSWERS_MAX);
    }
}
