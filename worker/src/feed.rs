//! The data feed: a thread that fills host batches ahead of the compute thread.
//!
//! It derives the next microbatch from the geometry and the view alone, so the next step's samples are gathered while
//! this step's gradients are computed and exchanged. Its buffers circulate: nothing is allocated once they have grown
//! to the size of a microbatch.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use datasets::AugmentKey;
use protocol::ids::Phase;
use protocol::messages::Failure;
use protocol::plan::Geometry;
use trainer::HostBatch;

use crate::data::{Samples, Scratch};
use crate::failure::fail;

/// Microbatches filled ahead: enough to cover the wait for a step's commit, small compared to a model.
const AHEAD: usize = 4;

/// Identifies one microbatch of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MicrobatchId {
    pub(crate) phase: Phase,
    /// The step, from 1.
    pub(crate) step: u64,
    /// Index within the step.
    pub(crate) microbatch: u32,
}

/// This member's part in the view, which determines its microbatches of every step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ShardAssignment {
    /// Shares of all members, in rank order.
    pub(crate) shares: Vec<u32>,
    pub(crate) rank: usize,
    /// The view's first step and this member's microbatches of it, if they were reassigned.
    pub(crate) first: Option<(u64, Phase, Vec<Range<u32>>)>,
}

impl ShardAssignment {
    /// This member's microbatches, in order, of a step with `microbatches` in total.
    pub(crate) fn ranges(&self, phase: Phase, step: u64, microbatches: u32) -> Vec<Range<u32>> {
        match &self.first {
            Some((first, of, ranges)) if (*first, *of) == (step, phase) => ranges.clone(),
            _ => {
                let range = protocol::assignment::range(&self.shares, microbatches, self.rank);
                if range.is_empty() { Vec::new() } else { vec![range] }
            }
        }
    }
}

/// A filled microbatch. Return it with [`Feed::recycle`].
pub(crate) struct FilledBatch {
    generation: u64,
    position: MicrobatchId,
    /// Input of the engine.
    pub(crate) batch: HostBatch,
    scratch: Scratch,
}

enum Request {
    /// Discard filled buffers and continue from here, in order.
    Seek { generation: u64, from: MicrobatchId },
    /// Reuse this buffer.
    Recycle(Box<FilledBatch>),
}

/// The compute thread's end of the feed.
pub(crate) struct Feed {
    requests: SyncSender<Request>,
    filled: Receiver<Result<Box<FilledBatch>, Failure>>,
    generation: u64,
    /// The next microbatch without a seek.
    next: Option<MicrobatchId>,
    course: MicrobatchOrder,
}

impl Feed {
    /// Starts the thread. It ends when the feed is dropped.
    pub(crate) fn start(
        samples: Arc<Samples>,
        geometry: Geometry,
        place: ShardAssignment,
    ) -> Result<Self, Failure> {
        // Each buffer is in one place at a time, and at most one Seek is queued, so no send ever blocks. A failure
        // takes the place of the buffer in which it occurred.
        let (requests, inbox) = sync_channel(AHEAD + 1);
        let (outbox, filled) = sync_channel(AHEAD);
        let course = MicrobatchOrder { geometry, place };
        let filler = BatchFiller {
            samples,
            course: course.clone(),
            inbox,
            outbox,
            free: (0..AHEAD).map(|_| None).collect(),
            cursor: None,
            generation: 0,
            ordinals: Vec::new(),
        };
        std::thread::Builder::new()
            .name("feed".to_owned())
            .spawn(move || filler.run())
            .map_err(|error| fail(4, format!("the feed's thread can't be started: {error}")))?;
        Ok(Self { requests, filled, generation: 0, next: None, course })
    }

    /// The samples of this microbatch, filled ahead if it follows the one before.
    ///
    /// # Errors
    /// When samples can't be read, including those of a later microbatch: the failure names the file.
    pub(crate) fn take(&mut self, position: MicrobatchId) -> Result<Box<FilledBatch>, Failure> {
        if self.next != Some(position) {
            self.generation += 1;
            self.request(Request::Seek { generation: self.generation, from: position })?;
        }
        loop {
            let filled = self.filled.recv().map_err(|_| gone())??;
            if filled.generation == self.generation {
                assert!(filled.position == position, "the feed fills in order");
                self.next = self.course.after(position);
                return Ok(filled);
            }
            self.recycle(filled)?;
        }
    }

    pub(crate) fn recycle(&mut self, filled: Box<FilledBatch>) -> Result<(), Failure> {
        self.request(Request::Recycle(filled))
    }

    fn request(&self, request: Request) -> Result<(), Failure> {
        self.requests.send(request).map_err(|_| gone())
    }
}

