//! The driver: one loop that waits for the next [`DriverEvent`], feeds it to the state machine and carries out its
//! outputs.

mod local_workers;
mod lost_folder;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::coordinator::{Committed, Coordinator, Event, Outcome, Output, RunEvent};
use protocol::ids::{MemberId, Phase};
use protocol::messages::ToWorker;
use store::versions::Manifest;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::checkpoints::journal_writer::JournalWriter;
use crate::checkpoints::rescue::{Rescue, RunFolder};
use crate::checkpoints::retention::Retention;
use crate::checkpoints::uploads::{Uploads, VersionOutcome};
use crate::event::DriverEvent;
use crate::local::launch::LocalWorkerPool;
use crate::local::slots::Slots;
use crate::record::Recorder;
use crate::reduction::{self, ConnectionLoss, Reduction};

/// Events that may be queued for the driver: enough for a message from each of a thousand members at once.
pub(crate) const EVENTS_MAX: usize = 4_096;

/// Messages that may be queued on one control stream. A step needs one; a peer that stops reading is lost.
pub(crate) const OUTBOX_MAX: usize = 64;

/// How long closing waits for sessions to receive their End message.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How long recently lost workers may still learn that the run is over: longer than their longest retry interval.
const LATE_WORKERS: Duration = Duration::from_secs(3);

/// How long a worker that an earlier coordinator started may take to reconnect before its slot is started again.
const ORPHAN_PAUSE: Duration = Duration::from_secs(5);

#[expect(clippy::large_enum_variant, reason = "one lives for a turn of the loop")]
enum WakeReason {
    Event(DriverEvent),
    /// The data plane has reported events.
    DataPlane,
    Deadline,
}

/// An open control stream.
struct Session {
    outbox: mpsc::Sender<ToWorker>,
    /// Secret of the token that opened the stream.
    secret: [u8; 32],
}

/// The state of the driver loop.
pub(crate) struct Driver {
    /// The state machine that makes all decisions.
    pub(crate) machine: Coordinator,
    pub(crate) journal: JournalWriter,
    /// Handle to the reducer threads.
    pub(crate) reduction: Reduction,
    /// Checkpoints and exports being uploaded.
    pub(crate) uploads: Uploads,
    /// Writes metrics, run.json and the display.
    pub(crate) recorder: Recorder,
    locals: Option<LocalWorkerPool>,
    retention: Retention,
    sessions: BTreeMap<u64, Session>,
    slots: Slots,
    /// Slots of the members that are local workers.
    local_members: BTreeMap<MemberId, u32>,
    /// Whether remote workers may join: some have joined before, or the listen address was chosen for them.
    others_may_come: bool,
    folder: RunFolder,
    /// Set once the run's folder has been lost: where the run is saved instead.
    rescue: Option<Rescue>,
    began: Instant,
    stopping: bool,
    finished: Option<Outcome>,
}

impl Driver {
    pub(crate) fn new(
        machine: Coordinator,
        journal: JournalWriter,
        reduction: Reduction,
        uploads: Uploads,
        recorder: Recorder,
        (retention, folder): (Retention, RunFolder),
        began: Instant,
    ) -> Self {
        Self {
            machine,
            journal,
            reduction,
            uploads,
            recorder,
            locals: None,
            retention,
            sessions: BTreeMap::new(),
            slots: Slots::default(),
            local_members: BTreeMap::new(),
            others_may_come: true,
            folder,
            rescue: None,
            began,
            stopping: false,
            finished: None,
        }
    }

    /// Sets the local workers that the driver supervises.
    pub(crate) fn with_locals(self, locals: Option<LocalWorkerPool>, others_may_come: bool) -> Self {
        Self { locals, others_may_come, ..self }
    }

    /// Runs until the state machine reports the end of the run.
    pub(crate) async fn run(
        mut self,
        mut driver_events: mpsc::Receiver<DriverEvent>,
    ) -> (Outcome, Recorder, Option<LocalWorkerPool>) {
        self.carry_out();
        let mailbox = self.reduction.mailbox();
        while self.finished.is_none() {
            let deadline = self.machine.next_deadline().map(|at| self.began + Duration::from_millis(at));
            let wake = tokio::select! {
                // First, because all members wait for it, and it comes once a step.
                biased;
                appended = self.journal.appended() => WakeReason::Event(DriverEvent::Appended(appended)),
                () = mailbox.wait() => WakeReason::DataPlane,
                Some(driver_event) = driver_events.recv() => WakeReason::Event(driver_event),
                () = sleep_until(deadline) => WakeReason::Deadline,
            };
            // First, because a member's message may respond to reducer output that followed these events.
            self.take_pending_events(mailbox.take());
            match wake {
                WakeReason::Event(driver_event) => self.take_in(driver_event),
                WakeReason::DataPlane => {}
                WakeReason::Deadline => {
                    if let Some((key, members)) = self.reduction.behind() {
                        self.handle(Event::Behind { key, members });
                    }
                    self.handle(Event::Tick);
                }
            }
            self.carry_out();
        }
        self.tell_late_workers(&mut driver_events).await;
        self.close_sessions().await;
        let outcome = self.finished.take().unwrap_or_else(|| Outcome {
            reason: protocol::messages::EndReason::Failed,
            code: 4,
            message: "the driver ended without an outcome".to_owned(),
            step: 0,
        });
        (self.rescued(outcome), self.recorder, self.locals)
    }

