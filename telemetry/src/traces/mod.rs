//! Traces of steps for an OpenTelemetry collector.
//!
//! Each step is one trace. Its id is derived from run, term and step, so coordinator and workers agree on it without
//! communication ([`StepId`]). Spans go into a bounded queue, from which a task sends them; when the queue is full or
//! the collector doesn't answer, they are dropped and counted, and training never waits.

mod ids;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::{mpsc, oneshot};

pub use ids::StepId;

/// Maximum number of queued spans: some seconds of the fastest runs.
const QUEUE_MAX: usize = 4_096;
/// Maximum number of spans per message.
const BATCH_MAX: usize = 512;
/// For how long spans are collected for a message.
const GATHER: Duration = Duration::from_millis(500);
/// Timeout of an export.
const DEADLINE: Duration = Duration::from_secs(3);

static SENT: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Number of this process's spans that a collector accepted.
#[must_use]
pub fn sent() -> u64 {
    SENT.load(Ordering::Relaxed)
}

/// Number of this process's spans that were dropped: the queue was full, or no collector accepted them.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A part of a step's work, at the process that did it.
#[derive(Clone, Debug)]
pub struct Part {
    /// The part's name, such as `compute`.
    pub name: &'static str,
    /// When it ended.
    pub end: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Numeric attributes.
    pub numbers: Vec<(&'static str, i64)>,
}

enum Item {
    Span(Box<SpanData>),
    Flush(oneshot::Sender<()>),
}

/// The queue of spans. Clones share it.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: mpsc::Sender<Item>,
    scope: InstrumentationScope,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Span(_) => "Span",
            Self::Flush(_) => "Flush",
        })
    }
}

impl Spans {
    /// Starts exporting to the collector at `endpoint` (`http://host:4317`) as `service`. Connects lazily: a collector
    /// may come and go.
    ///
    /// # Errors
    /// When the endpoint is invalid.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which is a bug.
    pub fn start(
        endpoint: &str,
        service: &'static str,
        about: &[(&'static str, String)],
    ) -> Result<Self, String> {
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(DEADLINE).build();
        let mut exporter = exporter.map_err(|why| format!("telemetry.otlp = {endpoint:?}: {why}"))?;
        let attributes = about.iter().map(|(key, value)| KeyValue::new(*key, value.clone()));
        let resource = Resource::builder_empty().with_service_name(service).with_attributes(attributes);
        exporter.set_resource(&resource.build());
        let (queue, inbox) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(send(exporter, inbox));
        let scope = InstrumentationScope::builder("bonfire").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { queue, scope })
    }

    /// Records the whole step, from the coordinator: the parent of all parts.
    pub fn step(&self, id: &StepId, part: Part) {
        self.put(id.trace(), id.root(), SpanId::INVALID, part);
    }

    /// Records a part of the step, done by the worker that `who` identifies.
    pub fn part(&self, id: &StepId, who: u64, part: Part) {
        let own = id.part(who, part.name, part.end);
        self.put(id.trace(), own, SpanId::from_bytes(id.root()), part);
    }

    fn put(&self, trace: [u8; 16], own: [u8; 8], parent: SpanId, part: Part) {
        let (trace, own) = (TraceId::from_bytes(trace), SpanId::from_bytes(own));
        let attributes = part.numbers.into_iter().map(|(key, value)| KeyValue::new(key, value));
        let span = SpanData {
            span_context: SpanContext::new(trace, own, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent,
            parent_span_is_remote: parent != SpanId::INVALID,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed(part.name),
            start_time: part.end.checked_sub(part.took).unwrap_or(part.end),
            end_time: part.end,
            attributes: attributes.collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        };
        if self.queue.try_send(Item::Span(Box::new(span))).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the queue was sent or dropped, for at most the given time.
    pub async fn flush(&self, at_most: Duration) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Item::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        // Spans that aren't sent by then are lost with the process.
        let _ = tokio::time::timeout(at_most, flushed).await;
    }
}

/// Collects and sends spans until the last handle is dropped.
async fn send(exporter: SpanExporter, mut inbox: mpsc::Receiver<Item>) {
    let mut batch = Vec::new();
    let mut is_open = true;
    while is_open {
        let gathering = tokio::time::Instant::now() + GATHER;
        let mut flushed = None;
        while batch.len() < BATCH_MAX && flushed.is_none() {
            // Waits indefinitely for the first span; the others have until the batch is due.
            let next = if batch.is_empty() {
                inbox.recv().await
            } else {
                match tokio::time::timeout_at(gathering, inbox.recv()).await {
                    Ok(next) => next,
                    Err(_) => break,
                }
            };
            match next {
                Some(Item::Span(span)) => batch.push(*span),
                Some(Item::Flush(done)) => flushed = Some(done),
                None => {
                    is_open = false;
                    break;
                }
            }
        }
        export(&exporter, std::mem::take(&mut batch)).await;
        if let Some(done) = flushed {
            let _ = done.send(());
        }
    }
}

async fn export(exporter: &SpanExporter, batch: Vec<SpanData>) {
    let count = batch.len() as u64;
    if count == 0 {
        return;
    }
    let is_taken = matches!(tokio::time::timeout(DEADLINE, exporter.export(batch)).await, Ok(Ok(())));
    let place = if is_taken { &SENT } else { &DROPPED };
    place.fetch_add(count, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a collector, recording spans never waits, and each lost one is counted.
    #[tokio::test]
    async fn a_collector_that_is_down_costs_nothing_but_the_spans() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let spans = Spans::start(&format!("http://{free}"), "test", &[]).expect("an endpoint");
        let before = dropped();
        for step in 0..10_000 {
            let id = StepId { run: [1; 16], term: 1, step, is_evaluation: false };
            let part =
                Part { name: "step", end: SystemTime::now(), took: Duration::ZERO, numbers: Vec::new() };
            spans.step(&id, part);
        }
        assert!(dropped() - before >= 10_000 - QUEUE_MAX as u64);
        spans.flush(Duration::from_secs(60)).await;
        assert_eq!(dropped() - before, 10_000);
        assert!(Spans::start("no address", "test", &[]).is_err());
    }
}
