//! The thread that owns the reducer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use protocol::assignment::of_view;
use protocol::ids::{MemberId, Phase, StepKey};
use protocol::messages::{ReduceAt, View};
use protocol::plan::Geometry;
use protocol::reducer::{ReducedSlice, Reducer};
use protocol::tree::Node;
use tracing::debug;
use wire::frames::Header;

use super::event_mailbox::{ConnectionLoss, EventMailbox};
use super::gate::Gate;
use super::pool::Pool;
use super::{Input, Outgoing};

/// The thread that owns the reducer.
pub(super) struct Aggregator {
    geometry: Geometry,
    elements: usize,
    view: Option<View>,
    committed: Option<StepKey>,
    step: Option<Reducer>,
    /// Each member's newest connection, by its number.
    writers: BTreeMap<MemberId, (u64, Sender<Outgoing>)>,
    /// Of the step in flight, for members that aren't connected yet.
    unsent: BTreeMap<MemberId, Vec<Outgoing>>,
    /// Slices that writers may still hold; their buffers are taken back when they don't.
    sent: Vec<Arc<ReducedSlice>>,
    pool: Arc<Pool>,
    gate: Arc<Gate>,
    spent: Vec<Vec<f32>>,
    mailbox: Arc<EventMailbox>,
}

impl Aggregator {
    pub(super) fn new(
        geometry: Geometry,
        pool: Arc<Pool>,
        gate: Arc<Gate>,
        mailbox: Arc<EventMailbox>,
    ) -> Self {
        Self {
            geometry,
            elements: 0,
            view: None,
            committed: None,
            step: None,
            writers: BTreeMap::new(),
            unsent: BTreeMap::new(),
            sent: Vec::new(),
            pool,
            gate,
            spent: Vec::new(),
            mailbox,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Input>) {
        while let Ok(input) = inbox.recv() {
            self.take_in(input);
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::OpenView { view, elements } => {
                // What readers hold back of an older view is the past now.
                self.end_step(StepKey { view: view.id, step: 0, phase: Phase::Train });
                let is_in = |member: &MemberId| view.members.iter().any(|info| info.member == *member);
                self.writers.retain(|member, _| is_in(member));
                self.unsent.clear();
                (self.view, self.elements) = (Some(view), elements);
            }
            Input::Committed(key) => {
                self.committed = self.committed.max(Some(key));
                self.end_step(key);
            }
            Input::Stragglers(answer) => {
                let held_up = self.step.as_ref().map(|reducer| (reducer.key(), reducer.behind()));
                // The driver may have gone on.
                let _ = answer.try_send(held_up);
            }
            Input::Gone { member, number, loss } => self.gone(member, number, loss),
            // A proof's connection may be heard of after the one that works.
            Input::Connected { member, number, .. } if self.is_newer(member, number) => {}
            Input::Connected { member, number, writer } => {
                // What was reduced before this member was connected: it may have had no part in it.
                for outgoing in self.unsent.remove(&member).unwrap_or_default() {
                    let _ = writer.send(outgoing);
                }
                self.writers.insert(member, (number, writer));
            }
            Input::Sums { member, header, sums, presence } => self.sums(member, &header, sums, presence),
            Input::Partial { member, header, values } => self.partial(member, &header, values),
        }
    }

    /// Whether a connection of this member is known that was made after this one.
    fn is_newer(&self, member: MemberId, number: u64) -> bool {
        self.writers.get(&member).is_some_and(|(known, _)| *known > number)
    }

    /// Nothing up to `key` is summed any more.
    fn end_step(&mut self, key: StepKey) {
        if let Some(reducer) = self.step.take() {
            self.pool.give(reducer.into_buffers());
        }
        self.gate.set(key, u32::MAX);
    }

    fn sums(&mut self, member: MemberId, header: &Header, sums: Vec<f64>, presence: Vec<u8>) {
        let Some(reducer) = self.reducer(member, header.key) else { return };
        match reducer.insert_sums(member, node_of(header), sums, presence) {
            Ok(whole) => {
                let key = header.key;
                self.mailbox.computed(member, key);
                if let Some(whole) = whole {
                    self.broadcast(&Outgoing::Sums(Arc::new(whole)));
                }
            }
            Err(problem) => self.lost(member, &problem.to_string()),
        }
    }

    /// A connection ended: a loss, unless the member has another one or the view has no use for it.
    fn gone(&mut self, member: MemberId, number: u64, loss: ConnectionLoss) {
        if self.writers.get(&member).is_none_or(|(newest, _)| *newest != number) {
            return;
        }
        self.writers.remove(&member);
        let needs_it = self.view.as_ref().is_some_and(|view| view.reduce == ReduceAt::Coordinator);
        if needs_it || matches!(loss, ConnectionLoss::Violation(_)) {
            self.mailbox.lost(member, loss);
        }
    }

    fn partial(&mut self, member: MemberId, header: &Header, values: Vec<f32>) {
        let mut spent = std::mem::take(&mut self.spent);
        let inserted = match self.reducer(member, header.key) {
            Some(reducer) => reducer.insert(member, node_of(header), header.slice, values, &mut spent),
            None => Ok(None),
        };
        self.pool.give(spent.drain(..));
        self.spent = spent;
        if let Some(reducer) = &self.step {
            self.gate.set(reducer.key(), reducer.lowest_open());
        }
        match inserted {
            Ok(None) => {}
            Ok(Some(slice)) => {
                let slice = Arc::new(slice);
                self.broadcast(&Outgoing::Slice(slice.clone()));
                self.take_back();
                self.sent.push(slice);
            }
            Err(problem) => self.lost(member, &problem.to_string()),
        }
    }

    /// The reducer of this step: opened with its first frame; `None` for what is older than the last commit or of
    /// another view.
    fn reducer(&mut self, member: MemberId, key: StepKey) -> Option<&mut Reducer> {
        let view = self.view.as_ref()?;
        if key.view != view.id || self.committed >= Some(key) {
            debug!(?member, ?key, "dropped a frame of the past");
            return None;
        }
        if view.reduce != ReduceAt::Coordinator {
            return None;
        }
        if self.step.as_ref().is_none_or(|reducer| reducer.key() != key) {
            let count = match key.phase {
                Phase::Train if key.step > 0 => self.geometry.step(key.step).microbatches,
                Phase::Train => return None,
                Phase::Evaluate => self.geometry.evaluation().microbatches,
            };
            let reducer = Reducer::new(key, count, &of_view(view, key, count), self.elements);
            // An evaluation has no gradients: what training uses rests meanwhile.
            self.step = Some(match key.phase {
                Phase::Train => {
                    self.pool.bound(reducer.buffers_max());
                    reducer.with_spare(self.pool.take_empty())
                }
                Phase::Evaluate => reducer,
            });
        }
        self.step.as_mut()
    }

    fn broadcast(&mut self, outgoing: &Outgoing) {
        let Some(view) = &self.view else { return };
        for member in &view.members {
            match self.writers.get(&member.member).map(|(_, writer)| writer.send(outgoing.clone())) {
                Some(Ok(())) => {}
                // The reader of the same connection reports the loss.
                Some(Err(_)) => debug!(name = member.name, "has no data connection any more"),
                None => self.unsent.entry(member.member).or_default().push(outgoing.clone()),
            }
        }
    }

    fn take_back(&mut self) {
        let (free, held): (Vec<_>, Vec<_>) =
            self.sent.drain(..).partition(|slice| Arc::strong_count(slice) == 1);
        self.sent = held;
        self.pool.give(free.into_iter().filter_map(Arc::into_inner).map(|slice| slice.values));
    }

    fn lost(&self, member: MemberId, reason: &str) {
        self.mailbox.lost(member, ConnectionLoss::Broken(reason.to_owned()));
    }
}

fn node_of(header: &Header) -> Node {
    Node { level: header.node_level, index: header.node_index }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use protocol::ids::ViewId;
    use protocol::messages::MemberInfo;
    use protocol::order::Order;
    use protocol::reduce::slice_range;
    use protocol::reducer::ReducedSums;

    use super::*;

    fn aggregator() -> Aggregator {
        let geometry = Geometry {
            samples: 64,
            batch: 8,
            microbatch: 2,
            seed: 1,
            order: Order::AsStored,
            evaluation_samples: 0,
            evaluation_microbatch: 1,
        };
        Aggregator::new(geometry, Arc::default(), Arc::default(), Arc::default())
    }

    fn view(members: &[u64]) -> View {
        let info = |id: &u64| MemberInfo { member: MemberId(*id), name: format!("worker-{id}"), share: 1 };
        View {
            id: ViewId(1),
            members: members.iter().map(info).collect(),
            reduce: ReduceAt::Coordinator,
            step: 1,
            phase: Phase::Train,
            dealt: vec![],
        }
    }

    /// Frames of a whole step from two members with two microbatches each, as their connections' readers hand them in.
    fn step(pool: &Pool, step: u64) -> Vec<Input> {
        let key = StepKey { view: ViewId(1), step, phase: Phase::Train };
        let header = |kind, member: u64, slice| Header {
            kind,
            key,
            node_level: 1,
            node_index: member as u32 - 1,
            slice,
            tail_bytes: 0,
            floats: 0,
        };
        let sums = [1, 2].map(|member| Input::Sums {
            member: MemberId(member),
            header: header(wire::frames::Kind::PartialSums, member, 0),
            sums: vec![0.0, 4.0],
            presence: vec![1],
        });
        let partials = (0..2).flat_map(|slice| {
            [1, 2].map(|member| Input::Partial {
                member: MemberId(member),
                header: header(wire::frames::Kind::Partial, member, slice),
                values: pool.take(slice_range(slice, ELEMENTS).len()),
            })
        });
        sums.into_iter().chain(partials).chain([Input::Committed(key)]).collect()
    }

    /// One slice and a part of another.
    const ELEMENTS: usize = protocol::reduce::SLICE + 5;

    #[test]
    fn a_thousand_steps_hold_as_much_as_a_few() {
        let mut aggregator = aggregator();
        let pool = aggregator.pool.clone();
        (aggregator.view, aggregator.elements) = (Some(view(&[1, 2])), ELEMENTS);
        let (writer, outbox) = channel();
        let other = channel().0;
        aggregator.writers = BTreeMap::from([(MemberId(1), (1, writer)), (MemberId(2), (2, other))]);
        let mut resting = Vec::new();
        for number in 1..=1_000 {
            step(&pool, number).into_iter().for_each(|input| aggregator.take_in(input));
            // What both members have taken is free again. The driver takes nothing of what it is told.
            while outbox.try_recv().is_ok() {}
            resting.push(pool.resting());
        }
        assert_eq!(resting[999], resting[9], "slice buffers at rest after a thousand steps and after ten");
        assert!(aggregator.sent.len() <= 2, "{} slices are held for writers", aggregator.sent.len());
    }

    #[test]
    fn a_member_that_takes_nothing_keeps_nobody_from_theirs() {
        let mut aggregator = aggregator();
        aggregator.view = Some(view(&[1, 2]));
        let (stuck, _never_read) = channel();
        let (writer, outbox) = channel();
        aggregator.writers = BTreeMap::from([(MemberId(1), (1, stuck)), (MemberId(2), (2, writer))]);
        let key = StepKey { view: ViewId(1), step: 1, phase: Phase::Train };
        let sums = Outgoing::Sums(Arc::new(ReducedSums { key, sums: vec![], presence: vec![] }));
        let frames = 10_000;
        let sending = std::thread::spawn(move || {
            (0..frames).for_each(|_| aggregator.broadcast(&sums));
        });
        for frame in 0..frames {
            assert!(outbox.recv_timeout(Duration::from_secs(10)).is_ok(), "stuck at frame {frame}");
        }
        sending.join().expect("all are sent");
    }

    #[test]
    fn what_was_reduced_waits_for_a_member_that_is_not_connected_yet() {
        let mut aggregator = aggregator();
        aggregator.view = Some(view(&[1]));
        let key = StepKey { view: ViewId(1), step: 1, phase: Phase::Train };
        aggregator.broadcast(&Outgoing::Sums(Arc::new(ReducedSums {
            key,
            sums: vec![2.5],
            presence: vec![],
        })));
        let (inputs, inbox) = channel();
        let (writer, outbox) = channel();
        let connected = Input::Connected { member: MemberId(1), number: 1, writer };
        assert!(inputs.send(connected).is_ok());
        drop(inputs);
        aggregator.run(&inbox);
        let Ok(Outgoing::Sums(found)) = outbox.try_recv() else { panic!("the sums") };
        assert_eq!(found.sums, [2.5]);
    }
}
