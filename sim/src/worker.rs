//! A worker's driver in the simulation: thin, as the real one.

use protocol::PROTOCOL_VERSION;
use protocol::ids::{MemberId, StepKey};
use protocol::messages::{Commit, FromWorker, Join, Timings, ToWorker, View};
use protocol::reduce::slices;
use protocol::worker::{Event, Options, Output, Worker};

use crate::bug::Bug;
use crate::exchange::{Collected, Contribution, Reduced, ToMember};
use crate::network::{Down, Link, Plane, Up, What};
use crate::toy::State;
use crate::watch::Finding;
use crate::world::World;

/// One process.
pub(crate) struct WorkerNode {
    pub(crate) machine: Option<Worker>,
    pub(crate) is_alive: bool,
    /// Came after the others.
    pub(crate) is_late: bool,
    /// Exit code and message.
    pub(crate) exit: Option<(u8, String)>,
    pub(crate) member: Option<MemberId>,
    pub(crate) state: Option<State>,
    /// Computes so many times slower.
    pub(crate) slowness: u64,
    /// What happens while the process is paused.
    pub(crate) paused: Option<Vec<What>>,
    pub(crate) tick_at: Option<u64>,
    slot: Option<u32>,
    /// All streams that it opened, the newest last.
    control: Vec<Link>,
    data: Vec<Link>,
    view: Option<View>,
    contribution: Option<Contribution>,
    collected: Option<Collected>,
    /// Reduced slices of a step that this member hasn't begun: one without microbatches is not waited for.
    parked: Vec<ToMember>,
    reduced: Option<Reduced>,
    prepared: Option<(StepKey, u64)>,
    timings: Timings,
}

impl WorkerNode {
    fn links(&mut self, plane: Plane) -> &mut Vec<Link> {
        match plane {
            Plane::Control => &mut self.control,
            Plane::Data => &mut self.data,
        }
    }

    pub(crate) fn link(&mut self, plane: Plane, generation: usize) -> Option<&mut Link> {
        self.links(plane).get_mut(generation)
    }

    /// The stream that it has now.
    pub(crate) fn newest(&self, plane: Plane) -> usize {
        match plane {
            Plane::Control => self.control.len() - 1,
            Plane::Data => self.data.len() - 1,
        }
    }
}

impl WorkerNode {
    /// For a planted bug: the reducer has added over what this worker holds.
    pub(crate) fn overwrite(&mut self, address: &crate::exchange::Address, addend: &[f32]) {
        if let Some(contribution) = &mut self.contribution {
            contribution.overwrite(address, addend);
        }
    }
}

