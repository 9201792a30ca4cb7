//! Samples, batches and microbatches of a run (filled in by the numerics' author).

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
    /// Validation samples.
    pub evaluation_samples: u64,
    /// Samples of an evaluation microbatch.
    pub evaluation_microbatch: u32,
}

/// One step's samples.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepPlan {
    /// From 0.
    pub epoch: u64,
    /// Position in the epoch's permutation.
    pub start: u64,
    /// Samples of the step.
    pub samples: u32,
    /// Microbatches of the step.
    pub microbatches: u32,
}

impl Geometry {
    /// ceil(samples / batch).
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(u64::from(self.batch.max(1)))
    }

    /// The plan of `step`, from 1.
    #[must_use]
    pub fn step(&self, step: u64) -> StepPlan {
        let per_epoch = self.steps_per_epoch().max(1);
        let (epoch, index) = ((step - 1) / per_epoch, (step - 1) % per_epoch);
        let start = index * u64::from(self.batch);
        let samples = u32::try_from((self.samples - start).min(u64::from(self.batch))).unwrap_or(self.batch);
        StepPlan { epoch, start, samples, microbatches: samples.div_ceil(self.microbatch.max(1)) }
    }

    /// The plan of an evaluation.
    #[must_use]
    pub fn evaluation(&self) -> StepPlan {
        let samples = u32::try_from(self.evaluation_samples).unwrap_or(u32::MAX);
        let microbatches = samples.div_ceil(self.evaluation_microbatch.max(1));
        StepPlan { epoch: 0, start: 0, samples, microbatches }
    }
}
