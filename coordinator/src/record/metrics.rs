//! The coordinator's Prometheus metrics. docs/monitoring.md documents each of them.

use std::net::TcpListener;
use std::sync::Arc;

use protocol::coordinator::{Committed, RunEvent};
use protocol::messages::{Timings, View};
use telemetry::prometheus::{Age, Counter, Gauge, Histogram, Registry, Served};
use tracing::warn;
use wire::token::is_loopback;

use crate::control::pages::RunPages;
use crate::display::Progress;
use crate::run::prepare::StartError;

/// Histogram bounds in seconds: from a step of a small dense net to a minute-long step of a large model.
const SECONDS: [f64; 17] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    15.0, 60.0,
];

/// Prefix of the reason for a departure that the member requested itself.
const ASKED: &str = "it leaves";

/// Handles to all metrics.
pub(crate) struct Metrics {
    steps: Counter,
    samples: Counter,
    skipped: Counter,
    loss: Gauge,
    samples_per_second: Gauge,
    step_seconds: PhaseHistograms,
    interval: Histogram,
    last_commit: Option<std::time::Instant>,
    commit_age: Age,
    step: Gauge,
    view: Gauge,
    members: Gauge,
    paused: Gauge,
    retries: Counter,
    rewinds: Counter,
    evictions: Counter,
    joins: Counter,
    /// Seconds since the newest checkpoint, or since the start.
    pub(crate) checkpoint_age: Age,
}

/// A histogram for each phase of a step.
struct PhaseHistograms {
    data: Histogram,
    compute: Histogram,
    exchange: Histogram,
    commit: Histogram,
    snapshot: Histogram,
}

impl Metrics {
    /// Registers the metrics for a run.
    pub(crate) fn new(run: &str) -> (Self, Arc<Registry>) {
        let mut registry = Registry::new();
        let r = &mut registry;
        r.gauge(
            "bonfire_build_info",
            "1, with the version of the coordinator and the name of its run.",
            &[("version", env!("CARGO_PKG_VERSION")), ("run", run)],
        )
        .set(1.0);
        read_elsewhere(r);
        let metrics = Self {
            steps: r.counter(
                "bonfire_steps_total",
                "Training steps that this coordinator has committed.",
                &[],
            ),
            samples: r.counter("bonfire_samples_total", "Samples of those steps.", &[]),
            skipped: r.counter(
                "bonfire_skipped_steps_total",
                "Those of them whose loss or gradient was not finite, so that nothing was applied.",
                &[],
            ),
            loss: r.gauge("bonfire_train_loss", "Mean loss of the last training step.", &[]),
            samples_per_second: r.gauge(
                "bonfire_samples_per_second",
                "Samples a second over the last few seconds.",
                &[],
            ),
            step_seconds: PhaseHistograms::new(r),
            interval: r.histogram(
                "bonfire_step_interval_seconds",
                "From one commit of a training step to the next.",
                &[],
                &SECONDS,
            ),
            last_commit: None,
            commit_age: r.age(
                "bonfire_commit_age_seconds",
                "Since the last commit of a training step, or since the start.",
                &[],
            ),
            step: r.gauge("bonfire_step", "The last committed training step.", &[]),
            view: r.gauge("bonfire_view", "Number of the current view within the coordinator's term.", &[]),
            members: r.gauge("bonfire_members", "Members of the current view.", &[]),
            paused: r.gauge("bonfire_paused", "1 while the run waits for workers.", &[]),
            retries: r.counter("bonfire_retries_total", "Steps that were tried again in another view.", &[]),
            rewinds: r.counter("bonfire_rewinds_total", "Returns to an earlier state.", &[]),
            evictions: r.counter(
                "bonfire_evictions_total",
                "Members that were lost or put out; not those that left by themselves.",
                &[],
            ),
            joins: r.counter("bonfire_joins_total", "Admissions of workers.", &[]),
            checkpoint_age: r.age(
                "bonfire_checkpoint_age_seconds",
                "Since the newest version was in place, or since the start.",
                &[],
            ),
        };
        (metrics, Arc::new(registry))
    }

    pub(crate) fn trained(&mut self, committed: &Committed, progress: &Progress) {
        self.steps.increment();
        self.samples.add(u64::from(committed.batch));
        if committed.skipped {
            self.skipped.increment();
        }
        self.loss.set(progress.loss);
        self.samples_per_second.set(progress.samples_per_second);
        self.step.set(committed.key.step as f64);
        self.step_seconds.observe(committed);
        let now = std::time::Instant::now();
        if let Some(last) = self.last_commit.replace(now) {
            self.interval.observe(now.duration_since(last).as_secs_f64());
        }
        self.commit_age.reset();
    }

