//! The samples of a step and their microbatches: a function of the run's geometry alone.

use std::ops::Range;

use crate::ids::Phase;
use crate::order::{EpochOrder, Order};
use crate::permutation::key;

/// Purposes of keys: one random stream each.
const ORDER: u64 = 1;
const MICROBATCH: u64 = 2;

/// The frozen geometry of a run's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Training samples.
    pub samples: u64,
    /// Samples of a global batch.
    pub batch: u32,
    /// Samples of a microbatch.
    pub microbatch: u32,
    /// The run's seed.
    pub seed: u64,
    /// The order of samples in an epoch.
    pub order: Order,
    /// Validation samples.
    pub evaluation_samples: u64,
    /// Samples of an evaluation microbatch.
    pub evaluation_microbatch: u32,
}

/// The samples of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepPlan {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Position in the epoch's order.
    pub start: u64,
    /// Samples of the step.
    pub samples: u32,
    /// Microbatches of the step.
    pub microbatches: u32,
}

impl Geometry {
    /// Steps per epoch; the last one is short if the batch doesn't divide the samples.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(u64::from(self.batch.max(1)))
    }

    /// The plan of `step`, from 1.
    ///
    /// # Panics
    /// For step 0, which has no samples: a programming error.
    #[must_use]
    pub fn step(&self, step: u64) -> StepPlan {
        assert!(step > 0, "steps count from 1");
        let per_epoch = self.steps_per_epoch().max(1);
        let (epoch, index) = ((step - 1) / per_epoch, (step - 1) % per_epoch);
        let start = index * u64::from(self.batch);
        let samples = u32::try_from((self.samples - start).min(u64::from(self.batch))).unwrap_or(self.batch);
        StepPlan { epoch, start, samples, microbatches: samples.div_ceil(self.microbatch.max(1)) }
    }

    /// The plan of an evaluation: the whole validation split (at most 2^32 - 1 samples), in its own order.
    #[must_use]
    pub fn evaluation(&self) -> StepPlan {
        let samples = u32::try_from(self.evaluation_samples).unwrap_or(u32::MAX);
        let microbatches = samples.div_ceil(self.evaluation_microbatch.max(1));
        StepPlan { epoch: 0, start: 0, samples, microbatches }
    }

    /// The plan of a training step or of the evaluation of its state.
    ///
    /// # Panics
    /// For training step 0, which has no samples: a programming error.
    #[must_use]
    pub fn plan(&self, step: u64, phase: Phase) -> StepPlan {
        match phase {
            Phase::Train => self.step(step),
            Phase::Evaluate => self.evaluation(),
        }
    }

    /// Writes the ordinals of a microbatch (positions in the training split) into a reused vector.
    pub fn ordinals_into(&self, plan: &StepPlan, microbatch: u32, ordinals: &mut Vec<u64>) {
        let order = EpochOrder::new(self.order, self.samples, key(self.seed, ORDER, [plan.epoch, 0]));
        ordinals.clear();
        let places = cut(plan.samples, self.microbatch, microbatch);
        ordinals.extend(places.map(|i| order.at(plan.start + u64::from(i))));
    }

    /// Writes the ordinals of an evaluation microbatch (positions in the validation split) into a reused vector.
    pub fn evaluation_ordinals_into(&self, microbatch: u32, ordinals: &mut Vec<u64>) {
        let plan = self.evaluation();
        ordinals.clear();
        ordinals.extend(cut(plan.samples, self.evaluation_microbatch, microbatch).map(u64::from));
    }

    /// The key of all randomness in a microbatch's forward pass (dropout).
    #[must_use]
    pub fn key(&self, step: u64, microbatch: u32) -> u64 {
        key(self.seed, MICROBATCH, [step, u64::from(microbatch)])
    }
}

/// Samples `[i*m, min((i+1)*m, n))` of a batch of n.
fn cut(samples: u32, size: u32, microbatch: u32) -> Range<u32> {
    let start = microbatch.saturating_mul(size).min(samples);
    start..start.saturating_add(size).min(samples)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_by_hand() {
        let geometry = Geometry {
            samples: 100,
            batch: 32,
            microbatch: 5,
            seed: 0,
            order: Order::Full,
            evaluation_samples: 11,
            evaluation_microbatch: 4,
        };
        assert_eq!(geometry.steps_per_epoch(), 4);
        let plan = |epoch, start, samples, microbatches| StepPlan { epoch, start, samples, microbatches };
        assert_eq!(geometry.step(1), plan(0, 0, 32, 7));
        assert_eq!(geometry.step(4), plan(0, 96, 4, 1));
        assert_eq!(geometry.step(5), plan(1, 0, 32, 7));
        assert_eq!(geometry.evaluation(), plan(0, 0, 11, 3));
        let mut ordinals = Vec::new();
        geometry.ordinals_into(&geometry.step(1), 6, &mut ordinals);
        assert_eq!(ordinals.len(), 2, "the last microbatch of 32 samples by fives");
        assert_ne!(geometry.key(1, 0), geometry.key(1, 1));
        assert_ne!(geometry.key(1, 0), geometry.key(2, 0));
    }

    proptest! {
        #[test]
        fn each_sample_counts_once_an_epoch(
            samples in 1u64..400,
            batch in 1u32..70,
            microbatch in 1u32..70,
            seed: u64,
            order in prop_oneof![Just(Order::Full), Just(Order::AsStored), (1u64..80).prop_map(Order::Window)],
        ) {
            let geometry = Geometry {
                samples, batch, microbatch, seed, order, evaluation_samples: samples / 4, evaluation_microbatch: 7,
            };
            let per_epoch = geometry.steps_per_epoch();
            let mut ordinals = Vec::new();
            let mut orders = Vec::new();
            for epoch in 0..2 {
                let mut seen = Vec::new();
                for step in epoch * per_epoch + 1..=(epoch + 1) * per_epoch {
                    let plan = geometry.step(step);
                    prop_assert_eq!(plan.epoch, epoch);
                    for i in 0..plan.microbatches {
                        geometry.ordinals_into(&plan, i, &mut ordinals);
                        prop_assert!(!ordinals.is_empty() && ordinals.len() <= microbatch as usize);
                        seen.extend_from_slice(&ordinals);
                    }
                }
                orders.push(seen.clone());
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
            }
            if order == Order::AsStored {
                prop_assert_eq!(&orders[0], &(0..samples).collect::<Vec<_>>());
            } else if samples > 20 {
                prop_assert_ne!(&orders[0], &orders[1]);
            }
            let mut validated = Vec::new();
            for i in 0..geometry.evaluation().microbatches {
                geometry.evaluation_ordinals_into(i, &mut ordinals);
                validated.extend_from_slice(&ordinals);
            }
            prop_assert_eq!(validated, (0..samples / 4).collect::<Vec<_>>());
        }
    }
}
