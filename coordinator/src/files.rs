//! The file descriptor budget: the run's own files come first, its ports share the rest.

use std::sync::atomic::{AtomicU64, Ordering};

use bounded_http::Limits;
use telemetry::prometheus;
use tracker::server;

use crate::run::prepare::StartError;

/// Descriptors that no port may use: checkpoints, records, logs, sinks, local workers' pipes, data for newcomers.
const RESERVE: u64 = 256;

/// With fewer, a run can't work reliably.
const LIMIT_MIN: u64 = 512;

/// Minimum for the control plane; a worker has one connection, and a second while it transfers a state.
const CONTROL: u64 = 512;

/// Connections of the tracker; a browser opens six.
const TRACKER: u64 = 128;

/// Descriptors that the tracker and /metrics use, whatever the limit.
const BESIDE: u64 = (server::FILES_MAX + prometheus::CONNECTIONS_MAX) as u64;

/// Descriptors of a data-plane connection. Until it has authenticated, it has a second one, used to hang up on it.
const DATA_FILES: u64 = 2;

/// Connections that each port may have open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ports {
    pub(crate) control: usize,
    pub(crate) data: usize,
    /// The tracker that runs alongside the run.
    pub(crate) tracker: usize,
}

/// The process's limit on open files; 0 until [`raise_limit`] has run.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Raises the limit on open files; must run before anything is opened.
pub(crate) fn raise_limit() {
    LIMIT.store(store::raise_open_files(), Ordering::Relaxed);
}

/// The connection limits of a run with at most `workers_max` workers.
pub(crate) fn ports(workers_max: u32) -> Result<Ports, StartError> {
    deal(LIMIT.load(Ordering::Relaxed), workers_max)
}

/// A warning if the members could need more data connections than the limit allows.
pub(crate) fn warning(ports: Ports, workers_max: u32) -> Option<String> {
    let workers = usize::try_from(workers_max).unwrap_or(usize::MAX);
    // Unauthenticated connections may take a quarter of the port.
    let room = ports.data - ports.data / 4;
    let wanted = RESERVE
        + BESIDE
        + TRACKER
        + CONTROL.max(4 * u64::from(workers_max))
        + DATA_FILES * (2 * u64::from(workers_max)).max(128);
    (room < workers).then(|| {
        format!(
            "this process may have {} files open, which leaves data connections for {room} workers, and elastic.max_workers \
             is {workers_max}: raise the limit (ulimit -n {wanted}) before more join, or lower elastic.max_workers",
            LIMIT.load(Ordering::Relaxed)
        )
    })
}

/// The limits of a process that only serves a tracker.
pub(crate) fn of_tracker() -> Limits {
    let free = LIMIT.load(Ordering::Relaxed).saturating_sub(BESIDE);
    Limits::of(usize::try_from(free.clamp(1, TRACKER)).unwrap_or(1))
}

fn deal(limit: u64, workers_max: u32) -> Result<Ports, StartError> {
    if limit < LIMIT_MIN {
        return Err(StartError::config(format!(
            "this process may have {limit} files open, and a run needs {LIMIT_MIN}: raise the limit first (ulimit -n {LIMIT_MIN})"
        )));
    }
    let workers = u64::from(workers_max);
    let control = CONTROL.max(4 * workers);
    // Twice the number of members: for reconnections before a broken connection is noticed, and for unauthenticated
    // clients.
    let data = (2 * workers).max(128);
    let free = limit - RESERVE - BESIDE;
    // With few descriptors, the tracker gets an eighth, however many workers there may be.
    let tracker = TRACKER.min(free / 8);
    let (rest, wanted) = (free - tracker, control + DATA_FILES * data);
    let part = |most: u64| if rest < wanted { most * rest / wanted } else { most };
    let count = |connections: u64| usize::try_from(connections).unwrap_or(usize::MAX);
    Ok(Ports { control: count(part(control)), data: count(part(data)), tracker: count(tracker) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limit_is_the_ports_leave_the_reserve() {
        for (limit, workers) in
            [(512, 1), (512, 4_096), (1_024, 64), (4_096, 64), (4_096, 4_096), (65_536, 64)]
        {
            let ports = deal(limit, workers).expect("enough");
            let files = ports.control + ports.data * DATA_FILES as usize + ports.tracker + BESIDE as usize;
            assert!(files as u64 + RESERVE <= limit, "{limit}: {ports:?}");
            assert!(ports.control > 40 && ports.data > 10 && ports.tracker > 10, "{limit}: {ports:?}");
        }
        assert_eq!(deal(65_536, 64).expect("enough"), Ports { control: 512, data: 128, tracker: 128 });
        assert_eq!(warning(deal(1_024, 64).expect("enough"), 64), None);
        let short = deal(512, 64).expect("enough");
        let said = warning(short, 64).expect("too few for so many");
        assert!(said.contains("elastic.max_workers is 64") && said.contains("ulimit -n 1"), "{said}");
        assert_eq!(warning(short, 8), None);
        let refused = deal(256, 1).expect_err("too few");
        assert!(refused.code == 2 && refused.message.contains("ulimit -n 512"), "{}", refused.message);
    }
}
