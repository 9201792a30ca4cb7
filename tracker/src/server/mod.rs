//! The tracker over HTTP: MLflow's REST interface, and a JSON API for our own page.
//!
//! # MLflow
//!
//! Served below `/api/2.0/mlflow/` and `/api/2.0/mlflow-artifacts/`, as MLflow 3's Python client uses them: point it
//! at this address with `MLFLOW_TRACKING_URI`, and with `MLFLOW_TRACKING_TOKEN` if there is a token. A run of Bonfire
//! belongs to the experiment named like the run without the number at its end (`digits-7` to `digits`; `Default` for a
//! name without a number). Such runs are read-only except for tags and notes.
//!
//! # JSON for the page
//!
//! Times are milliseconds since 1970, and NaN and the infinities the words `"NaN"`, `"Infinity"`, `"-Infinity"`. A
//! failed request is answered by a 4xx or 5xx status with `{"error_code": "...", "message": "..."}`.
//!
//! `GET /api/experiments` returns `{"experiments": [{"id", "name", "runs"}]}`, `GET /api/keys` returns the possible
//! columns, `{"metrics": [{"key", "runs"}], "params": [{"key", "runs"}]}`.
//!
//! `GET /api/runs?filter=..&order_by=..&experiment=..&stage=active|deleted|all&limit=200&page=..&column=..` lists
//! runs, newest first; `order_by`, `experiment` (an id) and `column` may be repeated. `column` is `metrics.KEY`,
//! `params.KEY` or `tags.KEY`; by default the losses and the accuracy are returned. `limit` is at most 5,000, `page`
//! the `next_page` of the previous page.
//!
//! ```json
//! {"runs": [{"id": "..", "name": "digits-1", "kind": "bonfire|client", "experiment_id": "..", "experiment": "digits",
//!            "status": "running|completed|interrupted|failed", "stage": "active|deleted", "start_ms": 1,
//!            "end_ms": null, "updated_ms": 1, "step": 460, "revision": 3, "metrics": {"train/loss": 0.1},
//!            "params": {}, "tags": {}}],
//!  "next_page": null}
//! ```
//!
//! `GET /api/runs/{id}` returns the same fields and
//!
//! ```json
//! {"folder": "/home/me/runs/digits-1", "config": {"model.kind": "cnn"}, "all_tags": {"mlflow.note.content": "a note"},
//!  "latest": [{"key": "train/loss", "value": 0.1, "step": 460, "time_ms": 1, "count": 460, "minimum": 0.1,
//!              "maximum": 2.3}],
//!  "inputs": [{"tags": [{"key": "mlflow.data.context", "value": "training"}],
//!              "dataset": {"name": "..", "digest": ".."}}],
//!  "record": {"final": {}, "members": [], "events": [], "dataset": {}, "timings": {}, "message": ""},
//!  "checkpoints": [{"step": 460, "created": 1795438016, "digest": "..", "bytes": 1}], "damaged_lines": 0}
//! ```
//!
//! where `record` is `run.json` verbatim, or null for a client's run, and `created` is in seconds.
//!
//! `GET /api/runs/{id}/points?key=..&max=1000` (`key` up to 64 times) returns points for charts, column by column. If
//! there are more than `max`, the least, the greatest and the first NaN of each bucket of steps are kept, and the
//! first and last point (`is_thinned` says so). `epoch` and `samples` are empty for a client's run.
//!
//! ```json
//! {"id": "..", "revision": 3, "series": [{"key": "train/loss", "count": 1000000, "is_thinned": true,
//!   "step": [1], "time_ms": [1], "value": [2.3], "epoch": [0.1], "samples": [64]}]}
//! ```
//!
//! `GET /api/compare?ids=a,b` (up to 64) compares runs; `values` are in the order of `runs`, null for a run without the
//! key.
//!
//! ```json
//! {"runs": [{"id": ".."}], "params": [{"key": "model.kind", "differs": true, "values": ["cnn", null]}],
//!  "metrics": [{"key": "train/loss", "lower_is_better": true, "values": [{"value": 0.1, "step": 460}, null]}]}
//! ```
//!
//! with runs as in the list and metric values as in `latest`.
//!
//! `GET /api/models` lists registered models by name, `GET /api/models/{name}` returns one of them with all its
//! versions, newest first; `run` is as in the list of runs, with its latest losses and accuracy, or null if unknown.
//!
//! ```json
//! {"models": [{"name": "digits", "description": "", "created_ms": 1, "updated_ms": 1, "tags": {},
//!              "aliases": {"champion": 2},
//!              "versions": 3, "newest": 3}]}
//! {"name": "digits", "versions": [{"version": 3, "description": "", "created_ms": 1, "updated_ms": 1,
//!                                  "source": "models:/m-..",
//!                                  "model_id": "m-..", "run_id": "..", "run": {"id": ".."}, "tags": {}}]}
//! ```
//!
//! `GET /api/runs/{id}/stream` sends server-sent events as the run changes, at most two a second:
//!
//! - `run`: `{"summary": <as in the list>, "latest": [<as in latest>]}`, first of all and with every change;
//! - `points`: `{"series": [<as in points, never thinned>]}`: the points since the stream began or the last such event;
//! - `reset`: `{}`: the run's files were replaced: load it again;
//! - `gone`: `{}`: the run no longer exists; the stream ends;
//! - `end`: `{"run": <as from /api/runs/{id}>, "command": "coordinator tracker serve --dir .."}`: the server shuts
//!   down and ends the stream; the event holds the run's last state, and the command that serves it from now on.
//!
//! A comment is sent at least every 15 seconds. To miss nothing, open the stream first, then request the points, and
//! drop duplicates (a key's points are in the order of steps).
//!
//! Artifacts are listed by `GET /api/2.0/mlflow/artifacts/list?run_id=..&path=..` and read below
//! `/api/2.0/mlflow-artifacts/artifacts/{experiment_id}/{id}/artifacts/`; notes are written with
//! `POST /api/2.0/mlflow/runs/set-tag {"run_id", "key": "mlflow.note.content", "value"}`.
//!
//! # Access
//!
//! With a token every request carries `Authorization: Bearer TOKEN`, or the cookie that a first `GET /?token=TOKEN`
//! sets. Without one the server is for this machine only: it answers only requests whose `Host` is this machine, so
//! that a foreign page can't reach it through a DNS name of its own. In either case, requests that a page of another
//! origin sends are refused. A browser that opens an address without permission, or one that doesn't exist, gets a
//! page, with a field for a missing token.

