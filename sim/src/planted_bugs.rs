//! Alters messages and histories as machines with a planted bug would interpret them.

use protocol::history::History;
use protocol::journal::Record;
use protocol::messages::{Commit, FromWorker, Ready, ToWorker};

use crate::bug::Bug;
use crate::checkers::CheckResult;
use crate::plane::Plane;
use crate::world::World;

impl World<'_> {
    /// The history as read by a coordinator with this bug.
    pub(crate) fn planted_history(&self, records: &[Record]) -> Option<History> {
        let planted: Vec<Record> = match self.bug? {
            Bug::ForgetsAppliedSteps => records.iter().cloned().map(without_applied).collect(),
            // Hashes are not compared if views were mixed.
            Bug::IgnoresReplayedHashes => records.iter().cloned().map(without_fingerprint).collect(),
            _ => return None,
        };
        History::replay(&planted).ok()
    }

    /// The message as interpreted by a coordinator with this bug.
    pub(crate) fn planted_message(&mut self, message: FromWorker) -> FromWorker {
        let Some(node) = &mut self.coordinator else { return message };
        match (self.bug, message) {
            (Some(Bug::IgnoresKeyOfReady), FromWorker::Ready(mut ready)) => {
                if let Some(current) = node.current.filter(|current| ready.key < *current) {
                    ready.key = current;
                }
                FromWorker::Ready(ready)
            }
            (Some(Bug::IgnoresDisagreement), FromWorker::Ready(ready)) => {
                let first = node.first_ready.take().filter(|first| first.key == ready.key).unwrap_or(ready);
                node.first_ready = Some(first.clone());
                FromWorker::Ready(first)
            }
            (Some(Bug::TrustsNan), FromWorker::Ready(ready)) => {
                FromWorker::Ready(Ready { finite: true, ..ready })
            }
            (Some(Bug::IgnoresDisagreement), FromWorker::Applied { step, .. }) => {
                FromWorker::Applied { step, state_check: 1 }
            }
            (_, message) => message,
        }
    }

    /// The planted bug: the coordinator takes one member's Ready for everybody's.
    pub(crate) fn forge_readies(&mut self, worker: usize, message: &FromWorker) -> CheckResult {
        let (FromWorker::Ready(ready), Some(Bug::CommitsWithoutAllReady)) = (message, self.bug) else {
            return Ok(());
        };
        for other in (0..self.workers.len()).filter(|other| *other != worker) {
            if let Some(newest) = self.workers[other].newest(Plane::Control) {
                self.hear(other, newest, FromWorker::Ready(ready.clone()))?;
            }
        }
        Ok(())
    }

    /// The planted bug: before its deadlines the coordinator counts all members as heard.
    pub(crate) fn hear_the_silent(&mut self) -> CheckResult {
        let (Some(node), Some(Bug::KeepsTheSilent)) = (&self.coordinator, self.bug) else { return Ok(()) };
        for worker in node.here.values().copied().collect::<Vec<_>>() {
            if let Some(newest) = self.workers[worker].newest(Plane::Control) {
                self.hear(worker, newest, FromWorker::Heartbeat)?;
            }
        }
        Ok(())
    }

    /// The message as interpreted by a worker with this bug.
    pub(crate) fn planted_command(&self, worker: usize, message: ToWorker) -> ToWorker {
        let node = &self.workers[worker];
        match (self.bug, node.prepared, message) {
            (Some(Bug::AcceptsOldTerm), Some((key, hash)), ToWorker::Commit(commit))
                if commit.key.view.0 >> 32 < key.view.0 >> 32 =>
            {
                ToWorker::Commit(Commit { key, hash, ..commit })
            }
            (_, _, message) => message,
        }
    }
}

fn without_applied(record: Record) -> Record {
    match record {
        Record::Commit(mut commit) => {
            commit.applied = 0;
            Record::Commit(commit)
        }
        other => other,
    }
}

fn without_fingerprint(record: Record) -> Record {
    match record {
        Record::View(mut view) => {
            view.fingerprint = None;
            Record::View(view)
        }
        other => other,
    }
}