impl World<'_> {
    /// A process is started, by the coordinator (with a slot) or from elsewhere.
    pub(crate) fn start_worker(&mut self, slot: Option<usize>) {
        let index = self.workers.len();
        self.workers.push(WorkerNode {
            machine: None,
            is_alive: true,
            is_late: slot.is_none(),
            exit: None,
            member: None,
            state: None,
            slowness: 1,
            paused: None,
            tick_at: None,
            slot: slot.and_then(|slot| u32::try_from(slot).ok()),
            control: vec![Link::default()],
            data: vec![Link::default()],
            view: None,
            contribution: None,
            collected: None,
            parked: Vec::new(),
            reduced: None,
            prepared: None,
            timings: Timings::default(),
        });
        let after_ms = self.random.between(0, 200);
        self.queue.put(after_ms, What::StartWorker(index));
    }

    fn on_start(&mut self, worker: usize) -> Finding {
        if self.coordinator.is_none() {
            if self.is_restarting {
                self.queue.put(500, What::StartWorker(worker));
            } else {
                self.exit_worker(worker, 4, "connection refused");
            }
            return Ok(());
        }
        let newest = self.workers[worker].newest(Plane::Control);
        if self.workers[worker].link(Plane::Control, newest).is_some_and(|link| link.is_cut()) {
            self.workers[worker].control.push(Link::default()); // A coordinator died before this worker started.
            self.workers[worker].data.push(Link::default());
        }
        let join = Join {
            protocol_version: PROTOCOL_VERSION,
            tasks: vec![("toy".to_owned(), 1)],
            fingerprint: [3; 32],
            build: String::new(),
            name: format!("worker-{worker}"),
            device: "cpu".to_owned(),
            slot: self.workers[worker].slot,
            pid: 1,
            instance: worker as u64,
            holds: None,
        };
        let options = Options { join, join_timeout_ms: 60_000 };
        self.workers[worker].machine = Some(Worker::new(options, self.queue.now()));
        self.drain_worker(worker)
    }

    pub(crate) fn at_worker(&mut self, worker: usize, what: What) -> Finding {
        let now = self.queue.now();
        if !self.workers[worker].is_alive {
            return Ok(());
        }
        match what {
            What::StartWorker(_) => self.on_start(worker),
            What::Reconnect(_) => self.on_reconnect(worker),
            What::Down { plane, generation, payload, .. } => {
                let node = &mut self.workers[worker];
                let is_newest = node.newest(plane) == generation;
                if !is_newest || node.link(plane, generation).is_none_or(|link| link.is_lost(now)) {
                    return Ok(());
                }
                self.on_down(worker, plane, payload)
            }
            What::BrokenDown(_, plane, generation) if self.workers[worker].newest(plane) != generation => {
                Ok(())
            }
            What::BrokenDown(_, Plane::Control, _) => {
                self.handle_worker(worker, Event::Disconnected { reason: "connection reset".to_owned() })
            }
            What::WorkerTick(_) => {
                let node = &mut self.workers[worker];
                node.tick_at = None;
                let due = node.machine.as_ref().and_then(Worker::next_deadline);
                if due.is_none_or(|at| at > now) { Ok(()) } else { self.handle_worker(worker, Event::Tick) }
            }
            What::Worker(_, event) => self.handle_worker(worker, event),
            What::Computed(_, key) => self.on_computed(worker, key),
            What::Apply(_, commit) => self.on_apply(worker, &commit),
            // Of a data connection too: the next view opens another one.
            _ => Ok(()),
        }
    }

    fn on_reconnect(&mut self, worker: usize) -> Finding {
        if self.coordinator.is_none() {
            let reason = "connection refused".to_owned();
            return self.handle_worker(worker, Event::Disconnected { reason });
        }
        self.workers[worker].control.push(Link::default());
        self.handle_worker(worker, Event::Connected)
    }

    fn on_down(&mut self, worker: usize, plane: Plane, payload: Down) -> Finding {
        match payload {
            Down::Control(message) => {
                let message = self.planted_command(worker, message);
                self.handle_worker(worker, Event::Message(message))
            }
            Down::Frame(frame) => self.on_member_frame(worker, frame),
            Down::Closed if plane == Plane::Control => self.handle_worker(
                worker,
                Event::Disconnected { reason: "closed by the coordinator".to_owned() },
            ),
            Down::Closed => Ok(()), // The control stream says why.
        }
    }

    /// The message as a worker with this bug would understand it.
    fn planted_command(&self, worker: usize, message: ToWorker) -> ToWorker {
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

    pub(crate) fn handle_worker(&mut self, worker: usize, event: Event) -> Finding {
        let now = self.queue.now();
        if let Some(machine) = &mut self.workers[worker].machine {
            machine.handle(now, event);
        }
        self.drain_worker(worker)
    }

    fn drain_worker(&mut self, worker: usize) -> Finding {
        while let Some(output) =
            self.workers[worker].machine.as_mut().and_then(protocol::worker::Worker::poll_output)
        {
            self.note(|| format!("    worker {worker}: {output:?}"));
            self.obey(worker, output)?;
        }
        Ok(())
    }

    fn obey(&mut self, worker: usize, output: Output) -> Finding {
        let speeds = self.scenario.speeds;
        match output {
            Output::Send(message) => return self.say(worker, message),
            Output::Reconnect { after_ms, .. } => {
                self.send_up(worker, Plane::Control, Up::Closed);
                let now = self.queue.now();
                let newest = self.workers[worker].newest(Plane::Control);
                if let Some(link) = self.workers[worker].link(Plane::Control, newest) {
                    // What was sent before still arrives.
                    link.close();
                }
                self.queue.put_at(now + after_ms, What::Reconnect(worker));
            }
            Output::Prepare(welcome) => {
                let node = &mut self.workers[worker];
                if node.member.replace(welcome.member).is_some() {
                    node.data.push(Link::default()); // The old one was opened under another name.
                }
                let took_ms = self.random.between(1, 500);
                let elements = self.toy.elements as u64;
                self.queue.put(took_ms, What::Worker(worker, Event::Prepared { elements }));
            }
            Output::Initialise => {
                let state = self.toy.initial(self.scenario.plan.geometry.seed);
                let took_ms = self.random.between(1, speeds.upload_ms);
                self.queue.put(took_ms, What::Uploaded(worker, 0, state.clone()));
                let digest = state.digest();
                self.finish_load(worker, state, digest, took_ms);
            }
            Output::Load { step } => {
                let after_ms = self.random.between(0, speeds.network_ms);
                self.queue.put(after_ms, What::Download(worker, step));
            }
            Output::TakeState { step } => {
                let after_ms = self.random.between(0, speeds.network_ms);
                self.queue.put(after_ms, What::Take(worker, step));
            }
            Output::ShowState { step } => {
                if let Some(state) = self.workers[worker].state.clone() {
                    let took_ms = self.random.between(1, speeds.upload_ms);
                    self.queue.put(took_ms, What::Shown(worker, step, state));
                }
            }
            Output::EnterView(view) => {
                let node = &mut self.workers[worker];
                node.view = Some(view);
                let newest = node.newest(Plane::Data);
                if node.link(Plane::Data, newest).is_some_and(|link| link.is_cut()) {
                    node.data.push(Link::default());
                }
            }
            Output::Compute(key) => return self.start_computing(worker, key),
            Output::Apply(commit) => {
                self.workers[worker].prepared = None;
                let took_ms = self.random.between(0, 3);
                self.queue.put(took_ms, What::Apply(worker, commit));
            }
            Output::WriteVersion { step } => {
                if let Some(state) = self.workers[worker].state.clone() {
                    let took_ms = self.random.between(1, speeds.upload_ms);
                    self.queue.put(took_ms, What::Uploaded(worker, step, state));
                }
            }
            Output::Export { .. } => {
                let took_ms = self.random.between(1, speeds.upload_ms);
                self.queue.put(took_ms, What::Exported);
            }
            Output::Exit { code, message, .. } => self.exit_worker(worker, code, &message),
        }
        Ok(())
    }

    fn say(&mut self, worker: usize, mut message: FromWorker) -> Finding {
        if let (Some(Bug::ForgetsPrepared), FromWorker::Join(Join { holds: Some(held), .. })) =
            (self.bug, &mut message)
        {
            held.prepared = None;
        }
        if let FromWorker::Ready(ready) = &message {
            if let Some(member) = self.workers[worker].member {
                self.watch.on_ready(member, ready, slices(self.toy.elements) as usize)?;
            }
            self.workers[worker].prepared = Some((ready.key, ready.hash));
            World::archive(&mut self.archive.readies, ready.clone());
        }
        self.send_up(worker, Plane::Control, Up::Control(message));
        Ok(())
    }

    fn exit_worker(&mut self, worker: usize, code: u8, message: &str) {
        self.send_up(worker, Plane::Control, Up::Closed);
        let node = &mut self.workers[worker];
        node.is_alive = false;
        node.machine = None;
        node.exit = Some((code, message.to_owned()));
    }

    pub(crate) fn finish_load(&mut self, worker: usize, state: State, digest: [u8; 32], took_ms: u64) {
        let event = Event::Loaded { step: state.step, digest, state_check: state.check() };
        self.workers[worker].state = Some(state);
        self.queue.put(took_ms, What::Worker(worker, event));
    }

    fn start_computing(&mut self, worker: usize, key: StepKey) -> Finding {
        let node = &mut self.workers[worker];
        let (Some(view), Some(member), Some(state)) = (node.view.clone(), node.member, node.state.clone())
        else {
            return Err(format!("worker {worker} computes without a view or a state"));
        };
        let held = node.contribution.take();
        let (contribution, fresh) =
            Contribution::compute(held, self.scenario, &self.toy, (&view, member), key, &state, self.bug);
        for (microbatch, samples) in contribution.computed() {
            self.watch.on_computed(key, member, *microbatch, samples.clone())?;
        }
        let samples: usize = contribution.computed().iter().map(|(_, samples)| samples.len()).sum();
        let node = &mut self.workers[worker];
        node.collected = Some(Collected::new(self.scenario, key));
        let given_up = node.reduced.take();
        if let (Some(Bug::KeepsSlicesOverAbort), Some(reduced)) = (self.bug, given_up)
            && (reduced.key.step, reduced.key.phase) == (key.step, key.phase)
        {
            node.reduced = Some(Reduced { key, ..reduced });
        }
        let parked = std::mem::take(&mut node.parked);
        let slowness = node.slowness;
        node.contribution = Some(contribution);
        self.told.computed += fresh;
        let each_ms = self.random.between(1, self.scenario.speeds.compute_ms);
        let took_ms = each_ms * fresh * slowness;
        self.workers[worker].timings = Timings {
            compute_us: u32::try_from(took_ms * 1_000).unwrap_or(u32::MAX),
            samples: samples as u32,
            ..Timings::default()
        };
        self.queue.put(took_ms, What::Computed(worker, key));
        if self.workers[worker].reduced.is_some() {
            self.tell_reduced(worker)?; // The planted bug.
        }
        parked.into_iter().try_for_each(|frame| self.on_member_frame(worker, frame))
    }

    /// All microbatches are computed: push the partials, or reduce alone.
    fn on_computed(&mut self, worker: usize, key: StepKey) -> Finding {
        let Some(contribution) = self.workers[worker].contribution.as_ref().filter(|c| c.key() == key) else {
            return Ok(());
        };
        let alone = contribution.reduce_alone();
        let frames = contribution.frames();
        match alone {
            Some(answers) => {
                for answer in answers {
                    self.on_member_frame(worker, answer)?;
                }
            }
            None => {
                for frame in frames {
                    self.send_up(worker, Plane::Data, Up::Frame(frame));
                }
            }
        }
        Ok(())
    }

    fn on_member_frame(&mut self, worker: usize, frame: ToMember) -> Finding {
        if let ToMember::Resend(address) = &frame {
            let again = self.workers[worker].contribution.as_ref().and_then(|c| c.frame(address));
            if let Some(again) = again {
                self.send_up(worker, Plane::Data, Up::Frame(again));
            }
            return Ok(());
        }
        let node = &mut self.workers[worker];
        let begun = node.contribution.as_ref().map(Contribution::key);
        if begun.is_none_or(|begun| frame.key() > begun) {
            if self.bug != Some(Bug::DropsEarlyFrames) {
                node.parked.push(frame);
            }
            return Ok(());
        }
        if let (ToMember::Slice(slice), Some(member)) = (&frame, node.member) {
            self.watch.on_slice(member, slice.key, slice.slice);
        }
        let Some(reduced) = node.collected.as_mut().and_then(|collected| collected.insert(frame)) else {
            return Ok(());
        };
        node.collected = None;
        node.reduced = Some(reduced);
        self.tell_reduced(worker)
    }

    fn tell_reduced(&mut self, worker: usize) -> Finding {
        let node = &self.workers[worker];
        let Some(reduced) = &node.reduced else { return Ok(()) };
        let event = Event::Reduced {
            key: reduced.key,
            sums: reduced.sums.clone(),
            squared_norm: reduced.squared_norm,
            finite: reduced.finite,
            hash: reduced.hash,
            timings: node.timings,
        };
        self.handle_worker(worker, event)
    }

    fn on_apply(&mut self, worker: usize, commit: &Commit) -> Finding {
        let toy = self.toy;
        let node = &mut self.workers[worker];
        let (Some(state), Some(reduced)) = (&mut node.state, &node.reduced) else { return Ok(()) };
        if commit.key.phase == protocol::ids::Phase::Train {
            toy.apply(state, &reduced.gradient, reduced.presence, commit.verdict, &commit.scalars);
        }
        let event = Event::Applied { step: state.step, state_check: state.check() };
        if let Some(member) = node.member {
            self.watch.on_applied(member, state)?;
        }
        node.contribution = None; // Partials are kept until the commit, and not longer.
        self.handle_worker(worker, event)
    }

    pub(crate) fn send_up(&mut self, worker: usize, plane: Plane, payload: Up) {
        let (now, network_ms) = (self.queue.now(), self.scenario.speeds.network_ms);
        let Some(node) = self.workers.get_mut(worker) else { return };
        let generation = node.newest(plane);
        let Some(link) = node.link(plane, generation) else { return };
        if let Some(at) = link.up(now, &mut self.random, network_ms) {
            self.queue.put_at(at, What::Up { worker, plane, generation, payload });
        }
    }

    pub(crate) fn send_down_newest(&mut self, worker: usize, plane: Plane, payload: Down) {
        if let Some(generation) = self.workers.get(worker).map(|node| node.newest(plane)) {
            self.send_down(worker, plane, generation, payload);
        }
    }

    pub(crate) fn send_down(&mut self, worker: usize, plane: Plane, generation: usize, payload: Down) {
        let (now, network_ms) = (self.queue.now(), self.scenario.speeds.network_ms);
        let Some(node) = self.workers.get_mut(worker) else { return };
        let Some(link) = node.link(plane, generation) else { return };
        if let Some(at) = link.down(now, &mut self.random, network_ms) {
            self.queue.put_at(at, What::Down { worker, plane, generation, payload });
        }
    }
}
