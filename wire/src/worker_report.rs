//! What a worker says of itself beside the protocol, in messages that go anyway: its machine in Join, what it measured of
//! it in Heartbeat. It is for people and decides nothing, so what is wrong with it is left out and nobody is refused for it.

use crate::convert::cut;
use crate::proto;

/// Readings of a heartbeat at most: a machine with sixteen cards.
pub const READINGS_MAX: usize = 128;
/// Bytes of a reading's name at most.
const NAME_MAX: usize = 64;
/// Bytes of a text about a machine at most.
const TEXT_MAX: usize = 512;
/// Features of a CPU at most, and bytes of the name of one: a run's record keeps the machines of a thousand workers.
const FEATURES_MAX: usize = 64;
const FEATURE_BYTES_MAX: usize = 32;

/// What was said.
#[derive(Clone, PartialEq, Debug)]
pub enum WorkerReport {
    /// The machine of the worker process that drew this number.
    Machine {
        /// [`protocol::messages::Join::instance`].
        instance: u64,
        /// What it runs on.
        machine: Box<proto::Machine>,
    },
    /// What a worker measured, by name.
    Readings(Vec<(String, f64)>),
}

/// Takes it out of a message that came.
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

/// Puts it into a message that goes out, if it is one that carries such.
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
