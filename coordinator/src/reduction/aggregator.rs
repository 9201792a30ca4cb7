//! The thread that owns the reducer: it receives inputs from the connections' threads, and forwards the deliveries of
//! [`protocol::aggregator`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use protocol::aggregator::{Aggregator, Disconnect};
use protocol::ids::{MemberId, Phase, StepKey};
use protocol::plan::Geometry;
use protocol::reducer::{PartialFrame, ReducedFrame};
use tracing::debug;

use super::Input;
use super::event_mailbox::{ConnectionLoss, EventMailbox};
use super::gate::Gate;
use super::pool::Pool;

/// The state of the reducer's thread.
pub(super) struct AggregatorThread {
    aggregator: Aggregator<u64>,
    /// Writers of the members' newest connections, by number.
    writers: BTreeMap<u64, Sender<ReducedFrame>>,
    pool: Arc<Pool>,
    gate: Arc<Gate>,
    mailbox: Arc<EventMailbox>,
}

impl AggregatorThread {
    pub(super) fn new(
        geometry: Geometry,
        pool: Arc<Pool>,
        gate: Arc<Gate>,
        mailbox: Arc<EventMailbox>,
    ) -> Self {
        Self { aggregator: Aggregator::new(geometry), writers: BTreeMap::new(), pool, gate, mailbox }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Input>) {
        while let Ok(input) = inbox.recv() {
            self.take_in(input);
            self.pass_on();
        }
    }

    fn pass_on(&mut self) {
        self.pool.give(self.aggregator.take_spent());
        while let Some((connection, frame)) = self.aggregator.poll_delivery() {
            // The reader of the same connection reports the loss.
            if self.writers.get(&connection).is_none_or(|writer| writer.send(frame).is_err()) {
                debug!(connection, "a data connection takes nothing any more");
            }
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::OpenView { view, elements } => {
                // Frames of an older view that readers hold back are obsolete now.
                let past = StepKey { view: view.id, step: 0, phase: Phase::Train };
                self.aggregator.open_view(view, elements);
                self.close_unused();
                self.gate.set(past, u32::MAX);
            }
            Input::Committed(key) => {
                self.aggregator.on_committed(key);
                self.gate.set(key, u32::MAX);
            }
            Input::Stragglers(answer) => {
                let held_up = self.aggregator.reducer().map(|reducer| (reducer.key(), reducer.behind()));
                // The driver may have stopped waiting.
                let _ = answer.try_send(held_up);
            }
            Input::Gone { member, number, loss } => {
                let means = self.aggregator.disconnected(member, number);
                self.writers.remove(&number);
                let is_violation = matches!(loss, ConnectionLoss::Violation(_));
                if means == Disconnect::Lost || (is_violation && means == Disconnect::Unneeded) {
                    self.mailbox.lost(member, loss);
                }
            }
            Input::Connected { member, number, writer } => {
                if self.aggregator.connected(member, number) {
                    self.writers.insert(number, writer);
                    self.close_unused();
                }
            }
            Input::Frame { member, frame } => self.insert(member, frame),
        }
    }

    fn insert(&mut self, member: MemberId, frame: PartialFrame) {
        let (key, is_sums) = (frame.key(), matches!(frame, PartialFrame::Sums { .. }));
        match self.aggregator.insert(member, frame) {
            Ok(true) if is_sums => self.mailbox.computed(member, key),
            Ok(true) => {}
            Ok(false) => debug!(?member, ?key, "dropped a frame of the past"),
            Err(problem) => self.mailbox.lost(member, ConnectionLoss::Broken(problem.to_string())),
        }
        let Some(reducer) = self.aggregator.reducer() else { return };
        self.gate.set(reducer.key(), reducer.lowest_open());
        // An evaluation has no gradients: the buffers of training stay unused.
        if reducer.key().phase == Phase::Train {
            self.pool.bound(reducer.buffers_max());
        }
    }

    /// Closes superseded connections: dropping their writers ends them.
    fn close_unused(&mut self) {
        let used: BTreeSet<u64> = self.aggregator.connections().values().copied().collect();
        self.writers.retain(|number, _| used.contains(number));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use protocol::ids::ViewId;
    use protocol::messages::{MemberInfo, ReduceAt, View};
    use protocol::order::Order;
    use protocol::reduce::{SLICE, slice_range};
    use protocol::tree::Node;

    use super::*;

    /// One slice and part of another.
    const ELEMENTS: usize = SLICE + 5;
    const MEMBERS: [u64; 2] = [1, 2];

    fn thread() -> AggregatorThread {
        let geometry = Geometry {
            samples: 64,
            batch: 8,
            microbatch: 2,
            seed: 1,
            order: Order::AsStored,
            evaluation_samples: 0,
            evaluation_microbatch: 1,
        };
        AggregatorThread::new(geometry, Arc::default(), Arc::default(), Arc::default())
    }

    fn view() -> View {
        let info = |id| MemberInfo { member: MemberId(id), name: format!("worker-{id}"), share: 1 };
        let (members, dealt) = (MEMBERS.map(info).to_vec(), vec![]);
        let (reduce, phase) = (ReduceAt::Coordinator, Phase::Train);
        View { id: ViewId(1), members, reduce, step: 1, phase, dealt }
    }

    /// Frames of a whole step from two members with two microbatches each, as their connections' readers deliver
    /// them.
    fn step(pool: &Pool, step: u64) -> Vec<Input> {
        let key = StepKey { view: ViewId(1), step, phase: Phase::Train };
        let node = |member| Node { level: 1, index: member as u32 - 1 };
        let sums = MEMBERS.map(|member| {
            let (node, sums, presence) = (node(member), vec![0.0, 4.0], vec![1]);
            (member, PartialFrame::Sums { key, node, sums, presence })
        });
        let slices = (0..2).flat_map(|slice| {
            MEMBERS.map(|member| {
                let values = pool.take(slice_range(slice, ELEMENTS).len());
                (member, PartialFrame::Slice { key, node: node(member), slice, values })
            })
        });
        let frames = sums.into_iter().chain(slices);
        let frames = frames.map(|(member, frame)| Input::Frame { member: MemberId(member), frame });
        frames.chain([Input::Committed(key)]).collect()
    }

    #[test]
    fn a_thousand_steps_rest_in_as_much_memory_as_a_few() {
        let mut thread = thread();
        let pool = thread.pool.clone();
        let ((writer, outbox), other) = (channel(), channel().0);
        let connected = |(number, writer)| Input::Connected { member: MemberId(number), number, writer };
        thread.take_in(Input::OpenView { view: view(), elements: ELEMENTS });
        [(1, writer), (2, other)].map(connected).into_iter().for_each(|input| thread.take_in(input));
        let mut resting = Vec::new();
        for number in 1..=1_000 {
            for input in step(&pool, number) {
                thread.take_in(input);
                thread.pass_on();
            }
            // Buffers that members have received are free again. The driver doesn't read its events here.
            assert_eq!(outbox.try_iter().count(), 3, "the sums and two slices");
            resting.push(pool.resting());
        }
        assert_eq!(resting[999], resting[9], "slice buffers at rest after a thousand steps and after ten");
    }
}
