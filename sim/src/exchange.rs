//! Between the toy gradients and the machines: what a worker's and a coordinator's data plane do, as values. The
//! sums are `protocol`'s accumulator and reducer; only planted bugs have arithmetic of their own.

use std::collections::BTreeMap;

use protocol::accumulate::{Accumulator, Partial};
use protocol::assignment;
use protocol::ids::{MemberId, Phase, StepKey};
use protocol::messages::{ReduceAt, View};
use protocol::plan::{Geometry, StepPlan};
use protocol::reduce::{BlockFacts, add_into, block_hash, divide, is_finite, slice_range, slices, step_hash};
use protocol::reducer::{ReducedSlice, ReducedSums, Reducer};
use protocol::tree::Node;

use crate::bug::Bug;
use crate::scenario::Scenario;
use crate::toy::{State, Toy};

/// Names a frame: step, node and slice (none for the sums).
pub(crate) type Address = (StepKey, Node, Option<u32>);

/// A frame to the coordinator.
#[derive(Clone, Debug)]
pub(crate) enum FromMember {
    /// Sums and presence of a node; before its slices.
    Sums { key: StepKey, node: Node, sums: Vec<f64>, presence: Vec<u8> },
    /// A slice of a node's partial.
    Slice { key: StepKey, node: Node, slice: u32, values: Vec<f32> },
}

/// A frame to a member.
#[derive(Clone, Debug)]
pub(crate) enum ToMember {
    /// The step's sums.
    Sums(ReducedSums),
    /// A slice of the mean.
    Slice(ReducedSlice),
    /// A frame came corrupt: send it again.
    Resend(Address),
}

impl FromMember {
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Sums { key, node, .. } => (*key, *node, None),
            Self::Slice { key, node, slice, .. } => (*key, *node, Some(*slice)),
        }
    }
}

impl ToMember {
    pub(crate) fn key(&self) -> StepKey {
        match self {
            Self::Sums(sums) => sums.key,
            Self::Slice(slice) => slice.key,
            Self::Resend((key, ..)) => *key,
        }
    }
}

/// A member's part of a step, kept until its commit.
pub(crate) struct Contribution {
    key: StepKey,
    count: u32,
    member: MemberId,
    elements: usize,
    accumulator: Accumulator,
    computed: Vec<(u32, Vec<u64>)>,
    is_alone: bool,
    /// For a planted bug: what this member's held partials have become.
    overwritten: BTreeMap<(Node, u32), Vec<f32>>,
}

impl Contribution {
    /// Computes the member's microbatches of a step; those that it has computed in a view that gave the step up, it
    /// keeps. Also how many were computed now.
    pub(crate) fn compute(
        held: Option<Self>,
        scenario: &Scenario,
        toy: &Toy,
        (view, member): (&View, MemberId),
        key: StepKey,
        state: &State,
        bug: Option<Bug>,
    ) -> (Self, u64) {
        let geometry = &scenario.plan.geometry;
        let count = microbatches(geometry, key);
        let dealt = assignment::of_view(view, key, count).into_iter().find(|(id, _)| *id == member);
        let dealt: Vec<u32> = dealt.into_iter().flat_map(|(_, ranges)| ranges).flatten().collect();
        let is_training = key.phase == Phase::Train;
        let is_kept = |held: &Self| {
            (held.key.step, held.key.phase) == (key.step, key.phase)
                && held.computed.iter().all(|(microbatch, _)| dealt.contains(microbatch))
        };
        let mut own = held.filter(is_kept).unwrap_or_else(|| {
            let layout = if is_training { toy.parameters().to_vec() } else { Vec::new() };
            let mut accumulator = Accumulator::new(layout);
            accumulator.begin_step(count);
            let elements = accumulator.elements();
            let (computed, overwritten) = (Vec::new(), BTreeMap::new());
            Self { key, count, member, elements, accumulator, computed, is_alone: false, overwritten }
        });
        (own.key, own.member, own.is_alone) = (key, member, view.reduce == ReduceAt::Alone);
        let before = own.computed.len();
        for microbatch in dealt {
            if own.accumulator.holds(microbatch) {
                continue;
            }
            let mut ordinals = Vec::new();
            if is_training {
                let plan = planted_plan(geometry, view, key.step, bug);
                geometry.ordinals_into(&plan, microbatch, &mut ordinals);
            } else {
                geometry.evaluation_ordinals_into(microbatch, &mut ordinals);
            }
            own.accumulator.begin(microbatch);
            if is_training {
                let found = toy.gradient(state, &ordinals, geometry.key(key.step, microbatch));
                for (parameter, range) in toy.parameters().into_iter().enumerate() {
                    if found.presence[parameter] {
                        own.accumulator.region(parameter, &found.gradient[range]);
                    }
                }
                own.accumulator.end(&found.sums);
            } else {
                own.accumulator.end(&toy.evaluate(state, &ordinals));
            }
            own.computed.push((microbatch, ordinals));
        }
        let fresh = own.computed.len() - before;
        (own, fresh as u64)
    }