    pub(crate) fn view(&self, view: &View) {
        self.view.set((view.id.0 & u64::from(u32::MAX)) as f64);
        self.members.set(view.members.len() as f64);
        self.paused.set(0.0);
    }

    pub(crate) fn note(&self, note: &RunEvent) {
        match note {
            RunEvent::Joined { .. } => self.joins.increment(),
            RunEvent::Left { reason, .. } if !reason.starts_with(ASKED) => self.evictions.increment(),
            RunEvent::Retry { .. } => self.retries.increment(),
            RunEvent::Rewound { .. } => self.rewinds.increment(),
            RunEvent::Waiting { reason, late_ms } => {
                self.paused.set(if reason.is_empty() || late_ms.is_some() { 0.0 } else { 1.0 });
            }
            _ => {}
        }
    }
}

impl PhaseHistograms {
    fn new(registry: &mut Registry) -> Self {
        let mut phase = |phase: &'static str| {
            registry.histogram(
                "bonfire_step_seconds",
                "A phase of a training step at its slowest member.",
                &[("phase", phase)],
                &SECONDS,
            )
        };
        Self {
            data: phase("data"),
            compute: phase("compute"),
            exchange: phase("exchange"),
            commit: phase("commit"),
            snapshot: registry.histogram(
                "bonfire_snapshot_seconds",
                "The copy of the state for a version, for which a step waits; writing it goes on behind the training.",
                &[],
                &SECONDS,
            ),
        }
    }

    fn observe(&self, committed: &Committed) {
        let slowest = |micros: fn(&Timings) -> u32| {
            let slowest = committed.timings.iter().map(|(_, timings)| micros(timings)).max();
            f64::from(slowest.unwrap_or(0)) / 1e6
        };
        self.data.observe(slowest(|timings| timings.data_us));
        self.compute.observe(slowest(|timings| timings.compute_us));
        self.exchange.observe(slowest(|timings| timings.exchange_us));
        self.commit.observe(slowest(|timings| timings.apply_us));
        let snapshot = slowest(|timings| timings.snapshot_us);
        if snapshot > 0.0 {
            self.snapshot.observe(snapshot);
        }
    }
}

/// Registers the counters that other modules maintain.
fn read_elsewhere(registry: &mut Registry) {
    let mut of = |direction, plane, read| {
        registry.counter_of(
            "bonfire_bytes_total",
            "Bytes between the coordinator and its workers: frames of the data plane, sockets of the control plane.",
            &[("direction", direction), ("plane", plane)],
            read,
        );
    };
    of("received", "data", || wire::traffic::RECEIVED.get());
    of("sent", "data", || wire::traffic::SENT.get());
    of("received", "control", crate::control::connection_limit::received);
    of("sent", "control", crate::control::connection_limit::sent);
    registry.counter_of(
        "bonfire_spans_total",
        "Spans of the coordinator that a collector took.",
        &[],
        telemetry::traces::sent,
    );
    registry.counter_of(
        "bonfire_spans_dropped_total",
        "Spans of the coordinator that no collector took.",
        &[],
        telemetry::traces::dropped,
    );
}

/// The parts of the `/metrics` endpoint.
pub(crate) struct Scrapes {
    /// `None` if `telemetry.metrics_listen` is unset.
    pub(crate) listener: Option<TcpListener>,
    pub(crate) registry: Arc<Registry>,
}

/// Binds `telemetry.metrics_listen`, if it is set.
pub(crate) fn listen(address: &str) -> Result<Option<TcpListener>, StartError> {
    if address.is_empty() {
        return Ok(None);
    }
    let failed =
        |why: std::io::Error| StartError::config(format!("telemetry.metrics_listen = {address:?}: {why}"));
    TcpListener::bind(address).map(Some).map_err(failed)
}

/// Serves `/metrics`, if enabled, until the returned handle is dropped.
pub(crate) fn serve(Scrapes { listener, registry }: Scrapes, pages: &RunPages) -> Option<Served> {
    let listener = listener?;
    let at = listener.local_addr().inspect_err(|why| warn!(%why, "/metrics can't be served")).ok()?;
    let door = pages.door(at).inspect_err(|why| warn!(why.message, "/metrics can't be served")).ok()?;
    let access = (!is_loopback(at.ip())).then(|| door.access.clone());
    let served = registry.serve(listener, door.establish(), access);
    served.inspect_err(|why| warn!(%why, "/metrics can't be served")).ok()
}