fn gone() -> Failure {
    fail(4, "the data feed has ended unexpectedly (see the log above)")
}

/// The sequence of microbatches.
#[derive(Clone)]
struct MicrobatchOrder {
    geometry: Geometry,
    place: ShardAssignment,
}

impl MicrobatchOrder {
    /// The successor: the next microbatch of the step, else the first of the next training step in which this member
    /// has any. An evaluation has no successor: the next step is sought.
    fn after(&self, position: MicrobatchId) -> Option<MicrobatchId> {
        let MicrobatchId { phase, step, microbatch } = position;
        let ranges = self.place.ranges(phase, step, self.geometry.plan(step, phase).microbatches);
        if let Some(microbatch) = ranges.into_iter().flatten().find(|next| *next > microbatch) {
            return Some(MicrobatchId { microbatch, ..position });
        }
        if phase == Phase::Evaluate {
            return None;
        }
        // A short last batch may leave this member without work, but not in two consecutive steps.
        (step + 1..step + 3).find_map(|step| {
            let ranges = self.place.ranges(phase, step, self.geometry.plan(step, phase).microbatches);
            ranges.first().map(|range| MicrobatchId { phase, step, microbatch: range.start })
        })
    }
}

struct BatchFiller {
    samples: Arc<Samples>,
    course: MicrobatchOrder,
    inbox: Receiver<Request>,
    outbox: SyncSender<Result<Box<FilledBatch>, Failure>>,
    /// Free buffers; `None` is one that was never used.
    free: Vec<Option<Box<FilledBatch>>>,
    cursor: Option<MicrobatchId>,
    generation: u64,
    ordinals: Vec<u64>,
}

impl BatchFiller {
    fn run(mut self) {
        loop {
            let busy = self.cursor.is_some() && !self.free.is_empty();
            let request = if busy {
                match self.inbox.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                match self.inbox.recv() {
                    Ok(request) => Some(request),
                    Err(_) => return,
                }
            };
            match request {
                Some(Request::Seek { generation, from }) => {
                    self.generation = generation;
                    self.cursor = Some(from);
                }
                Some(Request::Recycle(buffer)) => self.free.push(Some(buffer)),
                None => {
                    if !self.fill() {
                        return;
                    }
                }
            }
        }
    }

