//! The coordinator's side of the exchange: receives members' partials and delivers the reduced step to each member's
//! newest connection, or keeps it until there is one.
//!
//! Pure: it sends nothing and never blocks. The driver passes in frames and connection events and executes the
//! deliveries ([`Aggregator::poll_delivery`]); a member that accepts none blocks no other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::assignment::of_view;
use crate::ids::{MemberId, Phase, StepKey};
use crate::messages::{ReduceAt, View};
use crate::plan::Geometry;
use crate::reducer::{PartialFrame, ReduceError, ReducedFrame, ReducedSlice, Reducer};

/// Reduces the steps of the current view. `C` identifies a connection; of one member's, the greater is the newer.
#[derive(Debug)]
pub struct Aggregator<C> {
    geometry: Geometry,
    elements: usize,
    view: Option<View>,
    committed: Option<StepKey>,
    reducer: Option<Reducer>,
    /// Each member's newest connection.
    connections: BTreeMap<MemberId, C>,
    /// Frames of the step in flight for members that aren't connected yet.
    unsent: BTreeMap<MemberId, Vec<ReducedFrame>>,
    deliveries: VecDeque<(C, ReducedFrame)>,
    /// Slices that may still be referenced; their buffers are reclaimed when they no longer are.
    sent: Vec<Arc<ReducedSlice>>,
    /// The buffer of the next mean, carried from step to step: a step takes as many buffers as it returns.
    spare: Vec<f32>,
    spent: Vec<Vec<f32>>,
}

/// What the end of a connection means for its view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disconnect {
    /// Nothing: the member has a newer connection, or is no longer in the view.
    Superseded,
    /// The member has no connection left, but the view needs none.
    Unneeded,
    /// The view has lost the member.
    Lost,
}

