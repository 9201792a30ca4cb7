//! Detects processes of a storm that hold more resources at its end than soon after their start.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::processes::FoundProcess;
use super::usage::Usage;

/// Interval between measurements.
const EVERY: Duration = Duration::from_millis(100);
/// By then a process has what it needs for good: its model is built and its threads are running.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// Maximum number of guests alive at once.
pub(super) const GUESTS_MAX: usize = 6;
/// The allowed growth: a handful of sockets and threads for each guest that joined since, and memory for their messages
/// and buffers, some of which the allocator keeps.
const GROWTH_MAX: Usage = Usage {
    resident_bytes: 48 << 20,
    files: 8 * GUESTS_MAX as u64 + 16,
    threads: 6 * GUESTS_MAX as u64 + 16,
};

/// All processes seen, by process id.
#[derive(Debug, Default)]
pub(super) struct Growth {
    seen: BTreeMap<u32, Seen>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    name: String,
    since: Instant,
    /// Measured after the warm-up.
    first: Option<Usage>,
    last: Usage,
}

impl Growth {
    /// Measures the running processes, if it is time.
    pub(super) fn look(&mut self, now: Instant, processes: impl FnOnce() -> Vec<FoundProcess>) {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < EVERY) {
            return;
        }
        self.looked = Some(now);
        for found in processes() {
            // The process may have ended by now.
            if let Some(usage) = Usage::of(found.pid) {
                self.note(now, found, usage);
            }
        }
    }

    fn note(&mut self, now: Instant, found: FoundProcess, usage: Usage) {
        let FoundProcess { pid, is_worker, name } = found;
        let seen = self.seen.entry(pid).or_insert_with(|| Seen {
            name: if is_worker { format!("worker {name}") } else { "the coordinator".to_owned() },
            since: now,
            first: None,
            last: usage,
        });
        seen.last = usage;
        if seen.first.is_none() && now.duration_since(seen.since) >= WARM_UP {
            seen.first = Some(usage);
        }
    }

    /// Checks that no process has grown.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for (pid, Seen { name, first, last, .. }) in &self.seen {
            let excess = first.map_or_else(String::new, |first| last.excess(first, GROWTH_MAX));
            ensure!(excess.is_empty(), "{name} ({pid}) has grown: {excess}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_grows_after_the_warm_up_is_named() {
        let found = |is_worker, name: &str| FoundProcess { pid: 7, is_worker, name: name.to_owned() };
        let usage = |mib: u64| Usage { resident_bytes: mib << 20, files: 9, threads: 3 };
        let began = Instant::now();
        let after = |growths: [u64; 3]| {
            let mut growth = Growth::default();
            for (mib, at) in growths.into_iter().zip([Duration::ZERO, WARM_UP, WARM_UP * 2]) {
                growth.note(began + at, found(true, "guest-3"), usage(mib));
            }
            growth.check()
        };
        after([10, 100, 148]).expect("what it takes at first is its own");
        let why = after([10, 100, 149]).expect_err("it has grown").to_string();
        assert!(why.contains("worker guest-3 (7) has grown: 149.0 MiB of memory after 100.0"), "{why}");
    }
}
