//! A member's step: its microbatches, their exchange, and the update.

use protocol::ids::{Phase, StepKey};
use protocol::member_step::Arrival;
use protocol::messages::{Commit, Failure, Timings};
use protocol::reducer::{PartialFrame, ReducedFrame};
use protocol::worker::Event;

use crate::bug::Bug;
use crate::checkers::CheckResult;
use crate::exchange::Contribution;
use crate::inbox::Reduced;
use crate::network::{SimEvent, ToCoordinatorMessage};
use crate::plane::Plane;
use crate::world::World;

impl World<'_> {
    pub(crate) fn start_computing(&mut self, worker: usize, key: StepKey) -> CheckResult {
        let node = &mut self.workers[worker];
        let (Some(view), Some(member), Some(state)) = (node.view.clone(), node.member, node.state.clone())
        else {
            return Err(format!("worker {worker} computes without a view or a state"));
        };
        // Another view retries a step for which Ready was sent: its buffer is needed.
        let abandoned = node.reduction.begin();
        node.give_up(abandoned, self.bug);
        let held = node.contribution.take();
        let holds = held.as_ref().map(|held| held.held_of(key, member)).unwrap_or_default();
        let held = held.filter(|_| self.bug != Some(Bug::ForgetsPartials));
        let (contribution, fresh) =
            Contribution::compute(held, self.scenario, &self.toy, (&view, member), key, &state, self.bug);
        let again =
            contribution.computed().iter().filter(|(microbatch, _)| holds.contains(microbatch)).count();
        if fresh + again as u64 > contribution.computed().len() as u64 {
            return Err(format!(
                "recomputed: member {:#x} held {holds:?} of step {} and has computed {fresh} of {} in another view",
                member.0,
                key.step,
                contribution.computed().len()
            ));
        }
        for (microbatch, samples) in contribution.computed() {
            self.oracle.on_computed(key, member, *microbatch, samples.clone())?;
        }
        let has_part = !contribution.computed().is_empty();
        if state.tainted && has_part {
            self.oracle.on_tainted(key);
        }
        let samples: usize = contribution.computed().iter().map(|(_, samples)| samples.len()).sum();
        let node = &mut self.workers[worker];
        node.contribution = Some(contribution);
        self.summary.computed += fresh;
        let each_ms = self.random.between(1, self.scenario.speeds.compute_ms);
        let took_ms = each_ms * fresh * self.workers[worker].slowness;
        self.workers[worker].timings = Timings {
            compute_us: u32::try_from(took_ms * 1_000).unwrap_or(u32::MAX),
            samples: samples as u32,
            ..Timings::default()
        };
        self.queue.put(took_ms, SimEvent::Computed(worker, key));
        Ok(())
    }

    /// The planted bug: a reduced step of another view is used for this one.
    fn use_given_up(&mut self, worker: usize, key: StepKey) -> CheckResult {
        let of_step = |reduced: &&Reduced| (reduced.key.step, reduced.key.phase) == (key.step, key.phase);
        match self.workers[worker].given_up.iter().rev().find(of_step).cloned() {
            Some(reduced) if self.workers[worker].reduction.is_waiting() => {
                self.take_reduced(worker, Reduced { key, ..reduced })
            }
            _ => Ok(()),
        }
    }

    /// All microbatches are computed: push the partials, or reduce locally.
    pub(crate) fn on_computed(&mut self, worker: usize, key: StepKey) -> CheckResult {
        let node = &mut self.workers[worker];
        let Some(contribution) = node.contribution.as_ref().filter(|c| c.key() == key) else {
            return Ok(());
        };
        let alone = contribution.reduce_alone();
        let frames = contribution.frames();
        if node.reduction.expect(key).is_some() {
            node.inbox.give_back();
        }
        match alone {
            Some(answers) => {
                self.workers[worker].inbox = crate::inbox::Inbox::new(self.toy.elements);
                for answer in answers {
                    self.take_in(worker, answer)?;
                }
            }
            None => self.push(worker, frames),
        }
        if self.workers[worker].reduction.prepare_early() {
            self.on_prepared(worker)?;
        } else {
            self.read_on(worker)?;
        }
        if self.bug == Some(Bug::KeepsSlicesOverAbort) {
            self.use_given_up(worker, key)?;
        }
        self.check_early(worker, key)
    }

    /// Checks that a member with all of a step and its own part done is prepared.
    fn check_early(&self, worker: usize, key: StepKey) -> CheckResult {
        let node = &self.workers[worker];
        let is_prepared = node.reduction.prepared().is_some_and(|(prepared, _)| prepared == key);
        match node.member.filter(|member| self.oracle.came_early(*member, key)) {
            Some(member) if !is_prepared => Err(format!(
                "early frames: member {:#x} had all of step {} ({:?}) before it began it, and has lost it",
                member.0, key.step, key.phase
            )),
            _ => Ok(()),
        }
    }

    /// Without a connection another view follows, for which the computed partials stay valid.
    fn push(&mut self, worker: usize, frames: Vec<PartialFrame>) {
        for frame in frames {
            if !self.send_up(worker, Plane::Data, ToCoordinatorMessage::Frame(frame)) {
                self.lose_data(worker);
                return;
            }
        }
    }

    /// A reduced slice, or the sums, arrived on the member's current connection.
    pub(crate) fn on_member_frame(&mut self, worker: usize, frame: ReducedFrame) -> CheckResult {
        if self.corrupt_frames > 0 && matches!(frame, ReducedFrame::Slice(_)) {
            self.corrupt_frames -= 1;
            self.close_data(worker);
            return Ok(());
        }
        self.take_in(worker, frame)
    }

    fn take_in(&mut self, worker: usize, frame: ReducedFrame) -> CheckResult {
        let node = &mut self.workers[worker];
        if let (ReducedFrame::Slice(slice), Some(member)) = (&frame, node.member) {
            self.oracle.on_slice(member, slice.key, slice.slice);
        }
        node.inbox.push(frame);
        self.read_on(worker)
    }

    fn read_on(&mut self, worker: usize) -> CheckResult {
        while let Some(reduced) = self.workers[worker].inbox.poll() {
            self.take_reduced(worker, reduced)?;
        }
        Ok(())
    }

    fn take_reduced(&mut self, worker: usize, reduced: Reduced) -> CheckResult {
        let node = &mut self.workers[worker];
        if node.reduction.is_early(reduced.key) {
            if let Some(member) = node.member {
                self.oracle.on_early(member, reduced.key);
            }
            if self.bug == Some(Bug::DropsEarlyFrames) {
                node.inbox.give_back();
                return Ok(());
            }
        }
        match node.reduction.take_in(reduced.key, reduced) {
            Arrival::Prepared => return self.on_prepared(worker),
            Arrival::Early => {}
            Arrival::Older(_) => node.inbox.give_back(),
        }
        Ok(())
    }

    fn on_prepared(&mut self, worker: usize) -> CheckResult {
        let node = &self.workers[worker];
        let Some((key, reduced)) = node.reduction.prepared() else { return Ok(()) };
        let event = Event::reduced(key, &reduced.facts, &reduced.sums, &reduced.presence, node.timings);
        self.handle_worker(worker, event)
    }

    pub(crate) fn on_apply(&mut self, worker: usize, commit: &Commit) -> CheckResult {
        let toy = self.toy;
        let node = &mut self.workers[worker];
        let Some(reduced) = node.reduction.apply(commit.key) else {
            let message = format!("step {} is not prepared here", commit.key.step);
            return self.handle_worker(worker, Event::Failed(Failure { code: 4, message }));
        };
        let Some(state) = &mut node.state else { return Ok(()) };
        if commit.key.phase == Phase::Train {
            toy.apply(state, &reduced.gradient, &reduced.presence, commit.verdict, &commit.scalars);
            state.tainted |= self.oracle.is_step_tainted(reduced.key);
            (node.made_by, node.prepared_before) = (Some((commit.key, commit.hash)), None);
        }
        let event = Event::Applied { step: state.step, state_check: state.check() };
        if let Some(member) = node.member {
            self.oracle.on_applied(member, state)?;
        }
        node.contribution = None; // Partials are kept until the commit, and no longer.
        node.inbox.give_back();
        self.handle_worker(worker, event)?;
        self.read_on(worker)
    }
}
