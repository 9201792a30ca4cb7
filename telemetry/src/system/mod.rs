//! System metrics of a run's machines: CPU, memory, network and NVIDIA GPUs, under MLflow's names.
//!
//! These numbers differ from run to run, so they go to `system.jsonl` ([`SystemFile`]) and not to `metrics.jsonl`. They
//! describe the whole machine, even if the process shares it.

mod file;
mod gpu;

use std::path::PathBuf;

use sysinfo::{MemoryRefreshKind, Networks, System};

pub use file::{ReadingContext, SystemFile};

/// MLflow's megabyte.
const MEGABYTE: f64 = 1e6;

/// Samples this machine's metrics. A sample costs about a millisecond, and a child process if there is an NVIDIA GPU.
#[derive(Debug)]
pub struct Sampler {
    system: System,
    networks: Networks,
    /// Bytes received and sent when the sampler was created.
    before: (u64, u64),
    nvidia_smi: Option<PathBuf>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Starts sampling: CPU values are averages since the previous sample.
    #[must_use]
    pub fn new() -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        let networks = Networks::new_with_refreshed_list();
        let before = transferred(&networks);
        Self { system, networks, before, nvidia_smi: gpu::nvidia_smi() }
    }

    /// The metrics by MLflow's names, without the prefix `system/`: megabytes are 10^6 bytes, those of the network are
    /// counted since [`Sampler::new`], over all interfaces.
    pub fn sample(&mut self) -> Vec<(String, f64)> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        self.networks.refresh(true);
        let (received, sent) = transferred(&self.networks);
        let (used, total) = (self.system.used_memory() as f64, self.system.total_memory() as f64);
        let mut values = vec![
            ("cpu_utilization_percentage".to_owned(), f64::from(self.system.global_cpu_usage())),
            ("system_memory_usage_megabytes".to_owned(), used / MEGABYTE),
            ("system_memory_usage_percentage".to_owned(), 100.0 * used / total.max(1.0)),
            (
                "network_receive_megabytes".to_owned(),
                received.saturating_sub(self.before.0) as f64 / MEGABYTE,
            ),
            ("network_transmit_megabytes".to_owned(), sent.saturating_sub(self.before.1) as f64 / MEGABYTE),
        ];
        if let Some(program) = &self.nvidia_smi {
            match gpu::ask(program) {
                Some(readings) => values.extend(readings),
                // After one failure the GPUs are not queried again: each query costs a child process.
                None => self.nvidia_smi = None,
            }
        }
        values
    }
}

/// Bytes received and sent over all interfaces.
fn transferred(networks: &Networks) -> (u64, u64) {
    networks.list().values().fold((0, 0), |(received, sent), network| {
        (received + network.total_received(), sent + network.total_transmitted())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_of_this_machine() {
        let mut sampler = Sampler::new();
        let values: std::collections::BTreeMap<String, f64> = sampler.sample().into_iter().collect();
        assert!((0.0..=100.5).contains(&values["cpu_utilization_percentage"]), "{values:?}");
        assert!(values["system_memory_usage_megabytes"] > 1.0, "{values:?}");
        assert!((0.0..=100.0).contains(&values["system_memory_usage_percentage"]), "{values:?}");
        assert!(values["network_receive_megabytes"] >= 0.0, "{values:?}");
        assert!(values.keys().all(|key| key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')));
    }
}