    /// Fills one buffer; returns false when the receiver is gone.
    fn fill(&mut self) -> bool {
        let (Some(position), Some(buffer)) = (self.cursor, self.free.pop()) else { return true };
        let mut filled = buffer.unwrap_or_else(|| {
            let (batch, scratch) = self.samples.buffers();
            Box::new(FilledBatch { generation: 0, position, batch, scratch })
        });
        filled.generation = self.generation;
        filled.position = position;
        let geometry = &self.course.geometry;
        let mut key = AugmentKey { seed: geometry.seed, epoch: 0 };
        match position.phase {
            Phase::Train => {
                let plan = geometry.step(position.step);
                key.epoch = plan.epoch;
                geometry.ordinals_into(&plan, position.microbatch, &mut self.ordinals);
            }
            Phase::Evaluate => geometry.evaluation_ordinals_into(position.microbatch, &mut self.ordinals),
        }
        let (scratch, batch) = (&mut filled.scratch, &mut filled.batch);
        if let Err(why) = self.samples.gather(position.phase, key, &self.ordinals, scratch, batch) {
            let what = if position.phase == Phase::Train { "the data" } else { "the evaluation's data" };
            // Stop here: unreadable samples can't be skipped, since all members rely on them.
            let _ = self.outbox.send(Err(fail(3, format!("{what} of step {}: {why}", position.step))));
            return false;
        }
        self.cursor = self.course.after(position);
        self.outbox.send(Ok(filled)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use protocol::order::Order;
    use trainer::HostData;

    use super::*;

    /// Ten samples for training and some for validation, whose one feature is different in each.
    fn feed(shares: &[u32], rank: usize) -> (Feed, Geometry) {
        let samples = Arc::new(crate::data::tests::samples(14));
        let geometry = Geometry {
            samples: samples.training_len(),
            batch: 4,
            microbatch: 1,
            seed: 5,
            order: Order::Full,
            evaluation_samples: samples.evaluation_len(),
            evaluation_microbatch: 2,
        };
        let place = ShardAssignment { shares: shares.to_vec(), rank, first: None };
        (Feed::start(samples, geometry, place).expect("a thread"), geometry)
    }

    fn features(feed: &mut Feed, phase: Phase, step: u64, microbatch: u32) -> Vec<f32> {
        let filled = feed.take(MicrobatchId { phase, step, microbatch }).expect("filled");
        let HostData::F32(features) = filled.batch.x.data.clone() else { panic!("features are f32") };
        assert_eq!(filled.batch.count, features.len());
        feed.recycle(filled).expect("taken back");
        features
    }

    #[test]
    fn an_epoch_with_an_evaluation_in_between_has_each_sample_once() {
        let (mut feed, geometry) = feed(&[1], 0);
        let mut seen = Vec::new();
        let mut validated = Vec::new();
        for step in 1..=geometry.steps_per_epoch() {
            for microbatch in 0..geometry.step(step).microbatches {
                seen.extend(features(&mut feed, Phase::Train, step, microbatch));
            }
            validated.clear();
            for microbatch in 0..geometry.evaluation().microbatches {
                validated.extend(features(&mut feed, Phase::Evaluate, step, microbatch));
            }
        }
        assert_eq!(
            (seen.len() as u64, validated.len() as u64),
            (geometry.samples, geometry.evaluation_samples)
        );
        seen.extend(validated);
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen.len(), 14, "every row of the file once");
    }

    /// The rows of an epoch through the feeds of `members` members, in order of microbatches.
    fn rows_of_epoch(samples: &Arc<Samples>, order: Order, members: u32, epoch: u64) -> Vec<u64> {
        let geometry = Geometry {
            samples: samples.training_len(),
            batch: 7,
            microbatch: 2,
            seed: 5,
            order,
            evaluation_samples: samples.evaluation_len(),
            evaluation_microbatch: 2,
        };
        let mut found = std::collections::BTreeMap::new();
        for rank in 0..members as usize {
            let place = ShardAssignment { shares: vec![1; members as usize], rank, first: None };
            let mut feed = Feed::start(samples.clone(), geometry, place).expect("a thread");
            let per_epoch = geometry.steps_per_epoch();
            for step in epoch * per_epoch + 1..=(epoch + 1) * per_epoch {
                let ranges = feed.course.place.ranges(Phase::Train, step, geometry.step(step).microbatches);
                for microbatch in ranges.into_iter().flatten() {
                    let filled =
                        feed.take(MicrobatchId { phase: Phase::Train, step, microbatch }).expect("filled");
                    found.insert((step, microbatch), rows(&filled.batch));
                    feed.recycle(filled).expect("taken back");
                }
            }
        }
        found.into_values().flatten().collect()
    }

    /// The rows in a batch: the first number of each sample.
    fn rows(batch: &trainer::HostBatch) -> Vec<u64> {
        match &batch.x.data {
            HostData::F32(all) => {
                let scale = if batch.x.shape.len() > 2 { 255.0 } else { 1.0 };
                let first = all.chunks(all.len() / batch.count).map(|sample| sample[0]);
                first.map(|number| (number * scale).round() as u64).collect()
            }
            HostData::I64(all) => {
                all.chunks(all.len() / batch.count).map(|sample| sample[0] as u64).collect()
            }
        }
    }

    /// Configures a format.
    type Set = fn(&mut configs::Dataset);

    /// Every format with its configurations.
    const FORMS: [(&str, &str, Set); 9] = [
        ("csv", "whole", |_| {}),
        ("csv", "without its bad row", |config| config.on_bad = configs::OnBad::Skip),
        ("parquet", "of several row groups", |_| {}),
        ("idx", "whole", |_| {}),
        ("images", "decoded once", |config| config.on_bad = configs::OnBad::Skip),
        ("images", "decoded for each batch", |config| {
            (config.on_bad, config.cache_mb) = (configs::OnBad::Skip, 0);
        }),
        ("images", "resized", |config| (config.on_bad, config.resize) = (configs::OnBad::Skip, true)),
        ("text", "as bytes", |_| {}),
        ("text", "as words", |config| config.tokenizer = Some("words.json".into())),
    ];

    #[test]
    fn each_sample_comes_once_an_epoch_in_every_form_and_order_for_any_number_of_members() {
        for (form, how, set) in FORMS {
            let (samples, _dir) = crate::data::tests::of_form(form, 90, set);
            let samples = Arc::new(samples);
            for order in [Order::Full, Order::Window(10), Order::AsStored] {
                let of_one: Vec<Vec<u64>> =
                    (0..3).map(|epoch| rows_of_epoch(&samples, order, 1, epoch)).collect();
                for (epoch, of_one) in of_one.iter().enumerate() {
                    for members in [2, 3] {
                        assert_eq!(
                            &rows_of_epoch(&samples, order, members, epoch as u64),
                            of_one,
                            "{members}"
                        );
                    }
                    let mut each = of_one.clone();
                    each.sort_unstable();
                    each.dedup();
                    assert_eq!((each.len(), of_one.len()), (63, 63), "{form} {how}, {order:?}: {of_one:?}");
                }
                assert_eq!(of_one[0] == of_one[1], order == Order::AsStored, "{form} {how}, {order:?}");
            }
        }
    }

    #[test]
    fn draws_are_the_same_for_any_number_of_members() {
        let weighted = |config: &mut configs::Dataset| {
            config.sampling = configs::Sampling::Weighted;
            config.weight_column = Some("w".to_owned());
            config.target = Some("label".to_owned());
        };
        let balanced = |config: &mut configs::Dataset| {
            (config.sampling, config.on_bad) = (configs::Sampling::Balanced, configs::OnBad::Skip);
        };
        let cases: [(&str, bool, Set); 6] = [
            ("csv", false, balanced),
            ("idx", false, balanced),
            ("images", false, balanced),
            ("parquet", false, balanced),
            ("csv", true, weighted),
            ("parquet", true, weighted),
        ];
        for (form, is_weighted, set) in cases {
            let (samples, _dir) = crate::data::tests::of_form(form, 90, set);
            let samples = Arc::new(samples);
            for epoch in 0..2 {
                let of_one = rows_of_epoch(&samples, Order::Full, 1, epoch);
                assert_eq!(of_one, rows_of_epoch(&samples, Order::Full, 3, epoch), "{form}");
                let distinct: std::collections::BTreeSet<&u64> = of_one.iter().collect();
                assert!(of_one.len() == 63 && distinct.len() < 60, "with replacement: {of_one:?}");
                assert!(!is_weighted || of_one.iter().all(|row| row % 4 > 0), "without a weight: {of_one:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_gone_or_changed_while_training_is_named() {
        for damage in ["gone", "changed"] {
            let (samples, dir) = crate::data::tests::of_form("images", 20, |config| {
                (config.on_bad, config.cache_mb) = (configs::OnBad::Skip, 0);
            });
            for class in ["a", "b"] {
                for entry in std::fs::read_dir(dir.path().join(class)).expect("listed").flatten() {
                    match damage {
                        "gone" => std::fs::remove_file(entry.path()).expect("removed"),
                        _ => std::fs::write(entry.path(), "another").expect("written"),
                    }
                }
            }
            let geometry = Geometry {
                samples: samples.training_len(),
                batch: 4,
                microbatch: 2,
                seed: 5,
                order: Order::Full,
                evaluation_samples: samples.evaluation_len(),
                evaluation_microbatch: 2,
            };
            let place = ShardAssignment { shares: vec![1], rank: 0, first: None };
            let mut feed = Feed::start(Arc::new(samples), geometry, place).expect("a thread");
            let failure = feed
                .take(MicrobatchId { phase: Phase::Train, step: 1, microbatch: 0 })
                .map(|_| ())
                .expect_err("no such file");
            assert_eq!(failure.code, 3, "{}", failure.message);
            let named = failure.message.contains("the data of step 1: ") && failure.message.contains(".png");
            assert!(named, "{damage}: {}", failure.message);
        }
    }

    #[test]
    fn what_follows_is_filled_before_it_is_asked_for() {
        let (mut feed, geometry) = feed(&[1, 1], 1);
        // The last step of an epoch has two microbatches of four: this member's are 1..2 there, 2..4 elsewhere.
        for (step, microbatch) in [(1, 2), (1, 3), (2, 2), (2, 3), (3, 1), (4, 2)] {
            let ranges = feed.course.place.ranges(Phase::Train, step, geometry.step(step).microbatches);
            assert!(ranges.into_iter().flatten().any(|own| own == microbatch));
            features(&mut feed, Phase::Train, step, microbatch);
        }
        assert_eq!(feed.generation, 1, "nothing but the first was sought");
    }

    #[test]
    fn what_was_dealt_again_comes_in_its_order_and_the_next_step_by_shares() {
        let samples = Arc::new(crate::data::tests::samples(14));
        let (_, geometry) = feed(&[1], 0);
        let place =
            ShardAssignment { shares: vec![1, 1], rank: 1, first: Some((2, Phase::Train, vec![0..1, 2..3])) };
        let mut feed = Feed::start(samples, geometry, place).expect("a thread");
        for (step, microbatch) in [(2, 0), (2, 2), (3, 1), (4, 2)] {
            features(&mut feed, Phase::Train, step, microbatch);
        }
        assert_eq!(feed.generation, 1, "nothing but the first was sought");
    }

    #[test]
    fn a_step_that_is_tried_again_has_the_same_samples() {
        let (mut feed, _) = feed(&[1], 0);
        let first: Vec<_> =
            (0..4).map(|microbatch| features(&mut feed, Phase::Train, 2, microbatch)).collect();
        let again: Vec<_> =
            (0..4).map(|microbatch| features(&mut feed, Phase::Train, 2, microbatch)).collect();
        assert_eq!(first, again);
    }
}
