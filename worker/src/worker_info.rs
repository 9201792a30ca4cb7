//! Information outside the protocol: this machine's description at Join, and its readings with the heartbeats.

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

/// Early enough that even a run of a few seconds has a reading.
const FIRST_READING: Duration = Duration::from_millis(500);

/// How long sending the last spans may take.
const SPANS_END: Duration = Duration::from_secs(4);

/// Information shared with the control stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerInfo {
    machine: Arc<proto::Machine>,
    /// Readings that no heartbeat has sent yet.
    readings: Arc<Mutex<Vec<(String, f64)>>>,
    is_sampling: Arc<AtomicBool>,
    /// Exporter of the compute thread's spans, once a run requests them.
    spans: Arc<OnceLock<Spans>>,
}

/// Starts hashing this program while its device is opened.
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
    /// Describes this machine, with the device's driver and the program's digest.
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

    /// Converts a message for sending, with the pending information.
    pub(crate) fn out(&self, message: FromWorker) -> proto::FromWorker {
        let mut message = wire::convert::from_worker_out(message);
        let take = || std::mem::take(&mut *self.readings.lock().unwrap_or_else(PoisonError::into_inner));
        wire::worker_report::put(&mut message, &self.machine, take);
        message
    }

    /// Starts exporting spans, if the run wants them and it hasn't started yet.
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

    /// A run has admitted this worker: from now on its machine is sampled at the run's interval.
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
