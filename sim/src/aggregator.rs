//! The coordinator's side of the data plane: `protocol`'s aggregator, the members' connections, and planted bugs.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::aggregator::{self, Disconnect};
use protocol::ids::{MemberId, StepKey};
use protocol::messages::View;
use protocol::plan::Geometry;
use protocol::reduce::{BlockFacts, add_into, divide};
use protocol::reducer::{PartialFrame, ReducedFrame};
use protocol::tree::Node;

use crate::bug::Bug;
use crate::exchange::Overwritten;
use crate::scenario::Scenario;

/// A data connection: the worker's index, and the number of the connection within it.
pub(crate) type Connection = (usize, usize);

/// The data plane of one coordinator incarnation.
pub(crate) struct Aggregator {
    inner: aggregator::Aggregator<Connection>,
    geometry: Geometry,
    elements: usize,
    /// The newest step whose parts members may send, like the real coordinator's gate.
    due: Option<StepKey>,
    members: BTreeMap<Connection, MemberId>,
    bug: Option<Bug>,
    /// For planted bugs: frames of the step in the order of their arrival.
    arrived: Vec<(MemberId, PartialFrame)>,
}

impl Aggregator {
    pub(crate) fn new(scenario: &Scenario, bug: Option<Bug>) -> Self {
        let geometry = scenario.plan.geometry;
        Self {
            inner: aggregator::Aggregator::new(geometry),
            geometry,
            elements: scenario.toy.elements,
            due: None,
            members: BTreeMap::new(),
            bug,
            arrived: Vec::new(),
        }
    }

    pub(crate) fn open_view(&mut self, view: View) {
        self.arrived.clear();
        self.due = Some(StepKey { view: view.id, step: view.step, phase: view.phase });
        self.inner.open_view(view, self.elements);
    }

    /// Whether a part of this step would violate the protocol.
    pub(crate) fn is_early(&self, key: StepKey) -> bool {
        self.due.is_none_or(|due| key > due)
    }

    pub(crate) fn on_committed(&mut self, key: StepKey, next: Option<StepKey>) {
        self.arrived.clear();
        self.due = Some(next.unwrap_or(key));
        self.inner.on_committed(key);
    }

    pub(crate) fn connected(&mut self, connection: Connection, member: MemberId) {
        self.members.insert(connection, member);
        self.inner.connected(member, connection);
    }

    /// A connection ended; returns the member that the view lost by it.
    pub(crate) fn gone(&mut self, connection: Connection) -> Option<MemberId> {
        let member = match self.bug {
            Some(Bug::KeepsDeadConnections) => *self.members.get(&connection)?,
            _ => self.members.remove(&connection)?,
        };
        (self.inner.disconnected(member, connection) == Disconnect::Lost).then_some(member)
    }

    /// Sizes of the collections, by name.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 4] {
        let (members, frames) = self.inner.unsent();
        [
            ("data connections", self.members.len()),
            ("members' newest data connections", self.inner.connections().len()),
            ("members that aren't connected", members),
            ("frames for members that aren't connected", frames),
        ]
    }

    pub(crate) fn member(&self, connection: Connection) -> Option<MemberId> {
        self.members.get(&connection).copied()
    }

    /// Inserts a frame; returns false if it is dropped.
    pub(crate) fn insert(&mut self, member: MemberId, frame: PartialFrame) -> Result<bool, String> {
        let arrived = self.bug.map(|_| frame.clone());
        let inserted = self.inner.insert(member, frame);
        let is_taken = inserted.map_err(|error| format!("the reducer refused: {error}"))?;
        self.inner.take_spent().for_each(drop);
        if let Some(frame) = arrived.filter(|_| is_taken) {
            self.arrived.retain(|(_, arrived)| arrived.key() == frame.key());
            self.arrived.push((member, frame));
        }
        Ok(is_taken)
    }

    /// The next outgoing frame, as a reducer with the planted bug would have produced it.
    pub(crate) fn poll_delivery(&mut self) -> Option<(Connection, ReducedFrame)> {
        let (connection, mut frame) = self.inner.poll_delivery()?;
        self.plant(&mut frame);
        Some((connection, frame))
    }

    /// The planted bug: the new contents of the partial that a member still holds of a reduced slice.
    pub(crate) fn overwritten(&self, frame: &ReducedFrame) -> Option<Overwritten> {
        match frame {
            ReducedFrame::Slice(reduced) if self.bug == Some(Bug::SumsInPlace) => {
                self.sum_in_place(reduced.key, reduced.slice)
            }
            _ => None,
        }
    }

    /// Alters a frame to match a reducer with this bug.
    fn plant(&self, frame: &mut ReducedFrame) {
        let (ReducedFrame::Slice(reduced), Some(bug)) = (frame, self.bug) else { return };
        match bug {
            Bug::SumsInArrivalOrder => {
                let reduced = Arc::make_mut(reduced);
                let mut parts = self.parts(reduced.key, reduced.slice).map(|(.., values)| values);
                let Some(mut sum) = parts.next().cloned() else { return };
                parts.for_each(|part| add_into(&mut sum, part));
                reduced.facts = BlockFacts::default();
                divide(&mut sum, self.weight(), &mut reduced.facts);
                reduced.values = sum;
            }
            Bug::AddsAbsentAsZero if !self.microbatches(reduced.key).is_power_of_two() => {
                let reduced = Arc::make_mut(reduced);
                reduced.values.iter_mut().for_each(|value| *value += 0.0);
                reduced.facts = BlockFacts::default();
                divide(&mut reduced.values, 1.0, &mut reduced.facts);
            }
            _ => {}
        }
    }

    fn microbatches(&self, key: StepKey) -> u32 {
        self.geometry.plan(key.step, key.phase).microbatches
    }

    /// The planted bug: the first partial to arrive was its sender's own buffer, and now holds the sum of the first
    /// two.
    fn sum_in_place(&self, key: StepKey, slice: u32) -> Option<Overwritten> {
        let mut parts = self.parts(key, slice);
        let (member, node, values) = parts.next()?;
        let mut values = values.clone();
        add_into(&mut values, parts.next()?.2);
        Some(Overwritten { member, key, node, slice, values })
    }

    /// The partials of a slice in the order of their arrival.
    fn parts(&self, key: StepKey, slice: u32) -> impl Iterator<Item = (MemberId, Node, &Vec<f32>)> {
        self.arrived.iter().filter_map(move |(member, frame)| match frame {
            PartialFrame::Slice { key: of, node, slice: at, values } if (*of, *at) == (key, slice) => {
                Some((*member, *node, values))
            }
            _ => None,
        })
    }

    fn weight(&self) -> f64 {
        let weights = self.arrived.iter().filter_map(|(_, frame)| match frame {
            PartialFrame::Sums { sums, .. } => sums.get(1).copied(),
            PartialFrame::Slice { .. } => None,
        });
        weights.sum()
    }
}
