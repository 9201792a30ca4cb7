//! The coordinator's side of the data plane: the members' connections, the reducer, and what waits for members that
//! aren't connected yet.

use std::collections::BTreeMap;

use protocol::assignment;
use protocol::ids::{MemberId, StepKey};
use protocol::messages::{ReduceAt, View};
use protocol::plan::Geometry;
use protocol::reduce::{BlockFacts, add_into, divide};
use protocol::reducer::Reducer;

use crate::bug::Bug;
use crate::exchange::{FromMember, Overwritten, ToMember, microbatches, take};
use crate::scenario::Scenario;

/// A data connection: whose, and which of all that it opened.
pub(crate) type Connection = (usize, usize);

/// See the module. It lives as long as its coordinator.
pub(crate) struct Aggregator {
    geometry: Geometry,
    elements: usize,
    view: Option<View>,
    committed: Option<StepKey>,
    /// What members may send parts of.
    due: Option<StepKey>,
    reducer: Option<Reducer>,
    /// Every connection's member.
    members: BTreeMap<Connection, MemberId>,
    /// Each member's newest connection.
    writers: BTreeMap<MemberId, Connection>,
    /// Of the step in flight, for members that aren't connected yet.
    unsent: BTreeMap<MemberId, Vec<ToMember>>,
    bug: Option<Bug>,
    /// For planted bugs: frames of the step in the order of their arrival.
    arrived: Vec<(MemberId, FromMember)>,
}

/// What comes of a frame.
#[derive(Default)]
pub(crate) struct Answer {
    /// To whom what goes.
    pub(crate) frames: Vec<(Connection, ToMember)>,
    /// For a planted bug.
    pub(crate) overwritten: Vec<Overwritten>,
}

impl Aggregator {
    pub(crate) fn new(scenario: &Scenario, bug: Option<Bug>) -> Self {
        Self {
            geometry: scenario.plan.geometry,
            elements: scenario.toy.elements,
            view: None,
            committed: None,
            due: None,
            reducer: None,
            members: BTreeMap::new(),
            writers: BTreeMap::new(),
            unsent: BTreeMap::new(),
            bug,
            arrived: Vec::new(),
        }
    }

    /// From now on frames of this view count.
    pub(crate) fn open_view(&mut self, view: View) {
        self.end_step();
        self.unsent.clear();
        self.writers.retain(|member, _| view.members.iter().any(|info| info.member == *member));
        self.due = Some(StepKey { view: view.id, step: view.step, phase: view.phase });
        self.view = Some(view);
    }

    /// Whether a part of this step can come from nobody who follows the protocol.
    pub(crate) fn is_early(&self, key: StepKey) -> bool {
        self.due.is_none_or(|due| key > due)
    }

    /// The step is history: what comes of it now is dropped.
    pub(crate) fn on_committed(&mut self, key: StepKey, next: Option<StepKey>) {
        self.due = Some(next.unwrap_or(key));
        self.committed = self.committed.max(Some(key));
        self.end_step();
    }

    fn end_step(&mut self) {
        self.reducer = None;
        self.arrived.clear();
    }

    /// A member has opened a connection: what was reduced before it was connected goes to it.
    pub(crate) fn connected(&mut self, connection: Connection, member: MemberId) -> Vec<ToMember> {
        self.members.insert(connection, member);
        self.writers.insert(member, connection);
        self.unsent.remove(&member).unwrap_or_default()
    }

    /// A connection ended: the member that the view has lost by it, unless it has another one or the view has no use
    /// for it.
    pub(crate) fn gone(&mut self, connection: Connection) -> Option<MemberId> {
        let member = match self.bug {
            Some(Bug::KeepsDeadConnections) => *self.members.get(&connection)?,
            _ => self.members.remove(&connection)?,
        };
        if self.writers.get(&member) != Some(&connection) {
            return None;
        }
        self.writers.remove(&member);
        let needs_it = self.view.as_ref().is_some_and(|view| view.reduce == ReduceAt::Coordinator);
        needs_it.then_some(member)
    }

