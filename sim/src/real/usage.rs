//! A process's resource usage (proc(5)).

use std::path::PathBuf;

/// The resource usage of one process at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Open files, including sockets.
    pub files: u64,
    /// Threads, including the main thread.
    pub threads: u64,
}

impl Usage {
    /// The usage of this process; `None` once it has ended.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let count = |what| std::fs::read_dir(process.join(what)).ok().map(|entries| entries.count() as u64);
        Some(Self {
            resident_bytes: resident_kib(&status)? * 1024,
            files: count("fd")?,
            threads: count("task")?,
        })
    }

    /// The maximum of each field.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
        }
    }

    /// A text for people about what exceeds `before` by more than `bound`; empty if nothing does.
    #[must_use]
    pub fn excess(self, before: Self, bound: Self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut excess = Vec::new();
        if self.resident_bytes > before.resident_bytes + bound.resident_bytes {
            let (now, before) = (mib(self.resident_bytes), mib(before.resident_bytes));
            excess.push(format!("{now:.1} MiB of memory after {before:.1}"));
        }
        if self.files > before.files + bound.files {
            excess.push(format!("{} open files after {}", self.files, before.files));
        }
        if self.threads > before.threads + bound.threads {
            excess.push(format!("{} threads after {}", self.threads, before.threads));
        }
        excess.join(", ")
    }
}

/// `None` for a zombie, which has no memory.
fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured() {
        let own = Usage::of(std::process::id()).expect("it lives");
        assert!(own.resident_bytes > 1 << 20 && own.files >= 3 && own.threads >= 1, "{own:?}");
        assert_eq!(Usage::of(u32::MAX), None);
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1_234));
        assert_eq!(resident_kib("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn what_is_more_than_the_bound_is_named() {
        let usage = |mib: u64, files, threads| Usage { resident_bytes: mib << 20, files, threads };
        let (before, bound) = (usage(100, 20, 9), usage(8, 4, 2));
        assert_eq!(usage(108, 24, 11).excess(before, bound), "");
        let excess = usage(110, 25, 12).excess(before, bound);
        assert_eq!(excess, "110.0 MiB of memory after 100.0, 25 open files after 20, 12 threads after 9");
        assert_eq!(before.max(usage(1, 30, 1)), usage(100, 30, 9));
    }
}
