//! A step at this member: its microbatches, their exchange, and the update.

use std::time::Instant;

use protocol::accumulate::Accumulator;
use protocol::ids::{Phase, StepKey};
use protocol::member_step::Arrival;
use protocol::messages::{Commit, ReduceAt, Timings, Verdict, View};
use protocol::reduce::{BLOCK, BlockFacts, divide, slice_range, slices};
use protocol::worker::Event;
use trainer::GradientSink;

use crate::exchange::{DataEndpoint, Exchange};
use crate::failure::{WorkError, fail, failure};
use crate::feed::{Feed, MicrobatchId, ShardAssignment};
use crate::member::{Member, ViewWork};
use crate::metrics::Activity;
use crate::reduced::Reduced;

/// Minimum number of blocks per helper thread of a division: a millisecond's work.
const BLOCKS_OF_A_THREAD_MIN: usize = 16;

/// Passes the engine's gradients to the accumulator, without a copy in between.
struct Sink<'a>(&'a mut Accumulator);

impl GradientSink for Sink<'_> {
    fn region(&mut self, parameter: usize, _offset: usize, data: &[f32]) {
        self.0.region(parameter, data);
    }
}

impl Member {
    /// Works in this view from now on: another part of the assignment, perhaps another way to reduce.
    pub(crate) fn enter_view(&mut self, view: &View) -> Result<(), WorkError> {
        let rank = view.members.iter().position(|info| info.member == self.transfer.member);
        let rank = rank.ok_or_else(|| fail(4, "a view came that this worker is not in"))?;
        let shares = view.members.iter().map(|info| info.share).collect();
        let first = view.dealt.get(rank).map(|ranges| (view.step, view.phase, ranges.clone()));
        let place = ShardAssignment { shares, rank, first };
        let is_alone = view.reduce == ReduceAt::Alone;
        let exchange = match self.work.take().and_then(|work| work.exchange) {
            _ if is_alone => None,
            Some(exchange) => Some(exchange),
            None => Some(self.connect()?),
        };
        let feed = Feed::start(self.samples.clone(), self.geometry, place.clone())?;
        self.work = Some(ViewWork { place, feed, is_alone, exchange });
        Ok(())
    }

    fn connect(&mut self) -> Result<Exchange, WorkError> {
        let elements = self.engine.layout().elements;
        let presence_bytes = self.engine.layout().parameters.len().div_ceil(8);
        let buffer = self.spare.take().unwrap_or_else(|| Box::new(Reduced::empty()));
        let endpoint = DataEndpoint {
            host: &self.host,
            port: self.data_port,
            token: &self.token,
            tls: self.tls.as_ref(),
        };
        Exchange::connect(&endpoint, &self.welcome, (elements, presence_bytes), buffer, self.commands.clone())
    }

    /// Computes this member's microbatches of the step. A single member reduces them too; otherwise the partials are
    /// sent and the reduced step arrives as another command.
    pub(crate) fn compute(&mut self, key: StepKey) -> Result<Option<Event>, WorkError> {
        // Its view could not be entered, as the data plane is unreachable: this worker is about to rejoin.
        if self.work.is_none() {
            return Ok(None);
        }
        // Another view retries a step for which Ready was sent: its buffer is needed.
        if let Some(abandoned) = self.reduction.begin() {
            self.give_back(abandoned);
        }
        self.metrics.enter(Activity::Compute);
        let mut timings = self.add_up(key)?;
        self.metrics.computed(&timings);
        self.metrics.enter(Activity::Exchange);
        timings.apply_us = std::mem::take(&mut self.apply_us);
        timings.snapshot_us = std::mem::take(&mut self.snapshot_us);
        self.timings = timings;
        self.pushed = Instant::now();
        if let Some(stale) = self.reduction.expect(key) {
            self.give_back(stale);
        }
        let accumulator = if key.phase == Phase::Train { &self.gradients } else { &self.scores };
        let Some(work) = self.work.as_mut() else { return Ok(None) };
        if work.is_alone {
            return Ok(self.reduce_alone(key));
        }
        // Without a connection another view follows, for which the computed partials stay valid.
        let pushed = work.exchange.as_mut().map(|exchange| push(exchange, key, accumulator));
        if let Some(Err(error)) = pushed {
            self.lose_exchange(None, error.message());
        }
        Ok(if self.reduction.prepare_early() { self.ready() } else { None })
    }

