//! What this worker says of itself beside the protocol: its machine when it joins, its readings with its heartbeats.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use configs::Config;
use protocol::messages::{FromWorker, Welcome};
use run_record::provenance::Machine;
use telemetry::system::Sampler;
use telemetry::traces::Spans;
use wire::proto;

/// A run that is over in seconds has a reading too.
const FIRST_READING: Duration = Duration::from_millis(500);

/// How long the last spans may take to a collector.
const SPANS_END: Duration = Duration::from_secs(4);

/// Shared with the control stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerInfo {
    machine: Arc<proto::Machine>,
    /// Those that no heartbeat has taken yet.
    readings: Arc<Mutex<Vec<(String, f64)>>>,
    is_sampling: Arc<AtomicBool>,
    /// Where the compute thread's spans go, once a run wants them.
    spans: Arc<OnceLock<Spans>>,
}

/// Begins to hash this program, beside the opening of its device.
pub(crate) fn hash_program() -> JoinHandle<String> {
    std::thread::spawn(|| {
        let mut hasher = blake3::Hasher::new();
        let program = std::env::current_exe().and_then(std::fs::File::open);
        match program.and_then(|file| hasher.update_reader(file).map(|hasher| hasher.finalize())) {
            Ok(hash) => hash.to_hex().to_string(),
            Err(_) => String::new(),
        }
    })
}

impl WorkerInfo {
    /// Of this machine, with the device's driver and the program's digest.
    pub(crate) fn new(driver: &str, program: JoinHandle<String>, spans: Arc<OnceLock<Spans>>) -> Self {
        let machine = Machine::here();
        let machine = proto::Machine {
            os: machine.os,
            kernel: machine.kernel,
            architecture: machine.architecture,
            cpu: machine.cpu,
            cores: machine.cores,
            cpu_features: machine.cpu_features,
            memory_megabytes: machine.memory_megabytes,
            driver: driver.to_owned(),
            program: program.join().unwrap_or_default(),
        };
        Self { machine: Arc::new(machine), spans, ..Self::default() }
    }

    /// The message as it goes out.
    pub(crate) fn out(&self, message: FromWorker) -> proto::FromWorker {
        let mut message = wire::convert::from_worker_out(message);
        let take = || std::mem::take(&mut *self.readings.lock().unwrap_or_else(PoisonError::into_inner));
        wire::worker_report::put(&mut message, &self.machine, take);
        message
    }

    /// Starts to send spans, if the run wants them and this wasn't done before.
    fn trace(&self, endpoint: &str, welcome: &Welcome) {
        if endpoint.is_empty() || self.spans.get().is_some() {
            return;
        }
        let about =
            [("bonfire.run", welcome.run_name.clone()), ("service.instance.id", welcome.name.clone())];
        match Spans::start(endpoint, "bonfire-worker", &about) {
            Ok(spans) => drop(self.spans.set(spans)),
            Err(why) => tracing::warn!("{why}: no traces"),
        }
    }

    /// Waits for the last spans.
    pub(crate) async fn flush(&self) {
        if let Some(spans) = self.spans.get() {
            spans.flush(SPANS_END).await;
        }
    }

    /// A run has admitted this worker: from now on its machine is read as often as the run wants it.
    pub(crate) fn admitted(&self, welcome: &Welcome) {
        let Ok(config) = Config::parse(&welcome.config, "the run's configuration", &[]) else { return };
        self.trace(&config.telemetry.otlp, welcome);
        let every = config.tracker.system_every.0;
        if every.is_zero() || self.is_sampling.swap(true, Ordering::Relaxed) {
            return;
        }
        let readings = Arc::downgrade(&self.readings);
        let spawned = std::thread::Builder::new().name("system".to_owned()).spawn(move || {
            let mut sampler = Sampler::new();
            let mut pause = every.min(FIRST_READING);
            loop {
                std::thread::sleep(pause);
                let values = sampler.sample();
                let Some(readings) = readings.upgrade() else { return };
                *readings.lock().unwrap_or_else(PoisonError::into_inner) = values;
                pause = every;
            }
        });
        if let Err(why) = spawned {
            tracing::warn!(%why, "no thread for the machine's readings");
        }
    }
}