impl<C: Copy + Ord> Aggregator<C> {
    /// Creates an aggregator without a view, which accepts no frames.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            elements: 0,
            view: None,
            committed: None,
            reducer: None,
            connections: BTreeMap::new(),
            unsent: BTreeMap::new(),
            deliveries: VecDeque::new(),
            sent: Vec::new(),
            spare: Vec::new(),
            spent: Vec::new(),
        }
    }

    /// Accepts frames of this view from now on, with flat gradients of `elements`.
    pub fn open_view(&mut self, view: View, elements: usize) {
        self.end_step();
        self.unsent.clear();
        self.connections.retain(|member, _| view.members.iter().any(|info| info.member == *member));
        (self.view, self.elements) = (Some(view), elements);
    }

    /// The step is history: its further frames are dropped.
    pub fn on_committed(&mut self, key: StepKey) {
        self.committed = self.committed.max(Some(key));
        self.end_step();
    }

    /// A member has opened a connection and receives what was reduced while it had none. Returns false if the member
    /// is known to have a newer one: connection events arrive in any order.
    pub fn connected(&mut self, member: MemberId, connection: C) -> bool {
        if self.connections.get(&member).is_some_and(|known| *known > connection) {
            return false;
        }
        self.connections.insert(member, connection);
        let unsent = self.unsent.remove(&member).unwrap_or_default();
        self.deliveries.extend(unsent.into_iter().map(|frame| (connection, frame)));
        true
    }

    /// A member's connection has ended.
    pub fn disconnected(&mut self, member: MemberId, connection: C) -> Disconnect {
        if self.connections.get(&member) != Some(&connection) {
            return Disconnect::Superseded;
        }
        self.connections.remove(&member);
        if self.reducing_view().is_some() { Disconnect::Lost } else { Disconnect::Unneeded }
    }

    /// Processes a frame. Returns false if it is dropped: it is old, or of a view that doesn't reduce here.
    ///
    /// # Errors
    /// When this member must not send such a frame.
    pub fn insert(&mut self, member: MemberId, frame: PartialFrame) -> Result<bool, ReduceError> {
        let Some(mut reducer) = self.open_step(frame.key()) else { return Ok(false) };
        let inserted = reducer.insert_frame(member, frame, &mut self.spent);
        self.reducer = Some(reducer);
        if let Some(reduced) = inserted? {
            self.broadcast(&reduced);
            self.take_back();
            if let ReducedFrame::Slice(slice) = reduced {
                self.sent.push(slice);
            }
        }
        Ok(true)
    }

    /// The next frame to send.
    pub fn poll_delivery(&mut self) -> Option<(C, ReducedFrame)> {
        self.deliveries.pop_front()
    }

    /// Slice buffers that are free again.
    pub fn take_spent(&mut self) -> impl Iterator<Item = Vec<f32>> {
        self.spent.drain(..)
    }

    /// The step being reduced.
    #[must_use]
    pub fn reducer(&self) -> Option<&Reducer> {
        self.reducer.as_ref()
    }

    /// Each member's newest connection.
    #[must_use]
    pub fn connections(&self) -> &BTreeMap<MemberId, C> {
        &self.connections
    }

    /// Numbers of members with undelivered frames and of such frames.
    #[must_use]
    pub fn unsent(&self) -> (usize, usize) {
        (self.unsent.len(), self.unsent.values().map(Vec::len).sum())
    }

    fn reducing_view(&self) -> Option<&View> {
        self.view.as_ref().filter(|view| view.reduce == ReduceAt::Coordinator)
    }

    fn end_step(&mut self) {
        let Some(reducer) = self.reducer.take() else { return };
        self.spent.extend(reducer.into_buffers());
        if self.spare.capacity() == 0 {
            self.spare = self.spent.pop().unwrap_or_default();
        }
    }

    /// The reducer of this step, opened by its first frame.
    fn open_step(&mut self, key: StepKey) -> Option<Reducer> {
        let view = self.reducing_view().filter(|view| key.view == view.id && self.committed < Some(key))?;
        if self.reducer.as_ref().is_some_and(|reducer| reducer.key() == key) {
            return self.reducer.take();
        }
        if (key.phase, key.step) == (Phase::Train, 0) {
            return None;
        }
        let count = self.geometry.plan(key.step, key.phase).microbatches;
        let reducer = Reducer::new(key, count, &of_view(view, key, count), self.elements);
        self.end_step();
        // An evaluation has no gradients: the buffers of training stay unused.
        Some(match key.phase {
            Phase::Train => reducer.with_spare(std::mem::take(&mut self.spare)),
            Phase::Evaluate => reducer,
        })
    }

    fn broadcast(&mut self, frame: &ReducedFrame) {
        for info in self.view.iter().flat_map(|view| &view.members) {
            match self.connections.get(&info.member) {
                Some(connection) => self.deliveries.push_back((*connection, frame.clone())),
                None => self.unsent.entry(info.member).or_default().push(frame.clone()),
            }
        }
    }

    fn take_back(&mut self) {
        let (free, held): (Vec<_>, Vec<_>) =
            self.sent.drain(..).partition(|slice| Arc::strong_count(slice) == 1);
        self.sent = held;
        self.spent.extend(free.into_iter().filter_map(Arc::into_inner).map(|slice| slice.values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ViewId;
    use crate::messages::MemberInfo;
    use crate::order::Order;
    use crate::reduce::{SLICE, slice_range};
    use crate::tree::Node;

    /// One slice and part of another.
    const ELEMENTS: usize = SLICE + 5;

    fn view(members: &[u64], reduce: ReduceAt) -> View {
        let info = |id: &u64| MemberInfo { member: MemberId(*id), name: format!("worker-{id}"), share: 1 };
        View {
            id: ViewId(1),
            members: members.iter().map(info).collect(),
            reduce,
            step: 1,
            phase: Phase::Train,
            dealt: vec![],
        }
    }

    /// An aggregator for four microbatches, in a view of these members.
    fn aggregator(members: &[u64]) -> Aggregator<u64> {
        let mut aggregator = Aggregator::new(Geometry {
            samples: 64,
            batch: 8,
            microbatch: 2,
            seed: 1,
            order: Order::AsStored,
            evaluation_samples: 4,
            evaluation_microbatch: 1,
        });
        aggregator.open_view(view(members, ReduceAt::Coordinator), ELEMENTS);
        aggregator
    }

    fn key(step: u64) -> StepKey {
        StepKey { view: ViewId(1), step, phase: Phase::Train }
    }

    fn sums(key: StepKey, member: u64) -> (MemberId, PartialFrame) {
        let node = Node { level: 1, index: member as u32 - 1 };
        (MemberId(member), PartialFrame::Sums { key, node, sums: vec![0.0, 4.0], presence: vec![1] })
    }

    fn slice(key: StepKey, member: u64, slice: u32, mut values: Vec<f32>) -> (MemberId, PartialFrame) {
        values.resize(slice_range(slice, ELEMENTS).len(), 0.0);
        let node = Node { level: 1, index: member as u32 - 1 };
        (MemberId(member), PartialFrame::Slice { key, node, slice, values })
    }

    fn insert(aggregator: &mut Aggregator<u64>, (member, frame): (MemberId, PartialFrame)) -> bool {
        aggregator.insert(member, frame).expect("a good frame")
    }

    /// Inserts both members' sums of a step.
    fn reduce_sums(aggregator: &mut Aggregator<u64>, key: StepKey) {
        for member in [1, 2] {
            assert!(insert(aggregator, sums(key, member)));
        }
    }

    /// Recipients and steps of the delivered frames.
    fn delivered(aggregator: &mut Aggregator<u64>) -> Vec<(u64, StepKey)> {
        std::iter::from_fn(|| aggregator.poll_delivery()).map(|(to, frame)| (to, frame.key())).collect()
    }

    #[test]
    fn a_thousand_steps_hold_as_much_as_a_few() {
        let mut aggregator = aggregator(&[1, 2]);
        assert!(aggregator.connected(MemberId(1), 1) && aggregator.connected(MemberId(2), 2));
        let (mut pool, mut made, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for step in 1..=1_000 {
            // All frames but the last step's have been received.
            let unread = std::mem::take(&mut taken);
            let mut fresh = 0;
            reduce_sums(&mut aggregator, key(step));
            for (number, member) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
                let values = pool.pop().unwrap_or_else(|| {
                    fresh += 1;
                    Vec::new()
                });
                assert!(insert(&mut aggregator, slice(key(step), member, number, values)));
                pool.extend(aggregator.take_spent());
            }
            taken.extend(std::iter::from_fn(|| aggregator.poll_delivery()));
            let needed = aggregator.reducer().map(Reducer::buffers_max).expect("a step");
            aggregator.on_committed(key(step));
            pool.extend(aggregator.take_spent());
            assert!(pool.len() <= needed, "{} buffers rest where {needed} are enough", pool.len());
            assert!(aggregator.sent.len() <= 4, "{} slices are held", aggregator.sent.len());
            drop(unread);
            made.push(fresh);
        }
        assert_eq!(made[10..].iter().sum::<u32>(), 0, "buffers made after ten steps");
    }

    #[test]
    fn a_member_that_takes_nothing_keeps_nobody_from_theirs() {
        let mut aggregator = aggregator(&[1, 2]);
        // Member 1 never receives anything.
        assert!(aggregator.connected(MemberId(1), 1) && aggregator.connected(MemberId(2), 2));
        let mut stuck = Vec::new();
        for step in 1..=100 {
            reduce_sums(&mut aggregator, key(step));
            let (first, others): (Vec<_>, Vec<_>) =
                std::iter::from_fn(|| aggregator.poll_delivery()).partition(|(to, _)| *to == 1);
            stuck.extend(first);
            assert_eq!(others.len(), 1, "step {step}");
            aggregator.on_committed(key(step));
        }
    }

    #[test]
    fn what_was_reduced_waits_for_a_member_that_is_not_connected_yet() {
        let mut aggregator = aggregator(&[1, 2]);
        assert!(aggregator.connected(MemberId(2), 7));
        reduce_sums(&mut aggregator, key(1));
        assert_eq!(delivered(&mut aggregator), [(7, key(1))]);
        assert_eq!(aggregator.unsent(), (1, 1));
        assert!(aggregator.connected(MemberId(1), 8));
        assert_eq!(delivered(&mut aggregator), [(8, key(1))]);
        assert_eq!(aggregator.unsent(), (0, 0));
        // The members of another view don't need it.
        assert_eq!(aggregator.disconnected(MemberId(1), 8), Disconnect::Lost);
        reduce_sums(&mut aggregator, key(2));
        aggregator.open_view(View { id: ViewId(2), ..view(&[1], ReduceAt::Alone) }, ELEMENTS);
        assert_eq!((aggregator.unsent(), aggregator.connections().len()), ((0, 0), 0));
    }

    #[test]
    fn what_is_past_is_dropped_and_what_is_wrong_is_said() {
        let mut aggregator = aggregator(&[1, 2]);
        assert!(insert(&mut aggregator, sums(key(1), 1)));
        aggregator.insert(MemberId(1), sums(key(1), 1).1).expect_err("a second time");
        assert!(insert(&mut aggregator, sums(key(1), 2)), "the step goes on");
        aggregator.on_committed(key(1));
        assert!(aggregator.reducer().is_none());
        assert!(!insert(&mut aggregator, sums(key(1), 1)), "it is committed");
        assert!(!insert(&mut aggregator, sums(key(0), 1)));
        assert!(!insert(&mut aggregator, sums(StepKey { view: ViewId(2), ..key(2) }, 1)), "another view");
        let evaluation = StepKey { phase: Phase::Evaluate, ..key(1) };
        assert!(insert(&mut aggregator, sums(evaluation, 1)));
        aggregator.open_view(View { id: ViewId(3), ..view(&[1], ReduceAt::Alone) }, ELEMENTS);
        assert!(!insert(&mut aggregator, sums(StepKey { view: ViewId(3), ..key(2) }, 1)), "it reduces alone");
    }

    #[test]
    fn the_newest_connection_counts() {
        let mut aggregator = aggregator(&[1]);
        assert!(aggregator.connected(MemberId(1), 2));
        assert!(!aggregator.connected(MemberId(1), 1), "it is heard of late");
        assert!(aggregator.connected(MemberId(1), 3));
        assert_eq!(aggregator.disconnected(MemberId(1), 2), Disconnect::Superseded);
        assert_eq!(aggregator.disconnected(MemberId(1), 3), Disconnect::Lost);
        assert_eq!(aggregator.disconnected(MemberId(1), 3), Disconnect::Superseded);
        aggregator.open_view(view(&[1], ReduceAt::Alone), ELEMENTS);
        assert!(aggregator.connected(MemberId(1), 4));
        assert_eq!(aggregator.disconnected(MemberId(1), 4), Disconnect::Unneeded);
    }
}
