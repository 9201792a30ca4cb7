//! Properties of a machine that may affect a result or its cost.

use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The machine that a process runs on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Operating system and its version.
    pub os: String,
    /// Kernel version.
    pub kernel: String,
    /// Processor architecture, as Rust names it.
    pub architecture: String,
    /// Model of the CPU.
    pub cpu: String,
    /// Logical cores.
    pub cores: u64,
    /// Vector extensions of the CPU that numeric code checks for.
    pub cpu_features: Vec<String>,
    /// Memory in megabytes (2^20 bytes).
    pub memory_megabytes: u64,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what);
        let cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
        Self {
            os: System::long_os_version().unwrap_or_default(),
            kernel: System::kernel_version().unwrap_or_default(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: cpu.unwrap_or_default(),
            cores: system.cpus().len() as u64,
            cpu_features: cpu_features().into_iter().map(str::to_owned).collect(),
            memory_megabytes: system.total_memory() >> 20,
        }
    }
}

/// The vector extensions of this CPU by which numeric code selects kernels.
#[must_use]
pub fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! look {
        ($detected:ident: $($feature:tt),*) => {
            $(if std::arch::$detected!($feature) { found.push($feature); })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    look!(is_x86_feature_detected: "sse4.2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl");
    #[cfg(target_arch = "aarch64")]
    look!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "sve", "sve2");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_megabytes > 0, "{machine:?}");
        assert_eq!(machine.architecture, std::env::consts::ARCH);
    }
}
