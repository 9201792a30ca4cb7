//! The worker's figures for Prometheus. docs/monitoring.md says what each means.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use protocol::messages::{Failure, Timings};
use tracker::prometheus::{Counter, Gauge, Registry, Seconds, Served};
use tracker::traces::Spans;

use crate::fail;

/// What the compute thread is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    /// Forward and backward.
    Compute,
    /// Sending partials, and waiting for what is reduced.
    Exchange,
    /// Waiting for the coordinator.
    Wait,
    /// The update.
    Commit,
}

const DOING: [(Doing, &str); 4] = [
    (Doing::Compute, "compute"),
    (Doing::Exchange, "exchange"),
    (Doing::Wait, "wait"),
    (Doing::Commit, "commit"),
];

/// Handles of all figures.
#[derive(Clone)]
pub(crate) struct Figures {
    microbatches: Counter,
    samples: Counter,
    compute: Seconds,
    data_wait: Seconds,
    exchange: Seconds,
    commit: Seconds,
    step: Gauge,
    phase: [Gauge; 4],
    /// Where spans go, once a run wants them.
    pub(crate) spans: Arc<OnceLock<Spans>>,
}

impl Figures {
    fn new() -> (Self, Registry) {
        let mut registry = Registry::new();
        let r = &mut registry;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        r.gauge("bonfire_worker_build_info", "1, with the version of the worker.", &version).set(1.0);
        let mut bytes = |direction, read| {
            r.counter_of(
                "bonfire_worker_bytes_total",
                "Bytes of the data plane's frames between this worker and the coordinator.",
                &[("direction", direction), ("plane", "data")],
                read,
            );
        };
        bytes("received", || wire::traffic::RECEIVED.get());
        bytes("sent", || wire::traffic::SENT.get());
        let dropped = "Spans of this worker that no collector took.";
        r.counter_of("bonfire_worker_spans_dropped_total", dropped, &[], tracker::traces::dropped);
        let phase = DOING.map(|(_, name)| {
            r.gauge("bonfire_worker_phase", "1 for what the compute thread is at.", &[("phase", name)])
        });
        let mut seconds = |name, help| r.seconds(name, help, &[]);
        let figures = Self {
            compute: seconds("bonfire_worker_compute_seconds_total", "Forward and backward passes."),
            data_wait: seconds("bonfire_worker_data_wait_seconds_total", "Waiting for samples."),
            exchange: seconds(
                "bonfire_worker_exchange_seconds_total",
                "From the last gradient sent to the last reduced slice received.",
            ),
            commit: seconds(
                "bonfire_worker_commit_seconds_total",
                "The optimizer and the copy to the device.",
            ),
            microbatches: r.counter("bonfire_worker_microbatches_total", "Microbatches begun.", &[]),
            samples: r.counter("bonfire_worker_samples_total", "Samples of those microbatches.", &[]),
            step: r.gauge("bonfire_worker_step", "The training step of this worker's state.", &[]),
            phase,
            spans: Arc::default(),
        };
        (figures, registry)
    }

    /// The compute thread begins something.
    pub(crate) fn enter(&self, doing: Doing) {
        for ((own, _), gauge) in DOING.iter().zip(&self.phase) {
            gauge.set(if *own == doing { 1.0 } else { 0.0 });
        }
    }

    /// A microbatch of so many samples.
    pub(crate) fn microbatch(&self, samples: usize) {
        self.microbatches.increment();
        self.samples.add(samples as u64);
    }

    /// All of a step's microbatches.
    pub(crate) fn computed(&self, timings: &Timings) {
        self.compute.add_micros(u64::from(timings.compute_us));
        self.data_wait.add_micros(u64::from(timings.data_us));
    }

    /// A step is reduced.
    pub(crate) fn exchanged(&self, timings: &Timings) {
        self.exchange.add_micros(u64::from(timings.exchange_us));
    }

    /// A commit is applied: the state is that of `step`.
    pub(crate) fn applied(&self, micros: u32, step: u64) {
        self.commit.add_micros(u64::from(micros));
        self.step.set(step as f64);
    }
}

/// Declares the figures and serves `/metrics`, if an address is given.
pub(crate) fn serve(address: Option<SocketAddr>) -> Result<(Figures, Option<Served>), Failure> {
    let (figures, registry) = Figures::new();
    let Some(address) = address else { return Ok((figures, None)) };
    let failed = |why: std::io::Error| fail(2, format!("--metrics {address}: {why}"));
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!("metrics at http://{bound}/metrics");
    let served = Arc::new(registry).serve(listener).map_err(failed)?;
    Ok((figures, Some(served)))
}
