//! Prometheus metrics: typed counters, gauges and histograms, and the text format in which they are scraped.
//!
//! The format is Prometheus's text exposition format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). A handle is a few atomic numbers: updating one
//! takes no lock and allocates nothing. Families are declared once, before the first scrape.

mod text;

use std::fmt::Write;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use bounded_http::Access;
use bounded_http::Limits;
use bounded_http::presented;

/// `Content-Type` of a scrape.
pub const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A monotonically increasing number.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The current count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter of seconds. Stored as whole microseconds: 64 bits hold half a million years.
#[derive(Clone, Debug, Default)]
pub struct Seconds(Arc<AtomicU64>);

impl Seconds {
    /// Adds microseconds.
    pub fn add_micros(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Seconds since an event last happened; at first since the declaration.
#[derive(Clone, Debug)]
pub struct Age {
    zero: Instant,
    /// Microseconds from `zero` to the last event.
    at: Arc<AtomicU64>,
}

impl Age {
    /// Restarts the age at zero.
    pub fn reset(&self) {
        let micros = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.at.store(micros, Ordering::Relaxed);
    }

    fn get(&self) -> f64 {
        let at = Duration::from_micros(self.at.load(Ordering::Relaxed));
        self.zero.elapsed().saturating_sub(at).as_secs_f64()
    }
}

/// Counts of values in buckets with fixed bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    cells: Arc<Cells>,
}

#[derive(Debug)]
struct Cells {
    /// One count per bound, then one for values above all bounds. Not cumulative.
    counts: Vec<AtomicU64>,
    /// The sum, as the bits of an f64.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, cells: Arc::new(Cells { counts, sum: AtomicU64::new(0) }) }
    }

