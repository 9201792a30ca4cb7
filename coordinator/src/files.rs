//! How the files that this process may open are dealt out: what a run writes comes first, its ports get the rest.

use std::sync::atomic::{AtomicU64, Ordering};

use bounded_http::Limits;
use telemetry::prometheus;
use tracker::server;

use crate::run::prepare::StartError;

/// Kept for what no port may take: checkpoints, records, logs, sinks, pipes of local workers, data for newcomers.
const RESERVE: u64 = 256;

/// With fewer a run can't be counted on.
const LIMIT_MIN: u64 = 512;

/// Connections of the control plane, at least; a worker has one, and a second while it transfers a state.
const CONTROL: u64 = 512;

/// Connections of a tracker; a browser opens six.
const TRACKER: u64 = 128;

/// What a tracker and /metrics have open, whatever the limit.
const BESIDE: u64 = (server::FILES_MAX + prometheus::CONNECTIONS_MAX) as u64;

/// Until it has proven that it belongs to the run, a connection of the data plane has one file more, by which it is hung up on.
const DATA_FILES: u64 = 2;

/// Connections that each port may have open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ports {
    /// Of the control plane.
    pub(crate) control: usize,
    /// Of the data plane.
    pub(crate) data: usize,
    /// Of the tracker beside the run.
    pub(crate) tracker: usize,
}

/// 0: nobody has looked.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Raises the limit, before anything is opened.
pub(crate) fn raise_limit() {
    LIMIT.store(store::raise_open_files(), Ordering::Relaxed);
}

/// What the ports of a run with so many workers at most get of the files that this process may open.
pub(crate) fn ports(workers_max: u32) -> Result<Ports, StartError> {
    deal(LIMIT.load(Ordering::Relaxed), workers_max)
}

/// What is to be said where members could want more data connections than there are files for.
pub(crate) fn warning(ports: Ports, workers_max: u32) -> Option<String> {
    let workers = usize::try_from(workers_max).unwrap_or(usize::MAX);
    // Strangers may have a quarter of the port.
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

/// For a process that only serves a tracker.
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
    // As many again as there are members, for those that come before a broken one is noticed, and strangers.
    let data = (2 * workers).max(128);
    let free = limit - RESERVE - BESIDE;
    // Where files are few, people get an eighth however many workers there may be.
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