    /// Forward and backward (or evaluation) of this member's microbatches, in order, except those it still holds from
    /// an earlier attempt in another view.
    fn add_up(&mut self, key: StepKey) -> Result<Timings, WorkError> {
        let work = self.work.as_mut().ok_or_else(|| fail(4, "a step came before its view"))?;
        let plan = self.geometry.plan(key.step, key.phase);
        let accumulator = if key.phase == Phase::Train { &mut self.gradients } else { &mut self.scores };
        let began = Instant::now();
        let mut timings = Timings::default();
        let ranges = work.place.ranges(key.phase, key.step, plan.microbatches);
        accumulator.begin_or_resume((key.step, key.phase), plan.microbatches, &ranges);
        for microbatch in ranges.iter().cloned().flatten() {
            if accumulator.holds(microbatch) {
                continue;
            }
            let waited = Instant::now();
            let position = MicrobatchId { phase: key.phase, step: key.step, microbatch };
            let filled = work.feed.take(position)?;
            timings.data_us = timings.data_us.saturating_add(micros(waited));
            timings.samples = timings.samples.saturating_add(filled.batch.count as u32);
            self.metrics.microbatch(filled.batch.count);
            accumulator.begin(microbatch);
            let sums = match key.phase {
                Phase::Train => {
                    let random = self.geometry.key(key.step, microbatch);
                    self.engine.gradient(&filled.batch, random, &mut Sink(accumulator))
                }
                Phase::Evaluate => self.engine.evaluate(&filled.batch),
            };
            accumulator.end(&sums.map_err(|error| failure(&error))?);
            work.feed.recycle(filled)?;
        }
        timings.compute_us = micros(began).saturating_sub(timings.data_us);
        Ok(timings)
    }

    /// The reducer's part, by its own functions, for a view with one member. The mean stays in the sum's place.
    fn reduce_alone(&mut self, key: StepKey) -> Option<Event> {
        // The sum becomes the mean in place: a retry computes it anew.
        self.forget_partials();
        let accumulator = if key.phase == Phase::Train { &mut self.gradients } else { &mut self.scores };
        let mut reduced = self.spare.take().unwrap_or_else(|| Box::new(Reduced::empty()));
        reduced.begin(key);
        reduced.is_in_place = true;
        // Without samples W is 0, and the step is skipped.
        if let Some(whole) = accumulator.whole_mut() {
            reduced.sums.extend_from_slice(&whole.sums);
            reduced.presence.extend_from_slice(&whole.presence);
            let weight = whole.sums.get(1).copied().unwrap_or(0.0);
            divide_on(self.host_threads, &mut whole.values, weight, &mut reduced.facts);
        }
        self.take_reduced(reduced)
    }

    /// Invalidates the partials of the step in flight.
    pub(crate) fn forget_partials(&mut self) {
        self.gradients.forget();
        self.scores.forget();
    }

    /// Accepts a reduced step.
    pub(crate) fn take_reduced(&mut self, reduced: Box<Reduced>) -> Option<Event> {
        match self.reduction.take_in(reduced.key, reduced) {
            Arrival::Prepared => return self.ready(),
            Arrival::Early => {}
            Arrival::Older(reduced) => self.give_back(reduced),
        }
        None
    }

    /// The expected step is prepared.
    fn ready(&mut self) -> Option<Event> {
        self.timings.exchange_us = micros(self.pushed);
        let (key, reduced) = self.reduction.prepared()?;
        let Reduced { facts, sums, presence, .. } = &**reduced;
        let event = Event::reduced(key, facts, sums, presence, self.timings);
        self.metrics.exchanged(&self.timings);
        self.trace_reduced(key);
        self.metrics.enter(Activity::Wait);
        Some(event)
    }