    /// Records a value. NaN and infinities are ignored: they would spoil the sum.
    pub fn observe(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.cells.counts[place].fetch_add(1, Ordering::Relaxed);
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        // The closure never returns `None`, so there is no error.
        let _ = self.cells.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

#[derive(Clone, Debug)]
enum Cell {
    Counter(Counter),
    /// Counted elsewhere, read at each scrape.
    Read(fn() -> u64),
    Seconds(Seconds),
    Gauge(Gauge),
    Age(Age),
    Histogram(Histogram),
}

impl Cell {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) | Self::Read(_) | Self::Seconds(_) => "counter",
            Self::Gauge(_) | Self::Age(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

#[derive(Debug)]
struct Child {
    /// The rendered labels, as they stand between the braces.
    labels: String,
    cell: Cell,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    children: Vec<Child>,
}

/// Maximum number of concurrent scrape connections; a handful is usual.
pub const CONNECTIONS_MAX: usize = 16;

/// A running `/metrics` server, which stops when this handle is dropped.
#[derive(Debug)]
pub struct Served {
    _end: oneshot::Sender<()>,
}

/// A process's metrics.
#[derive(Debug, Default)]
pub struct Registry {
    families: Vec<Family>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a counter; its name should end in `_total`.
    ///
    /// # Panics
    /// Like all declarations: when a name is invalid, or a name or its labels are declared twice. Both are bugs.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        let counter = Counter::default();
        self.declare(name, help, labels, Cell::Counter(counter.clone()));
        counter
    }

    /// Declares a counter that is kept elsewhere and read at each scrape.
    pub fn counter_of(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        read: fn() -> u64,
    ) {
        self.declare(name, help, labels, Cell::Read(read));
    }

    /// Declares a counter of seconds; its name should end in `_seconds_total`.
    pub fn seconds(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Seconds {
        let seconds = Seconds::default();
        self.declare(name, help, labels, Cell::Seconds(seconds.clone()));
        seconds
    }

    /// Declares a gauge, initially 0.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        let gauge = Gauge::default();
        self.declare(name, help, labels, Cell::Gauge(gauge.clone()));
        gauge
    }

    /// Declares a gauge of the seconds since an event; its name should end in `_seconds`.
    pub fn age(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Age {
        let age = Age { zero: Instant::now(), at: Arc::default() };
        self.declare(name, help, labels, Cell::Age(age.clone()));
        age
    }

    /// Declares a histogram with these upper bounds, in ascending order; values above all bounds are counted too.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        assert!(bounds.is_sorted_by(|a, b| a < b) && bounds.iter().all(|bound| bound.is_finite()), "{name}");
        let histogram = Histogram::new(bounds);
        self.declare(name, help, labels, Cell::Histogram(histogram.clone()));
        histogram
    }

    fn declare(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], cell: Cell) {
        assert!(text::is_name(name, true), "{name:?} is no name of a metric");
        let labels = text::labels(labels);
        let place = self.families.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.families.push(Family { name, help, children: Vec::new() });
            self.families.len() - 1
        });
        let family = &mut self.families[place];
        let is_alike = |child: &Child| child.cell.kind() == cell.kind() && child.labels != labels;
        assert!(
            family.children.iter().all(is_alike),
            "{name}{{{labels}}} is declared twice, or as two kinds"
        );
        family.children.push(Child { labels, cell });
    }

    /// The text of a scrape.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for family in &self.families {
            let Family { name, help, children } = family;
            let Some(kind) = children.first().map(|child| child.cell.kind()) else { continue };
            let help = text::help(help);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for child in children {
                child.render(name, &mut out);
            }
        }
        out
    }

    /// Serves `GET /metrics` on a thread of its own, so that a flood of connections can't occupy the threads that
    /// training needs. `establish` turns accepted connections into byte streams: such as [`bounded_http::plain`], or a
    /// TLS handshake. With `access`, a scrape must present a token (`Authorization: Bearer`). It ends when the handle
    /// is dropped.
    ///
    /// # Errors
    /// When the listener can't be used, or the thread can't be spawned.
    pub fn serve<E, F, S>(
        self: Arc<Self>,
        listener: TcpListener,
        establish: E,
        access: Option<Arc<dyn Access>>,
    ) -> std::io::Result<Served>
    where
        E: Fn(TcpStream) -> F + Clone + Send + 'static,
        F: Future<Output = std::io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        listener.set_nonblocking(true)?;
        let (end, ended) = oneshot::channel::<()>();
        let (started, is_started) = std::sync::mpsc::channel();
        let limits = Limits { end: Duration::ZERO, ..Limits::of(CONNECTIONS_MAX) };
        let scrape = move || async move { ([(CONTENT_TYPE, CONTENT)], self.render()) };
        let mut router = Router::new().route("/metrics", get(scrape));
        if let Some(access) = access {
            router = router.layer(middleware::from_fn_with_state(access, admitted));
        }
        let serve = async move |started: std::sync::mpsc::Sender<std::io::Result<()>>| {
            let listener = tokio::net::TcpListener::from_std(listener);
            let (listener, bound) = match listener {
                Ok(listener) => (Some(listener), Ok(())),
                Err(why) => (None, Err(why)),
            };
            let _ = started.send(bound);
            let Some(listener) = listener else { return };
            bounded_http::serve(listener, establish, router, limits, async move { drop(ended.await) }).await;
        };
        let run = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(serve(started)),
            Err(why) => drop(started.send(Err(why))),
        };
        std::thread::Builder::new().name("metrics".to_owned()).spawn(run)?;
        is_started.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Served { _end: end })
    }
}

async fn admitted(State(access): State<Arc<dyn Access>>, request: Request, next: Next) -> Response {
    if presented(&*access, request.headers()).is_some() {
        return next.run(request).await;
    }
    let how = "this port asks for a token: send \"Authorization: Bearer TOKEN\" (Prometheus: authorization.credentials_file)\n";
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], how).into_response()
}

