//! Optimizers on the host, fused over the flat f32 buffer.
//!
//! They use only elementwise IEEE add, multiply, divide and square root, no fused multiply-add and no libm: the same
//! bits on every CPU. Values that need a power or a norm arrive as scalars, computed once by the coordinator. Since
//! elements are independent, and each block has its own hash, any number of threads may share a step.

use std::ops::Range;

use crate::error::TrainerError;
use crate::layout::Layout;
use crate::moment::Moment;
use crate::optimizer_config::OptimizerConfig;
use crate::optimizer_pass::{self, Part};
use crate::state_check::{self, BLOCK};
use crate::update_rules::{Rule, UpdateScalars};

/// An optimizer and its moments.
#[derive(Clone, Debug)]
pub struct HostOptimizer {
    config: OptimizerConfig,
    layout: Layout,
    moments: Vec<Moment>,
    /// Whether one-dimensional parameters decay.
    decay_1d: bool,
    /// Ranges of elements that have a gradient in this step, in order, and whether they decay; kept for its capacity.
    runs: Vec<(Range<usize>, bool)>,
    /// Hashes of the blocks after a step; kept for its capacity.
    block_hashes: Vec<u64>,
    /// Number of threads that share a step.
    threads: usize,
}

impl HostOptimizer {
    /// An optimizer with initial moments.
    ///
    /// # Errors
    /// If a constant is out of its valid range.
    pub fn new(config: OptimizerConfig, layout: &Layout) -> Result<Self, TrainerError> {
        config.check()?;
        let moments = config
            .first_moments()
            .iter()
            .map(|(name, start)| Moment { name, values: vec![*start; layout.elements] })
            .collect();
        Ok(Self {
            config,
            layout: layout.clone(),
            moments,
            decay_1d: true,
            runs: Vec::new(),
            block_hashes: Vec::new(),
            threads: 1,
        })
    }

    /// Sets the number of threads for steps of large models; the default is one. The bits are the same for any number.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Whether weight decay also applies to one-dimensional parameters: biases and normalisations, which GPT-2's
    /// training exempts (karpathy/nanoGPT, `configure_optimizers`). By default it does, as in torch.
    #[must_use]
    pub fn with_decay_1d(mut self, decay_1d: bool) -> Self {
        self.decay_1d = decay_1d;
        self
    }

    /// The algorithm and its constants.
    #[must_use]
    pub fn config(&self) -> OptimizerConfig {
        self.config
    }

    /// The layout of the parameters.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The optimizer's state.
    #[must_use]
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// The optimizer's state, to be restored. Lengths must not change.
    pub fn moments_mut(&mut self) -> &mut [Moment] {
        &mut self.moments
    }

    /// Resets the moments, for a new run in a process that has trained before.
    pub fn reset(&mut self) {
        for (moment, (_, start)) in self.moments.iter_mut().zip(self.config.first_moments()) {
            moment.values.fill(*start);
        }
    }

    /// Performs one step in place, and returns the state check after it.
    ///
    /// `gradient` is the reduced mean over the global batch. A parameter for which `present` is false got no gradient
    /// from any microbatch: neither it nor its moments change. Allocates nothing once every parameter has been seen.
    ///
    /// # Panics
    /// If `parameters` or `gradient` isn't as long as the layout: a programmer's error.
    pub fn step(
        &mut self,
        parameters: &mut [f32],
        gradient: &[f32],
        present: impl Fn(usize) -> bool,
        scalars: &UpdateScalars,
    ) -> u64 {
        let elements = self.layout.elements;
        assert!(parameters.len() == elements && gradient.len() == elements, "buffers as long as the layout");
        self.find_runs(present);
        let rules = [self.config.without_decay(), self.config].map(|config| Rule::new(&config, scalars));
        self.block_hashes.clear();
        self.block_hashes.resize(elements.div_ceil(BLOCK), 0);
        let whole = Part::new(parameters, gradient, &mut self.moments, &mut self.block_hashes);
        optimizer_pass::run(whole, &rules, &self.runs, self.threads);
        state_check::chain(&self.block_hashes)
    }

    /// State check of the parameters and the present moments.
    ///
    /// # Panics
    /// If `parameters` isn't as long as the layout: a programmer's error.
    #[must_use]
    pub fn state_check(&self, parameters: &[f32]) -> u64 {
        assert!(parameters.len() == self.layout.elements, "parameters as long as the layout");
        let moments: Vec<&[f32]> = self.moments.iter().map(|moment| moment.values.as_slice()).collect();
        state_check::chain(&optimizer_pass::hashes(parameters, &moments))
    }

    /// Merges adjacent present parameters with the same decay into ranges.
    fn find_runs(&mut self, present: impl Fn(usize) -> bool) {
        self.runs.clear();
        for (number, parameter) in self.layout.parameters.iter().enumerate() {
            if !present(number) {
                continue;
            }
            let end = parameter.offset + parameter.len;
            let decays = self.decay_1d || parameter.shape.len() > 1;
            match self.runs.last_mut() {
                Some((last, alike)) if last.end == parameter.offset && *alike == decays => last.end = end,
                _ => self.runs.push((parameter.offset..end, decays)),
            }
        }
    }
}
