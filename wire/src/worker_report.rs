//! Information that a worker reports about itself in addition to the protocol, in messages that are sent anyway: its
//! machine in Join, its measurements in Heartbeat. It is for people and affects no decision, so invalid parts are
//! dropped and no worker is refused for them.

use crate::convert::cut;
use crate::proto;

/// Maximum number of readings in a heartbeat: a machine with sixteen GPUs.
pub const READINGS_MAX: usize = 128;
/// Maximum bytes of a reading's name.
const NAME_MAX: usize = 64;
/// Maximum bytes of a text about a machine.
const TEXT_MAX: usize = 512;
/// Maximum number of CPU features, and bytes of a feature's name: a run's record stores the machines of a thousand
/// workers.
const FEATURES_MAX: usize = 64;
const FEATURE_BYTES_MAX: usize = 32;

/// A worker's report.
#[derive(Clone, PartialEq, Debug)]
pub enum WorkerReport {
    /// The machine of the worker process with this random instance number.
    Machine {
        /// [`protocol::messages::Join::instance`].
        instance: u64,
        /// The machine.
        machine: Box<proto::Machine>,
    },
    /// Measurements by name.
    Readings(Vec<(String, f64)>),
}

/// Takes the report out of a received message.
#[must_use]
pub fn take(message: &mut proto::FromWorker) -> Option<WorkerReport> {
    use proto::from_worker::Message as M;
    match message.message.as_mut()? {
        M::Join(join) => {
            let machine = Box::new(bounded(join.machine.take()?));
            Some(WorkerReport::Machine { instance: join.instance, machine })
        }
        M::Heartbeat(heartbeat) if !heartbeat.readings.is_empty() => {
            let readings = std::mem::take(&mut heartbeat.readings).into_iter();
            let good = readings.filter(|reading| is_name(&reading.name)).take(READINGS_MAX);
            Some(WorkerReport::Readings(good.map(|reading| (reading.name, reading.value)).collect()))
        }
        _ => None,
    }
}

/// Adds the report to an outgoing message of a kind that carries one.
pub fn put(
    message: &mut proto::FromWorker,
    machine: &proto::Machine,
    readings: impl FnOnce() -> Vec<(String, f64)>,
) {
    use proto::from_worker::Message as M;
    match &mut message.message {
        Some(M::Join(join)) => join.machine = Some(machine.clone()),
        Some(M::Heartbeat(heartbeat)) => {
            let readings = readings().into_iter().map(|(name, value)| proto::Reading { name, value });
            heartbeat.readings = readings.collect();
        }
        _ => {}
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(is_part)
}

fn bounded(mut machine: proto::Machine) -> proto::Machine {
    machine.cpu_features.truncate(FEATURES_MAX);
    let texts = [
        &mut machine.os,
        &mut machine.kernel,
        &mut machine.architecture,
        &mut machine.cpu,
        &mut machine.driver,
        &mut machine.program,
    ];
    for text in texts {
        *text = cut(std::mem::take(text), TEXT_MAX);
    }
    for feature in &mut machine.cpu_features {
        *feature = cut(std::mem::take(feature), FEATURE_BYTES_MAX);
    }
    machine.cpu_features.shrink_to_fit();
    machine
}

#[cfg(test)]
mod tests {
    use protocol::messages::FromWorker;

    use super::*;
    use crate::convert::{from_worker_in, from_worker_out};

    #[test]
    fn a_heartbeat_carries_readings_and_is_one_still() {
        let mut message = from_worker_out(FromWorker::Heartbeat);
        let machine = proto::Machine::default();
        put(&mut message, &machine, || vec![("cpu".to_owned(), 0.5), ("a name/with".to_owned(), 1.0)]);
        assert_eq!(take(&mut message), Some(WorkerReport::Readings(vec![("cpu".to_owned(), 0.5)])));
        assert_eq!(take(&mut message), None);
        assert_eq!(from_worker_in(message), Ok(FromWorker::Heartbeat));
    }

    #[test]
    fn what_is_too_much_is_cut() {
        let mut message = from_worker_out(FromWorker::Heartbeat);
        let many = || (0..1_000).map(|n| (format!("n{n}"), 0.0)).collect();
        put(&mut message, &proto::Machine::default(), many);
        let Some(WorkerReport::Readings(readings)) = take(&mut message) else { panic!("readings") };
        assert_eq!(readings.len(), READINGS_MAX);
        let long = "é".repeat(10_000);
        let machine = bounded(proto::Machine {
            cpu: long,
            cpu_features: vec!["x".into(); 1_000],
            ..Default::default()
        });
        assert!(machine.cpu.len() <= TEXT_MAX && machine.cpu_features.len() == FEATURES_MAX);
    }
}