impl Child {
    fn render(&self, name: &str, out: &mut String) {
        match &self.cell {
            Cell::Counter(counter) => self.line(out, name, "", &counter.get().to_string()),
            Cell::Read(read) => self.line(out, name, "", &read().to_string()),
            Cell::Seconds(seconds) => {
                let seconds = seconds.0.load(Ordering::Relaxed) as f64 / 1e6;
                self.line(out, name, "", &text::value(seconds));
            }
            Cell::Gauge(gauge) => self.line(out, name, "", &text::value(gauge.get())),
            Cell::Age(age) => self.line(out, name, "", &text::value(age.get())),
            Cell::Histogram(histogram) => self.histogram(histogram, name, out),
        }
    }

    /// Derives the count from the buckets, so that the two agree even while values arrive.
    fn histogram(&self, histogram: &Histogram, name: &str, out: &mut String) {
        let mut count = 0;
        let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, cell) in bounds.zip(&histogram.cells.counts) {
            count += cell.load(Ordering::Relaxed);
            let le = format!("le=\"{}\"", text::value(bound));
            self.line(out, &format!("{name}_bucket"), &le, &count.to_string());
        }
        let sum = f64::from_bits(histogram.cells.sum.load(Ordering::Relaxed));
        self.line(out, &format!("{name}_sum"), "", &text::value(sum));
        self.line(out, &format!("{name}_count"), "", &count.to_string());
    }

    fn line(&self, out: &mut String, name: &str, further: &str, value: &str) {
        let comma = if self.labels.is_empty() || further.is_empty() { "" } else { "," };
        let labels = format!("{}{comma}{further}", self.labels);
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_in_full() {
        let mut registry = Registry::new();
        let steps = registry.counter("steps_total", "Steps.", &[]);
        let loss = registry.gauge("loss", "A \\ and\na line.", &[]);
        let sent = registry.counter("bytes_total", "Bytes.", &[("to", "a\"b\\c\nd"), ("plane", "data")]);
        registry.counter("bytes_total", "Bytes.", &[("to", "b"), ("plane", "data")]);
        let took = registry.histogram("took_seconds", "Took.", &[("phase", "x")], &[0.5, 2.0]);
        registry.counter_of("read_total", "Read.", &[], || 9);
        let waited = registry.seconds("waited_seconds_total", "Waited.", &[]);
        steps.increment();
        steps.add(6);
        loss.set(f64::NAN);
        sent.add(5);
        waited.add_micros(1_500_000);
        for value in [0.5, 0.6, 9.0, f64::NAN] {
            took.observe(value);
        }
        let expected = r#"# HELP steps_total Steps.
# TYPE steps_total counter
steps_total 7
# HELP loss A \\ and\na line.
# TYPE loss gauge
loss NaN
# HELP bytes_total Bytes.
# TYPE bytes_total counter
bytes_total{to="a\"b\\c\nd",plane="data"} 5
bytes_total{to="b",plane="data"} 0
# HELP took_seconds Took.
# TYPE took_seconds histogram
took_seconds_bucket{phase="x",le="0.5"} 1
took_seconds_bucket{phase="x",le="2"} 2
took_seconds_bucket{phase="x",le="+Inf"} 3
took_seconds_sum{phase="x"} 10.1
took_seconds_count{phase="x"} 3
# HELP read_total Read.
# TYPE read_total counter
read_total 9
# HELP waited_seconds_total Waited.
# TYPE waited_seconds_total counter
waited_seconds_total 1.5
"#;
        assert_eq!(registry.render(), expected);
    }

    #[test]
    fn an_age_starts_again() {
        let mut registry = Registry::new();
        let age = registry.age("age_seconds", "Age.", &[]);
        let young = Age { zero: Instant::now() - Duration::from_secs(100), ..age };
        assert!(young.get() >= 100.0);
        young.reset();
        assert!(young.get() < 50.0);
    }

    #[test]
    #[should_panic(expected = "declared twice")]
    fn a_name_is_declared_once() {
        let mut registry = Registry::new();
        registry.counter("a_total", "A.", &[]);
        registry.gauge("a_total", "A.", &[]);
    }
}