    pub(crate) fn key(&self) -> StepKey {
        self.key
    }

    /// Microbatches with their samples.
    pub(crate) fn computed(&self) -> &[(u32, Vec<u64>)] {
        &self.computed
    }

    /// What is pushed to the reducer, in order: a node's sums before its slices.
    pub(crate) fn frames(&self) -> Vec<FromMember> {
        self.accumulator.partials().iter().flat_map(|partial| self.frames_of(partial)).collect()
    }

    /// A frame once more.
    pub(crate) fn frame(&self, address: &Address) -> Option<FromMember> {
        let mut frames = self.frames().into_iter();
        frames.find(|frame| frame.address() == *address)
    }

    /// The only member of a view reduces by itself, with the same function.
    pub(crate) fn reduce_alone(&self) -> Option<Vec<ToMember>> {
        if !self.is_alone {
            return None;
        }
        let whole = 0..self.count;
        let dealt = [(self.member, vec![whole])];
        let mut reducer = Reducer::new(self.key, self.count, &dealt, self.elements);
        let answers =
            self.frames().into_iter().filter_map(|frame| take(&mut reducer, self.member, frame).ok());
        Some(answers.flatten().collect())
    }

    /// For a planted bug: the reducer has added over what this member holds.
    pub(crate) fn overwrite(&mut self, address: &Address, addend: &[f32]) {
        let Some(FromMember::Slice { node, slice, mut values, .. }) = self.frame(address) else { return };
        if values.len() == addend.len() {
            add_into(&mut values, addend);
            self.overwritten.insert((node, slice), values);
        }
    }

    fn frames_of(&self, partial: &Partial) -> Vec<FromMember> {
        let (key, node) = (self.key, partial.node);
        let (sums, presence) = (partial.sums.clone(), partial.presence.clone());
        let mut frames = vec![FromMember::Sums { key, node, sums, presence }];
        for slice in 0..slices(self.elements) {
            let held = || partial.values[slice_range(slice, self.elements)].to_vec();
            let values = self.overwritten.get(&(node, slice)).cloned().unwrap_or_else(held);
            frames.push(FromMember::Slice { key, node, slice, values });
        }
        frames
    }
}

/// The coordinator's side of the data plane in a view.
pub(crate) struct Gather {
    geometry: Geometry,
    elements: usize,
    view: View,
    reducer: Option<Reducer>,
    done: Option<StepKey>,
    bug: Option<Bug>,
    /// For planted bugs: frames in the order of their arrival.
    arrived: Vec<(MemberId, FromMember)>,
}

impl Gather {
    pub(crate) fn new(scenario: &Scenario, view: View, bug: Option<Bug>) -> Self {
        let (geometry, elements) = (scenario.plan.geometry, scenario.toy.elements);
        Self { geometry, elements, view, reducer: None, done: None, bug, arrived: Vec::new() }
    }

