//! A worker's driver in the simulation: thin, like the real one.

use protocol::PROTOCOL_VERSION;
use protocol::messages::{FromWorker, Join, UploadKind};
use protocol::reduce::slices;
use protocol::worker::{Event, Options, Output, Worker};

use crate::bug::Bug;
use crate::checkers::CheckResult;
use crate::network::{SimEvent, ToCoordinatorMessage, ToWorkerMessage};
use crate::node::{NUMERICS, WorkerNode};
use crate::plane::Plane;
use crate::toy::State;
use crate::world::{CLOCK, World};

impl World<'_> {
    /// Starts a process, in a slot of the coordinator's or remotely.
    pub(crate) fn start_worker(&mut self, slot: Option<usize>) {
        let index = self.workers.len();
        self.workers.push(WorkerNode::new(slot, self.toy.elements));
        let after_ms = self.random.between(0, 200);
        self.queue.put(after_ms, SimEvent::StartWorker(index));
    }

    fn on_start(&mut self, worker: usize) -> CheckResult {
        let now = self.queue.now();
        if let Some(until) = self.cuts.blocked_until(now, worker, Plane::Control) {
            self.queue.put_at(until, SimEvent::StartWorker(worker)); // It retries.
            return Ok(());
        }
        if self.coordinator.is_none() {
            if self.is_restarting {
                self.queue.put(500, SimEvent::StartWorker(worker));
            } else {
                self.exit_worker(worker, 4, "no coordinator was reached");
            }
            return Ok(());
        }
        self.workers[worker].open_control();
        let join = Join {
            protocol_version: PROTOCOL_VERSION,
            tasks: vec![("toy".to_owned(), 1)],
            fingerprint: match self.bug {
                Some(Bug::HidesNumerics) => NUMERICS,
                _ => self.workers[worker].fingerprint,
            },
            build: protocol::BUILD.to_owned(),
            name: format!("worker-{worker}"),
            device: "cpu".to_owned(),
            slot: self.workers[worker].slot,
            pid: 1,
            instance: worker as u64,
            run: None,
            holds: None,
        };
        let options = Options { join, join_timeout_ms: self.scenario.plan.join_timeout_ms };
        let clock = self.worker_clock(worker);
        self.workers[worker].machine = Some(Worker::new(options, clock));
        self.drain_worker(worker)
    }

    pub(crate) fn worker_clock(&self, worker: usize) -> u64 {
        (CLOCK + self.queue.now()).saturating_add_signed(self.workers[worker].clock)
    }

    pub(crate) fn at_worker(&mut self, worker: usize, what: SimEvent) -> CheckResult {
        let now = self.queue.now();
        if !self.workers[worker].is_alive {
            return Ok(());
        }
        match what {
            SimEvent::StartWorker(_) => self.on_start(worker),
            SimEvent::Reconnect(_, attempt) => self.on_reconnect(worker, attempt),
            SimEvent::NotReconnected(_, attempt) => self.on_not_reconnected(worker, attempt),
            SimEvent::DataConnect(_, attempt) => self.on_data_connect(worker, attempt),
            SimEvent::Down { plane, generation, payload, .. } => {
                let node = &mut self.workers[worker];
                let is_newest = node.newest(plane) == Some(generation);
                if !is_newest || node.link(plane, generation).is_none_or(|link| link.is_lost(now)) {
                    return Ok(());
                }
                self.on_down(worker, plane, payload)
            }
            SimEvent::BrokenDown(_, plane, generation) => {
                match plane {
                    _ if self.workers[worker].newest(plane) != Some(generation) => {}
                    Plane::Control => {
                        let reason = "connection reset".to_owned();
                        return self.handle_worker(worker, Event::Disconnected { reason });
                    }
                    Plane::Data => self.lose_data(worker),
                }
                Ok(())
            }
            SimEvent::WorkerTick(_) => {
                let clock = self.worker_clock(worker);
                let node = &mut self.workers[worker];
                node.tick_at = None;
                let due = node.machine.as_ref().and_then(Worker::next_deadline);
                if due.is_none_or(|at| at > clock) { Ok(()) } else { self.handle_worker(worker, Event::Tick) }
            }
            SimEvent::Worker(_, event) => self.handle_worker(worker, event),
            SimEvent::NoView(_, view) => self.on_no_view(worker, view),
            SimEvent::Prove(_, member, attempt) => self.on_prove(worker, member, attempt),
            SimEvent::Computed(_, key) => self.on_computed(worker, key),
            SimEvent::Apply(_, commit) => self.on_apply(worker, &commit),
            _ => Ok(()),
        }
    }

    fn on_down(&mut self, worker: usize, plane: Plane, payload: ToWorkerMessage) -> CheckResult {
        match payload {
            ToWorkerMessage::Control(message) => {
                self.workers[worker].last_heard = Some(message.clone());
                let message = self.planted_command(worker, message);
                self.handle_worker(worker, Event::Message(message))
            }
            ToWorkerMessage::Frame(frame) => self.on_member_frame(worker, frame),
            ToWorkerMessage::Closed if plane == Plane::Control => {
                let reason = "closed by the coordinator".to_owned();
                self.handle_worker(worker, Event::Disconnected { reason })
            }
            ToWorkerMessage::Closed => {
                self.lose_data(worker);
                Ok(())
            }
        }
    }

    pub(crate) fn handle_worker(&mut self, worker: usize, event: Event) -> CheckResult {
        let clock = self.worker_clock(worker);
        if let Some(machine) = &mut self.workers[worker].machine {
            machine.handle(clock, event);
        }
        self.drain_worker(worker)
    }

    pub(crate) fn drain_worker(&mut self, worker: usize) -> CheckResult {
        while let Some(output) = self.workers[worker].machine.as_mut().and_then(Worker::poll_output) {
            self.note(|| format!("    worker {worker}: {output:?}"));
            self.obey(worker, output)?;
        }
        Ok(())
    }

    fn obey(&mut self, worker: usize, output: Output) -> CheckResult {
        let speeds = self.scenario.speeds;
        match output {
            Output::Send(message) => return self.say(worker, message),
            Output::Reconnect { after_ms, reason } => {
                self.check_silence(worker, &reason)?;
                self.send_up(worker, Plane::Control, ToCoordinatorMessage::Closed);
                let node = &mut self.workers[worker];
                if let Some(link) = node.session.take().and_then(|session| node.control.get_mut(session)) {
                    link.close(); // Messages in flight still arrive.
                }
                node.reconnects += 1;
                let attempt = node.reconnects;
                self.queue.put(after_ms, SimEvent::Reconnect(worker, attempt));
            }
            Output::Prepare(welcome) => {
                // The connection of the former membership is useless.
                self.close_data(worker);
                let node = &mut self.workers[worker];
                node.member = Some(welcome.member);
                (node.connecting, node.waiting, node.view) = (None, None, None);
                node.reduction.join_again();
                let took_ms = self.random.between(1, 500);
                self.queue.put(took_ms, SimEvent::Prove(worker, welcome.member, 1));
            }
            Output::Initialise => {
                let state = self.toy.initial(self.scenario.plan.geometry.seed);
                let took_ms = self.random.between(1, speeds.upload_ms);
                if self.uploads_fail() {
                    let reason = "connection refused".to_owned();
                    self.queue.put(took_ms, SimEvent::Worker(worker, Event::Disconnected { reason }));
                    return Ok(());
                }
                if let Some(member) = self.workers[worker].member {
                    self.queue.put(took_ms, SimEvent::Uploaded(worker, member, 0, state.clone()));
                }
                let digest = state.digest();
                self.finish_load(worker, state, digest, took_ms);
            }
            Output::Load { step } => {
                self.workers[worker].made_by = None;
                let after_ms = self.random.between(0, speeds.network_ms);
                self.queue.put(after_ms, SimEvent::Download(worker, step));
            }
            Output::FetchState { step } => {
                self.workers[worker].made_by = None;
                let after_ms = self.random.between(0, speeds.network_ms);
                self.queue.put(after_ms, SimEvent::Take(worker, step));
            }
            Output::SendState { step } if self.uploads_fail() => {
                self.not_uploaded(worker, UploadKind::State, step, "connection refused");
            }
            Output::WriteVersion { step } if self.uploads_fail() => {
                self.not_uploaded(worker, UploadKind::Version, step, "connection refused");
            }
            Output::SendState { step } => {
                self.flip_donor(worker);
                if let Some(state) = self.workers[worker].state.clone() {
                    let took_ms = self.random.between(1, speeds.upload_ms);
                    self.queue.put(took_ms, SimEvent::Shown(worker, step, state));
                }
            }
            Output::EnterView(view) => {
                let is_alone = view.reduce == protocol::messages::ReduceAt::Alone;
                let node = &mut self.workers[worker];
                node.view = Some(view);
                node.waiting = None; // It belongs to the previous view.
                match node.exchange {
                    _ if is_alone => self.close_data(worker),
                    None if node.connecting.is_some() => {}
                    None => return self.connect_data(worker),
                    Some(_) => {}
                }
            }
            Output::Compute(key) if self.workers[worker].connecting.is_some() => {
                self.workers[worker].waiting = Some(key);
            }
            Output::Compute(key) => return self.start_computing(worker, key),
            Output::Apply(commit) => {
                self.workers[worker].prepared = None;
                let took_ms = self.random.between(0, 3);
                self.queue.put(took_ms, SimEvent::Apply(worker, commit));
            }
            Output::WriteVersion { step } => {
                let node = &self.workers[worker];
                if let (Some(state), Some(member)) = (node.state.clone(), node.member) {
                    let took_ms = self.random.between(1, speeds.upload_ms);
                    self.queue.put(took_ms, SimEvent::Uploaded(worker, member, step, state));
                }
            }
            Output::Export { .. } => {
                let took_ms = self.random.between(1, speeds.upload_ms);
                self.queue.put(took_ms, SimEvent::Exported);
            }
            Output::Exit { code, message, .. } => self.exit_worker(worker, code, &message),
        }
        Ok(())
    }

    fn say(&mut self, worker: usize, mut message: FromWorker) -> CheckResult {
        if let FromWorker::Join(Join { holds, .. }) = &message {
            let node = &mut self.workers[worker];
            node.prepared_before = holds.as_ref().and_then(|held| held.prepared);
            let commit = holds.as_ref().and_then(|held| held.commit.as_ref());
            node.made_by = commit.map(|commit| (commit.key, commit.hash));
        }
        if let (Some(Bug::ForgetsPrepared), FromWorker::Join(Join { holds: Some(held), .. })) =
            (self.bug, &mut message)
        {
            held.prepared = None;
        }
        if let FromWorker::Ready(ready) = &message {
            if let Some(member) = self.workers[worker].member {
                self.oracle.on_ready(member, ready, slices(self.toy.elements) as usize)?;
            }
            self.workers[worker].prepared = Some((ready.key, ready.hash));
            World::archive(&mut self.archive.readies, ready.clone());
        }
        self.workers[worker].last_said = Some(message.clone());
        self.send_up(worker, Plane::Control, ToCoordinatorMessage::Control(message));
        Ok(())
    }

    fn exit_worker(&mut self, worker: usize, code: u8, message: &str) {
        self.send_up(worker, Plane::Control, ToCoordinatorMessage::Closed);
        self.close_data(worker);
        let node = &mut self.workers[worker];
        node.is_alive = false;
        node.machine = None;
        node.exit = Some((code, message.to_owned()));
    }

    pub(crate) fn finish_load(&mut self, worker: usize, state: State, digest: [u8; 32], took_ms: u64) {
        let event = Event::Loaded { step: state.step, digest, state_check: state.check() };
        let node = &mut self.workers[worker];
        node.state = Some(state);
        node.contribution = None; // It was computed from another state.
        let void = node.reduction.abandon();
        node.give_up(void, self.bug);
        (node.made_by, node.prepared_before) = (None, None);
        self.queue.put(took_ms, SimEvent::Worker(worker, event));
    }
}