    /// Executes a commit: the update of a training step, nothing for a skipped one or an evaluation.
    pub(crate) fn apply(&mut self, commit: &Commit) -> Result<Event, WorkError> {
        let began = Instant::now();
        self.metrics.enter(Activity::Commit);
        self.forget_partials();
        let prepared = self.reduction.apply(commit.key);
        let reduced =
            prepared.ok_or_else(|| fail(4, format!("step {} is not prepared here", commit.key.step)))?;
        if commit.key.phase == Phase::Train {
            if commit.verdict == Verdict::Apply {
                self.update(&reduced, &commit.scalars)?;
            }
            self.step = commit.key.step;
        }
        self.give_back(reduced);
        self.apply_us = micros(began);
        self.metrics.applied(self.apply_us, self.step);
        self.trace_applied(commit.key);
        self.metrics.enter(Activity::Wait);
        Ok(Event::Applied { step: self.step, state_check: self.state_check })
    }

    fn update(
        &mut self,
        reduced: &Reduced,
        scalars: &protocol::messages::UpdateScalars,
    ) -> Result<(), WorkError> {
        let gradient = if reduced.is_in_place {
            let whole = self.gradients.whole_mut().ok_or_else(|| fail(4, "the gradient to apply is gone"))?;
            &whole.values
        } else {
            &reduced.gradient
        };
        let scalars = trainer::UpdateScalars {
            learning_rate: scalars.learning_rate,
            clip_factor: scalars.clip_factor,
            bias_correction1: scalars.bias_correction1,
            bias_correction2_sqrt: scalars.bias_correction2_sqrt,
        };
        let presence = &reduced.presence;
        let present = |parameter: usize| presence[parameter / 8] & (1 << (parameter % 8)) != 0;
        self.state_check = self.optimizer.step(&mut self.parameters, gradient, present, &scalars);
        Ok(self.engine.write_parameters(&self.parameters).map_err(|error| failure(&error))?)
    }

    /// Returns a step's buffer to where the next step finds it.
    pub(crate) fn give_back(&mut self, reduced: Box<Reduced>) {
        match self.work.as_ref().and_then(|work| work.exchange.as_ref()) {
            Some(exchange) => exchange.recycle(reduced),
            None => self.spare = Some(reduced),
        }
    }
}

/// Sends the partials: all sums first, since the weight is needed before any division, then the gradients slice by
/// slice, so that the first slices are reduced while the last are sent.
fn push(exchange: &mut Exchange, key: StepKey, accumulator: &Accumulator) -> Result<(), WorkError> {
    for partial in accumulator.partials() {
        exchange.push_sums(key, partial.node, &partial.sums, &partial.presence)?;
    }
    let elements = accumulator.elements();
    for slice in 0..slices(elements) {
        for partial in accumulator.partials() {
            exchange.push_slice(key, partial.node, slice, &partial.values[slice_range(slice, elements)])?;
        }
    }
    Ok(())
}

/// [`divide`], parallelised if there is enough work: blocks don't depend on each other.
fn divide_on(threads: usize, values: &mut [f32], weight: f64, facts: &mut BlockFacts) {
    let blocks = values.len().div_ceil(BLOCK);
    let threads = threads.min(blocks / BLOCKS_OF_A_THREAD_MIN).max(1);
    if threads == 1 {
        return divide(values, weight, facts);
    }
    std::thread::scope(|scope| {
        let parts = values.chunks_mut(blocks.div_ceil(threads) * BLOCK).map(|part| {
            scope.spawn(move || {
                let mut facts = BlockFacts::default();
                divide(part, weight, &mut facts);
                facts
            })
        });
        // Start all threads before joining the first.
        for part in parts.collect::<Vec<_>>() {
            match part.join() {
                Ok(of_part) => facts.append(of_part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
}

pub(crate) fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_the_same_on_any_number_of_threads() {
        let length = 50 * BLOCK + 7;
        let sum: Vec<f32> = (0..length).map(|i| (i % 1013) as f32 / 7.0 - 60.0).collect();
        let on = |threads| {
            let (mut values, mut facts) = (sum.clone(), BlockFacts::default());
            divide_on(threads, &mut values, 3.0, &mut facts);
            (values, facts)
        };
        let (mut values, mut facts) = (sum.clone(), BlockFacts::default());
        divide(&mut values, 3.0, &mut facts);
        for threads in [1, 2, 3, 9] {
            assert!(on(threads) == (values.clone(), facts.clone()), "{threads} threads");
        }
    }
}