    /// The step is history: what comes of it now is dropped.
    pub(crate) fn on_committed(&mut self, key: StepKey) {
        self.done = Some(key);
        self.reducer = None;
        self.arrived.clear();
    }

    /// Takes in a frame; gives out what goes to all members.
    pub(crate) fn insert(&mut self, member: MemberId, frame: FromMember) -> Result<Vec<ToMember>, String> {
        let key = frame.address().0;
        if key.view != self.view.id || self.done.is_some_and(|done| key <= done) {
            return Ok(Vec::new());
        }
        let reducer = match self.reducer.take().filter(|reducer| reducer.key() == key) {
            Some(reducer) => reducer,
            None => {
                let count = microbatches(&self.geometry, key);
                Reducer::new(key, count, &assignment::of_view(&self.view, key, count), self.elements)
            }
        };
        let reducer = self.reducer.insert(reducer);
        if self.bug == Some(Bug::SumsInArrivalOrder) {
            self.arrived.push((member, frame.clone()));
        }
        let mut answers = take(reducer, member, frame)?;
        for answer in &mut answers {
            self.plant(answer);
        }
        Ok(answers)
    }

    /// For a planted bug: frames are held back until all of the step are here, and then inserted.
    pub(crate) fn hold(&mut self, member: MemberId, frame: FromMember) -> Result<Vec<ToMember>, String> {
        let key = frame.address().0;
        self.arrived.retain(|(_, held)| held.address().0 == key && held.address() != frame.address());
        self.arrived.push((member, frame));
        let count = microbatches(&self.geometry, key);
        let nodes: usize = assignment::of_view(&self.view, key, count)
            .into_iter()
            .flat_map(|(_, ranges)| ranges)
            .map(|range| protocol::tree::maximal_nodes(range, count).len())
            .sum();
        let elements = if key.phase == Phase::Train { self.elements } else { 0 };
        if self.arrived.len() < nodes * (1 + slices(elements) as usize) {
            return Ok(Vec::new());
        }
        let mut held = std::mem::take(&mut self.arrived);
        held.sort_by_key(|(_, frame)| frame.address().2.map_or(0, |slice| slice + 1));
        let mut answers = Vec::new();
        for (member, frame) in held {
            answers.extend(self.insert(member, frame)?);
        }
        Ok(answers)
    }

    /// For a planted bug: slices that are here already, to be asked for again, and the first of them.
    pub(crate) fn give_up_slices(&mut self) -> Vec<(MemberId, Address)> {
        let is_slice = |(_, frame): &(MemberId, FromMember)| frame.address().2.is_some();
        let given_up = self.arrived.iter().filter(|held| is_slice(held));
        let given_up = given_up.map(|(member, frame)| (*member, frame.address())).collect();
        self.arrived.retain(|held| !is_slice(held));
        given_up
    }

    /// What a reducer with this bug would have given out.
    fn plant(&self, answer: &mut ToMember) {
        let ToMember::Slice(reduced) = answer else { return };
        match self.bug {
            Some(Bug::SumsInArrivalOrder) => {
                let Some(weight) = self.weight() else { return };
                let of_slice = |frame: &FromMember| match frame {
                    FromMember::Slice { key, slice, values, .. }
                        if (*key, *slice) == (reduced.key, reduced.slice) =>
                    {
                        Some(values.clone())
                    }
                    _ => None,
                };
                let mut parts = self.arrived.iter().filter_map(|(_, frame)| of_slice(frame));
                let Some(mut sum) = parts.next() else { return };
                parts.for_each(|part| add_into(&mut sum, &part));
                reduced.facts = BlockFacts::default();
                divide(&mut sum, weight, &mut reduced.facts);
                reduced.values = sum;
            }
            Some(Bug::AddsAbsentAsZero) if !microbatches(&self.geometry, reduced.key).is_power_of_two() => {
                reduced.values.iter_mut().for_each(|value| *value += 0.0);
                reduced.facts = BlockFacts::default();
                divide(&mut reduced.values, 1.0, &mut reduced.facts);
            }
            _ => {}
        }
    }

