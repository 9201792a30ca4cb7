//! System reports of machines, outside the protocol: from a worker with its messages, from the coordinator by its own
//! sampler.

use wire::proto;

pub(crate) enum SystemReport {
    /// Description of a worker's machine, with the worker's instance number.
    Machine(u64, Box<proto::Machine>),
    /// A worker's readings, with its instance number.
    Readings(u64, Vec<(String, f64)>),
    Own(Vec<(String, f64)>),
}

impl SystemReport {
    /// Takes the report out of a worker's message; the stream's first report sets `instance`.
    pub(crate) fn of(message: &mut proto::FromWorker, instance: &mut Option<u64>) -> Option<Self> {
        match wire::worker_report::take(message)? {
            wire::worker_report::WorkerReport::Machine { instance: number, machine } => {
                *instance = Some(number);
                Some(Self::Machine(number, machine))
            }
            wire::worker_report::WorkerReport::Readings(readings) => {
                Some(Self::Readings((*instance)?, readings))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_known_by_its_number() {
        let mut instance = None;
        let mut beat = proto::FromWorker {
            message: Some(proto::from_worker::Message::Heartbeat(proto::Heartbeat {
                readings: vec![proto::Reading { name: "cpu".to_owned(), value: 1.0 }],
            })),
        };
        assert!(SystemReport::of(&mut beat.clone(), &mut instance).is_none(), "nobody has said who it is");
        let machine = Some(proto::Machine::default());
        let join = proto::Join { instance: 9, machine, ..proto::Join::default() };
        let mut join = proto::FromWorker { message: Some(proto::from_worker::Message::Join(join)) };
        assert!(matches!(SystemReport::of(&mut join, &mut instance), Some(SystemReport::Machine(9, _))));
        assert!(matches!(SystemReport::of(&mut beat, &mut instance), Some(SystemReport::Readings(9, _))));
    }
}
