//! Connects the toy gradients and the machines: a member's part of a step, and the frames that carry it. The sums are
//! `protocol`'s accumulator and reducer; only planted bugs have arithmetic of their own.

use std::collections::BTreeMap;

use protocol::accumulate::{Accumulator, Partial};
use protocol::assignment;
use protocol::ids::{MemberId, Phase, StepKey};
use protocol::messages::{ReduceAt, View};
use protocol::plan::{Geometry, StepPlan};
use protocol::reduce::{slice_range, slices};
use protocol::reducer::{PartialFrame, ReducedFrame, Reducer};
use protocol::tree::Node;

use crate::bug::Bug;
use crate::scenario::Scenario;
use crate::toy::{State, Toy};

/// For a planted bug: the new contents of a partial that its member still holds.
#[derive(Clone, Debug)]
pub(crate) struct Overwritten {
    pub(crate) member: MemberId,
    pub(crate) key: StepKey,
    pub(crate) node: Node,
    pub(crate) slice: u32,
    pub(crate) values: Vec<f32>,
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
    /// For a planted bug: the new contents of this member's held partials.
    overwritten: BTreeMap<(Node, u32), Vec<f32>>,
}

impl Contribution {
    /// The microbatches that this member still holds of a step, or of the same one in an earlier view.
    pub(crate) fn held_of(&self, key: StepKey, member: MemberId) -> Vec<u32> {
        let is_same = (self.key.step, self.key.phase, self.member) == (key.step, key.phase, member);
        self.computed.iter().filter(|_| is_same).map(|(microbatch, _)| *microbatch).collect()
    }

    /// Computes the member's microbatches of a step, except those it holds from an earlier view's attempt. Also
    /// returns how many were computed now.
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
        let count = geometry.plan(key.step, key.phase).microbatches;
        let dealt = assignment::of_view(view, key, count).into_iter().find(|(id, _)| *id == member);
        let ranges = dealt.map(|(_, ranges)| ranges).unwrap_or_default();
        let is_training = key.phase == Phase::Train;
        let mut own = held.filter(|held| held.key.phase == key.phase).unwrap_or_else(|| {
            let layout = if is_training { toy.parameters().to_vec() } else { Vec::new() };
            let accumulator = Accumulator::new(layout);
            let elements = accumulator.elements();
            let (computed, overwritten) = (Vec::new(), BTreeMap::new());
            Self { key, count, member, elements, accumulator, computed, is_alone: false, overwritten }
        });
        if !own.accumulator.begin_or_resume((key.step, key.phase), count, &ranges) {
            own.computed.clear();
            own.overwritten.clear();
        }
        (own.key, own.count, own.member) = (key, count, member);
        own.is_alone = view.reduce == ReduceAt::Alone;
        let before = own.computed.len();
        for microbatch in ranges.into_iter().flatten() {
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

    pub(crate) fn computed(&self) -> &[(u32, Vec<u64>)] {
        &self.computed
    }

    /// The frames for the reducer, in order: a node's sums before its slices.
    pub(crate) fn frames(&self) -> Vec<PartialFrame> {
        self.accumulator.partials().iter().flat_map(|partial| self.frames_of(partial)).collect()
    }

    /// The only member of a view reduces locally, with the same function.
    pub(crate) fn reduce_alone(&self) -> Option<Vec<ReducedFrame>> {
        if !self.is_alone {
            return None;
        }
        let whole = 0..self.count;
        let dealt = [(self.member, vec![whole])];
        let mut reducer = Reducer::new(self.key, self.count, &dealt, self.elements);
        let mut insert = |frame| reducer.insert_frame(self.member, frame, &mut Vec::new()).ok().flatten();
        Some(self.frames().into_iter().filter_map(&mut insert).collect())
    }

    /// For a planted bug: the reducer has added over this member's buffer.
    pub(crate) fn overwrite(&mut self, over: &Overwritten) {
        if self.key == over.key {
            self.overwritten.insert((over.node, over.slice), over.values.clone());
        }
    }

    fn frames_of(&self, partial: &Partial) -> Vec<PartialFrame> {
        let (key, node) = (self.key, partial.node);
        let (sums, presence) = (partial.sums.clone(), partial.presence.clone());
        let mut frames = vec![PartialFrame::Sums { key, node, sums, presence }];
        for slice in 0..slices(self.elements) {
            let held = || partial.values[slice_range(slice, self.elements)].to_vec();
            let values = self.overwritten.get(&(node, slice)).cloned().unwrap_or_else(held);
            frames.push(PartialFrame::Slice { key, node, slice, values });
        }
        frames
    }
}

/// The step's samples as computed by a worker with this bug.
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
