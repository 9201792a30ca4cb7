//! The worker's Prometheus metrics, documented in docs/monitoring.md.

use std::future::ready;
use std::sync::{Arc, OnceLock};

use bounded_http::{Access, Visitor};
use protocol::messages::{Failure, Timings};
use telemetry::prometheus::{Counter, Gauge, Registry, Seconds, Served};
use telemetry::traces::Spans;
use wire::lazy_tls::LazyTlsStream;
use wire::tls::{Identity, ServerTls};
use wire::token::{Token, TokenLine, is_loopback};

use crate::cli::Cli;
use crate::failure::fail;

/// Current activity of the compute thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    /// Forward and backward.
    Compute,
    /// Sending partials, and waiting for the reduction.
    Exchange,
    /// Waiting for the coordinator.
    Wait,
    /// The update.
    Commit,
}

const DOING: [(Activity, &str); 4] = [
    (Activity::Compute, "compute"),
    (Activity::Exchange, "exchange"),
    (Activity::Wait, "wait"),
    (Activity::Commit, "commit"),
];

/// Handles of all metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    microbatches: Counter,
    samples: Counter,
    compute: Seconds,
    data_wait: Seconds,
    exchange: Seconds,
    commit: Seconds,
    step: Gauge,
    phase: [Gauge; 4],
    /// Exporter of spans, once a run requests them.
    pub(crate) spans: Arc<OnceLock<Spans>>,
}

impl Metrics {
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
        r.counter_of("bonfire_worker_spans_dropped_total", dropped, &[], telemetry::traces::dropped);
        let phase = DOING.map(|(_, name)| {
            r.gauge("bonfire_worker_phase", "1 for what the compute thread is at.", &[("phase", name)])
        });
        let mut seconds = |name, help| r.seconds(name, help, &[]);
        let metrics = Self {
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
        (metrics, registry)
    }

    /// Records that the compute thread begins an activity.
    pub(crate) fn enter(&self, doing: Activity) {
        for ((own, _), gauge) in DOING.iter().zip(&self.phase) {
            gauge.set(if *own == doing { 1.0 } else { 0.0 });
        }
    }

    /// Counts a microbatch of this many samples.
    pub(crate) fn microbatch(&self, samples: usize) {
        self.microbatches.increment();
        self.samples.add(samples as u64);
    }

    /// Counts the time of all microbatches of a step.
    pub(crate) fn computed(&self, timings: &Timings) {
        self.compute.add_micros(u64::from(timings.compute_us));
        self.data_wait.add_micros(u64::from(timings.data_us));
    }

    /// Counts the time of a step's exchange.
    pub(crate) fn exchanged(&self, timings: &Timings) {
        self.exchange.add_micros(u64::from(timings.exchange_us));
    }

    /// Records an applied commit: the state is that of `step`.
    pub(crate) fn applied(&self, micros: u32, step: u64) {
        self.commit.add_micros(u64::from(micros));
        self.step.set(step as f64);
    }
}

/// Registers the metrics and serves `/metrics`, if an address is given: unencrypted on this machine; on other
/// addresses with the certificate of `--tls-cert`, to clients with the token of `--token-file`.
pub(crate) fn serve(cli: &Cli) -> Result<(Metrics, Option<Served>), Failure> {
    let (metrics, registry) = Metrics::new();
    let Some(address) = cli.metrics else { return Ok((metrics, None)) };
    let failed = |why: &dyn std::fmt::Display| fail(2, format!("--metrics {address}: {why}"));
    let is_open = is_loopback(address.ip()) || cli.insecure;
    let guard = if is_open { None } else { Some(guard(cli).map_err(|why| failed(&why))?) };
    let listener = std::net::TcpListener::bind(address).map_err(|why| failed(&why))?;
    let bound = listener.local_addr().map_err(|why| failed(&why))?;
    tracing::info!("metrics at {}://{bound}/metrics", if is_open { "http" } else { "https" });
    let (tls, access) = guard.unzip();
    let establish = move |stream| ready(Ok(LazyTlsStream::new(stream, tls.as_ref().map(ServerTls::pages))));
    let served = Arc::new(registry).serve(listener, establish, access).map_err(|why| failed(&why))?;
    Ok((metrics, Some(served)))
}

/// TLS and access control for metrics served to other machines.
fn guard(cli: &Cli) -> Result<(ServerTls, Arc<dyn Access>), String> {
    let (Some(certificate), Some(key), Some(token)) = (&cli.tls_cert, &cli.tls_key, &cli.token_file) else {
        return Err("it is reached from other machines: pass --tls-cert, --tls-key and --token-file to serve it under TLS to \
                    who shows that token, or --insecure to serve it in the open to everybody"
            .to_owned());
    };
    let identity = Identity::read(certificate, key).map_err(|why| why.to_string())?;
    let own = identity.certificate().cloned().ok_or("--tls-cert has no certificate")?;
    let tls = ServerTls::new(&identity, &own, None).map_err(|why| why.to_string())?;
    let token = TokenLine::read(token).map_err(|why| why.to_string())?.token;
    Ok((tls, Arc::new(OwnToken(token))))
}

/// Admits clients that present this worker's token.
struct OwnToken(Token);

impl Access for OwnToken {
    fn visitor(&self, token: &str) -> Option<Visitor> {
        // Either the line of a token's file, or the token alone.
        let token = token.split(':').next().unwrap_or_default();
        let is_own = self.0.admits(Some(&format!("Bearer {token}")));
        is_own.then(|| Visitor { name: "worker".into(), may_change: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_with_the_workers_own_token() {
        let token = Token::random().expect("random");
        let own = OwnToken(token.clone());
        let line = TokenLine { token: token.clone(), fingerprint: None }.to_line();
        for good in [token.to_hex(), line, token.to_hex() + ":sha256-00"] {
            assert!(own.visitor(&good).is_some_and(|visitor| !visitor.may_change));
        }
        for bad in ["", "x", &Token::random().expect("random").to_hex()] {
            assert!(own.visitor(bad).is_none());
        }
    }
}
