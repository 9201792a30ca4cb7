//! A run's changes as server-sent events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, KeepAliveStream, Sse};
use axum::routing::get;
use axum::{Extension, Router};
use bounded_http::PresentedToken;
use printable::shell_word;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::api::no_run;
use super::{Failure, Tracker};
use crate::index::{PointKey, Reader};

/// Time between two checks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Maximum time between two comments or events.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Time between two checks while more points are pending than fit into an event.
const CATCH_UP_EVERY: Duration = Duration::from_millis(20);

/// Events buffered for a slow reader, who gets the rest later.
const WAITING: usize = 8;

/// Maximum number of points of a key per event; the rest follows in the next one.
const POINTS_MAX: usize = 500;

type Events = KeepAliveStream<ReceiverStream<Result<Event, Infallible>>>;

/// Events by name, and the stream's state once they are sent.
type NamedEvents = (Vec<(&'static str, Value)>, StreamState);

/// What has been sent so far.
#[derive(Clone, Default)]
struct StreamState {
    revision: Option<i64>,
    places: BTreeMap<String, Option<PointKey>>,
    /// More points are pending than fitted into the last event.
    is_behind: bool,
}

pub(super) fn routes() -> Router<Tracker> {
    Router::new().route("/api/runs/{id}/stream", get(stream))
}

async fn stream(
    State(tracker): State<Tracker>,
    Path(id): Path<String>,
    shown: Option<Extension<PresentedToken>>,
) -> Result<Sse<Events>, Failure> {
    let permit = Arc::clone(tracker.streams()).try_acquire_owned();
    let permit = permit.map_err(|_| Failure::busy("too many streams are open: close one"))?;
    let asked = id.clone();
    tracker.read(move |reader| reader.row(&asked)?.map(|_| ()).ok_or_else(|| no_run(&asked))).await?;
    let (to, events) = mpsc::channel(WAITING);
    tokio::spawn(follow(tracker, (id, shown.map(|Extension(shown)| shown)), to, permit));
    let heartbeat = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(ReceiverStream::new(events)).keep_alive(heartbeat))
}

/// Streams until the run, the reader or the token is gone, or the server shuts down, which sends the run's last state.
async fn follow(
    tracker: Tracker,
    (id, shown): (String, Option<PresentedToken>),
    to: mpsc::Sender<Result<Event, Infallible>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut closed = tracker.closed();
    let mut sent = StreamState::default();
    let is_over = || {
        let visitor = shown.as_ref().zip(tracker.access()).map(|(shown, access)| access.visitor(&shown.0));
        visitor.is_some_and(|visitor| visitor.is_none())
    };
    loop {
        if is_over() {
            return;
        }
        // Read first: everything written by then is in the next check.
        let is_last = *closed.borrow();
        let (asked, before) = (id.clone(), sent.clone());
        // A failed read doesn't end the stream: the next one may succeed.
        if let Ok((events, now)) = tracker.read(move |reader| news(reader, &asked, before)).await {
            for (name, data) in events {
                if to.send(Ok(Event::default().event(name).data(data.to_string()))).await.is_err()
                    || name == "gone"
                {
                    return;
                }
            }
            sent = now;
        }
        if is_last && !sent.is_behind {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(if sent.is_behind { CATCH_UP_EVERY } else { LOOK_EVERY }) => {}
            () = to.closed() => return,
            _ = closed.wait_for(|closed| *closed), if !is_last => {}
        }
    }
    let asked = id.clone();
    let last = tracker.read(move |reader| Ok(reader.run(&asked)?)).await.ok().flatten();
    let folder = std::path::absolute(tracker.root()).unwrap_or_else(|_| tracker.root().to_owned());
    let command = format!("coordinator tracker serve --dir {}", shell_word(&folder.display().to_string()));
    let data = json!({ "run": last, "command": command });
    // A reader who has gone doesn't need it.
    let _ = to.send(Ok(Event::default().event("end").data(data.to_string()))).await;
}

/// The events since the last check.
fn news(reader: &Reader, id: &str, mut sent: StreamState) -> Result<NamedEvents, Failure> {
    let Some(row) = reader.row(id)? else { return Ok((vec![("gone", json!({}))], sent)) };
    let is_first = sent.revision.is_none();
    if sent.revision == Some(row.changed) && !sent.is_behind {
        return Ok((Vec::new(), sent));
    }
    let mut events = Vec::new();
    let newest: BTreeMap<String, PointKey> = reader.places(row.row)?.into_iter().collect();
    let is_replaced = sent.places.iter().any(|(key, sent)| newest.get(key).copied() < *sent);
    if sent.revision != Some(row.changed)
        && let Some(run) = reader.run(id)?
    {
        events.push(("run", json!({ "summary": run.summary, "latest": run.latest })));
    }
    sent.revision = Some(row.changed);
    sent.is_behind = false;
    if is_first || is_replaced {
        if is_replaced {
            events.push(("reset", json!({})));
        }
        // The page requests earlier points itself.
        sent.places = newest.into_iter().map(|(key, place)| (key, Some(place))).collect();
        return Ok((events, sent));
    }
    let mut series = Vec::new();
    for (key, place) in newest {
        let known = sent.places.get(&key).copied().flatten();
        if known == Some(place) {
            continue;
        }
        let (new, last) = reader.news(id, &key, known, POINTS_MAX)?;
        sent.is_behind |= last != Some(place);
        series.push(new);
        sent.places.insert(key, last);
    }
    if !series.is_empty() {
        events.push(("points", json!({ "series": series })));
    }
    Ok((events, sent))
}
