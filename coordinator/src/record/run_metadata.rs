//! A run's metadata: provenance, system metrics of its machines, Prometheus metrics and spans.
//!
//! None of it influences a decision.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use protocol::messages::Join;
use run_record::provenance::Machine;
use run_record::{MemberMachine, MetricsError};
use telemetry::system::{ReadingContext, Sampler, SystemFile};
use tokio::sync::mpsc;
use wire::proto;

use crate::display::MemberLine;
use crate::event::DriverEvent;
use crate::record::metrics::Metrics;
use crate::record::origin::Origin;
use crate::record::spans::StepSpans;
use crate::record::system_report::SystemReport;
use crate::run::prepare::StartError;

/// Maximum number of remembered worker processes: beyond it, all are forgotten and learnt anew.
const PROCESSES_MAX: usize = 8_192;
/// Early enough that a run of a few seconds has a reading too.
const FIRST_READING: Duration = Duration::from_secs(1);

/// The recorder's metadata parts.
pub(crate) struct RunMetadata {
    /// The run's provenance.
    pub(crate) origin: Origin,
    /// Prometheus metrics.
    pub(crate) metrics: Metrics,
    /// OpenTelemetry spans, if enabled.
    pub(crate) spans: Option<StepSpans>,
    /// `None` if sampling is disabled.
    file: Option<SystemFile>,
    machines: BTreeMap<u64, MemberMachine>,
    names: BTreeMap<u64, String>,
    /// Workers' readings since the last write.
    readings: BTreeMap<u64, Vec<(String, f64)>>,
}

impl RunMetadata {
    /// Opens the metadata files of the run in this folder.
    pub(crate) fn new(
        origin: Origin,
        metrics: Metrics,
        spans: Option<StepSpans>,
        run_dir: &Path,
        every: Duration,
    ) -> Result<Self, StartError> {
        let file =
            if every.is_zero() { None } else { Some(SystemFile::open(&run_dir.join(SystemFile::FILE))) };
        let file = file.transpose().map_err(StartError::data)?;
        let (machines, names, readings) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { origin, metrics, spans, file, machines, names, readings })
    }

    /// A worker was admitted: remembers its name and returns what it reported of its machine.
    pub(crate) fn joined(&mut self, join: &Join) -> Option<MemberMachine> {
        if self.names.len() >= PROCESSES_MAX {
            self.names.clear();
        }
        self.names.insert(join.instance, join.name.clone());
        self.machines.remove(&join.instance)
    }

    /// Takes in a report; this machine's own readings trigger a write of all of them.
    pub(crate) fn report(
        &mut self,
        report: SystemReport,
        at: ReadingContext,
        members: &[MemberLine],
    ) -> Result<(), MetricsError> {
        match report {
            SystemReport::Machine(instance, machine) => {
                if self.machines.len() >= PROCESSES_MAX {
                    self.machines.clear();
                }
                self.machines.insert(instance, machine_in(*machine));
            }
            SystemReport::Readings(instance, readings) => {
                if self.names.contains_key(&instance) {
                    self.readings.insert(instance, readings);
                }
            }
            SystemReport::Own(own) => return self.write(own, at, members),
        }
        Ok(())
    }

    fn write(
        &mut self,
        own: Vec<(String, f64)>,
        at: ReadingContext,
        members: &[MemberLine],
    ) -> Result<(), MetricsError> {
        let mut values: Vec<(String, f64)> =
            own.into_iter().map(|(name, value)| (format!("system/{name}"), value)).collect();
        for (instance, readings) in std::mem::take(&mut self.readings) {
            let Some(worker) = self.names.get(&instance) else { continue };
            values
                .extend(readings.into_iter().map(|(name, value)| (format!("system/{worker}/{name}"), value)));
        }
        for MemberLine { name, samples_per_second, share, data_ms, .. } in members {
            values.push((format!("workers/{name}/samples_per_second"), *samples_per_second));
            values.push((format!("workers/{name}/share"), *share));
            values.push((format!("workers/{name}/data_ms"), *data_ms));
        }
        match &mut self.file {
            Some(file) => file.append(at, values),
            None => Ok(()),
        }
    }
}

fn machine_in(machine: proto::Machine) -> MemberMachine {
    MemberMachine {
        driver: machine.driver,
        program: machine.program,
        machine: Machine {
            os: machine.os,
            kernel: machine.kernel,
            architecture: machine.architecture,
            cpu: machine.cpu,
            cores: machine.cores,
            cpu_features: machine.cpu_features,
            memory_megabytes: machine.memory_megabytes,
        },
    }
}

/// Starts a thread that samples this machine's metrics at an interval for as long as the driver takes them.
pub(crate) fn sample(every: Duration, driver_events: &mpsc::Sender<DriverEvent>) {
    if every.is_zero() {
        return;
    }
    let driver_events = driver_events.clone();
    let spawned = std::thread::Builder::new().name("system".to_owned()).spawn(move || {
        let mut sampler = Sampler::new();
        let mut pause = every.min(FIRST_READING);
        loop {
            std::thread::sleep(pause);
            if driver_events
                .blocking_send(DriverEvent::SystemReport(SystemReport::Own(sampler.sample())))
                .is_err()
            {
                return;
            }
            pause = every;
        }
    });
    if let Err(why) = spawned {
        tracing::warn!(%why, "no thread for system.jsonl");
    }
}