    fn weight(&self) -> Option<f64> {
        let weights = self.arrived.iter().filter_map(|(_, frame)| match frame {
            FromMember::Sums { key, sums, .. } if self.reducer.as_ref().is_some_and(|r| r.key() == *key) => {
                sums.get(1).copied()
            }
            _ => None,
        });
        Some(weights.sum::<f64>())
    }
}

/// A reduced step at a member.
pub(crate) struct Reduced {
    pub(crate) key: StepKey,
    pub(crate) sums: Vec<f64>,
    pub(crate) squared_norm: f64,
    pub(crate) finite: bool,
    pub(crate) hash: u64,
    pub(crate) gradient: Vec<f32>,
    pub(crate) presence: [bool; 3],
}

/// What a member has of a step's reduced slices.
pub(crate) struct Collected {
    key: StepKey,
    elements: usize,
    sums: Option<ReducedSums>,
    slices: BTreeMap<u32, ReducedSlice>,
}

impl Collected {
    pub(crate) fn new(scenario: &Scenario, key: StepKey) -> Self {
        let elements = if key.phase == Phase::Train { scenario.toy.elements } else { 0 };
        Self { key, elements, sums: None, slices: BTreeMap::new() }
    }

    /// Takes in a frame; the whole when it is complete.
    pub(crate) fn insert(&mut self, frame: ToMember) -> Option<Reduced> {
        match frame {
            ToMember::Sums(sums) if sums.key == self.key => self.sums = Some(sums),
            ToMember::Slice(slice) if slice.key == self.key => {
                self.slices.insert(slice.slice, slice);
            }
            _ => return None, // Of another step.
        }
        if self.slices.len() < slices(self.elements) as usize {
            return None;
        }
        let ReducedSums { key, sums, presence } = self.sums.take()?;
        let (mut gradient, mut facts) = (Vec::with_capacity(self.elements), BlockFacts::default());
        for slice in self.slices.values() {
            gradient.extend_from_slice(&slice.values);
            facts.squares.extend_from_slice(&slice.facts.squares);
            facts.hashes.extend(slice.values.chunks(protocol::reduce::BLOCK).map(block_hash));
        }
        let squared_norm = facts.squared_norm();
        let hash = step_hash(&facts.hashes, &presence, &sums, squared_norm);
        let bits = presence.first().copied().unwrap_or(0);
        Some(Reduced {
            key,
            finite: is_finite(&sums, squared_norm),
            squared_norm,
            hash,
            gradient,
            presence: [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0],
            sums,
        })
    }
}

fn take(reducer: &mut Reducer, member: MemberId, frame: FromMember) -> Result<Vec<ToMember>, String> {
    let answer = match frame {
        FromMember::Sums { node, sums, presence, .. } => {
            reducer.insert_sums(member, node, sums, presence).map(|sums| sums.map(ToMember::Sums))
        }
        FromMember::Slice { node, slice, values, .. } => reducer
            .insert(member, node, slice, values, &mut Vec::new())
            .map(|reduced| reduced.map(ToMember::Slice)),
    };
    answer.map(|answer| answer.into_iter().collect()).map_err(|error| format!("the reducer refused: {error}"))
}

fn microbatches(geometry: &Geometry, key: StepKey) -> u32 {
    match key.phase {
        Phase::Train => geometry.step(key.step).microbatches,
        Phase::Evaluate => geometry.evaluation().microbatches,
    }
}

/// The step's samples, as a worker with this bug would have them.
fn planted_plan(geometry: &Geometry, view: &View, step: u64, bug: Option<Bug>) -> StepPlan {
    let mut plan = geometry.step(step);
    let is_first_after_resume = view.step == step && step > 1;
    if bug == Some(Bug::RepeatsSamplesOnResume) && is_first_after_resume {
        let before = geometry.step(step - 1);
        (plan.epoch, plan.start) =
            (before.epoch, before.start.min(geometry.samples - u64::from(plan.samples)));
    }
    plan
}
