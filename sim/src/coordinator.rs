//! The coordinator's driver in the simulation: thin, as the real one.

use protocol::coordinator::{Coordinator, Event, Note, Output};
use protocol::history::History;
use protocol::ids::{MemberId, Phase, StepKey};
use protocol::journal::Record;
use protocol::messages::{Commit, FromWorker, Ready, ToWorker, View};

use crate::bug::Bug;
use crate::disk::StoredVersion;
use crate::exchange::{FromMember, Gather, ToMember};
use crate::network::{Down, Plane, Up, What};
use crate::toy::State;
use crate::watch::Finding;
use crate::world::World;

/// One incarnation.
pub(crate) struct CoordinatorNode {
    pub(crate) machine: Coordinator,
    pub(crate) gather: Option<Gather>,
    /// The append in flight.
    pub(crate) appending: Option<(Record, bool)>,
    /// What happens while the process is paused.
    pub(crate) paused: Option<Vec<What>>,
    /// The step that the machine works on.
    pub(crate) current: Option<StepKey>,
    members: Vec<MemberId>,
    /// Who is to show which state, until it has.
    shows: Option<(u64, MemberId)>,
    /// The state that was shown.
    shown: Option<State>,
    tick_at: Option<u64>,
    /// For planted bugs: the first Ready of a step.
    first_ready: Option<Ready>,
}