    /// Keeps serving events for a while, so that lost workers, which reconnect every two seconds, learn that the run is
    /// over.
    async fn tell_late_workers(&mut self, driver_events: &mut mpsc::Receiver<DriverEvent>) {
        let until = tokio::time::Instant::now() + LATE_WORKERS;
        while self.machine.expects_late_workers(self.now()) {
            let driver_event = tokio::select! {
                Some(driver_event) = driver_events.recv() => driver_event,
                () = tokio::time::sleep_until(until) => return,
            };
            if let DriverEvent::Stop { .. } = driver_event {
                return;
            }
            self.take_in(driver_event);
            self.carry_out();
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.machine.handle(now, event);
    }

    fn take_in(&mut self, driver_event: DriverEvent) {
        match driver_event {
            DriverEvent::Appended(Ok(())) => self.handle(Event::Journalled),
            DriverEvent::Appended(Err(reason)) => self.handle(Event::JournalFailed { reason }),
            DriverEvent::Opened { connection, outbox, secret } => {
                self.sessions.insert(connection, Session { outbox, secret });
            }
            DriverEvent::Message { connection, message, room } => {
                // Frees the message's share of the inbox for the next one.
                drop(room);
                self.slots.hear(connection, &message);
                self.handle(Event::Message { connection, message });
            }
            DriverEvent::Disconnected { connection, reason } => {
                self.sessions.remove(&connection);
                self.stream_ended(connection);
                self.handle(Event::Disconnected { connection, reason });
                self.end_if_nobody_is_left();
            }
            DriverEvent::Version { step, result } => self.version(step, result),
            DriverEvent::State { step, result } => self.handle(match result {
                Ok(digest) => Event::StateShown { step, digest },
                Err(reason) => Event::StateNotShown { step, reason },
            }),
            DriverEvent::Exports { result } => match result {
                Ok(()) => self.handle(Event::Exported),
                Err(reason) => self.handle(Event::ExportFailed { reason }),
            },
            DriverEvent::StartLocal { slots } => self.start_local(&slots),
            DriverEvent::WorkerExited { slot, status, log } => self.worker_exited(slot, status, &log),
            DriverEvent::Stop { reason, signal } => self.stop(reason, signal),
            DriverEvent::FolderLost => {
                self.look_at_folder();
            }
            DriverEvent::Checkpoint => self.handle(Event::CheckpointRequested),
            DriverEvent::SystemReport(report) => self.recorder.report(report),
            DriverEvent::Status(reply) => {
                // A client that has disconnected needs no answer.
                let _ = reply.send(self.recorder.status());
            }
        }
    }

    fn take_pending_events(&mut self, pending: reduction::PendingEvents) {
        let computed = pending.computed.into_iter().map(|(member, key)| Event::Computed { member, key });
        let lost = pending.lost.into_iter().map(|(member, loss)| match loss {
            ConnectionLoss::Broken(reason) => Event::DataPlaneLost { member, reason },
            ConnectionLoss::Violation(what) => Event::ProtocolBroken { member, what },
        });
        for event in computed.chain(lost) {
            self.handle(event);
            self.carry_out();
        }
        for (text, count) in self.reduction.identities().take_refusals() {
            self.recorder.refused(&text, count);
        }
    }

    fn version(&mut self, step: u64, result: Result<VersionOutcome, String>) {
        if !self.look_at_folder() {
            let reason = "the run's folder is not in its place any more".to_owned();
            return self.handle(Event::VersionFailed { step, reason });
        }
        match result {
            Ok(VersionOutcome::Deviates) => self.handle(Event::VersionDeviates { step }),
            Ok(VersionOutcome::InPlace(manifest)) => {
                self.recorder.version(&manifest);
                self.handle(Event::VersionWritten { step, digest: digest_of(&manifest) });
            }
            Err(reason) => self.handle(Event::VersionFailed { step, reason }),
        }
    }

    fn stop(&mut self, reason: String, signal: bool) {
        if signal && self.stopping {
            warn!("asked to stop a second time: ending at once");
            self.finished = Some(Outcome {
                reason: protocol::messages::EndReason::Interrupted,
                code: 130,
                message: "interrupted at once; --resume goes on from the newest version".to_owned(),
                step: self.recorder.step(),
            });
            return;
        }
        self.stopping |= signal;
        self.recorder
            .line(&format!("{reason}: finishing the step and writing a version (again: end at once)"));
        self.handle(Event::StopRequested { reason });
    }

    /// Carries out the machine's outputs. Those that members wait for go first; records and the display, which may
    /// block on a disk or a terminal, come after, in their own order. (A commit's record is in the journal by then: the
    /// machine requests it before.)
    fn carry_out(&mut self) {
        let mut later = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { connection, message } => self.send(connection, message),
                Output::Close { connection } => {
                    self.sessions.remove(&connection);
                }
                Output::Append { record, durable } => {
                    if let Err(reason) = self.journal.append(record, durable) {
                        self.handle(Event::JournalFailed { reason });
                    }
                }
                Output::OpenView(view) => {
                    self.uploads.forget_shown();
                    // A view without members sums nothing.
                    self.reduction.open_view(view.clone(), self.machine.elements().unwrap_or_default());
                    later.push(Output::OpenView(view));
                }
                Output::Committed(committed) => {
                    self.reduction.committed(committed.key, committed.next);
                    later.push(Output::Committed(committed));
                }
                Output::ExpectVersion { step, from, digest } => {
                    self.uploads.expect_version(step, from, digest);
                }
                Output::ExpectState { step, from } => self.uploads.expect_state(step, from),
                Output::ExpectExport { step, from } => self.uploads.expect_export(step, from),
                Output::RunEvent(note) => {
                    if let RunEvent::Left { member, .. } = &note {
                        self.reduction.identities().revoke(*member);
                    }
                    later.push(Output::RunEvent(note));
                }
                Output::Finished(outcome) => {
                    info!(step = outcome.step, code = outcome.code, message = outcome.message, "finished");
                    self.finished = Some(outcome);
                }
            }
        }
        for output in later {
            match output {
                Output::OpenView(view) => self.recorder.view(&view),
                Output::Committed(committed) => self.committed(&committed),
                Output::RunEvent(note) => self.note(&note),
                _ => {}
            }
        }
    }

    fn send(&mut self, connection: u64, mut message: ToWorker) {
        let Some(session) = self.sessions.get(&connection) else { return };
        if let ToWorker::Welcome(welcome) = &mut message {
            match self.reduction.identities().issue(welcome.member, session.secret) {
                Ok(key) => welcome.key = key,
                Err(why) => {
                    let reason = format!("no key can be drawn for it: {why}");
                    self.sessions.remove(&connection);
                    return self.handle(Event::Disconnected { connection, reason });
                }
            }
        }
        if let Err(full) = session.outbox.try_send(message) {
            // A peer with sixty-four unread messages is as good as gone.
            let reason = format!("its control stream takes no more messages ({full})");
            self.sessions.remove(&connection);
            self.handle(Event::Disconnected { connection, reason });
        }
    }

    fn committed(&mut self, committed: &Committed) {
        if let Some(locals) = &mut self.locals {
            let took_part = committed.timings.iter().filter(|(_, timings)| timings.samples > 0);
            let slots = took_part.filter_map(|(member, _)| self.local_members.get(member));
            slots.for_each(|slot| locals.took_part(*slot));
        }
        self.recorder.best_is(self.machine.best_step());
        let now_ms = self.now();
        self.recorder.committed(committed, now_ms);
        if committed.key.phase == Phase::Evaluate {
            self.retention.evaluated(committed.key.step, self.recorder.evaluation());
        }
    }

    fn note(&mut self, note: &RunEvent) {
        match note {
            RunEvent::Joined { member, join } => match join.slot {
                Some(slot) => {
                    self.local_members.insert(*member, slot);
                }
                None => self.others_may_come = true,
            },
            RunEvent::Left { member, .. } => {
                self.local_members.remove(member);
            }
            RunEvent::Version { step, .. } => {
                let best = self.retention.best().into_iter();
                let spared = best.chain(self.machine.best_step()).chain(self.machine.refuge_step());
                self.uploads.retain(*step, self.retention.keep, &spared.collect::<Vec<_>>());
            }
            RunEvent::Rewound { to_step, .. } => {
                self.uploads.set_aside(|step| step > *to_step && !self.machine.has_version(step));
            }
            _ => {}
        }
        self.recorder.note(note);
    }

    /// Flushes the last messages: each stream's task ends when its outbox is closed and empty.
    async fn close_sessions(&mut self) {
        let sessions = std::mem::take(&mut self.sessions).into_values();
        let outboxes: Vec<_> = sessions.map(|session| session.outbox).collect();
        let drained = async {
            for outbox in &outboxes {
                while outbox.capacity() < outbox.max_capacity() && !outbox.is_closed() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_DEADLINE, drained).await;
    }
}

/// The state digest of a manifest; all zeros, which match no state, if it has none.
fn digest_of(manifest: &Manifest) -> [u8; 32] {
    let mut digest = [0; 32];
    let pairs = manifest.state_digest.as_bytes().as_chunks::<2>().0;
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0);
        *byte = (digit(pair[0]) * 16 + digit(pair[1])) as u8;
    }
    digest
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