mod api;
mod artifact_location;
mod artifacts;
mod auth;
mod experiments;
mod failure;
mod failure_page;
mod load;
mod logged_models;
mod logging;
mod pages;
mod registry;
mod request_fields;
mod runs;
mod shared;
mod stream;

use std::future::Future;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use auth::{AccessToken, TokenError};
pub(crate) use failure::Failure;
pub use shared::Tracker;

use bounded_http::Limits;

/// File descriptors that a tracker opens in addition to its connections: transfers, a writer and four readers of the
/// index, and folders being scanned.
pub const FILES_MAX: usize = load::TRANSFERS_MAX + 32;

/// Maximum bytes of a request's JSON: MLflow's own limit of a batch is a megabyte.
const JSON_MAX: usize = 8 << 20;

/// The current time in milliseconds since 1970.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Converts SQLite errors to failures.
fn sql<T>(result: rusqlite::Result<T>) -> Result<T, Failure> {
    result.map_err(|why| Failure::of_index(&why))
}

/// All routes of the tracker.
pub fn router(tracker: Tracker) -> Router {
    let mlflow = Router::new()
        .merge(experiments::routes())
        .merge(runs::routes())
        .merge(logging::routes())
        .merge(artifacts::lists())
        .merge(logged_models::routes())
        .merge(registry::routes());
    Router::new()
        .merge(api::routes())
        .merge(stream::routes())
        .merge(registry::page_routes())
        .merge(pages::routes())
        .nest("/api/2.0/mlflow", mlflow)
        .fallback(failure::unknown)
        .layer(DefaultBodyLimit::max(JSON_MAX))
        .layer(middleware::from_fn_with_state(tracker.clone(), load::bounded))
        .merge(artifacts::files())
        .layer(middleware::from_fn_with_state(tracker.clone(), auth::check))
        .layer(middleware::from_fn(failure_page::for_browsers))
        .with_state(tracker)
}

/// Serves the tracker until `end` resolves, then finishes requests in progress, within [`Limits::end`]. `establish`
/// turns accepted connections into byte streams: such as [`bounded_http::plain`], or a TLS handshake.
pub async fn serve<E, F, S>(
    listener: tokio::net::TcpListener,
    establish: E,
    tracker: Tracker,
    limits: Limits,
    end: impl Future<Output = ()>,
) where
    E: Fn(TcpStream) -> F + Clone + Send + 'static,
    F: Future<Output = std::io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tracker.bound_streams(limits.connections / 2);
    let router = router(tracker.clone());
    let ended = async move {
        end.await;
        tracker.close();
    };
    bounded_http::serve(listener, establish, router, limits, ended).await;
}