impl World<'_> {
    /// Takes a term and reads the journal. False if the run is complete.
    pub(crate) fn open_coordinator(&mut self, wait_for: usize) -> Result<bool, String> {
        let records = self
            .disk
            .open_journal(self.bug != Some(Bug::LeavesTornTail))
            .map_err(|error| format!("one history: {error}"))?;
        self.watch.on_reopened(&records);
        let mut history = History::replay(&records).map_err(|error| format!("one history: {error}"))?;
        if history.is_completed() {
            return Ok(false);
        }
        let chosen = self.choose_version(&mut history);
        self.watch.on_resume(chosen, &self.disk.whole_versions())?;
        if let Some(planted) = self.planted_history(&records) {
            history = planted;
            self.choose_version(&mut history);
        }
        let mut plan = self.scenario.plan.clone();
        plan.wait_for_workers = u32::try_from(wait_for).unwrap_or(u32::MAX);
        let term = self.disk.take_term();
        let machine = Coordinator::new(plan, term, history, self.queue.now());
        self.coordinator = Some(CoordinatorNode {
            machine,
            gather: None,
            appending: None,
            paused: None,
            current: None,
            members: Vec::new(),
            shows: None,
            shown: None,
            tick_at: None,
            first_ready: None,
        });
        self.drain_coordinator()?;
        Ok(true)
    }

    fn choose_version(&self, history: &mut History) -> Option<u64> {
        let verified = self.disk.whole_versions();
        let named: Vec<(u64, [u8; 32])> = self
            .disk
            .versions
            .iter()
            .rev()
            .filter_map(|(step, version)| version.manifest.map(|digest| (*step, digest)))
            .collect();
        let versions = if self.bug == Some(Bug::SkipsVersionChecks) { named } else { verified };
        versions
            .into_iter()
            .find(|(step, digest)| history.resume_from(*step, *digest).is_ok())
            .map(|(s, _)| s)
    }

    /// The history as a coordinator with this bug would read it.
    fn planted_history(&self, records: &[Record]) -> Option<History> {
        let planted: Vec<Record> = match self.bug? {
            Bug::ForgetsAppliedSteps => records.iter().cloned().map(without_applied).collect(),
            // Hashes are not compared where views were mixed.
            Bug::IgnoresReplayedHashes => records.iter().cloned().map(without_fingerprint).collect(),
            _ => return None,
        };
        History::replay(&planted).ok()
    }

    pub(crate) fn at_coordinator(&mut self, what: What) -> Finding {
        let now = self.queue.now();
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        match what {
            What::Up { worker, plane, generation, payload } => {
                if self.workers[worker].link(plane, generation).is_none_or(|link| link.is_lost(now)) {
                    return Ok(());
                }
                self.on_up(worker, generation, payload)
            }
            What::BrokenUp(worker, Plane::Control, generation) => {
                let reason = "connection reset".to_owned();
                self.handle_coordinator(Event::Disconnected {
                    connection: connection(worker, generation),
                    reason,
                })
            }
            What::BrokenUp(worker, Plane::Data, generation) => match self.workers[worker].member {
                Some(member) if self.workers[worker].newest(Plane::Data) == generation => {
                    let reason = "connection reset".to_owned();
                    self.handle_coordinator(Event::DataPlaneLost { member, reason })
                }
                _ => Ok(()),
            },
            What::CoordinatorTick => {
                node.tick_at = None;
                if node.machine.next_deadline().is_none_or(|at| at > now) {
                    return Ok(());
                }
                self.handle_coordinator(Event::Tick)?;
                let due = self.coordinator.as_ref().and_then(|node| node.machine.next_deadline());
                self.idle_ticks = if due.is_some_and(|at| at <= now) { self.idle_ticks + 1 } else { 0 };
                Ok(())
            }
            What::Appended => self.on_appended(),
            What::Uploaded(worker, step, state) => self.on_uploaded(worker, step, state),
            What::UploadBroken(step) => {
                self.handle_coordinator(Event::VersionFailed { step, reason: "connection reset".to_owned() })
            }
            What::Written(step, state) => self.on_written(step, state),
            What::Download(worker, step) => self.on_download(worker, step),
            What::Shown(worker, step, state) => self.on_shown(worker, step, state),
            What::Take(worker, step) => self.on_take(worker, step),
            What::Exported => self.handle_coordinator(Event::Exported),
            _ => Ok(()),
        }
    }

    fn on_up(&mut self, worker: usize, generation: usize, payload: Up) -> Finding {
        match payload {
            Up::Control(message) => self.on_control(worker, generation, message),
            Up::Frame(_) if generation != self.workers[worker].newest(Plane::Data) => Ok(()),
            Up::Frame(frame) => self.on_frame(worker, frame),
            Up::Closed => {
                let reason = "closed by the worker".to_owned();
                self.handle_coordinator(Event::Disconnected {
                    connection: connection(worker, generation),
                    reason,
                })
            }
        }
    }

    fn on_control(&mut self, worker: usize, generation: usize, message: FromWorker) -> Finding {
        let message = self.planted_message(message);
        let forged = match (&message, self.bug) {
            (FromWorker::Ready(ready), Some(Bug::CommitsWithoutAllReady)) => Some(ready.clone()),
            _ => None,
        };
        self.handle_coordinator(Event::Message { connection: connection(worker, generation), message })?;
        if let Some(ready) = forged {
            for other in (0..self.workers.len()).filter(|other| *other != worker) {
                let message = FromWorker::Ready(ready.clone());
                let connection = connection(other, self.workers[other].newest(Plane::Control));
                self.handle_coordinator(Event::Message { connection, message })?;
            }
        }
        Ok(())
    }

    /// The message as a coordinator with this bug would understand it.
    fn planted_message(&mut self, message: FromWorker) -> FromWorker {
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
            (Some(Bug::IgnoresDisagreement), FromWorker::Applied { step, .. }) => {
                FromWorker::Applied { step, state_check: 1 }
            }
            (_, message) => message,
        }
    }

    pub(crate) fn handle_coordinator(&mut self, event: Event) -> Finding {
        let now = self.queue.now();
        if let Some(node) = &mut self.coordinator {
            node.machine.handle(now, event);
        }
        self.drain_coordinator()
    }

    fn drain_coordinator(&mut self) -> Finding {
        while let Some(output) = self.coordinator.as_mut().and_then(|node| node.machine.poll_output()) {
            self.note(|| format!("    coordinator: {output:?}"));
            self.carry_out(output)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> Finding {
        match output {
            Output::Send { connection, message } => {
                self.watch_sent(&message)?;
                let (worker, generation) = of_connection(connection);
                self.send_down(worker, Plane::Control, generation, Down::Control(message));
            }
            Output::Close { connection } => {
                let (worker, generation) = of_connection(connection);
                self.send_down(worker, Plane::Control, generation, Down::Closed);
            }
            Output::Append { record, durable } => {
                let took_ms = self.random.between(0, self.scenario.speeds.journal_ms);
                if let Some(node) = &mut self.coordinator {
                    if node.appending.is_some() {
                        return Err("two appends at once".to_owned());
                    }
                    node.appending = Some((record, durable));
                }
                self.queue.put(took_ms, What::Appended);
            }
            Output::OpenView(view) => self.open_view(view),
            Output::Committed(committed) => {
                if let Some(gather) = self.coordinator.as_mut().and_then(|node| node.gather.as_mut()) {
                    gather.on_committed(committed.key);
                }
            }
            Output::Finished(outcome) => {
                self.outcome = Some(outcome);
                self.coordinator = None;
                self.queue.forget_coordinators_work();
                for worker in 0..self.workers.len() {
                    self.send_down_newest(worker, Plane::Control, Down::Closed);
                    self.send_down_newest(worker, Plane::Data, Down::Closed);
                }
            }
            Output::Note(note) => self.take_note(note),
            Output::ExpectState { step, from } => {
                if let Some(node) = &mut self.coordinator {
                    node.shows = Some((step, from));
                }
            }
            Output::ExpectVersion { .. } | Output::ExpectExport { .. } => {}
        }
        Ok(())
    }

    fn take_note(&mut self, note: Note) {
        match note {
            Note::Retry { .. } => self.told.retries += 1,
            Note::Rewound { .. } => self.told.rewinds += 1,
            Note::ViewOpened { .. } => self.told.views += 1,
            Note::Left { reason, .. } => self.told.left.push(reason),
            _ => {}
        }
    }

    /// The planted bug: every deadline of the pause passes in its turn, before anything is heard.
    pub(crate) fn tick_through_pause(&mut self) -> Finding {
        let now = self.queue.now();
        for _ in 0..100 {
            let Some(node) = &mut self.coordinator else { return Ok(()) };
            let Some(due) = node.machine.next_deadline().filter(|due| *due <= now) else { return Ok(()) };
            node.machine.handle(due, Event::Tick);
            self.drain_coordinator()?;
        }
        Ok(())
    }

    fn open_view(&mut self, view: View) {
        let Some(node) = &mut self.coordinator else { return };
        node.current = Some(StepKey { view: view.id, step: view.step, phase: view.phase });
        node.members = view.members.iter().map(|info| info.member).collect();
        World::archive(&mut self.archive.views, view.clone());
        node.gather = Some(Gather::new(self.scenario, view, self.bug));
        node.shown = None;
    }

    fn watch_sent(&mut self, message: &ToWorker) -> Finding {
        if let ToWorker::Recover(commit) = message {
            return self.watch.on_commit_sent(commit);
        }
        let ToWorker::Commit(commit) = message else { return Ok(()) };
        self.watch.on_commit_sent(commit)?;
        if let Some(node) = &mut self.coordinator {
            node.current = Some(next_key(commit));
        }
        World::archive(&mut self.archive.commits, commit.clone());
        Ok(())
    }

    fn on_appended(&mut self) -> Finding {
        let now = self.queue.now();
        let Some((record, durable)) = self.coordinator.as_mut().and_then(|node| node.appending.take()) else {
            return Ok(());
        };
        if now < self.disk.journal_fails_until {
            return self.handle_coordinator(Event::JournalFailed { reason: "no space left".to_owned() });
        }
        self.disk.append(&record, durable);
        self.watch.on_journalled(self.scenario, &record)?;
        self.handle_coordinator(Event::Journalled)
    }

    fn on_uploaded(&mut self, worker: usize, step: u64, state: State) -> Finding {
        if !self.workers[worker].is_alive {
            self.queue.put(0, What::UploadBroken(step));
            return Ok(());
        }
        let stored = self.disk.versions.get(&step);
        let is_whole = stored.is_some_and(|version| {
            version.manifest == Some(state.digest()) && version.state.as_ref() == Some(&state)
        });
        if !is_whole {
            // From here until the manifest a crash leaves a half-written version.
            self.disk.versions.insert(step, StoredVersion { state: None, manifest: None });
        }
        let took_ms = self.random.between(0, self.scenario.speeds.upload_ms);
        self.queue.put(took_ms, What::Written(step, state));
        Ok(())
    }

    fn on_written(&mut self, step: u64, state: State) -> Finding {
        if self.queue.now() < self.disk.full_until {
            return self
                .handle_coordinator(Event::VersionFailed { step, reason: "no space left".to_owned() });
        }
        self.watch.on_version(step, &state)?;
        let digest = state.digest();
        self.disk.versions.insert(step, StoredVersion { state: Some(state), manifest: Some(digest) });
        self.handle_coordinator(Event::VersionWritten { step, digest })
    }

    fn on_download(&mut self, worker: usize, step: u64) -> Finding {
        let Some(version) = self.disk.versions.get(&step) else { return Ok(()) };
        let (Some(state), Some(manifest)) = (version.state.clone(), version.manifest) else {
            return Err(format!("versions: version {step} is loaded and has no manifest"));
        };
        self.watch.on_version(step, &state)?;
        let skips = self.bug == Some(Bug::SkipsVersionChecks);
        let digest = if skips { manifest } else { state.digest() };
        let took_ms = self.random.between(1, self.scenario.speeds.upload_ms.max(1));
        self.finish_load(worker, state, digest, took_ms);
        Ok(())
    }

    fn on_shown(&mut self, worker: usize, step: u64, state: State) -> Finding {
        let member = self.workers[worker].member;
        let is_expected = |shows: (u64, MemberId)| shows.0 == step && Some(shows.1) == member;
        let now = self.queue.now();
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        if node.shows.take_if(|shows| is_expected(*shows)).is_none() {
            return Ok(()); // Nobody waits for it any more.
        }
        let reason = match () {
            () if !self.workers[worker].is_alive => "connection reset",
            () if now < self.disk.full_until => "no space left",
            () => {
                let digest = state.digest();
                node.shown = Some(state);
                return self.handle_coordinator(Event::StateShown { step, digest });
            }
        };
        self.handle_coordinator(Event::StateNotShown { step, reason: reason.to_owned() })
    }

    fn on_take(&mut self, worker: usize, step: u64) -> Finding {
        let shown = self.coordinator.as_ref().and_then(|node| node.shown.clone());
        match shown.filter(|shown| shown.step == step) {
            Some(state) => {
                self.watch.on_version(step, &state)?;
                let digest = state.digest();
                let took_ms = self.random.between(1, self.scenario.speeds.upload_ms.max(1));
                self.finish_load(worker, state, digest, took_ms);
            }
            // Its view has opened without this worker, which joins again.
            None => {
                let reason = "there is no such state any more".to_owned();
                let event = protocol::worker::Event::Disconnected { reason };
                self.queue.put(0, What::Worker(worker, event));
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, worker: usize, frame: FromMember) -> Finding {
        let is_corrupt = self.corrupt_frames > 0 && frame.address().2.is_some();
        if is_corrupt {
            self.corrupt_frames -= 1;
            if self.bug == Some(Bug::SumsInPlace) {
                self.sum_in_place(&frame);
            }
            self.send_down_newest(worker, Plane::Data, Down::Frame(ToMember::Resend(frame.address())));
            return Ok(());
        }
        let Some(node) = &mut self.coordinator else { return Ok(()) };
        let Some(gather) = &mut node.gather else { return Ok(()) };
        let Some(member) = self.workers[worker].member else { return Ok(()) };
        let computed = matches!(frame, FromMember::Sums { .. }).then(|| frame.address().0);
        let answers = match self.bug {
            Some(Bug::SumsInPlace) => gather.hold(member, frame)?,
            _ => gather.insert(member, frame)?,
        };
        let receivers: Vec<usize> = (0..self.workers.len())
            .filter(|at| self.workers[*at].member.is_some_and(|member| node.members.contains(&member)))
            .collect();
        if let Some(key) = computed {
            self.handle_coordinator(Event::Computed { member, key })?;
        }
        for answer in answers {
            for receiver in &receivers {
                self.send_down_newest(*receiver, Plane::Data, Down::Frame(answer.clone()));
            }
        }
        Ok(())
    }

    /// The planted bug: the reducer had begun to add over the first partial, which is its sender's own buffer, when
    /// it found the frame corrupt; it asks for all of them again, and the first is no longer what it was.
    fn sum_in_place(&mut self, corrupt: &FromMember) {
        let Some(gather) = self.coordinator.as_mut().and_then(|node| node.gather.as_mut()) else { return };
        let given_up = gather.give_up_slices();
        for (at, (member, address)) in given_up.iter().enumerate() {
            let Some(sender) = self.workers.iter().position(|node| node.member == Some(*member)) else {
                continue;
            };
            if let (0, FromMember::Slice { values, .. }) = (at, corrupt) {
                self.workers[sender].overwrite(address, values);
            }
            self.send_down_newest(sender, Plane::Data, Down::Frame(ToMember::Resend(*address)));
        }
    }

    /// Puts each machine's next deadline into the queue.
    pub(crate) fn arm_ticks(&mut self) {
        if let Some(node) = &mut self.coordinator
            && let Some(at) = node.machine.next_deadline()
            && node.tick_at.is_none_or(|armed| armed > at)
        {
            node.tick_at = Some(at);
            self.queue.put_at(at, What::CoordinatorTick);
        }
        for (index, node) in self.workers.iter_mut().enumerate().filter(|(_, node)| node.is_alive) {
            if let Some(at) = node.machine.as_ref().and_then(protocol::worker::Worker::next_deadline)
                && node.tick_at.is_none_or(|armed| armed > at)
            {
                node.tick_at = Some(at);
                self.queue.put_at(at, What::WorkerTick(index));
            }
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

fn next_key(commit: &Commit) -> StepKey {
    let key = commit.key;
    if commit.next.evaluate {
        StepKey { phase: Phase::Evaluate, ..key }
    } else if commit.next.last || commit.next.hold {
        key
    } else {
        StepKey { step: key.step + 1, phase: Phase::Train, ..key }
    }
}

/// Streams that one worker may open, more than any does.
const GENERATIONS: usize = 1 << 20;

/// The number of a worker's control stream.
fn connection(worker: usize, generation: usize) -> u64 {
    (worker * GENERATIONS + generation) as u64
}

fn of_connection(connection: u64) -> (usize, usize) {
    let connection = usize::try_from(connection).unwrap_or(usize::MAX);
    (connection / GENERATIONS, connection % GENERATIONS)
}
