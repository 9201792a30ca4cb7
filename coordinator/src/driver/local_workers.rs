//! The driver's local workers: starting, restarting and giving up on them.

use std::path::Path;
use std::process::ExitStatus;

use protocol::coordinator::Event;
use tracing::debug;

use super::{Driver, ORPHAN_PAUSE};
use crate::local::launch::{self, LocalWorkerPool};

impl Driver {
    pub(super) fn start_local(&mut self, slots: &[u32]) {
        let Some(locals) = self.locals.as_mut().filter(|_| self.finished.is_none()) else { return };
        for slot in slots.iter().filter(|slot| !self.slots.is_taken(**slot)) {
            if locals.runs(*slot) {
                continue;
            }
            if let Err(why) = locals.start(*slot) {
                let reason = format!("worker-{slot}: {why:#}");
                self.machine
                    .handle(self.began.elapsed().as_millis() as u64, Event::LaunchFailed { code: 4, reason });
                // Most likely out of processes or memory, which a continuing run may have again later.
                locals.start_again(*slot);
            }
        }
    }

    /// Handles the end of a worker's control stream. For a process that this coordinator started, the process's own
    /// exit counts. An orphan of an earlier coordinator has no other exit notice: unless it reconnects, its slot is
    /// restarted.
    pub(super) fn stream_ended(&mut self, connection: u64) {
        let Some(locals) = &self.locals else { return };
        if let Some(slot) = self.slots.close(connection, |slot| locals.runs(slot))
            && locals.slots().contains(&slot)
        {
            locals.start_later(vec![slot], ORPHAN_PAUSE);
        }
    }

    /// Handles the exit of a local worker. One that exits before joining will never join. For one that had joined, its
    /// stream's end tells the machine; its slot is restarted unless the exit code says that another worker would fare
    /// no better.
    pub(super) fn worker_exited(&mut self, slot: u32, status: Option<ExitStatus>, log: &Path) {
        let how = status.map_or_else(|| "in an unknown way".to_owned(), |status| status.to_string());
        debug!(slot, how, "local worker ended");
        let code = status.and_then(|status| status.code());
        if let Some(locals) = &mut self.locals {
            locals.ended(slot);
        }
        if !self.slots.vacate(slot) {
            let said = launch::last_lines(log);
            let reason = format!("worker-{slot} ended before it joined ({how}){said}");
            let is_refusal = matches!(code, Some(2 | 3));
            let code = if let Some(code @ (2 | 3)) = code { code as u8 } else { 4 };
            self.handle(Event::LaunchFailed { code, reason });
            self.carry_out();
            // The run goes on: unless the worker refused, the cause may have passed.
            if self.finished.is_some() {
                return;
            }
            return if is_refusal { self.give_up(slot) } else { self.start_again(slot, &how, log) };
        }
        match code {
            // A clean exit, or one on request.
            Some(0 | 130) => {}
            Some(2 | 3) => self.give_up(slot),
            _ => self.start_again(slot, &how, log),
        }
    }

    fn start_again(&mut self, slot: u32, how: &str, log: &Path) {
        let Some(locals) = &mut self.locals else { return };
        if locals.start_again(slot) {
            return self.recorder.line(&format!("worker-{slot} ended ({how}); it is started again"));
        }
        let (ends, said) = (locals.ends_in_a_row(slot), launch::last_lines(log));
        self.recorder.warning(&format!(
            "worker-{slot} ended {ends} times in a row without having taken part in a step ({how}): it is not started any \
             more{said}"
        ));
        self.end_if_nobody_is_left();
    }

    /// Stops restarting a slot in which another worker would fare no better.
    fn give_up(&mut self, slot: u32) {
        if let Some(locals) = &mut self.locals {
            locals.give_up(slot);
        }
        self.end_if_nobody_is_left();
    }

    /// Ends a run that has no workers and expects none, which would otherwise wait for ever.
    pub(super) fn end_if_nobody_is_left(&mut self) {
        let are_given_up = self.locals.as_ref().is_some_and(LocalWorkerPool::are_all_given_up);
        if are_given_up && self.sessions.is_empty() && !self.others_may_come {
            let reason =
                "no local worker can be kept alive, and none from elsewhere has ever joined".to_owned();
            self.handle(Event::NobodyLeft { reason });
        }
    }
}