    /// What it holds, by name and size.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 4] {
        [
            ("data connections", self.members.len()),
            ("members' newest data connections", self.writers.len()),
            ("members that aren't connected", self.unsent.len()),
            ("frames for members that aren't connected", self.unsent.values().map(Vec::len).sum()),
        ]
    }

    /// Whose connection it is.
    pub(crate) fn member(&self, connection: Connection) -> Option<MemberId> {
        self.members.get(&connection).copied()
    }

    /// Takes in a frame.
    pub(crate) fn insert(&mut self, member: MemberId, frame: FromMember) -> Result<Answer, String> {
        let (key, _, slice) = frame.address();
        let Some(view) = self.view.as_ref().filter(|view| view.reduce == ReduceAt::Coordinator) else {
            return Ok(Answer::default());
        };
        if key.view != view.id || self.committed >= Some(key) {
            return Ok(Answer::default()); // Of the past.
        }
        let reducer = match self.reducer.take().filter(|reducer| reducer.key() == key) {
            Some(reducer) => reducer,
            None => {
                self.arrived.clear();
                let count = microbatches(&self.geometry, key);
                Reducer::new(key, count, &assignment::of_view(view, key, count), self.elements)
            }
        };
        let reducer = self.reducer.insert(reducer);
        if self.bug.is_some() {
            self.arrived.push((member, frame.clone()));
        }
        let mut answers = take(reducer, member, frame)?;
        for answer in &mut answers {
            self.plant(answer);
        }
        let is_whole = answers.iter().any(|answer| matches!(answer, ToMember::Slice(_)));
        let sums_in_place = self.bug == Some(Bug::SumsInPlace) && is_whole;
        let overwritten = slice
            .filter(|_| sums_in_place)
            .and_then(|slice| self.sum_in_place(key, slice))
            .into_iter()
            .collect();
        Ok(Answer { frames: self.broadcast(answers), overwritten })
    }

    fn broadcast(&mut self, answers: Vec<ToMember>) -> Vec<(Connection, ToMember)> {
        let members = self.view.iter().flat_map(|view| &view.members).map(|info| info.member);
        let members: Vec<MemberId> = members.collect();
        let mut frames = Vec::new();
        for answer in answers {
            for member in &members {
                match self.writers.get(member) {
                    Some(connection) => frames.push((*connection, answer.clone())),
                    None => self.unsent.entry(*member).or_default().push(answer.clone()),
                }
            }
        }
        frames
    }

    /// What a reducer with this bug would have given out.
    fn plant(&self, answer: &mut ToMember) {
        let ToMember::Slice(reduced) = answer else { return };
        match self.bug {
            Some(Bug::SumsInArrivalOrder) => {
                let Some(weight) = self.weight() else { return };
                let mut parts = self.parts(reduced.key, reduced.slice).map(|(.., values)| values);
                let Some(mut sum) = parts.next().cloned() else { return };
                parts.for_each(|part| add_into(&mut sum, part));
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

    /// The planted bug: the first partial that came was its sender's own buffer, and is the sum of the first two now.
    fn sum_in_place(&self, key: StepKey, slice: u32) -> Option<Overwritten> {
        let mut parts = self.parts(key, slice);
        let (member, node, values) = parts.next()?;
        let mut values = values.clone();
        add_into(&mut values, parts.next()?.2);
        Some(Overwritten { member, key, node, slice, values })
    }

    /// The partials of a slice in the order of their arrival.
    fn parts(
        &self,
        key: StepKey,
        slice: u32,
    ) -> impl Iterator<Item = (MemberId, protocol::tree::Node, &Vec<f32>)> {
        self.arrived.iter().filter_map(move |(member, frame)| match frame {
            FromMember::Slice { key: of, node, slice: at, values } if (*of, *at) == (key, slice) => {
                Some((*member, *node, values))
            }
            _ => None,
        })
    }

    fn weight(&self) -> Option<f64> {
        let weights = self.arrived.iter().filter_map(|(_, frame)| match frame {
            FromMember::Sums { sums, .. } => sums.get(1).copied(),
            FromMember::Slice { .. } => None,
        });
        Some(weights.sum::<f64>())
    }
}
